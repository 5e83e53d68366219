"""Where every command begins: with handlers for signals, before the command is imported. Knows no option.

Until the handlers are set, Ctrl-C prints a traceback, so this imports nothing that Python has not already loaded.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # signal itself imports enum and collections
import os
import sys

from ddpm_export.cli.stops import STOPPED, end, heed, say

TYPE_CHECKING = False  # as in typing

if TYPE_CHECKING:
    from collections.abc import Callable


def _command(module: str, in_child: Callable[[], bool] = lambda: False) -> Callable[[], None]:
    return lambda: begin(f"ddpm_export.cli.{module}", in_child=in_child())


def _is_untrusted() -> bool:
    return any(word.partition("=")[0] == "--untrusted" for word in sys.argv)


run, edit = _command("run", _is_untrusted), _command("edit", _is_untrusted)
check = _command("check", lambda: True)  # a file that is checked is not trusted yet
dataset, evaluate, bench = _command("dataset"), _command("eval"), _command("bench")
serve = _command("serve")  # which opens an untrusted model in a child that has no sockets
export = _command("export")
adopt = _command("adopt", lambda: not any(word.partition("=")[0] == "--network" for word in sys.argv))  # own code


def train() -> None:
    """Begin a training: its code is `ddpm_export.train` in a wheel, `train` in a clone."""
    package = os.path.dirname(os.path.dirname(__file__))
    begin("ddpm_export.train.cli" if os.path.isdir(os.path.join(package, "train")) else "train.cli")


def begin(module: str, *, in_child: bool = False) -> None:
    """Import a command's module and run its `main`, here or in a child; a signal ends it with 130 and one line.

    While it is imported there is nothing to clear away, and a signal ends the process at once: an exception raised
    within an import can come out as an ImportError.
    """
    heed(end)
    for number in range(3):  # of a closed stream, which the next opened file would become
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    from importlib import import_module

    try:
        if in_child and os.name == "posix":
            _watch(module)
        else:
            import_module(module).main()
        code = 0
    except SystemExit as ending:
        if not isinstance(ending.code, int):
            raise
        code = ending.code
    except KeyboardInterrupt:  # between the command's end and its caller
        say("stopped.")
        code = STOPPED
    # neither threads nor Python's own tidying up are waited for: a signal would then end the process with another code
    heed(signal.SIG_IGN)
    from contextlib import suppress

    for stream in filter(None, (sys.stdout, sys.stderr)):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


def _watch(module: str) -> None:
    """Run a command in a child and exit with its code, or with one line where it failed to end."""
    from ddpm_export.cli.signals import interruptible
    from ddpm_export.errors import DdpmExportError, printable
    from ddpm_export.sandbox.child import run_in_child

    try:
        with interruptible():
            code = run_in_child(f"{module}:main", sys.argv[1:])
    except DdpmExportError as exc:
        say(f"error: {printable(str(exc))}")
        code = exc.exit_code
    except KeyboardInterrupt:
        say("stopped.")
        code = STOPPED
    sys.exit(code)
