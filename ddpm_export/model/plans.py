"""The JSON of a plan, as files carry it; docs/format.md section 1. Opens no file."""

import re
from typing import Any

from ddpm_export.process.rows import MAX_REACH, MAX_ROWS, Plan, Row, is_number

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


def json_from_plan(plan: Plan) -> dict[str, Any]:
    """Return a plan as JSON values: each row [t, a, weights of x_0, weights of eps, noise]."""
    rows = [[row.t, row.a, list(row.x_0), list(row.eps), list(row.noise)] for row in plan.rows]
    options = {"raw_eps": plan.raw_eps, "start": plan.start}
    usual = {"raw_eps": False, "start": 1.0}
    return {**{name: value for name, value in options.items() if value != usual[name]}, "rows": rows}


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
