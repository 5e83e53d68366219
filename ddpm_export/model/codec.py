"""JSON that this project reads: what a value may be. Opens no file."""

import math
from typing import Any


def is_number(value: Any) -> bool:
    """Tell whether a value of a JSON file is a number that a float can hold."""
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False
