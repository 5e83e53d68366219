"""Work in a thread of its own, so that signals and limits reach whoever waits for it. Knows no runtime."""

import concurrent.futures
import threading
import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")
POLL_S = 0.1  # Windows tells of Ctrl-C only between two waits


def done_apart(work: Callable[[], Result], stop: Callable[[], None], timeout_s: float | None = None) -> Result:
    """Return what work returns, or raise what it raises; TimeoutError if it takes longer than timeout_s.

    stop: asks the work to end early, from another thread. It is called, and the end awaited, at that limit and where a
    signal handler raises meanwhile. Without a limit, and away from the main thread, the only one to hear of signals,
    the work is done right here.
    """
    if timeout_s is None and threading.current_thread() is not threading.main_thread():
        return work()
    outcome: concurrent.futures.Future[Result] = concurrent.futures.Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as exc:  # whatever it is, it is for the one who waits
            outcome.set_exception(exc)

    thread = threading.Thread(target=run, daemon=True)  # a second signal need not wait for its end
    end = float("inf") if timeout_s is None else time.monotonic() + timeout_s
    try:
        thread.start()
        while not outcome.done():
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError
            concurrent.futures.wait([outcome], timeout=min(left, POLL_S))
    except BaseException:
        stop()
        thread.join()
        raise
    return outcome.result()
