"""The exceptions a user can meet, each with the exit code its command ends with, and the text that they share.

An error is one plain sentence with the value seen, then at most one with the remedy. Knows nothing else.
"""

import reprlib
from collections.abc import Iterable
from typing import Any


class DdpmExportError(Exception):
    """Something that stops the work, in one sentence and a remedy; `fields` are the arguments that these name."""

    exit_code = 1

    def __init__(self, text: str, *fields: str) -> None:
        super().__init__(text)
        self.fields = fields


class UsageError(DdpmExportError):
    """An argument is out of its range, or two contradict each other."""

    exit_code = 2


class ConfigError(UsageError):
    """A network or training configuration is not one that can be built."""


class BadFileError(DdpmExportError):
    """A file is missing, broken, foreign or hostile."""

    exit_code = 3


class ModelRefusedError(DdpmExportError):
    """A sound file asks for what this reader cannot do, or an export did not reproduce its network."""

    exit_code = 4


class EnvironmentProblem(DdpmExportError):
    """A package, a device or room on the disk is missing."""

    exit_code = 5


class NonFiniteError(DdpmExportError):
    """A loss or an image became infinite or NaN; where it is an image, `where` and `index`, in its batch, say which."""

    exit_code = 6
    where: str = ""
    index: int | None = None

    @classmethod
    def at(cls, where: str, index: int, image: str = "") -> "NonFiniteError":
        """Return the error for an image of a batch, called `image` where its number is known."""
        image = image or f"image {index} of its batch"
        error = cls(f"At {where}, {image} became NaN or infinite. Run ddpm-check on the model.")
        error.where, error.index = where, index
        return error


MAX_SHOWN, MAX_LINE = 80, 200
SHORT = reprlib.Repr()  # what is nested without end, or shared a billion times, has a repr without end
SHORT.maxlevel = 4
SHORT.maxlist = SHORT.maxtuple = SHORT.maxdict = SHORT.maxset = SHORT.maxfrozenset = 27
SHORT.maxstring = SHORT.maxlong = SHORT.maxother = 1000


def shown(value: Any, longest: int = MAX_SHOWN) -> str:
    """Return a value as Python writes it, cut where it is long: what comes from a file may hold anything."""
    try:
        text = SHORT.repr(value)
    except Exception:  # an integer of too many digits, and whatever a foreign class does
        text = f"<{type(value).__name__}>"
    return text if len(text) <= longest else text[: longest - 3] + "..."


def several(values: Iterable[Any], most: int = 5) -> str:
    """Return the first few values, and how many there are where those are not all."""
    every = list(values)
    listed = ", ".join(map(str, every[:most]))
    return listed if len(every) <= most else f"{listed}, ... ({len(every)} of them)"


def first_line(exc: object, longest: int = MAX_LINE) -> str:
    """Return the first line of what another package's error says, or else the error's name."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return (lines[0].rstrip(".") if lines else type(exc).__name__)[:longest]


def printable(text: str) -> str:
    """Escape what a terminal would act on: text from files may carry escape sequences."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def not_installed(package: str, *extras: str, instead: str = "") -> EnvironmentProblem:
    """Return the error for a package that is missing; `extras` are those of ours that bring it."""
    bringing = " or ".join(f"'ddpm-export[{extra}]'" for extra in extras)
    return EnvironmentProblem(f"{package} is not installed. Run: pip install {bringing}{instead}.")


def pair_of(option: str, setting: str) -> tuple[str, str]:
    """Return (key, value) of an option given as KEY=VALUE; raises UsageError for anything else."""
    key, equals, value = setting.partition("=")
    if not key or not equals:
        raise UsageError(f"{option} must be given as KEY=VALUE, got {shown(setting)}.")
    return key, value
