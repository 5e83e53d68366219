"""Work in a thread of its own: what it gives, how it ends early."""

import signal
import threading
import time

import pytest

from ddpm_export.runtimes.apart import done_apart


def never():
    raise AssertionError("there is nothing to stop")


class Endless:
    """Work that ends only when it is told to."""

    def __init__(self):
        self.begun, self.inputs, self.ended = (threading.Event() for _ in range(3))

    def __call__(self):
        self.begun.set()
        self.inputs.wait()
        time.sleep(0.1)  # what was in progress
        self.ended.set()


@pytest.mark.parametrize("timeout_s", [None, 60])
def test_the_result_or_the_error_is_that_of_the_work(timeout_s):
    assert done_apart(lambda: 7, never, timeout_s) == 7
    with pytest.raises(ZeroDivisionError):
        done_apart(lambda: 1 // 0, never, timeout_s)


def test_at_the_limit_the_work_is_stopped_and_its_end_awaited():
    work = Endless()
    with pytest.raises(TimeoutError):
        done_apart(work, work.inputs.set, 0.05)
    assert work.ended.is_set()


def test_a_signal_is_heard_while_the_work_goes_on():
    work = Endless()

    def interrupt():
        work.begun.wait()
        signal.raise_signal(signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        done_apart(work, work.inputs.set)
    assert work.ended.is_set()


def test_without_need_the_work_is_done_where_it_is_asked_for():
    done_here = []

    def ask(timeout_s):
        here = threading.current_thread()
        done_here.append(done_apart(lambda: threading.current_thread() is here, never, timeout_s))

    for timeout_s in (None, 60):
        asking = threading.Thread(target=ask, args=[timeout_s])
        asking.start()
        asking.join()
    ask(None)  # the main thread, which signals would not reach within the work
    assert done_here == [True, False, False]
