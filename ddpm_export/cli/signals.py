"""What a signal means to a command that is at work: it is interrupted once, and clears away."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from ddpm_export.cli.start import end, heed

__all__ = ["interruptible"]

GRACE_S = 0.5  # how long a second signal waits for what the first one began to clear away


@contextmanager
def interruptible() -> Iterator[None]:
    """Let the first signal raise KeyboardInterrupt within, and out of here, whatever became of it on its way.

    Later ones raise nothing, so that what clears away is not interrupted, and end the process if that takes long.
    """
    asked: list[int] = []

    def interrupt(number: int, _frame: object) -> None:
        asked.append(number)
        if len(asked) == 1:
            raise KeyboardInterrupt
        import threading

        timer = threading.Timer(GRACE_S, end)
        timer.daemon = True
        timer.start()

    before = heed(interrupt)
    try:
        yield
    except BaseException as exc:
        if asked:
            raise KeyboardInterrupt from exc
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
