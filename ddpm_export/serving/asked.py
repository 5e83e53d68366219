"""What a client may ask for: names and types in a query or a JSON body. Ranges are the library's to check."""

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from ddpm_export.errors import BadFileError, UsageError, first_line, several, shown
from ddpm_export.model.codec import (
    MisfitError,
    anything,
    array,
    choice,
    number,
    parse_json,
    read_json,
    record,
    rule,
    text,
)
from ddpm_export.system.processor import cores

FORMATS = {"png": "image/png", "npy": "application/octet-stream"}


@dataclass(frozen=True)
class Limits:
    """Bound what a client may ask for, how long it may take (seconds), and how many requests are held.

    header_s: for the head of a request to arrive. body_s: for its body, and for the client to take an answer. answer_s:
    for an answer, waiting included. grace_s: for what is running when the server is stopped. running: requests that
    sample at once. queue: requests that wait for their turn; any more are refused at once.
    """

    max_images: int = 16
    max_steps: int = 250
    max_body: int = 4 * 2**20
    header_s: float = 10.0
    body_s: float = 10.0
    answer_s: float = 60.0
    grace_s: int = 10
    running: int = field(default_factory=cores)
    queue: int = 32


def _number(value: Any, place: str) -> float:
    return float(number()(value, place))


def _is_label(value: Any) -> bool:
    return value != [] and all(type(item) in (int, str) for item in (value if isinstance(value, list) else [value]))


INTEGER = rule(lambda value: type(value) is int, "an integer")
NUMBERS = {
    **dict.fromkeys(("n", "seed", "first", "steps", "order"), INTEGER),
    **dict.fromkeys(("guidance", "eta", "strength"), _number),
}
FORMS = {
    **NUMBERS,
    "times": array(INTEGER, 1, 10_000),
    "label": rule(_is_label, "a class by name or index, or a list of classes"),
    **dict.fromkeys(("plan", "sampler", "grid", "variance"), text(100)),
    **dict.fromkeys(("image", "mask"), text(2**30, kind="an image file in base64")),
    "format": choice(list(FORMATS)),
}


def asked_from(query: str, body: bytes) -> dict[str, Any]:
    """Return by name what a query and a JSON object ask for.

    Raises UsageError for what cannot be read, unknown and repeated names, and values of another type.
    """
    try:
        pairs = parse_qsl(query, True, bool(query), errors="strict", max_num_fields=len(FORMS))
        values = read_json(body, anything, "The body") if body else {}
        if not isinstance(values, dict):
            raise UsageError(f"The body must be a JSON object, got {shown(values)}.")
        names = [name for name, _ in pairs] + list(values)
        if unknown := [shown(name) for name in names if name not in FORMS]:
            raise UsageError(f"A request takes {', '.join(FORMS)}, got {several(unknown)}.")
        if len(set(names)) < len(names):
            raise UsageError(f"Each name may be given once, got {several(names)}.")
        asked: dict[str, Any] = record({}, FORMS)(values | {name: _from_text(name, text) for name, text in pairs}, "")
        return asked
    except BadFileError as exc:  # for read_json a file is bad; here it is the request
        raise UsageError(str(exc)) from exc
    except MisfitError as exc:
        raise UsageError(f"{exc}.") from exc
    except ValueError as exc:
        raise UsageError(f"The query cannot be read: {first_line(exc)}.") from exc


def _from_text(name: str, content: str) -> Any:
    """Return the JSON value that a query's text stands for; where a number is none, its form refuses the text."""
    if name not in NUMBERS and name != "times":
        return content
    with suppress(BadFileError):
        return parse_json(f"[{content}]" if name == "times" else content, name)
    return content
