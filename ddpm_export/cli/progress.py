"""Progress on stderr: a bar on a terminal, a line every 10 s or more elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Protocol


class Advance(Protocol):
    """Move a progress bar or line."""

    def __call__(self, note: str = "", done: int | None = None) -> None:
        """Set the note and the number done, by default one more than before."""


@contextmanager
def progress(total: int, what: str) -> Iterator[Advance]:
    """Show rate and time left; yields a function that moves it on and sets its note."""
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
    """Show one progress after another; yields report(done, total, what); a new total or `what` begins the next."""
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
    last, shown, now_done = time.monotonic(), 0, 0

    def advance(note: str = "", done: int | None = None) -> None:
        nonlocal last, shown, now_done
        now_done = now_done + 1 if done is None else done
        now = time.monotonic()
        if now - last >= 10.0 and now_done > shown:
            rate = (now_done - shown) / (now - last)  # since the last line: cached parts came at once
            more = f", {(total - now_done) / rate:.0f} s left" + (f", {note}" if note else "")
            print(f"{what}: {now_done} of {total}, {rate:.1f}/s{more}", file=sys.stderr, flush=True)
            last, shown = now, now_done

    return advance
