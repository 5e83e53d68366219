"""Signals to a running command: the first interrupts it, and it clears away."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ExtensionFileLoader
from types import FrameType
from typing import Any

from ddpm_export.cli.stops import end, heed

GRACE_S = 0.5  # how long a second signal waits for clearing away


@contextmanager
def interruptible() -> Iterator[None]:
    """Let the first signal raise KeyboardInterrupt within, and out of here whatever it became on its way.

    Later ones raise nothing, so that clearing away is not interrupted, and end the process if that takes long.
    """
    asked: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        if len(asked) == 1 and _is_loading(frame):
            return later()
        if len(asked) == 1:
            raise KeyboardInterrupt
        import threading

        timer = threading.Timer(GRACE_S, end)
        timer.daemon = True
        timer.start()

    def later() -> None:
        import threading

        number = asked.pop()
        threading.Timer(0.01, os.kill, (os.getpid(), number)).start()

    shown, ignored = sys.excepthook, sys.unraisablehook

    def excepthook(kind: type[BaseException], *rest: Any) -> None:
        if not (asked and issubclass(kind, KeyboardInterrupt)):  # C code prints it where it imports NumPy
            shown(kind, *rest)

    def unraisablehook(unraisable: Any) -> None:
        if len(asked) == 1 and issubclass(unraisable.exc_type, KeyboardInterrupt):  # in a destructor: it is lost
            later()
        else:
            ignored(unraisable)

    before = heed(interrupt)
    sys.excepthook, sys.unraisablehook = excepthook, unraisablehook
    try:
        yield
    except BaseException as exc:
        if asked:
            raise KeyboardInterrupt from exc
        raise
    finally:
        sys.excepthook, sys.unraisablehook = shown, ignored
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_loading(frame: FrameType | None) -> bool:
    """Say whether a frame lies within the start of an extension module: its C++ may crash where something is raised."""
    while frame is not None and not isinstance(frame.f_locals.get("self"), ExtensionFileLoader):
        frame = frame.f_back
    return frame is not None
