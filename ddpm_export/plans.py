"""A plan: a solver as a table of numbers, one row a network evaluation, and its JSON. Knows no array and no network.

docs/format.md section 2 says what a row does, section 1 how plans travel in a file.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

__all__ = ["MAX_REACH", "MAX_ROWS", "Plan", "Row", "are_falling_times", "is_number", "json_from_plan", "plan_from_json"]

MAX_ROWS = 10_000
MAX_REACH = 16  # how many evaluations a row may read, its own among them
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


class Row(NamedTuple):
    """One network evaluation and the state after it: x = sum x_0[j] x_0^(j) + sum eps[j] eps^(j) + noise z.

    i: its number, from 1, and its noise draw. t: what the network is told. a: alphas_cumprod there. x_0, eps: the
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


def json_from_plan(plan: Plan) -> dict[str, Any]:
    """Return a plan as JSON values: each row [t, a, weights of x_0, weights of eps, noise]."""
    rows = [[row.t, row.a, list(row.x_0), list(row.eps), list(row.noise)] for row in plan.rows]
    said = {"raw_eps": plan.raw_eps, "start": plan.start}
    usual = {"raw_eps": False, "start": 1.0}
    return {**{name: value for name, value in said.items() if value != usual[name]}, "rows": rows}


def plan_from_json(name: Any, values: Any, num_train_timesteps: int, *, fractional_t: bool) -> Plan:
    """Read a plan of a file and check all that walking it relies on. Raises ValueError, which says what is wrong."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError("a plan's name must be 1 to 64 letters, digits and ._+-, starting with a letter or digit")
    if not isinstance(values, dict) or not isinstance(values.get("rows"), list):
        raise ValueError(f"plan {name} must be an object with a list of rows")
    start, raw_eps, rows = values.get("start", 1.0), values.get("raw_eps", False), values["rows"]
    if not is_number(start) or not start > 0:
        raise ValueError(f"the start of plan {name} must be a positive number")
    if type(raw_eps) is not bool:
        raise ValueError(f"raw_eps of plan {name} must be true or false")
    if not 1 <= len(rows) <= MAX_ROWS:
        raise ValueError(f"plan {name} must have 1 to {MAX_ROWS} rows, not {len(rows)}")
    read = []
    for i, row in enumerate(rows, start=1):
        try:
            read.append(_row_from_json(i, row, num_train_timesteps, fractional_t)._replace(raw_eps=raw_eps))
        except ValueError as exc:
            raise ValueError(f"row {i} of plan {name}: {exc}") from exc
    return Plan(tuple(read), float(start))


def _row_from_json(i: int, values: Any, num_train_timesteps: int, fractional_t: bool) -> Row:
    if not isinstance(values, list) or len(values) != 5:
        raise ValueError("it must be [t, a, x_0, eps, noise]")
    t, a, *lists = values
    if not is_number(t) or not 0 <= t <= num_train_timesteps - 1 or not (fractional_t or type(t) is int):
        raise ValueError(
            f"t must be {'a number' if fractional_t else 'an integer'} from 0 to {num_train_timesteps - 1}"
        )
    if not is_number(a) or not 0 <= a < 1:
        raise ValueError("a must be a number from 0 to below 1")
    if not all(isinstance(numbers, list) and all(map(is_number, numbers)) for numbers in lists):
        raise ValueError("x_0, eps and noise must be lists of finite numbers")
    x_0, eps, noise = (tuple(map(float, numbers)) for numbers in lists)
    row = Row(i, t, float(a), x_0, eps, noise)
    if not 1 <= row.reach <= min(i, MAX_REACH):
        raise ValueError(f"it must read 1 to {min(i, MAX_REACH)} evaluations, not {row.reach}")
    if len(row.noise) > 2 or not all(std > 0 for std in row.noise):
        raise ValueError("noise must be empty, one positive number, or two of them, small and large")
    return row


def are_falling_times(values: Sequence[Any], num_train_timesteps: int) -> bool:
    """Tell whether there is a time at least, and all are integers that strictly fall within 0..T-1."""
    return (
        len(values) > 0
        and all(type(t) is int and 0 <= t < num_train_timesteps for t in values)
        and all(later < earlier for earlier, later in pairwise(values))
    )


def is_number(value: Any) -> bool:
    """Tell whether a value of a JSON file is a number that a float can hold."""
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False
