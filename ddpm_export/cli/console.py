"""What every command shares: errors in one line, exit codes, progress on stderr, results on stdout."""

import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer

from ddpm_export.cli.start import interruptible
from ddpm_export.errors import BadFileError, DdpmExportError, UsageError
from ddpm_export.providers import PROVIDERS
from ddpm_export.wording import first_line, pair_of, printable, shown

__all__ = [
    "Advance",
    "Config",
    "Debug",
    "Eta",
    "Grid",
    "Json",
    "Memory",
    "Network",
    "Order",
    "Provider",
    "Sampler",
    "Settings",
    "Threads",
    "Timeout",
    "Trust",
    "entry_point",
    "options_from_settings",
    "phases",
    "print_json",
    "printable",
    "progress",
    "times_from_text",
]

# Options that several commands have.
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback on errors.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Provider = Annotated[str, typer.Option(help=f"{' or '.join(PROVIDERS)}; never another in its place.")]
Grid = Annotated[str | None, typer.Option(help="Where the steps' times lie: uniform, quadratic, log_snr or karras.")]
Sampler = Annotated[str | None, typer.Option(help="ddim, ddpm or another of docs/samplers.md. [default: the model's]")]
Eta = Annotated[float | None, typer.Option(help="Noise that ddim adds, 0 (none) to 1 (as ddpm).")]
Order = Annotated[int | None, typer.Option(help="Of unipc: 2 or 3.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads. [default: one a core]")]
Config = Annotated[Path | None, typer.Option(help="What the checkpoint does not say, as a JSON file of its project.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="The same, one value at a time; repeatable.")
]
Network = Annotated[
    str | None,
    typer.Option(metavar="MODULE:CLASS", help="Your own class, for weights of no known layout. Runs its code."),
]
Timeout = Annotated[float, typer.Option(help="Seconds that an untrusted file may take.")]
Memory = Annotated[float, typer.Option(help="GiB of memory that an untrusted file may take; on a CPU.")]
Trust = Annotated[bool, typer.Option("--trust", help="Open a .ts or .pt2 file, which can run code.")]


def entry_point(command: Callable[..., None]) -> Callable[[], None]:
    """Return a console script for one command function whose annotations describe its options.

    --debug puts a traceback before the line of the error; line and exit code stay.
    """
    app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None, add_completion=True)
    app.command()(command)

    def main() -> None:
        debug = "--debug" in sys.argv
        try:
            with interruptible():
                code = app(standalone_mode=False)
            if code == 130:  # typer's answer to an interrupt
                raise KeyboardInterrupt
        except DdpmExportError as exc:
            if debug:
                traceback.print_exc()
            print(f"error: {printable(str(exc))}", file=sys.stderr)
            code = exc.exit_code
        except (KeyboardInterrupt, typer.Abort):
            print("stopped.", file=sys.stderr)
            code = 130
        except Exception as exc:
            tell = getattr(exc, "format_message", None)  # typer's usage errors
            if debug:
                traceback.print_exc()
            if tell is not None:
                print(f"error: {printable(tell().rstrip('.'))}. See --help.", file=sys.stderr)
                code = 2
            elif isinstance(exc, MemoryError):
                print("error: Out of memory. Try a smaller --batch.", file=sys.stderr)
                code = 5
            else:
                told = printable(f"{type(exc).__name__} {first_line(exc)!r}")
                print(f"error: Unexpected {told}. Run it with --debug and report it.", file=sys.stderr)
                code = 1
        sys.exit(code if isinstance(code, int) else 0)

    return main


def options_from_settings(config: Path | None, settings: Sequence[str]) -> dict[str, Any]:
    """Return the object of a JSON file, changed by KEY=VALUE settings; a dot in a key goes one level down.

    A value is JSON where it can be, else text. Raises BadFileError for a file that holds no object, UsageError for a
    setting that is none.
    """
    options: Any = {}
    if config is not None:
        try:
            options = json.loads(config.read_text(encoding="utf-8"))
            if not isinstance(options, dict):
                raise ValueError(f"a JSON {type(options).__name__}")
        except (OSError, ValueError, RecursionError) as exc:
            raise BadFileError(f"{config} must hold a JSON object: {first_line(exc)}.") from exc
    for setting in settings:
        key, text = pair_of("--set", setting)
        *parents, leaf = key.split(".")
        place = options
        for parent in parents:
            place = place.setdefault(parent, {}) if isinstance(place, dict) else None
        if not leaf or not isinstance(place, dict):
            raise UsageError(f"--set must be given as KEY=VALUE, got {shown(setting)}.")
        try:
            place[leaf] = json.loads(text)
        except (ValueError, RecursionError):
            place[leaf] = text  # a bare word
    found: dict[str, Any] = options
    return found


def times_from_text(text: str | None) -> list[int] | None:
    """Return the times of an option such as 980,960,0; raises UsageError for anything else."""
    try:
        return None if text is None else [int(item) for item in text.split(",")]
    except ValueError as exc:
        raise UsageError(
            f"--times must be integers with commas between them, such as 980,960,0, got {shown(text)}."
        ) from exc


def print_json(values: dict[str, Any]) -> None:
    """Print one JSON object on stdout."""
    print(json.dumps(values, sort_keys=True))


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
        TextColumn("{task.fields[note]}"),
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
    last, told, so_far = time.monotonic(), 0, 0

    def advance(note: str = "", done: int | None = None) -> None:
        nonlocal last, told, so_far
        so_far = so_far + 1 if done is None else done
        now = time.monotonic()
        if now - last >= 10.0 and so_far > told:  # between two lines a count that moves in large steps has moved, too
            rate = (so_far - told) / (now - last)  # since the last line: what was found in a cache came at once
            more = f", {(total - so_far) / rate:.0f} s left" + (f", {note}" if note else "")
            print(f"{what}: {so_far} of {total}, {rate:.1f}/s{more}", file=sys.stderr, flush=True)
            last, told = now, so_far

    return advance
