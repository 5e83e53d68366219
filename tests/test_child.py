"""Files from strangers in a process of their own: what it cannot do, how it ends, and what is left."""

import json
import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from commands import assert_refused, command_line, heeding_interrupts, run_apart, run_here
from models import crashing_model, endless_model, greedy_model, mix_model, tiny_spec, told_model

from ddpm_export import generate
from ddpm_export.cli.run import main
from ddpm_export.errors import BadFileError, EnvironmentProblem, NonFiniteError, UsageError
from ddpm_export.model.inputs import Input
from ddpm_export.sandbox import child

RUN, CHECK, ADOPT = (f"from ddpm_export.cli.start import {name}; {name}()" for name in ("run", "check", "adopt"))
BEGIN = """
import json, os, resource, signal, sys, threading, time
from pathlib import Path
from ddpm_export.sandbox import child
from ddpm_export import errors
model = Path("m.onnx")
"""


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """Return a function that makes a module of a text, and gives the name of its function `act`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "code").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "code")

    def write(text):
        (tmp_path / "code" / "stranger.py").write_text(BEGIN + text)
        return "stranger:act"

    return write


TRIES = """
def act():
    secret, outside, parent = sys.argv[1:]
    guards = child.confine(model.absolute(), out=Path("out/a.npy").absolute()).guards
    place = next(Path("out").iterdir())
    def thread():
        started = threading.Thread(target=int)
        started.start()
        started.join()
    tries = {
        "read its folder": lambda: Path("m.onnx").read_bytes(),
        "write its place": lambda: (place / "a.npy").write_bytes(b"x"),
        "start a thread": thread,
        "read outside": lambda: Path(secret).read_bytes(),
        "list outside": lambda: os.listdir(outside),
        "read the parent": lambda: Path(f"/proc/{parent}/environ").read_bytes(),
        "write its folder": lambda: Path("m.onnx").write_bytes(b"x"),
        "write outside": lambda: Path(outside, "new").write_bytes(b"x"),
        "remove": lambda: Path("m.onnx").unlink(),
    }
    told = {}
    for name, attempt in tries.items():
        try:
            attempt()
            told[name] = "done"
        except OSError as exc:
            told[name] = "refused" if isinstance(exc, PermissionError) else str(exc)
    print(json.dumps([guards, told]))
"""


SANDBOX = "from ddpm_export.sandbox.rules import *; print(no_other_files([], []), no_other_calls())"


def test_it_can_neither_read_nor_write_nor_reach_what_is_not_its_own(tmp_path, tmp_path_factory, stranger, capfd):
    if "None" in run_apart(code=SANDBOX).out:
        pytest.skip("needs a Linux with Landlock and seccomp")
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret").write_text("s")
    (tmp_path / "m.onnx").write_bytes(mix_model())
    arguments = [str(outside / "secret"), str(outside), str(os.getpid())]
    assert child.run_in_child(stranger(TRIES), arguments) == 0
    guards, asked = json.loads(capfd.readouterr().out)
    assert guards[:2] == ["600 s", "16 GiB"]
    assert [name.split()[0] for name in guards[2:]] == ["Landlock", "seccomp"]
    own = ["read its folder", "write its place", "start a thread"]
    assert asked == {name: "done" if name in own else "refused" for name in asked}
    assert len(asked) == 9
    assert list(outside.iterdir()) == [outside / "secret"]
    assert (tmp_path / "out" / "a.npy").read_bytes() == b"x"


ENDINGS = {
    "os.kill(os.getpid(), signal.SIGSEGV)": "crashes what opens it (SIGSEGV)",
    "os.kill(os.getpid(), signal.SIGBUS)": "crashes what opens it (SIGBUS)",
    "os.kill(os.getpid(), signal.SIGKILL)": "its process was killed, as the system does when memory runs out",
    "time.sleep(60)": "takes longer than 0.5 s. Give it more time",
    "[None for _ in iter(int, 1)]": "takes more than 1 s of processor time. Give it more time",
}


@pytest.mark.parametrize("act", ENDINGS)
def test_its_sudden_end_is_a_sentence_and_leaves_nothing(tmp_path, stranger, act):
    timeout = 30 if "iter" in act else 0.5
    text = f"""
child.cores = lambda: 0.01
def act():
    place = child.confine(model, timeout_s={timeout}, out=Path("out/a.npy")).place
    place.write_bytes(b"half")
    {act}
"""
    with pytest.raises(BadFileError) as error:
        child.run_in_child(stranger(text), [])
    assert str(error.value).startswith(f"m.onnx: {ENDINGS[act]}")
    assert list((tmp_path / "out").iterdir()) == []


def test_what_a_killed_parent_left_is_cleared_away_and_what_another_keeps_is_not(tmp_path, stranger):
    import fcntl

    out = tmp_path / "out"
    names = [f".a.ddpm-{name}.part" for name in ("killed12", "at_work3")]
    others = [".a.ddpm-mine.part", ".b.ddpm-killed12.part", ".a.killed12.part"]
    for name in (*names, *others):
        (out / name).mkdir(parents=True)
        (out / name / "a.npy").write_bytes(b"half")
    at_work = os.open(out / names[1], os.O_RDONLY)
    fcntl.flock(at_work, fcntl.LOCK_SH)
    text = """
def act():
    place = child.confine(model, out=Path("out/a.npy")).place
    place.write_bytes(b"whole")
"""
    try:
        assert child.run_in_child(stranger(text), []) == 0
    finally:
        os.close(at_work)
    assert sorted(path.name for path in out.iterdir()) == sorted([*others, names[1], "a.npy"])
    assert (out / "a.npy").read_bytes() == b"whole"


def test_ended_before_it_told_of_its_folder_it_tells_first(tmp_path, stranger):
    text = """
from ddpm_export.sandbox import places
def act():
    places._clear_after_killed = lambda *_: os.kill(os.getpid(), signal.SIGTERM)
    child.confine(model, out=Path("out/a.npy"))
"""
    with pytest.raises(BadFileError, match="SIGTERM"):
        child.run_in_child(stranger(text), [])
    assert list((tmp_path / "out").iterdir()) == []


def test_only_what_python_says_is_printed_and_memory_is_limited(stranger, capfd):
    text = """
def act():
    child.confine(model, memory_gib=1)
    os.write(2, b"free(): invalid pointer")
    os.write(1, b"noise")
    try:
        bytearray(2 * 2**30)
    except MemoryError:
        print("no room")
    print("told", file=sys.stderr)
    assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
    sys.exit(6)
"""
    assert child.run_in_child(stranger(text), []) == 6
    assert capfd.readouterr() == ("no room\n", "told\n")


def test_a_child_that_opens_nothing_ends_as_it_likes(stranger, capfd):
    assert child.run_in_child(stranger("def act(): sys.exit(int(sys.argv[1]))"), ["7"]) == 7
    with pytest.raises(EnvironmentProblem, match="ended by SIGABRT"):
        child.run_in_child(stranger("def act(): os.abort()"), [])


def test_where_no_process_can_be_started_it_is_5(monkeypatch):
    monkeypatch.setattr("sys.executable", "/nonexistent/python")
    with pytest.raises(EnvironmentProblem, match="No process can be started: No such file"):
        child.run_in_child("stranger:act", [])


def test_from_a_folder_only_pictures_are_taken(tmp_path, stranger):
    text = """
def act():
    place = child.confine(model, out=Path("out")).place
    for name in ("000001.png", ".profile", "x.png"):
        (place / name).write_text(name)
"""
    (tmp_path / "out").mkdir()
    assert child.run_in_child(stranger(text), []) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["000001.png"]


@pytest.mark.parametrize("made", ["pass", "place.symlink_to(__file__)"])
def test_what_is_no_picture_is_not_taken(tmp_path, stranger, made):
    text = f"""
def act():
    place = child.confine(model, out=Path("out/a.npy"), fully=False).place
    {made}
"""
    with pytest.raises(BadFileError, match="ended without a picture"):
        child.run_in_child(stranger(text), [])
    assert list((tmp_path / "out").iterdir()) == []


def test_limits_must_be_limits_and_a_parent_must_wait(monkeypatch):
    with pytest.raises(UsageError, match="`untrusted` needs"):
        child.confine(Path("m.onnx"))
    monkeypatch.setattr(child, "_terms", 99)
    for name in ("timeout_s", "memory_gib"):
        for value in (0.0, -1.0, float("nan"), float("inf")):
            with pytest.raises(UsageError, match="must be a number above 0"):
                child.confine(Path("m.onnx"), **{name: value})


ANSWERS = """
def act():
    child.confine(model, timeout_s=None)
    child.answer(reply)
def reply(word, *more):
    if word == "hang":
        time.sleep(60)
    if word == "crash":
        os.abort()
    if word == "lie":
        os.write(sys.stdout.fileno(), b'{"error": ["KeyboardInterrupt", "x"]}\\n')
    if word == "garble":
        os.write(sys.stdout.fileno(), b"[" * 100_000 + b"\\n")
    if word == "refuse":
        raise errors.NonFiniteError("NaN")
    return [os.getpid(), word, *more]
"""


def test_a_worker_answers_outlives_its_child_and_believes_nothing(stranger):
    worker = child.Worker(stranger(ANSWERS))
    try:
        first, *asked = worker.ask("a", 1, None, timeout_s=30)
        assert asked == ["a", 1, None]
        with pytest.raises(BadFileError, match="crashes what opens it"):
            worker.ask("crash", timeout_s=30)
        second, *asked = worker.ask("b", timeout_s=30)
        assert (asked, second != first) == (["b"], True)
        with pytest.raises(NonFiniteError, match="NaN"):
            worker.ask("refuse", timeout_s=30)
        assert worker.ask("c", timeout_s=30) == [second, "c"]
        with pytest.raises(BadFileError, match="takes longer than 1 s"):
            worker.ask("hang", timeout_s=1)
        with pytest.raises(BadFileError, match=r"^x$"):
            worker.ask("lie", timeout_s=30)
        worker.end()
        with pytest.raises(BadFileError):
            worker.ask("garble", timeout_s=30)
    finally:
        worker.end()


def write(tmp_path, content):
    (tmp_path / "m.onnx").write_bytes(content)
    return tmp_path / "m.onnx"


def test_check_of_a_file_that_crashes_is_one_line_and_3(tmp_path):
    assert_refused(
        run_apart(write(tmp_path, crashing_model()), code=CHECK), 3, "m.onnx: crashes what opens it (SIGFPE). Do not"
    )


def foreign(folder, content):
    """Write a file as others make it, without our metadata, into a folder of its own."""
    model = onnx.ModelProto.FromString(content)
    del model.metadata_props[:]
    (folder / "theirs").mkdir()
    (folder / "theirs" / "f.onnx").write_bytes(model.SerializeToString())
    return folder / "theirs" / "f.onnx"


@pytest.mark.parametrize("content", [crashing_model(), endless_model()], ids=["crashing", "endless"])
def test_a_hostile_file_of_others_is_one_line_and_3(tmp_path, content):
    path, ours = foreign(tmp_path, content), write(tmp_path, mix_model())
    adopting = [path, "--schedule", "linear", "--timesteps", 40, "--out", tmp_path / "out"]
    # of wall or of processor time
    words = "crashes what opens it (SIGFPE)" if content == crashing_model() else "than 4 s"
    for code, arguments in ((ADOPT, adopting), (CHECK, [ours, "--against", path])):
        assert_refused(run_apart(*arguments, "--untrusted", "4s", code=code), 3, "f.onnx", words)
    assert list((tmp_path / "out").iterdir()) == []


def test_check_says_what_held_the_child(tmp_path):
    arguments = [write(tmp_path, mix_model()), "--json", "--untrusted", "60s,8GiB"]
    for more in ([], ["--against", foreign(tmp_path, mix_model())]):
        ending = run_apart(*arguments, *more, code=CHECK)
        assert (ending.code, ending.err) == (0, "")
        assert json.loads(ending.out)["confined"][:2] == ["60 s", "8 GiB"]
    assert json.loads(run_apart(*arguments, "--trust", code=CHECK).out)["confined"] == ["60 s"]


@pytest.mark.parametrize(
    ("content", "limit", "asked"),
    [
        (crashing_model(), ["--untrusted"], "crashes what opens it (SIGFPE)"),
        (endless_model(), ["--untrusted", "2s"], "Give it more time"),
        (greedy_model(2), ["--untrusted", "1GiB"], "Failed to allocate memory for requested buffer of size 2147483648"),
    ],
    ids=["crashing", "endless", "greedy"],
)
def test_an_untrusted_run_of_a_hostile_file_is_one_line_and_3(tmp_path, content, limit, asked):
    arguments = [write(tmp_path, content), *limit, "--n", 1, "--out", tmp_path / "out" / "a.npy"]
    assert_refused(run_apart(*arguments, code=RUN), 3, "m.onnx", asked)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_untrusted_run_gives_the_same_pictures_and_its_parent_loads_nothing(tmp_path):
    model, out = write(tmp_path, mix_model()), tmp_path / "out" / "a.npy"
    loaded = "print(*[name for name in ('numpy', 'onnxruntime', 'typer') if name in sys.modules], flush=True)"
    code = (
        f"import os, sys\nfrom ddpm_export.cli.start import run\nend = os._exit\ndef told(code): {loaded}; end(code)\n"
    )
    code += "os._exit = told\nrun()"
    ending = run_apart(model, "--untrusted", "--n", 3, "--seed", 1, "--json", "--out", out, code=code)
    assert (ending.code, ending.err) == (0, "")
    asked, names = ending.out.splitlines()
    assert (json.loads(asked)["out"], names) == (str(out), "")
    np.testing.assert_array_equal(np.load(out), generate(model, n=3, seed=1))
    assert os.listdir(out.parent) == ["a.npy"]


def test_nothing_that_starts_threads_is_loaded_before_the_child_is_confined():
    """Landlock binds the threads to come: those of NumPy's libraries would keep their rights."""
    code = "import sys; from ddpm_export.cli import adopt, check, edit, run; print('numpy' in sys.modules)"
    assert run_apart(code=code) == (0, "False\n", "")


def test_an_untrusted_run_may_read_what_its_options_name(tmp_path, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "c.npy"
    np.save(elsewhere, np.ones(2, np.float32))
    spec = tiny_spec(inputs=(Input("c", "vector", (2,)),), requires=("inputs",))
    out = tmp_path / "a.npy"
    arguments = [write(tmp_path, told_model(spec)), "--untrusted", "--n", 1, "--input", f"c={elsewhere}", "--out", out]
    ending = run_apart(*arguments, code=RUN)
    assert (ending.code, ending.err) == (0, "")
    assert out.exists()


def test_closed_streams_are_no_end(tmp_path):
    model = write(tmp_path, crashing_model())
    command = " ".join(shlex.quote(word) for word in command_line(model, code=CHECK))
    for closed in ("2>&-", ">&- 2>&-", "<&- >&- 2>&-"):
        assert subprocess.run(["sh", "-c", f"{command} {closed}"], check=False).returncode == 3, closed


def test_untrusted_and_trust_contradict_each_other_and_a_caller_is_told_of_the_command(tmp_path):
    model = write(tmp_path, mix_model())
    assert_refused(run_here(main, model, "--untrusted", "--trust"), 2, "Give --untrusted or --trust, not both")
    assert_refused(run_here(main, model, "--untrusted"), 2, "the command ddpm-run")
    assert_refused(run_apart(model, "--untrusted=60", code=RUN), 2, "--untrusted takes limits such as 600s,16GiB")


@pytest.mark.parametrize("code", [RUN, ADOPT], ids=["run", "adopt"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_the_parent_ends_the_child(tmp_path, number, code):
    model, out = write(tmp_path, endless_model()), tmp_path / "out"
    arguments, begun = [model, "--untrusted", "--n", 1, "--out", out / "a.npy"], "out/.*/.*"  # it writes, samples next
    if code == ADOPT:
        model, begun = foreign(tmp_path, endless_model()), "out/.*"
        arguments = [model, "--schedule", "linear", "--timesteps", 40, "--out", out]
    process = subprocess.Popen(
        command_line(*arguments, code=code),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heeding_interrupts,
    )
    try:
        while process.poll() is None and not list(tmp_path.glob(begun)):
            time.sleep(0.02)
        assert process.poll() is None
        since = time.monotonic()
        process.send_signal(number)
        printed, asked = process.communicate(timeout=20)  # which waits for the child, too: it has the same pipes
    finally:
        process.kill()
        process.wait()
    assert time.monotonic() - since < 5  # half a second on an idle machine
    killed = number == signal.SIGKILL
    assert (process.returncode, printed, asked) == ((-number, "", "") if killed else (130, "", "stopped.\n"))
    if killed and code == ADOPT:  # the next one clears away, however it ends
        model.write_bytes(b"x")
        assert run_apart(*arguments, code=code).code == 3
    assert (killed and code == RUN) or list(out.iterdir()) == []
