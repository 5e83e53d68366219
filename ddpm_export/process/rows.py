"""A plan: a solver as a table of numbers, one row a network evaluation; docs/format.md section 2."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

MAX_ROWS = 10_000
MAX_REACH = 16  # how many evaluations a row may read, its own among them


class Row(NamedTuple):
    """One network evaluation and the state after it: x = sum x_0[j] x_0^(j) + sum eps[j] eps^(j) + noise z.

    i: its number, from 1, and its noise draw. t: the network's time. a: alphas_cumprod there. x_0, eps: the
    weights of the clean images and noises found, newest first. noise: () for none, (std,), or (small, large) where
    the network learned its variance: small^(1-f) large^f, with its variance_fraction f, pixel by pixel. raw_eps:
    whether the noise stays what the network says where the clean image is clipped; of all rows of a plan, or of none.
    """

    i: int
    t: float
    a: float
    x_0: tuple[float, ...] = ()
    eps: tuple[float, ...] = ()
    noise: tuple[float, ...] = ()
    raw_eps: bool = False

    @property
    def reach(self) -> int:
        """Return how many evaluations the row reads, its own among them."""
        return max(len(self.x_0), len(self.eps))


@dataclass(frozen=True)
class Plan:
    """Hold the rows from noise to picture; the first state is `start` times noise draw 0."""

    rows: tuple[Row, ...]
    start: float = 1.0

    @property
    def needs_learned_variance(self) -> bool:
        """Return whether any row's noise depends on variance_fraction."""
        return any(len(row.noise) == 2 for row in self.rows)

    @property
    def raw_eps(self) -> bool:
        """Return whether the noises found stay what the network says where clean images are clipped."""
        return any(row.raw_eps for row in self.rows)

    @property
    def draws(self) -> tuple[int, ...]:
        """Return the draws of noise that walking it from noise asks for, in order: 0 is the first state."""
        return (0, *(row.i for row in self.rows if row.noise))

    @cached_property
    def kept(self) -> tuple[int, ...]:
        """Return how many of the evaluations up to each row, newest first, later rows read."""
        kept = [0] * len(self.rows)
        for k in range(len(self.rows) - 1, 0, -1):
            kept[k - 1] = max(self.rows[k].reach, kept[k], 1) - 1  # what row k itself finds is one of them
        return tuple(kept)


def are_falling_times(values: Sequence[Any], num_train_timesteps: int) -> bool:
    """Tell whether there is a time at least, and all are integers that strictly fall within 0..T-1."""
    return (
        len(values) > 0
        and all(type(t) is int and 0 <= t < num_train_timesteps for t in values)
        and all(later < earlier for earlier, later in pairwise(values))
    )


def is_number(value: Any) -> bool:
    """Tell whether a value is a number that a float can hold; true and an integer beyond every float are none."""
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False
