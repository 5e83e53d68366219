"""Where every command begins: signals are heeded before anything is imported, then the command is. Knows no option.

Until the handlers stand, Ctrl-C is a traceback: so nothing is imported here that Python has not loaded itself.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # signal itself imports enum and collections
import os
import sys

from ddpm_export.cli.stops import STOPPED, end, heed, say

TYPE_CHECKING = False  # what typing has

if TYPE_CHECKING:
    pass


def run() -> None:
    """Be `ddpm-run`, in a child where the model is untrusted."""
    begin("ddpm_export.cli.run", in_child=_is_untrusted())


def edit() -> None:
    """Be `ddpm-edit`, in a child where the model is untrusted."""
    begin("ddpm_export.cli.edit", in_child=_is_untrusted())


def dataset() -> None:
    """Be `ddpm-dataset`."""
    begin("ddpm_export.cli.dataset")


def check() -> None:
    """Be `ddpm-check`, in a child: whoever checks a file does not trust it yet."""
    begin("ddpm_export.cli.check", in_child=True)


def evaluate() -> None:
    """Be `ddpm-eval`."""
    begin("ddpm_export.cli.eval")


def bench() -> None:
    """Be `ddpm-bench`."""
    begin("ddpm_export.cli.bench")


def serve() -> None:
    """Be `ddpm-serve`, which opens an untrusted model in a child that has no sockets."""
    begin("ddpm_export.cli.serve")


def export() -> None:
    """Be `ddpm-export`."""
    begin("ddpm_export.cli.export")


def adopt() -> None:
    """Be `ddpm-adopt`."""
    begin("ddpm_export.cli.adopt")


def _is_untrusted() -> bool:
    return any(word.partition("=")[0] == "--untrusted" for word in sys.argv)


def begin(module: str, *, in_child: bool = False) -> None:
    """Import a command's module and be its `main`, here or in a child; a signal ends it with 130 and one line, always.

    While it is imported there is nothing to clear away, and the process ends at once. An exception would not do: raised
    within an import, it can come out as an ImportError.
    """
    heed(end)
    for number in range(3):  # a stream that is closed: the next file that is opened would be taken for it
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
    # what is still at work, such as a graph in its thread, is not waited for, nor is Python tidied up, which takes a
    # tenth of a second in which a signal would end the process as if nothing had been done
    heed(signal.SIG_IGN)
    from contextlib import suppress

    for stream in filter(None, (sys.stdout, sys.stderr)):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


def _watch(module: str) -> None:
    """Run a command in a child and end with its exit code, or tell in one line what became of it."""
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
