"""What every command shares: errors in one line, exit codes, progress on stderr, results on stdout."""

import contextlib
import errno
import io
import itertools
import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from ddpm_export.cli.signals import interruptible
from ddpm_export.errors import BadFileError, DdpmExportError, UsageError, first_line, pair_of, printable, shown
from ddpm_export.runtimes.providers import PROVIDERS

if TYPE_CHECKING:
    from ddpm_export.model.guidance import Guidance
    from ddpm_export.model.spec import ModelSpec


INTERRUPTED = 130
MAX_LINE = 1000
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

# Options that several commands have.
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback on errors.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Provider = Annotated[str, typer.Option(help=f"{', '.join(PROVIDERS)}: that one, never another in its place.")]
Grid = Annotated[str | None, typer.Option(help="Where the steps' times lie: uniform, quadratic, log_snr or karras.")]
Sampler = Annotated[str | None, typer.Option(help="ddim, ddpm or another of docs/samplers.md. [default: the model's]")]
Eta = Annotated[float | None, typer.Option(help="Noise that ddim adds, 0 (none) to 1 (as ddpm).")]
Label = Annotated[
    str | None,
    typer.Option(help="A class by its name or index, none, or several, such as 0,1,2. [default: each class in turn]"),
]
GuidanceScale = Annotated[
    float | None,
    typer.Option(
        "--guidance", help="How strongly the class is followed: 0 not at all, 1 plainly. [default: the model's]"
    ),
]
GuidanceInterval = Annotated[
    str | None, typer.Option(help="The times that are guided, such as 100,800; others are not. [default: all]")
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="NAME=VALUE",
        help="What else the model is told: numbers (0.1,0.2), an image (x.png) or an array (x.npy); repeatable.",
    ),
]
Order = Annotated[int | None, typer.Option(help="Of unipc: 2 or 3.")]
PlanName = Annotated[
    str | None, typer.Option("--plan", help="A plan that the model carries, in place of sampler, steps and times.")
]
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
Engine = Annotated[
    str | None,
    typer.Option(help="What makes many images: process (this one) or ray (workers; docs/many.md). [default: process]"),
]
Workers = Annotated[int | None, typer.Option(help="Of --engine ray. [default: one a core]")]
Address = Annotated[
    str | None, typer.Option(help="Of --engine ray: a cluster that runs. [default: one on this machine only]")
]
Mixed = Annotated[bool, typer.Option("--mixed", help="Machines of different kinds may make one set of many images.")]


def entry_point(command: Callable[..., None]) -> Callable[[], None]:
    """Return a console script for one command function whose annotations describe its options.

    --debug puts a traceback before the line of the error; line and exit code stay.
    """
    app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None, add_completion=True)
    app.command()(command)

    def main() -> None:
        debug = "--debug" in sys.argv
        _prepare_streams()
        with warnings.catch_warnings():
            if not debug:  # other packages' would stand among our lines
                warnings.showwarning = _unheard
            try:
                _refuse_empty(sys.argv[1:])
                with interruptible():  # calling the app itself would put its own hook for exceptions before ours
                    code = typer.main.get_command(app)(standalone_mode=False)
                if code == 130:  # typer's answer to an interrupt
                    raise KeyboardInterrupt
                if sys.stdout is not None:
                    sys.stdout.flush()
            except (Exception, KeyboardInterrupt, SystemExit) as exc:
                # where a pipe is closed typer exits, and so does rich, or fails as it opens /dev/null in a sandbox
                pipe = exc.__context__ if isinstance(exc.__context__, BrokenPipeError) else None
                if isinstance(exc, SystemExit) and pipe is None:
                    raise
                code, line = _told(pipe or exc)
                lines = traceback.format_exc().splitlines() if debug and code != INTERRUPTED else []
                _tell([*lines, line])
        _give_up_what_is_full()
        sys.exit(code if isinstance(code, int) else 0)

    return main


def _told(exc: BaseException) -> tuple[int, str]:
    """Return the exit code for what a command raised, and the line that says it."""
    if isinstance(exc, DdpmExportError):
        return exc.exit_code, f"error: {exc}"
    if isinstance(exc, (KeyboardInterrupt, typer.Abort)):
        return INTERRUPTED, "stopped."
    if isinstance(exc, OSError):
        return _told_of_system(exc)
    if isinstance(exc, MemoryError):
        return 5, "error: Out of memory. Try a smaller --batch."
    tell = getattr(exc, "format_message", None)  # typer's usage errors
    if tell is not None:
        return 2, f"error: {tell().rstrip('.')}. See --help."
    return 1, f"error: Unexpected {type(exc).__name__} {first_line(exc)!r}. Run it with --debug and report it."


def _told_of_system(exc: OSError) -> tuple[int, str]:
    """Return code and line for what the system refused: a path, whichever it is, or one of the streams."""
    reason = exc.strerror or first_line(exc)
    if exc.filename is None or exc.errno in NO_ROOM:
        return 5, f"error: {exc.filename or 'The output'} cannot be written: {reason}."
    name = exc.filename if isinstance(exc.filename, str) else repr(exc.filename)
    return 3, f"error: {name} cannot be opened: {reason}."


def _tell(lines: Sequence[str]) -> None:
    with contextlib.suppress(OSError):  # whoever closed stderr does not want to know
        print(*(_within(printable(line)) for line in lines), sep="\n", file=sys.stderr)


def _within(line: str) -> str:
    """Return a line of bearable length: its beginning, and its end, where the remedy is."""
    return line if len(line) <= MAX_LINE else f"{line[: MAX_LINE - 300]} ... {line[-290:]}"


def _prepare_streams() -> None:
    """Let a line be written whatever the streams are: closed ones lead nowhere, and no letter is too much for one."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        if isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _give_up_what_is_full() -> None:
    """Keep Python from trying again at its end what could not be written, and from ending with 120 then."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        try:
            stream.flush()
        except OSError:
            with contextlib.suppress(OSError):  # closing tries once more
                stream.close()
            setattr(sys, name, io.StringIO())


def _refuse_empty(arguments: Sequence[str]) -> None:
    for before, argument in itertools.pairwise(["", *arguments]):
        option, equals, value = argument.partition("=")
        if not argument or (argument.startswith("--") and equals and not value):
            where = option or (before if before.startswith("--") else "An argument")
            raise UsageError(f"{where} must not be empty. Leave it out for the default.")


def _unheard(*_: Any, **__: Any) -> None:
    pass


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


def numbers_from_text(option: str, text: str | None) -> list[int] | None:
    """Return the integers of an option such as 980,960,0; raises UsageError for anything else."""
    try:
        return None if text is None else [int(item) for item in text.split(",")]
    except ValueError as exc:
        raise UsageError(
            f"{option} must be integers with commas between them, such as 980,960,0, got {shown(text)}."
        ) from exc


def labels_from_text(spec: "ModelSpec", text: str | None) -> str | list[str] | None:
    """Return the labels of an option: a class, whose name may have commas, or several with commas between them."""
    if text is None or (spec.label is not None and text in spec.label.classes):
        return text
    return [item.strip() for item in text.split(",")]


def guidance_from_options(spec: "ModelSpec", scale: float | None, interval: str | None) -> "Guidance | float | None":
    """Return the guidance that two options say; raises UsageError for what is no interval, or one of no scale."""
    if interval is None:
        return scale
    from ddpm_export.model.guidance import Guidance

    if scale is None:
        if spec.defaults.guidance is None:
            raise UsageError("--guidance-interval needs --guidance, since the model has no guidance of its own.")
        scale = spec.defaults.guidance.scale
    try:
        low, high = map(float, interval.split(","))
    except ValueError as exc:
        raise UsageError(f"--guidance-interval must be two times, such as 100,800, got {shown(interval)}.") from exc
    return Guidance(scale, (low, high))


def inputs_from_options(spec: "ModelSpec", settings: Sequence[str]) -> dict[str, Any]:
    """Return by name what NAME=VALUE options say: numbers, a .npy's array, or a picture as (C, H, W) in [-1, 1].

    Raises UsageError for what is none of these, BadFileError for a file that cannot be read.
    """
    import numpy as np

    from ddpm_export.images.read import read_array, read_image
    from ddpm_export.process.pixels import from_uint8

    known = {one.name: one for one in spec.inputs}
    told: dict[str, Any] = {}
    for setting in settings:
        name, text = pair_of("--input", setting)
        one, is_file = known.get(name), Path(text).suffix.lower()
        if is_file == ".npy":
            told[name] = read_array(Path(text))
        elif one is not None and one.kind == "image":
            if one.shape[0] not in (1, 3):
                raise UsageError(
                    f"--input {name} must be an .npy, since it has {one.shape[0]} channels, got {shown(text)}."
                )
            told[name] = from_uint8(read_image(text, one.shape[0])[None])[0]
        elif one is not None and one.kind == "label":
            told[name] = labels_from_text(spec, text)
        else:
            try:
                numbers = np.array([float(item) for item in text.split(",")])
            except ValueError as exc:
                raise UsageError(f"--input {name} must be numbers or an .npy, got {shown(text)}.") from exc
            size = 1 if one is None else one.shape[0]
            told[name] = numbers.reshape(-1, size) if len(numbers) % size == 0 else numbers
    return told


def is_on_ray(engine: str | None, workers: int | None, address: str | None) -> bool:
    """Return whether options of the engine say ray; raises UsageError for those that make no sense."""
    if engine not in (None, "process", "ray"):
        raise UsageError(f"--engine must be process or ray, got {engine!r}.")
    if engine != "ray" and (workers, address) != (None, None):
        raise UsageError("--workers and --address apply only with --engine ray.")
    if workers is not None and workers < 1:
        raise UsageError(f"--workers must be at least 1, got {workers}.")
    return engine == "ray"


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
