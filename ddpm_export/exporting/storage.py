"""Weights stored as float16: which, and what that rounds them to. NumPy alone, for networks and graphs alike."""

import numpy as np

from ddpm_export.diffusion import Array
from ddpm_export.errors import ModelRefusedError

__all__ = ["MIN_ROUNDED", "float16_values"]

MIN_ROUNDED = 1024  # what has fewer numbers, norms and biases among them, stays float32: little would be saved


def float16_values(name: str, values: Array) -> Array:
    """Return float32 values rounded to what float16 can hold, as float32.

    Raises ModelRefusedError for what is beyond its range.
    """
    with np.errstate(over="ignore"):
        rounded: Array = values.astype(np.float16).astype(np.float32)
    if not np.isfinite(rounded).all():
        raise ModelRefusedError(
            f"{name}: cannot be stored as float16. got values up to {float(np.abs(values).max()):g}, expected at most "
            "65504. Do leave --storage out."
        )
    return rounded
