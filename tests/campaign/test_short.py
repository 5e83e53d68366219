"""The campaign in its short form: some cases of each part; and that what falls is seen."""

import importlib.util
import random
import shutil
import signal

import pytest
from representative import representative

from . import faults, fuzz, load, numbers, signals
from .tally import Tally
from .targets import PLACE, TARGETS, blindly, seeds, tried
from .worker import Ending

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")


@pytest.fixture
def tally():
    return Tally()


@pytest.fixture
def npy():
    return [work for work in faults.works() if work.name == "run to .npy"]


@pytest.mark.torch
@needs_torch
@pytest.mark.long
def test_hostile_files(tally):
    from . import files

    files.run(tally, 0, every=24, only_inside=True)
    assert tally.fallen == []
    assert len(files.FAMILIES) >= 60
    assert len(tally.rows) > 30
    assert tally.tried > 40


@pytest.mark.torch
@needs_torch
def test_what_a_hostile_file_brings_about_is_seen(tmp_path):
    from . import files
    from .cases import Case, run

    case = Case("x", {}, run())
    line = "error: m.onnx: no.\n"
    sound = Ending(3, "", line)
    assert files.verdict(case, sound, {}, {}, tmp_path) is None
    for ending in (
        Ending(0),
        Ending(1, "", "error: Unexpected\n"),
        Ending(-11),
        Ending(3, "", line * 2),
        Ending(3, "", "error: \x1b[2J\n"),
        Ending(3, "", f"error: {'x' * 2000}\n"),
        Ending(3, "out", line),
        Ending(3, "", line, seconds=99),
        Ending(3, "", line, grown_mib=9999),
    ):
        assert files.verdict(case, ending, {}, {}, tmp_path) is not None
    assert "owned" in files.verdict(case, sound, {}, {"owned": "x"}, tmp_path)
    log = tmp_path / "log"
    calls = {
        'openat(AT_FDCWD, "m.onnx", O_RDONLY) = 3': True,
        'openat(AT_FDCWD, "out/a.npy", O_WRONLY|O_CREAT) = 3': True,
        'openat(AT_FDCWD, "/usr/lib/x.so", O_RDONLY) = 3': True,
        'openat(AT_FDCWD, "../secret", O_RDONLY) = 3': False,
        'openat(AT_FDCWD, "/etc/passwd", O_RDONLY) = 3': False,
        'openat(AT_FDCWD, "/usr/lib/x.so", O_RDWR) = 3': False,
        'execve("/bin/sh", ["sh"], 0x1) = 0': False,
        "socket(AF_INET, SOCK_STREAM, IPPROTO_IP) = 3": False,
    }
    for call, is_allowed in calls.items():
        log.write_text(
            f'7 stat("/campaign/begin{tmp_path}", 0x1) = -1\n7 {call}\n7 stat("/campaign/end", 0x1) = -1\n7 {call}\n'
        )
        assert (list(files.trespasses(log)) == []) is is_allowed, call


@needs_strace
@pytest.mark.long
def test_faults_at_writes_and_renames(tally, npy):
    faults.inject(tally, npy, every=6)
    assert tally.fallen == []
    assert tally.tried >= 4


@pytest.mark.long
def test_kills(tally, npy):
    faults.kill(tally, npy, {"run": 20}, random.Random(0))
    assert tally.fallen == []
    assert tally.tried == 20


def test_a_command_without_end_is_seen(tmp_path, npy):
    (work,) = npy
    work.fill(tmp_path)
    code, said = faults.start(tmp_path, work, timeout_s=0.01)
    assert faults.told_well(code, said, "error=EIO") == "code 124: 'not over after 0.01 s'"


def test_half_a_file_is_seen(tmp_path, npy):
    (work,) = npy
    work.before, work.after = {"out/a.npy": b"before"}, {"out/a.npy": b"after"}
    work.put_before(tmp_path)
    assert work.fault(tmp_path) is None
    (tmp_path / "out/a.npy").write_bytes(b"aft")
    assert "neither" in work.fault(tmp_path)
    (tmp_path / "out/a.npy").write_bytes(b"after")
    (tmp_path / "out/.a.ddpm-0.part.npy").write_bytes(b"")
    assert "left behind" in work.fault_after_next(tmp_path)
    assert faults.told_well(1, "", "error=EIO") is not None
    assert faults.told_well(5, "Traceback", "error=EIO") is not None
    assert faults.told_well(-2, "", "signal=INT") is not None


@pytest.mark.long
def test_signals(tally):
    signals.run(tally, 0, names={"run to .npy"}, phases=1)
    assert tally.fallen == []
    assert tally.tried == 2 * len(signals.NUMBERS)
    work = next(signals.all_works())
    assert signals.verdict(work, -signal.SIGINT, "", 0, None) is not None
    assert signals.verdict(work, 130, "stopped.\nstopped.\n", 0, None) is not None


@pytest.mark.long
def test_numbers(tally):
    numbers.run(tally, 0, flips=400, steps=4)
    assert tally.fallen == []
    assert tally.tried > 600


@representative("name", ["spec", "external_data", "archive", "cifar", "idx", "npy"])
def test_mutants(name, tmp_path):
    for k, content in enumerate(seeds(name)):
        (tmp_path / f"{k}").write_bytes(content)
    PLACE.mkdir(exist_ok=True)
    try:
        blindly(tried(TARGETS[name]), tmp_path, 500, 0, 20)
    finally:
        shutil.rmtree(PLACE)


def test_a_mutant_that_breaks_a_reader_is_seen():
    with pytest.raises(ZeroDivisionError):
        tried(lambda data: 1 // len(data))(b"")


@pytest.mark.long
@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_mutants_in_javascript(tally):
    fuzz.javascript(tally, 2000, 0)
    assert tally.fallen == []
    assert tally.tried == 2000


@pytest.mark.long
@pytest.mark.usefixtures("all_cores")
def test_load(tally):
    load.in_threads(tally, rounds=3)
    load.together(tally, rounds=1, names={"run to .npy"})
    assert tally.fallen == []
    assert tally.tried == 6 * load.THREADS + 1
