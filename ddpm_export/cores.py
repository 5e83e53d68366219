"""How many cores there are to work with."""

import os

__all__ = ["cores"]


def cores() -> int:
    """Return how many cores this process may use, which in a container are fewer than the machine has; at least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
