"""What a checkpoint does not say and its user does: a table of options for each layout, and one check for all."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ddpm_export.errors import UsageError, several, shown

MAX_TIMESTEPS = 10_000  # as many numbers as a spec holds
MAX_IMAGE_SIZE = 4096
ENDLESS = float("inf")


@dataclass(frozen=True)
class Option:
    """Describe an option: the values it takes, in words and as a test, its default, and an example to ask for it by."""

    expected: str
    fits: Callable[[Any], bool]
    default: Any = None
    example: Any = None


def like(default: Any, example: Any = None) -> Option:
    """Return an option of its default's type: bool, int, number, text, or a tuple for a list of ints; None for any."""
    kinds = (int, float) if type(default) is float else (type(default),)

    def fits(value: Any) -> bool:
        if isinstance(default, tuple):
            return isinstance(value, (list, tuple)) and all(type(item) is int for item in value)
        return default is None or type(value) in kinds

    return Option(f"a value like {default!r}", fits, default, example)


def anything(default: Any = None) -> Option:
    """Return an option that takes any value."""
    return Option("any value", lambda _: True, default)


def within(least: float, most: float, default: Any = None, example: Any = None) -> Option:
    """Return an option for a number from `least` to `most`, a whole one where `least` is an int."""
    kinds, kind = ((int,), "a whole number") if isinstance(least, int) else ((int, float), "a number")
    expected = f"{kind} from {least:g} to {most:g}"
    return Option(expected, lambda value: type(value) in kinds and least <= value <= most, default, example)


def above_0(default: float) -> Option:
    """Return an option for a finite number above 0."""
    return Option("a number above 0", lambda value: type(value) in (int, float) and 0.0 < value < ENDLESS, default)


def one_of(names: Iterable[str], example: str | None = None, default: str | None = None) -> Option:
    """Return an option for one of these names."""
    known = tuple(names)
    return Option(f"one of {', '.join(known)}", lambda value: value in known, default, example)


def read_options(
    options: Mapping[str, Any], table: Mapping[str, Option], owner: str = "This checkpoint"
) -> dict[str, Any]:
    """Return a value for each option of a table, by default where the user gave none; lists become tuples.

    None is no value where the default is None. Raises UsageError for an option that is not in the table and for a value
    that does not fit; owner: whose options these are, in words.
    """
    unknown = sorted(set(options) - set(table))
    if unknown:
        known = f"It takes {', '.join(table)}" if table else "It takes none"
        raise UsageError(f"{owner} has no option {several(map(repr, unknown))}. {known}.")
    chosen = {name: option.default for name, option in table.items()}
    for name, value in options.items():
        option = table[name]
        if not (value is None and option.default is None) and not option.fits(value):
            raise misused(name, option.expected, value)
        chosen[name] = tuple(value) if isinstance(value, list) else value
    return chosen


def ask_for(examples: Mapping[str, Any]) -> UsageError:
    """Return the error that asks for what a checkpoint does not say: option name -> an example of its value."""
    pairs = [f"{name}={value}" for name, value in examples.items()]
    names = several(examples, len(examples))
    return UsageError(f"The checkpoint does not say its {names}. Add, for example, {' '.join(pairs)}", *pairs)


def require(names: Iterable[str], chosen: Mapping[str, Any], table: Mapping[str, Option]) -> None:
    """Raise UsageError for those of the names that the user has to give and did not, all at once."""
    missing = {name: table[name].example for name in names if chosen[name] is None}
    if missing:
        raise ask_for(missing)


def misused(name: str, expected: str, value: Any) -> UsageError:
    """Return the error for an option whose value cannot be."""
    return UsageError(f"{name!r} must be {expected}, got {shown(value)}.")


def contradiction(name: str, fact: Any, value: Any) -> UsageError:
    """Return the error for an option that contradicts the checkpoint."""
    return UsageError(f"{name!r} must be {fact!r}, as the checkpoint says, got {shown(value)}. Leave it out.")


def check_agrees(stated: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Raise UsageError for the first option that contradicts the checkpoint; None agrees with everything."""
    for name, fact in facts.items():
        if stated.get(name) not in (None, fact):
            raise contradiction(name, fact, stated[name])


def check_size(name: str, size: Any, factor: int) -> None:
    """Raise UsageError unless an option is the size of an image that halves down to 1 / factor."""
    if type(size) is not int or not 1 <= size <= MAX_IMAGE_SIZE or size % factor:
        raise misused(name, f"a multiple of {factor} up to {MAX_IMAGE_SIZE}", size)
