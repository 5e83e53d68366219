"""The JSON of a plan, as files carry it; docs/format.md section 1. Opens no file."""

from typing import Any

from ddpm_export.model.codec import Form, MisfitError, array, integer, mapping, number, record, rule, text, tuple_of
from ddpm_export.process.rows import MAX_REACH, MAX_ROWS, Plan, Row, is_number

NAME = text(64, r"[A-Za-z0-9][A-Za-z0-9._+-]*", "1 to 64 letters, digits and ._+-, starting with a letter or digit")
POSITIVE = rule(lambda value: is_number(value) and value > 0, "a positive number")
BELOW_1 = rule(lambda value: is_number(value) and 0 <= value < 1, "a number from 0 to below 1")
BOOLEAN = rule(lambda value: type(value) is bool, "true or false")
WEIGHTS = tuple_of(number())
NOISE = tuple_of(POSITIVE, 0, 2)  # none, one deviation, or a small and a large one


def json_from_plan(plan: Plan) -> dict[str, Any]:
    """Return a plan as JSON values: each row [t, a, weights of x_0, weights of eps, noise]."""
    start = {} if plan.start == 1.0 else {"start": plan.start}
    raw_eps = {"raw_eps": True} if plan.raw_eps else {}
    rows = [[row.t, row.a, list(row.x_0), list(row.eps), list(row.noise)] for row in plan.rows]
    return {**raw_eps, **start, "rows": rows}


def plans_form(num_train_timesteps: int, *, fractional_t: bool) -> Form:
    """Return the form of plans by name that a walk over T training times can rely on; a Plan is read as its JSON."""
    last = num_train_timesteps - 1
    t = number(0, last) if fractional_t else integer(0, last)
    entries = {"t": t, "a": BELOW_1, "x_0": WEIGHTS, "eps": WEIGHTS, "noise": NOISE}

    def read_row(value: Any, place: str) -> list[Any]:
        if not isinstance(value, list) or len(value) != len(entries):
            raise MisfitError(place, f"[{', '.join(entries)}]", value)
        return [form(item, f"{place}.{name}") for (name, form), item in zip(entries.items(), value, strict=True)]

    read_values = record({"rows": array(read_row, 1, MAX_ROWS)}, {"start": POSITIVE, "raw_eps": BOOLEAN})

    def read(value: Any, place: str) -> Plan:
        values = read_values(json_from_plan(value) if isinstance(value, Plan) else value, place)
        rows = []
        for i, (t, a, *lists) in enumerate(values["rows"], start=1):
            x_0, eps, noise = (tuple(map(float, numbers)) for numbers in lists)
            row, most = Row(i, t, float(a), x_0, eps, noise, values.get("raw_eps", False)), min(i, MAX_REACH)
            if not 1 <= row.reach <= most:
                raise MisfitError(f"{place}.rows[{i - 1}]", f"a row that reads 1 to {most} evaluations", row.reach)
            rows.append(row)
        return value if isinstance(value, Plan) else Plan(tuple(rows), float(values.get("start", 1.0)))

    return mapping(read, name=NAME)


def plan_from_json(name: Any, values: Any, num_train_timesteps: int, *, fractional_t: bool) -> Plan:
    """Read a plan of a file. Raises MisfitError, a ValueError that says what is wrong."""
    read = plans_form(num_train_timesteps, fractional_t=fractional_t)
    plan: Plan = read({name: values}, "plans")[name]
    return plan
