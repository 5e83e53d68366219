"""One codec for the JSON that this project reads: a form says what a value must be, and within which limits.

Every misfit is reported the same way: which entry, what it must be, and the value seen. Opens no file.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ddpm_export.errors import BadFileError, first_line, shown
from ddpm_export.process.rows import is_number

Form = Callable[[Any, str], Any]  # (value, its place) -> the value, or MisfitError
METADATA_KEY = "ddpm_export"  # under which a model file carries its spec
MAX_NESTING, MAX_DIGITS = 32, 1000


class MisfitError(ValueError):
    """A value that does not have the form it must have: its place, the form in words, and the value."""

    def __init__(self, place: str, expected: str, got: Any) -> None:
        super().__init__(f"{place} must be {expected}, got {shown(got)}")
        self.place, self.expected, self.got = place, expected, got


def integer(low: int, high: int) -> Form:
    """Return the form of an integer from low to high; true, 1.0 and "1" are none."""

    def read(value: Any, place: str) -> int:
        if type(value) is not int or not low <= value <= high:
            raise MisfitError(place, f"an integer from {low} to {high}", value)
        return value

    return read


def number(low: float, high: float) -> Form:
    """Return the form of a finite number from low to high."""

    def read(value: Any, place: str) -> float:
        if not is_number(value) or not low <= value <= high:
            raise MisfitError(place, f"a number from {low:g} to {high:g}", value)
        return float(value)

    return read


def text(longest: int, pattern: str = "", kind: str = "") -> Form:
    """Return the form of a text of at most so many characters, that a pattern matches whole where one is given."""

    def read(value: Any, place: str) -> str:
        fits = isinstance(value, str) and len(value) <= longest
        if not fits or (pattern and not re.fullmatch(pattern, value)):
            raise MisfitError(place, kind or f"a text of at most {longest} characters", value)
        return str(value)

    return read


def choice(values: Sequence[str]) -> Form:
    """Return the form of one of some texts."""

    def read(value: Any, place: str) -> str:
        if not isinstance(value, str) or value not in values:
            raise MisfitError(place, f"one of {', '.join(values)}", value)
        return value

    return read


def array(entry: Form, low: int, high: int) -> Form:
    """Return the form of a list of low to high entries."""

    def read(value: Any, place: str) -> list[Any]:
        if not isinstance(value, list) or not low <= len(value) <= high:
            raise MisfitError(place, f"a list of {low} to {high} entries" if low != high else f"a list of {low}", value)
        return [entry(item, f"{place}[{k}]") for k, item in enumerate(value)]

    return read


def record(required: Mapping[str, Form], optional: Mapping[str, Form] | None = None, *, closed: bool = False) -> Form:
    """Return the form of an object with required and optional entries; others are ignored, or if closed, refused."""
    forms = {**required, **(optional or {})}

    def read(value: Any, place: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise MisfitError(place, "an object", value)
        missing = [name for name in required if name not in value]
        if missing:
            raise MisfitError(place, f"an object with {', '.join(missing)}", list(value))
        unknown = [name for name in value if name not in forms]
        if closed and unknown:
            raise MisfitError(place, f"an object without {', '.join(unknown[:3])}", value)
        inside = f"{place}." if place else ""
        return {name: form(value[name], f"{inside}{name}") for name, form in forms.items() if name in value}

    return read


def mapping(entry: Form, most: int) -> Form:
    """Return the form of an object with at most so many entries of any name, all of one form."""

    def read(value: Any, place: str) -> dict[str, Any]:
        if not isinstance(value, dict) or len(value) > most:
            raise MisfitError(place, f"an object of at most {most} entries", value)
        return {name: entry(item, f"{place}.{name}") for name, item in value.items()}

    return read


def anything(value: Any, place: str) -> Any:
    """Take any JSON value."""
    return value


def read_json(content: bytes | str, form: Form, what: str, remedy: str = "") -> Any:
    """Return the value of a JSON text that has a form; NaN, infinity, repeated names and deep nesting are refused.

    Raises BadFileError, which begins with `what` and ends with the remedy.
    """
    try:
        value = json.loads(
            content, parse_float=finite, parse_int=_integer, parse_constant=finite, object_pairs_hook=_unique
        )
        if not is_nested_within(value, MAX_NESTING):
            raise ValueError(f"nested more than {MAX_NESTING} levels deep")
    except (ValueError, RecursionError) as exc:
        reason = "nested too deeply" if isinstance(exc, RecursionError) else first_line(exc)
        raise BadFileError(f"{what} is not JSON that can be read: {reason}. {remedy}".rstrip()) from exc
    try:
        return form(value, "")
    except MisfitError as exc:
        place = exc.place.lstrip(".") or "its content"
        raise BadFileError(
            f"{what} cannot be used: {place} must be {exc.expected}, got {shown(exc.got)}. {remedy}".rstrip()
        ) from exc


def finite(text: str) -> float:
    """Return the number of a JSON text; raises ValueError for NaN and infinity."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]}")
    return value


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"an integer of {len(text)} digits")
    return int(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a name that stands twice in one object")
    return values


def is_nested_within(value: Any, levels: int) -> bool:
    """Return whether a JSON value has at most so many levels of objects and lists."""
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(is_nested_within(child, levels - 1) for child in children)
