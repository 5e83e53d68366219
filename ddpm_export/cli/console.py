"""What every command shares: one-line errors that name flags, exit codes, and JSON on stdout."""

import contextlib
import errno
import io
import itertools
import json
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import typer

from ddpm_export.cli.help import Examples, add_command
from ddpm_export.cli.signals import interruptible
from ddpm_export.errors import DdpmExportError, UsageError, first_line, printable

APP: dict[str, Any] = {"pretty_exceptions_enable": False, "rich_markup_mode": None, "add_completion": True}
INTERRUPTED = 130
MAX_LINE = 1000
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

# The flags for the fields that the library's messages name.
FLAGS = {"num_steps": "--steps", "times": "--steps", "x_T": "--from", "measure": "--by", "inputs": "--input"}
FLAGS |= {"timeout": "--untrusted", "memory": "--untrusted"}
NAMED_ALIKE = (
    "batch calibrate data extractor first format guidance jump label mask metrics mixed n network open out plan "
    "plans precision prediction provider returns sampler samples schedule seed seeds shards storage strength "
    "threads trust untrusted weights "
)
FLAGS |= {name: f"--{name}" for name in NAMED_ALIKE.split()}


def entry_point(command: Callable[..., None], examples: Examples | None = None) -> Callable[[], None]:
    """Return a console script for one command function; see `add_command`."""
    app = typer.Typer(**APP)
    add_command(app, command, examples=examples)
    return script_of(app)


def script_of(app: typer.Typer) -> Callable[[], None]:
    """Return a console script for an app: errors are one line, and the exit code says which kind.

    --debug puts a traceback before the line of the error; line and exit code stay.
    """

    def main() -> None:
        debug = "--debug" in sys.argv
        _prepare_streams()
        with warnings.catch_warnings():
            if not debug:  # those of other packages would mix with our lines
                warnings.showwarning = _ignore
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
                code, line = _ending_of(pipe or exc)
                lines = traceback.format_exc().splitlines() if debug and code != INTERRUPTED else []
                _print_errors([*lines, line])
        _close_full_streams()
        sys.exit(code if isinstance(code, int) else 0)

    main.app = app  # type: ignore[attr-defined]  # whose options tests count
    return main


def _ending_of(exc: BaseException) -> tuple[int, str]:
    """Return the exit code and the line for what a command raised."""
    if isinstance(exc, DdpmExportError):
        return exc.exit_code, f"error: {with_flags(str(exc), getattr(exc, 'fields', ()))}"
    if isinstance(exc, (KeyboardInterrupt, typer.Abort)):
        return INTERRUPTED, "stopped."
    if isinstance(exc, OSError):
        return _ending_of_system(exc)
    if isinstance(exc, MemoryError):
        return 5, "error: Out of memory. Try a smaller --batch."
    format_message = getattr(exc, "format_message", None)  # of typer's usage errors
    if format_message is not None:
        return 2, f"error: {format_message().rstrip('.')}. See --help."
    return 1, f"error: Unexpected {type(exc).__name__} {first_line(exc)!r}. Run again with --debug and report it."


def with_flags(text: str, fields: Iterable[str]) -> str:
    """Return a message in which the first mention of each field is its flag, and so is what stands in backquotes.

    `provider=cpu` becomes --provider cpu, `out` --out, and a name that is no argument, an importer's, --set name=value.
    """
    text = re.sub(r"`(\w+)(?:=([^`]*))?`", _flag, text)
    for field in fields:
        flag = f"--set {field}" if "=" in field else FLAGS.get(field)  # an importer's option, or an argument
        if flag:  # neither within a quoted value or a path nor where it is a flag already
            pattern = rf"(?<![\w'\"/.-]){re.escape(field)}(?![\w'\"=/-]|\.\w)"
            text = re.sub(pattern, flag.replace("\\", r"\\"), text, count=1)
    return text


def _flag(found: "re.Match[str]") -> str:
    name, value = found.groups()
    if name not in FLAGS:
        return found[0] if value is None else f"--set {name}={value}"
    return FLAGS[name] if value in (None, "True") else f"{FLAGS[name]} {value}"


def _ending_of_system(exc: OSError) -> tuple[int, str]:
    """Return the exit code and the line for an error of the system, about a path or a stream."""
    reason = exc.strerror or first_line(exc)
    if exc.filename is None or exc.errno in NO_ROOM:
        return 5, f"error: {exc.filename or 'The output'} cannot be written: {reason}."
    name = exc.filename if isinstance(exc.filename, str) else repr(exc.filename)
    return 3, f"error: {name} cannot be opened: {reason}."


def _print_errors(lines: Sequence[str]) -> None:
    with contextlib.suppress(OSError):  # stderr may be closed
        print(*(_within(printable(line)) for line in lines), sep="\n", file=sys.stderr)


def _within(line: str) -> str:
    """Return a line shortened to its beginning and its end, where the remedy is."""
    return line if len(line) <= MAX_LINE else f"{line[: MAX_LINE - 300]} ... {line[-290:]}"


def _prepare_streams() -> None:
    """Make any line printable: closed streams lead to /dev/null, and letters a stream cannot encode are escaped."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        if isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _close_full_streams() -> None:
    """Close streams that cannot be written, which Python would try again at its end, to exit with 120."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        try:
            stream.flush()
        except OSError:
            with contextlib.suppress(OSError):  # closing tries again
                stream.close()
            setattr(sys, name, io.StringIO())


def _refuse_empty(arguments: Sequence[str]) -> None:
    for before, argument in itertools.pairwise(["", *arguments]):
        option, equals, value = argument.partition("=")
        if not argument or (argument.startswith("--") and equals and not value):
            where = option or (before if before.startswith("--") else "An argument")
            raise UsageError(f"{where} must not be empty. Leave it out for the default.")


def _ignore(*_: Any, **__: Any) -> None:
    pass


def print_json(values: dict[str, Any]) -> None:
    """Print one JSON object on stdout."""
    print(json.dumps(values, sort_keys=True))
