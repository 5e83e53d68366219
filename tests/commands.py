"""Run a command within the test's process, or in its own: what it ends with and what it says."""

import contextlib
import io
import json
import signal
import subprocess
import sys
from typing import NamedTuple
from unittest import mock


class Ending(NamedTuple):
    code: int
    out: str
    err: str


def run_here(main, *arguments):
    """Return the ending of `main`, as if called from a shell with these arguments, in this process."""
    out, err = io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    code = None
    try:
        with (
            mock.patch.object(sys, "argv", ["ddpm", *map(str, arguments)]),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            main()
    except SystemExit as exc:
        code = exc.code
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return Ending(code, out.getvalue(), err.getvalue())


RUN = "from ddpm_export.cli.run import main; main()"


def command_line(*arguments, code=RUN):
    return [sys.executable, "-c", code, *map(str, arguments)]


def heeding_interrupts():
    """Let a process that is about to start heed Ctrl-C: a shell's background jobs, and what they start, ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run_apart(*arguments, code=RUN):
    """Return the ending of ddpm-run, or of other code, in a fresh interpreter."""
    done = subprocess.run(command_line(*arguments, code=code), capture_output=True, text=True, timeout=120)
    return Ending(done.returncode, done.stdout, done.stderr)


def assert_refused(ending, code, *words):
    """Assert that a command ended with this code, nothing on stdout, and one line with these words on stderr."""
    assert ending.code == code, ending
    assert ending.out == ""
    assert ending.err.startswith("error: ")
    assert ending.err.endswith("\n")
    assert ending.err.count("\n") == 1, ending.err
    assert ending.err.rstrip("\n").isprintable()
    for word in words:
        assert word in ending.err


def without_digest(model):
    """Take the digest of its weights out of an onnx.ModelProto, as of a version that wrote none."""
    entry = model.metadata_props[0]
    values = json.loads(entry.value)
    del values["weights_sha256"]
    entry.value = json.dumps(values)
