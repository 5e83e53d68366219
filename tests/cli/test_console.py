import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import warnings

import pytest
import typer
from commands import assert_refused, run_here
from models import mix_model

from ddpm_export import errors
from ddpm_export.cli.console import entry_point, print_json
from ddpm_export.cli.progress import phases, progress
from ddpm_export.errors import printable


def command_that(action):
    def command() -> None:
        action()

    return entry_point(command)


def raising(exc):
    def action():
        raise exc

    return command_that(action)


CODES = {
    errors.UsageError: 2,
    errors.ConfigError: 2,
    errors.BadFileError: 3,
    errors.ModelRefusedError: 4,
    errors.EnvironmentProblem: 5,
    errors.NonFiniteError: 6,
}


def test_every_error_is_one_line_and_its_code():
    kinds = {
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.DdpmExportError)
    }
    assert kinds - {errors.DdpmExportError} == set(CODES)
    for kind, code in CODES.items():
        assert_refused(run_here(raising(kind("here: wrong. got 1, not 2."))), code, "here: wrong. got 1, not 2.")
    assert_refused(run_here(raising(ZeroDivisionError("by zero"))), 1, "ZeroDivisionError", "--debug")
    assert_refused(run_here(raising(MemoryError())), 5, "--batch")


@pytest.mark.parametrize("exc", [errors.BadFileError("a\x1b[2Jb\nc\u202ed\udc80"), RuntimeError("a\x1b[2Jb\nc\u202ed")])
def test_what_a_terminal_would_act_on_is_escaped(exc):
    ending = run_here(raising(exc))
    assert_refused(ending, getattr(exc, "exit_code", 1), "[2Jb")
    assert "\x1b" not in ending.err


def test_printable_leaves_text_as_it_is():
    assert printable("ε größer\t→ 画") == "ε größer\\t→ 画"


@pytest.mark.parametrize("exc", [errors.BadFileError("a\x1b[2Jb"), ZeroDivisionError("y"), MemoryError()])
def test_debug_shows_where_it_happened_before_the_same_line_and_code(exc):
    code, out, err = run_here(raising(exc))
    ending = run_here(raising(exc), "--debug")
    assert (ending.code, ending.out) == (code, out)
    assert ending.err.startswith("Traceback")
    assert ending.err.endswith(f"\n{err}")
    assert ("in action" in ending.err, "\x1b" in ending.err) == (True, False)


@pytest.mark.parametrize(
    ("exc", "code", "named"),
    [
        (OSError(36, "File name too long", "x" * 5000), 3, "cannot be opened: File name too long."),
        (PermissionError(13, "Permission denied", "a/b.onnx"), 3, "a/b.onnx cannot be opened: Permission denied."),
        (OSError(28, "No space left on device", "a.png"), 5, "a.png cannot be written: No space left"),
        (OSError(28, "No space left on device"), 5, "The output cannot be written: No space left"),
        (errors.BadFileError("x" * 10**7 + ". Copy it again."), 3, "xxx. Copy it again."),
        (RuntimeError("y" * 10**7), 1, "yyy"),
    ],
)
def test_whatever_the_system_or_a_file_says_is_one_line_of_bearable_length(exc, code, named):
    ending = run_here(raising(exc))
    assert_refused(ending, code, named)
    assert len(ending.err) < 1100


def test_what_other_packages_warn_of_is_heard_only_with_debug():
    def action():
        warnings.simplefilter("always")
        warnings.warn("of theirs", UserWarning, stacklevel=1)
        print("done")

    with warnings.catch_warnings(record=True) as heard:
        assert run_here(command_that(action)) == (0, "done\n", "")
    assert heard == []
    with pytest.warns(UserWarning, match="of theirs"):
        run_here(command_that(action), "--debug")


@pytest.mark.parametrize("arguments", [["--out", ""], ["--out="], [""]])
def test_an_empty_argument_is_2(arguments):
    ending = run_here(raising(AssertionError()), *arguments)
    assert_refused(ending, 2, "must not be empty. Leave it out for the default.")
    assert ending.err.startswith(f"error: {arguments[0].strip('=') or 'An argument'} must")


def test_an_ascii_stdout_shows_what_it_can(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    monkeypatch.setattr(sys, "argv", ["ddpm"])
    with pytest.raises(SystemExit) as end:
        command_that(lambda: print("ü ok"))()
    assert (end.value.code, written.getvalue()) == (0, b"\\xfc ok\n")


STREAMS = """
import sys
from ddpm_export.cli.console import entry_point
from ddpm_export.errors import BadFileError
def command(broken: bool = False) -> None:
    if broken:
        raise BadFileError("broken.")
    print("x" * 100_000)
sys.argv[1:] = OPTIONS
entry_point(command)()
"""


@pytest.mark.parametrize(
    ("redirection", "options", "code", "err"),
    [
        (">/dev/full", [], 5, b"error: The output cannot be written: No space left on device.\n"),
        ("| true", [], 5, b"error: The output cannot be written: Broken pipe.\n"),
        (">&-", [], 0, b""),
        ("2>/dev/full", ["--broken"], 3, b""),
        ("2>&-", ["--broken"], 3, b""),
        ("2>&- >/dev/null", [], 0, b""),
    ],
)
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_streams_that_are_closed_or_full(redirection, options, code, err):
    program = STREAMS.replace("OPTIONS", repr(options))
    line = f'"$0" -c "$1" {redirection}; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", line, sys.executable, program], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (code, err)
    assert b"error" not in done.stdout


@pytest.mark.parametrize(
    ("redirection", "reason"), [(">/dev/full", "No space left on device"), ("| true", "Broken pipe")]
)
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_streams_that_are_closed_or_full_in_a_child(tmp_path, redirection, reason):
    """It may open nothing, /dev/null neither."""
    (tmp_path / "m.onnx").write_bytes(mix_model())
    program = (
        f"import sys; sys.argv[1:] = [{str(tmp_path / 'm.onnx')!r}]; from ddpm_export.cli.start import check; check()"
    )
    line = f'"$0" -c "$1" {redirection}; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", line, sys.executable, program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (5, f"error: The output cannot be written: {reason}.\n")


@pytest.mark.parametrize("arguments", [["--nope"], ["extra"], ["--debug=3"]])
def test_what_typer_refuses_is_one_line_and_2(arguments):
    assert_refused(run_here(raising(AssertionError()), *arguments), 2, "--help")


def test_interrupted_or_asked_to_terminate_is_130():
    def terminate():
        os.kill(os.getpid(), signal.SIGTERM)

    for main in (raising(KeyboardInterrupt()), raising(typer.Abort()), command_that(terminate)):
        assert run_here(main) == (130, "", "stopped.\n")


def test_json_is_one_line_that_any_terminal_can_show(capsys):
    values = {"name": "\x1b[2J", "ä": [1, None]}
    print_json(values)
    out = capsys.readouterr().out
    assert json.loads(out) == values
    assert out.endswith("\n")
    assert out.rstrip("\n").isprintable()


def test_progress_away_from_a_terminal_is_a_line_every_10_s(monkeypatch, capsys):
    clock = iter([0.0, *(4.0 * step for step in range(1, 8))])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with progress(8, "sampling") as advance:
        for step in range(7):
            advance(f"t = {7 - step}")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["sampling: 3 of 8, 0.2/s, 20 s left, t = 5", "sampling: 6 of 8, 0.2/s, 8 s left, t = 2"]


def test_the_rate_is_that_since_the_last_line(monkeypatch, capsys):
    clock = iter([0.0, 10.0, 20.0, 30.0, 40.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with progress(4000, "sampling") as advance:
        for done in (1900, 2000, 2000, 2050):  # the first 1900 were in a cache
            advance(done=done)
    assert capsys.readouterr().err.splitlines() == [
        "sampling: 1900 of 4000, 190.0/s, 11 s left",
        "sampling: 2000 of 4000, 10.0/s, 200 s left",
        "sampling: 2050 of 4000, 2.5/s, 780 s left",
    ]


def test_phases_are_one_progress_after_another(monkeypatch, capsys):
    clock = itertools.count(0.0, 10.0)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with phases() as report:
        report(100, 200, "sampling")
        report(200, 200, "sampling")
        report(50, 100, "features")
        report(300, 600, "features")  # another set's
    assert capsys.readouterr().err.splitlines() == [
        "sampling: 100 of 200, 10.0/s, 10 s left",
        "sampling: 200 of 200, 10.0/s, 0 s left",
        "features: 50 of 100, 5.0/s, 10 s left",
        "features: 300 of 600, 30.0/s, 10 s left",
    ]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_on_a_terminal_is_a_bar_on_stderr(monkeypatch, capsys):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress(3, "sampling") as advance:
        for step in range(3):
            advance(f"images [/0-3], t = {2 - step}")  # no markup
    shown = terminal.getvalue()
    assert all(words in shown for words in ("sampling", "3/3", "images [/0-3], t = 0", "/s"))
    with phases() as report:
        report(7, 9, "features")
    assert "7/9" in terminal.getvalue()
    assert capsys.readouterr().out == ""
