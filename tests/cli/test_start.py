"""How a command begins, and how signals end it: 130 and one line in every phase, and nothing left half-done."""

import os
import signal
import subprocess
import sys
import time

import pytest
from commands import run_here

from ddpm_export.cli.console import entry_point
from ddpm_export.cli.signals import interruptible
from ddpm_export.cli.stops import heed
from ddpm_export.errors import EnvironmentProblem

NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
SLOW = """
import time
print("begun", flush=True)
try:
    time.sleep(SECONDS)
except BaseException as exc:  # as an import does that fails
    raise ImportError("no such module") from exc
def main():
    print("done")
"""
# the second signal comes while the first is being answered, by SECONDS of clearing away
CLEARING = """
import time
from ddpm_export.cli.console import entry_point
def command() -> None:
    try:
        print("begun", flush=True)
        time.sleep(60)
    finally:
        print("clearing", flush=True)
        time.sleep(SECONDS)
        print("cleared", flush=True)
main = entry_point(command)
"""


@pytest.fixture
def begun(tmp_path):
    """Return a function that starts a command whose module has this text, and waits until it says that it has begun."""
    started = []

    def start(text, seconds, disposition=signal.SIG_DFL):
        (tmp_path / "slow_command.py").write_text(text.replace("SECONDS", str(seconds)))
        process = subprocess.Popen(
            [sys.executable, "-c", "from ddpm_export.cli.start import begin; begin('slow_command')"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), str(tmp_path)])},
            preexec_fn=lambda: [signal.signal(number, disposition) for number in NUMBERS],
        )
        started.append(process)
        assert process.stdout.readline() == "begun\n", process.stderr.read()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


TIDYING = """
import atexit, os, signal, sys
atexit.register(lambda: os.kill(os.getpid(), signal.SIGKILL))
def main():
    print("begun")
    print("done", file=sys.stderr)
    raise SystemExit(CODE)
"""


@pytest.mark.parametrize("code", [0, 6])
def test_once_a_command_is_done_no_signal_changes_how_it_ended(begun, code):
    """Python puts the system's own handlers back while it tidies up: so it does not."""
    process = begun(TIDYING.replace("CODE", str(code)), 0)
    assert ending(process) == (code, "", "done\n")


# a signal that comes while nothing can be raised: Python ignores it, and says so
DEAF = """
import os, signal, sys, time
from ddpm_export.cli.console import entry_point
class Deaf:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
def command() -> None:
    print("begun", flush=True)
    deaf = Deaf()
    del deaf
    time.sleep(SECONDS)
main = entry_point(command)
"""
# what C code does that imports NumPy: it prints the interrupt, and raises an ImportError
PRINTING = """
import os, signal, sys, time
from ddpm_export.cli.console import entry_point
def command() -> None:
    print("begun", flush=True)
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(SECONDS)
    except KeyboardInterrupt:
        sys.excepthook(*sys.exc_info())
    raise ImportError("numpy failed to import")
main = entry_point(command)
"""
# what the C++ of an extension module does where it starts
LOADING = """
import os, signal, time
from importlib.machinery import ExtensionFileLoader
from ddpm_export.cli.console import entry_point
class Loader(ExtensionFileLoader):
    def exec_module(self, module):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
        except KeyboardInterrupt:
            os.abort()
def command() -> None:
    print("begun", flush=True)
    Loader("x", "x").exec_module(None)
    time.sleep(SECONDS)
main = entry_point(command)
"""


@pytest.mark.parametrize("text", [DEAF, PRINTING, LOADING])
def test_a_signal_that_comes_where_nothing_can_be_raised_is_130_and_one_line(begun, text):
    assert ending(begun(text, 10)) == (130, "", "stopped.\n")


def ending(process):
    out, err = process.communicate(timeout=20)
    return process.returncode, out, err


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_while_the_command_is_imported_is_130(begun, number):
    process = begun(SLOW, 20)
    process.send_signal(number)
    assert ending(process) == (130, "", "stopped.\n")


def test_nothing_is_imported_before_the_handlers_stand():
    """Until then Ctrl-C is a traceback; and within an import, a handler could not import anything."""
    code = "import os; before = set(sys.modules); import ddpm_export.cli.start; print(*(set(sys.modules) - before))"
    ended = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.append({os.getcwd()!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(ended.stdout.split()) <= {
        "ddpm_export",
        "ddpm_export.cli",
        "ddpm_export.cli.start",
        "ddpm_export.cli.stops",
        "__future__",
        "_signal",
    }


def test_a_signal_that_is_ignored_stays_ignored(begun):
    process = begun(SLOW, 0.3, signal.SIG_IGN)
    for number in NUMBERS:
        process.send_signal(number)
    assert ending(process) == (0, "done\n", "")


def test_no_file_takes_the_place_of_a_closed_stream(tmp_path):
    """What a library says on stderr, or "stopped.", would be written into it."""
    (tmp_path / "opening_command.py").write_text("import os\ndef main(): print(os.dup(0))\n")
    command = f"import sys; sys.path.append({str(tmp_path)!r}); from ddpm_export.cli.start import begin; "
    command += "begin('opening_command')"
    done = subprocess.run(
        [sys.executable, "-c", command], stdout=subprocess.PIPE, text=True, preexec_fn=lambda: os.close(2), check=False
    )
    assert (done.returncode, int(done.stdout) > 2) == (0, True)


def test_a_second_signal_does_not_interrupt_what_clears_away(begun):
    process = begun(CLEARING, 0.2)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "clearing\n"
    process.send_signal(signal.SIGINT)
    assert ending(process) == (130, "cleared\n", "stopped.\n")


def test_a_second_signal_ends_what_would_take_long(begun):
    process = begun(CLEARING, 20)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "clearing\n"
    since = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert ending(process) == (130, "", "stopped.\n")
    assert time.monotonic() - since < 5  # half a second on an idle machine


def test_an_interrupt_that_became_another_error_is_130():
    def command() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as exc:
            raise EnvironmentProblem("onnxruntime is not installed.") from exc

    assert run_here(entry_point(command)) == (130, "", "stopped.\n")


def test_handlers_are_those_before_once_the_command_has_ended():
    before = {number: signal.getsignal(number) for number in NUMBERS}
    with interruptible():
        assert all(signal.getsignal(number) is not before[number] for number in NUMBERS)
    assert {number: signal.getsignal(number) for number in NUMBERS} == before


def test_heed_leaves_what_is_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert signal.SIGHUP not in heed(signal.default_int_handler)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
