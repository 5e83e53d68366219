"""Weights stored as float16: which, and what that rounds them to: one rule for networks and graphs. NumPy only."""

import numpy as np

from ddpm_export.diffusion import Array
from ddpm_export.errors import ModelRefusedError

__all__ = ["is_rounded", "rounded_values"]

MIN_ROUNDED = 1024  # what has fewer numbers, norms and biases among them, stays float32: little would be saved


def is_rounded(values: Array) -> bool:
    """Return whether a weight is large enough to be stored as float16: whatever it is, and whoever holds it."""
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
            "65504. Leave --storage out."
        )
    return rounded
