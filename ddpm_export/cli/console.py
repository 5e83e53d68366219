"""What every command shares: errors in one line, exit codes, progress on stderr, results on stdout."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer

from ddpm_export.errors import DdpmExportError

__all__ = ["entry_point", "print_json", "printable", "progress"]


def entry_point(command: Callable[..., None]) -> Callable[[], None]:
    """Return a console script for one command function whose annotations describe its options."""
    app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None, add_completion=True)
    app.command()(command)

    def main() -> None:
        debug = "--debug" in sys.argv
        try:
            code = app(standalone_mode=False)
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
            if debug or tell is None:
                raise
            print(f"error: {printable(tell())} Do see --help.", file=sys.stderr)
            code = 2
        sys.exit(code if isinstance(code, int) else 0)

    return main


def printable(text: str) -> str:
    """Escape what a terminal would act on: text from files may carry escape sequences."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def print_json(values: dict[str, Any]) -> None:
    """Print one JSON object on stdout."""
    print(json.dumps(values, sort_keys=True))


@contextmanager
def progress(total: int, what: str, *, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Show a bar with rate and time left on stderr; yields a function that moves it one on and sets its note."""
    if quiet or not sys.stderr.isatty():
        yield lambda note: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total, rate="", note="")

        def advance(note: str) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, advance=1, note=note, rate=f"{speed:.1f}/s" if speed else "")

        yield advance
