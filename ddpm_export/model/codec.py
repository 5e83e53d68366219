"""One codec for the JSON that this project reads: a form says what a value must be, and within which limits.

Forms also read values built in Python: tuples as lists, dataclasses as objects. Every misfit is reported the same way:
which entry, what it must be, and the value seen. Opens no file.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ddpm_export.errors import BadFileError, UsageError, first_line, shown
from ddpm_export.process.rows import is_number

Form = Callable[[Any, str], Any]  # (value, its place) -> the value, or MisfitError
METADATA_KEY = "ddpm_export"  # under which a model file carries its spec
MAX_NESTING, MAX_DIGITS = 32, 1000
MAX_JSON_BYTES = 256 * 1024  # of a model's spec


class MisfitError(ValueError):
    """A value that does not have the form it must have: its place, the form in words, and the value."""

    def __init__(self, place: str, expected: str, got: Any) -> None:
        super().__init__(f"{place.lstrip('.') or 'its content'} must be {expected}, got {shown(got)}")


@contextmanager
def bad_file(what: str, remedy: str = "") -> Iterator[None]:
    """Raise a MisfitError inside as the BadFileError of a file, or of a part of it, called `what`."""
    try:
        yield
    except MisfitError as exc:
        raise BadFileError(f"{what} cannot be used: {exc}. {remedy}".rstrip()) from exc


def rule(holds: Callable[[Any], bool], expected: str) -> Form:
    """Return the form of the values that a rule holds for; expected: what they must be, in words."""

    def read(value: Any, place: str) -> Any:
        if not holds(value):
            raise MisfitError(place, expected, value)
        return value

    return read


def integer(low: int, high: int) -> Form:
    """Return the form of an integer from low to high; true, 1.0 and "1" are none."""
    expected = f"an integer from {low} to {high}" if low < high else f"the integer {low}"
    return rule(lambda value: type(value) is int and low <= value <= high, expected)


def number(low: float = -math.inf, high: float = math.inf) -> Form:
    """Return the form of a finite number from low to high."""
    begin = "" if low == -math.inf else f" from {low:g}"
    expected = f"a finite number{begin}" if high == math.inf else f"a number{begin} to {high:g}"
    return rule(lambda value: is_number(value) and low <= value <= high, expected)


def text(longest: int, pattern: str = "", kind: str = "") -> Form:
    """Return the form of a text of at most so many characters, that a pattern matches whole where one is given."""

    def fits(value: Any) -> bool:
        is_short = isinstance(value, str) and len(value) <= longest
        return is_short and (not pattern or re.fullmatch(pattern, value) is not None)

    return rule(fits, kind or f"a text of at most {longest} characters")


def choice(values: Sequence[str]) -> Form:
    """Return the form of one of some texts."""
    return rule(
        lambda value: isinstance(value, str) and value in values, f"one of {', '.join(values)}" if values else "absent"
    )


def array(entry: Form, low: int = 0, high: float = math.inf) -> Form:
    """Return the form of a list of low to high entries."""
    count = f"{low}" if low == high else f"{low} or more" if high == math.inf else f"{low} to {high}"
    expected = f"a list of {count} entries" if high < math.inf or low > 0 else "a list"

    def read(value: Any, place: str) -> list[Any]:
        if not isinstance(value, (list, tuple)) or not low <= len(value) <= high:
            raise MisfitError(place, expected, value)
        return [entry(item, f"{place}[{k}]") for k, item in enumerate(value)]

    return read


def chain(*forms: Form) -> Form:
    """Return the form of values that several forms read, each what the one before it returned."""

    def read(value: Any, place: str) -> Any:
        for form in forms:
            value = form(value, place)
        return value

    return read


def tuple_of(entry: Form, low: int = 0, high: float = math.inf, *rules: Form) -> Form:
    """Return the form of a list of low to high entries that further rules hold for, read as a tuple."""
    return chain(array(entry, low, high), lambda value, _: tuple(value), *rules)


def nullable(form: Form) -> Form:
    """Return the form of null, or of what a form reads."""
    return lambda value, place: None if value is None else form(value, place)


def record(
    required: Mapping[str, Form], optional: Mapping[str, Form] | None = None, *, into: type | None = None
) -> Form:
    """Return the form of an object with required and optional entries; others are ignored.

    into: a dataclass that is made of the entries; an instance is read as an object.
    """
    forms = {**required, **(optional or {})}

    def read(value: Any, place: str) -> Any:
        if into is not None and isinstance(value, into):
            value = vars(value)
        if not isinstance(value, dict):
            raise MisfitError(place, "an object", value)
        missing = [name for name in required if name not in value]
        if missing:
            raise MisfitError(place, f"an object with {', '.join(missing)}", list(value))
        found = {name: form(value[name], f"{place}.{name}") for name, form in forms.items() if name in value}
        return found if into is None else into(**found)

    return read


def mapping(entry: Form, most: float = math.inf, name: Form | None = None) -> Form:
    """Return the form of an object with at most so many entries, all of one form; name: the form of their names."""
    form = name or anything

    def read(value: Any, place: str) -> dict[str, Any]:
        if not isinstance(value, dict) or len(value) > most:
            raise MisfitError(place, "an object" + ("" if most == math.inf else f" of at most {most} entries"), value)
        return {form(key, f"a name in {place}"): entry(item, f"{place}.{key}") for key, item in value.items()}

    return read


def anything(value: Any, place: str) -> Any:
    """Take any JSON value."""
    return value


OBJECT = rule(lambda value: isinstance(value, dict), "an object")
TEXT = rule(lambda value: isinstance(value, str), "a text")


def read_json(content: bytes | str, form: Form, what: str, remedy: str = "") -> Any:
    """Return the value of a JSON text that has a form; NaN, infinity, repeated names and deep nesting are refused.

    Raises BadFileError, which begins with `what` and ends with the remedy.
    """
    value = parse_json(content, what, remedy, object_pairs_hook=_unique)
    with bad_file(what, remedy):
        return form(value, "")


def parse_json(content: bytes | str, what: str, remedy: str = "", **options: Any) -> Any:
    """Return the value of a JSON text; NaN, infinity and deep nesting are refused. Raises BadFileError."""
    try:
        value = json.loads(content, parse_float=_finite, parse_int=_integer, parse_constant=_finite, **options)
        if not _is_nested_within(value, MAX_NESTING):
            raise ValueError(f"nested more than {MAX_NESTING} levels deep")
    except (ValueError, RecursionError) as exc:
        reason = "nested too deeply" if isinstance(exc, RecursionError) else first_line(exc)
        raise BadFileError(f"{what} is not JSON that can be read: {reason}. {remedy}".rstrip()) from exc
    return value


def _finite(text: str) -> float:
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


def _is_nested_within(value: Any, levels: int) -> bool:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_is_nested_within(child, levels - 1) for child in children)


def metadata_from(values: dict[str, Any]) -> str:
    """Return a spec's values and those beside it as JSON with sorted keys; raises UsageError where it is too long."""
    text = json.dumps(values, sort_keys=True, allow_nan=False)
    if len(text) > MAX_JSON_BYTES:  # ASCII
        raise UsageError(
            f"A model's spec must have at most {MAX_JSON_BYTES} bytes, got {len(text)}. Offer fewer plans."
        )
    return text
