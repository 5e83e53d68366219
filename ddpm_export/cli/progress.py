"""How far the work is, on stderr: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Protocol


class Advance(Protocol):
    """What tells a progress line how far the work is."""

    def __call__(self, note: str = "", done: int | None = None) -> None:
        """Set the note, and how many are done: one more than before unless given."""


@contextmanager
def progress(total: int, what: str) -> Iterator[Advance]:
    """Show rate and time left on stderr, a bar on a terminal and else a line every 10 s or more.

    Yields a function that moves it one on, or to a number done, and sets its note.
    """
    if not sys.stderr.isatty():
        yield _lines(total, what)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total, rate="", note="")

        def advance(note: str = "", done: int | None = None) -> None:
            speed = bar.tasks[0].speed
            now = bar.tasks[0].completed + 1 if done is None else done
            bar.update(task, completed=now, note=note, rate=f"{speed:.1f}/s" if speed else "")

        yield advance


@contextmanager
def phases() -> Iterator[Callable[[int, int, str], None]]:
    """Show one progress after another; yields report(done, total, what): another total or `what` begins the next."""
    with ExitStack() as stack:
        running: dict[tuple[int, str], Advance] = {}

        def report(done: int, total: int, what: str) -> None:
            if (total, what) not in running:
                stack.close()
                running.clear()
                running[total, what] = stack.enter_context(progress(total, what))
            running[total, what](done=done)

        yield report


def _lines(total: int, what: str) -> Advance:
    last, inputs, so_far = time.monotonic(), 0, 0

    def advance(note: str = "", done: int | None = None) -> None:
        nonlocal last, inputs, so_far
        so_far = so_far + 1 if done is None else done
        now = time.monotonic()
        if now - last >= 10.0 and so_far > inputs:  # between two lines a count that moves in large steps has moved, too
            rate = (so_far - inputs) / (now - last)  # since the last line: what was found in a cache came at once
            more = f", {(total - so_far) / rate:.0f} s left" + (f", {note}" if note else "")
            print(f"{what}: {so_far} of {total}, {rate:.1f}/s{more}", file=sys.stderr, flush=True)
            last, inputs = now, so_far

    return advance
