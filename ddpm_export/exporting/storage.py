"""Weights stored in fewer bits: which, and what that rounds them to: one rule for networks and graphs. NumPy only."""

import numpy as np
from numpy.typing import NDArray

from ddpm_export.errors import ModelRefusedError
from ddpm_export.process.equations import Array

STORAGES = ("float32", "float16", "int8")
MIN_ROUNDED = 1024  # what has fewer numbers, norms and biases among them, stays float32: little would be saved
MAX_LEVEL = 127
# of a scale's 24 bits: with 7 fewer its product with a level is exact, so that rounding twice is rounding once
SPARED_BITS = np.uint32(2**7 - 1)


def is_rounded(values: Array) -> bool:
    """Return whether a weight is large enough to be stored in fewer bits: whatever it is, and whoever holds it."""
    return values.dtype == np.float32 and values.size >= MIN_ROUNDED


def rounded_values(name: str, values: Array) -> Array:
    """Return a weight rounded to what float16 can hold, in float32 still, or as it is where it is not to be rounded.

    Raises ModelRefusedError for values beyond float16's range.
    """
    if not is_rounded(values):
        return values
    with np.errstate(over="ignore"):
        rounded: Array = values.astype(np.float16).astype(np.float32)
    if not np.isfinite(rounded).all():
        raise ModelRefusedError(
            f"{name}: cannot be stored as float16, with values up to {float(np.abs(values).max()):g}; float16 ends at "
            "65504. Leave `storage` out."
        )
    return rounded


def levels_and_scales(values: Array, axis: int) -> tuple[NDArray[np.int8], Array]:
    """Return 8-bit levels, -127 to 127, and one scale for each place of an axis, whose product is near `values`.

    values: finite. The scales have the shape of values but 1 along the other axes. Off by half a scale at most.
    """
    others = tuple(k for k in range(values.ndim) if k != axis)
    scales = np.maximum(np.abs(values).max(axis=others, keepdims=True) / np.float32(MAX_LEVEL), np.float32(1e-30))
    scales = ((scales.view(np.uint32) + SPARED_BITS) & ~SPARED_BITS).view(np.float32)
    return np.round(values / scales).astype(np.int8), scales
