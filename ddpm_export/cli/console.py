"""What every command shares: errors in one line, exit codes, progress on stderr, results on stdout."""

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from ddpm_export.errors import DdpmExportError

__all__ = ["Debug", "Json", "Provider", "Threads", "Trust", "entry_point", "print_json", "printable", "progress"]

# Options that several commands have.
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback on errors.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Provider = Annotated[str, typer.Option(help="cpu or cuda; never another in its place.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads. [default: one a core]")]
Trust = Annotated[bool, typer.Option("--trust", help="Open a .ts or .pt2 file, which can run code.")]


def entry_point(command: Callable[..., None]) -> Callable[[], None]:
    """Return a console script for one command function whose annotations describe its options."""
    app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None, add_completion=True)
    app.command()(command)

    def main() -> None:
        debug = "--debug" in sys.argv
        signal.signal(signal.SIGTERM, _interrupt)  # asked to stop: leave nothing half-written, as on Ctrl-C
        try:
            code = app(standalone_mode=False)
            if code == 130:  # typer's answer to an interrupt
                raise KeyboardInterrupt
        except DdpmExportError as exc:
            if debug:
                raise
            print(f"error: {printable(str(exc))}", file=sys.stderr)
            code = exc.exit_code
        except (KeyboardInterrupt, typer.Abort):
            print("stopped.", file=sys.stderr)
            code = 130
        except Exception as exc:
            tell = getattr(exc, "format_message", None)  # typer's usage errors
            if debug:
                raise
            if tell is not None:
                print(f"error: {printable(tell().rstrip('.'))}. Do see --help.", file=sys.stderr)
                code = 2
            elif isinstance(exc, MemoryError):
                print("error: memory: not enough. got none left, expected more. Do lower --batch.", file=sys.stderr)
                code = 5
            else:
                told = printable(f"{type(exc).__name__} {str(exc)[:200]!r}")
                print(
                    f"error: unexpected. got {told}, expected none. Do run with --debug and report it.", file=sys.stderr
                )
                code = 1
        sys.exit(code if isinstance(code, int) else 0)

    return main


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def printable(text: str) -> str:
    """Escape what a terminal would act on: text from files may carry escape sequences."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def print_json(values: dict[str, Any]) -> None:
    """Print one JSON object on stdout."""
    print(json.dumps(values, sort_keys=True))


@contextmanager
def progress(total: int, what: str) -> Iterator[Callable[[str], None]]:
    """Show rate and time left on stderr, a bar on a terminal and else a line every 10 s.

    Yields a function that moves it one on and sets its note.
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
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total, rate="", note="")

        def advance(note: str) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, advance=1, note=note, rate=f"{speed:.1f}/s" if speed else "")

        yield advance


def _lines(total: int, what: str) -> Callable[[str], None]:
    start = last = time.monotonic()
    done = 0

    def advance(note: str) -> None:
        nonlocal last, done
        done += 1
        now = time.monotonic()
        if now - last >= 10.0:
            rate = done / (now - start)
            left = (total - done) / rate
            print(f"{what}: {done} of {total}, {rate:.1f}/s, {left:.0f} s left, {note}", file=sys.stderr, flush=True)
            last = now

    return advance
