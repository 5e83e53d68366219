"""Square roots, bounds and clips of whatever carries a formula: floats, arrays, or values of a graph being built.

A formula is written once, with these and the operators; a carrier of its own has methods of these names.
"""

import math
from typing import Any

import numpy as np


def sqrt(value: Any) -> Any:
    """Return the square root, element by element."""
    if isinstance(value, (float, int)):
        return math.sqrt(value)
    return np.sqrt(value) if isinstance(value, np.ndarray) else value.sqrt()


def maximum(value: Any, bound: float) -> Any:
    """Return the larger of a value and a number, element by element."""
    if isinstance(value, (float, int)):
        return max(value, bound)
    return np.maximum(value, bound) if isinstance(value, np.ndarray) else value.maximum(bound)


def clip(value: Any, bound: float) -> Any:
    """Return the value nearest to each one within [-bound, bound]."""
    return np.clip(value, -bound, bound) if isinstance(value, np.ndarray) else value.clip(bound)
