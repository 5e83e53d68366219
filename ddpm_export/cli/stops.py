"""Signals that ask to stop, before anything is imported. Imports nothing that Python has not loaded itself."""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # signal itself imports enum and collections
import os

TYPE_CHECKING = False  # as in typing

if TYPE_CHECKING:
    from typing import Any


# SIGHUP comes when a terminal closes, which must not leave half a file; Windows has none
STOPS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
STOPPED = 130


def heed(handler: Any) -> dict[int, Any]:
    """Set the handler of every signal that asks to stop, and return those before; one that is ignored stays ignored."""
    found = {number: signal.getsignal(number) for number in STOPS}
    before = {number: handler for number, handler in found.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler)
    return before


def end(*_signal: object) -> None:
    """End the process at once, as a signal's handler does while there is nothing to clear away."""
    say("stopped.")
    os._exit(STOPPED)


def say(line: str) -> None:
    """Write a line to stderr, whatever has become of it."""
    try:  # nothing can be imported here: a handler may have come within an import
        os.write(2, f"{line}\n".encode())
    except OSError:
        return  # a pipe whose reader is gone
