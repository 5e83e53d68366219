import fcntl
import hashlib
import io
import os
import signal
import stat
import subprocess
import sys

import pytest

from ddpm_export.errors import EnvironmentProblem, UsageError
from ddpm_export.system.files import cache_folder, replacing, sha256_of, sole_writer

OLD, NEW = b"old" * 1000, b"new" * 70_000


@pytest.fixture(params=["there", "missing"])
def path(request, tmp_path):
    path = tmp_path / "folder" / "model.onnx"
    path.parent.mkdir()
    if request.param == "there":
        path.write_bytes(OLD)
    return path


def contents(path):
    return path.read_bytes() if path.exists() else None


def beside(path):
    return sorted(p.name for p in path.parent.iterdir() if p != path)


def test_success_replaces(path):
    before = contents(path)
    with replacing(path) as part:
        assert part.parent == path.parent, "another file system could not be renamed from"
        assert part.suffix == path.suffix, "Pillow chooses the format by it"
        part.write_bytes(NEW)
        assert contents(path) == before, "nothing is seen before the end"
    assert path.read_bytes() == NEW
    assert beside(path) == []


def test_folders_are_made(tmp_path):
    path = tmp_path / "a" / "b" / "c.txt"
    with replacing(str(path)) as part:
        part.write_text("x")
    assert path.read_text() == "x"


def test_the_mode_follows_the_umask(path):
    old = os.umask(0o027)
    try:
        with replacing(path) as part:
            part.write_bytes(NEW)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, ValueError, EnvironmentProblem])
def test_an_exception_keeps_the_old(path, error):
    before = contents(path)

    def write():
        with replacing(path) as part:
            part.write_bytes(NEW[:1000])
            raise error("stop")

    with pytest.raises(error):
        write()
    assert contents(path) == before
    assert beside(path) == []


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace", "os.open", "pathlib.Path.mkdir"])
def test_a_full_disk_at_each_step(path, step, monkeypatch):
    before = contents(path)

    def full(*args, **kwargs):
        raise OSError(28, os.strerror(28))

    def write():
        with replacing(path) as part:
            part.write_bytes(NEW)

    with monkeypatch.context() as patch:
        patch.setattr(step, full)
        with pytest.raises(EnvironmentProblem, match="No space left on device") as caught:
            write()
    assert caught.value.exit_code == 5
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert contents(path) == before
    assert beside(path) == []


def run_child(body, path, **kwargs):
    program = f"import os, resource, signal, sys, time\nfrom ddpm_export.system.files import replacing\n{body}"
    return subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs
    )


def test_a_file_that_cannot_grow(path):
    before = contents(path)
    child = run_child(
        """
from ddpm_export.errors import EnvironmentProblem
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try:
    with replacing(sys.argv[1]) as part:
        part.write_bytes(b"new" * 70_000)
except EnvironmentProblem as exc:
    print(exc)
    sys.exit(exc.exit_code)
""",
        path,
    )
    out, err = child.communicate(timeout=30)
    assert (child.returncode, err) == (5, "")
    assert str(path) in out
    assert out.count("\n") == 1
    assert contents(path) == before
    assert beside(path) == []


@pytest.mark.parametrize("moment", ["open", "half", "written"])
def test_killed_while_writing(path, moment):
    before = contents(path)
    child = run_child(
        f"""
def stop(moment):
    if moment == {moment!r}:
        print("now", flush=True)
        time.sleep(60)
with replacing(sys.argv[1]) as part, part.open("wb") as file:
    stop("open")
    file.write(b"new" * 35_000); file.flush()
    stop("half")
    file.write(b"new" * 35_000); file.flush()
    stop("written")
""",
        path,
    )
    assert child.stdout.readline() == "now\n"
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=30)
    assert child.returncode == -signal.SIGKILL
    assert contents(path) == before
    with replacing(path) as part:  # and what was left over is in nobody's way
        part.write_bytes(NEW)
    assert path.read_bytes() == NEW
    assert beside(path) == []


def test_what_another_writes_is_left_to_it(path):
    with replacing(path) as theirs, replacing(path) as ours:
        assert theirs != ours
        theirs.write_bytes(b"theirs")
        ours.write_bytes(b"ours")
    assert path.read_bytes() == b"theirs"  # the last to end
    assert beside(path) == []


def test_what_is_no_left_over_is_not_touched(path, tmp_path):
    name = ".model.ddpm-{}.part.onnx"
    (path.parent / name.format(0)).mkdir()
    os.mkfifo(path.parent / name.format(1))
    (tmp_path / "precious").write_bytes(OLD)
    (path.parent / name.format(2)).symlink_to(tmp_path / "precious")
    (path.parent / ".model.abc.part.onnx").write_bytes(OLD)
    before = beside(path)
    with replacing(path) as part:
        part.write_bytes(NEW)
    assert (path.read_bytes(), (tmp_path / "precious").read_bytes()) == (NEW, OLD)
    assert beside(path) == before


def test_where_nothing_is_locked_every_writer_still_has_its_own(path, monkeypatch):
    def cannot(_handle, _how):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", cannot)
    test_what_another_writes_is_left_to_it(path)


def test_a_name_that_was_taken_between_opening_and_locking_is_left(path, monkeypatch):
    part = path.parent / ".model.ddpm-0.part.onnx"
    part.write_bytes(b"whole")
    real = fcntl.flock

    def ended_meanwhile(handle, how):
        if part.exists():
            part.replace(path)
        real(handle, how)

    monkeypatch.setattr("fcntl.flock", ended_meanwhile)
    with replacing(path) as beside_it:
        assert path.read_bytes() == b"whole"
        assert beside_it != part
        beside_it.write_bytes(NEW)


def test_a_file_where_a_folder_must_be(tmp_path):
    (tmp_path / "file").write_bytes(OLD)
    with pytest.raises(EnvironmentProblem), replacing(tmp_path / "file" / "x.png"):
        pytest.fail("there is nowhere to write to")
    assert (tmp_path / "file").read_bytes() == OLD


def test_a_folder_that_may_not_be_written(path):
    before = contents(path)
    path.parent.chmod(0o555)
    user = os.geteuid()
    if user == 0:  # root may write anywhere: be nobody for a moment
        os.seteuid(65534)
    try:
        with pytest.raises(EnvironmentProblem, match="Permission denied"), replacing(path):
            pytest.fail("there is nowhere to write to")
    finally:
        os.seteuid(user)
        path.parent.chmod(0o755)
    assert contents(path) == before


def test_a_folder_of_that_name_is_not_replaced(tmp_path):
    (tmp_path / "samples.png").mkdir()
    with pytest.raises(EnvironmentProblem, match="not a file"), replacing(tmp_path / "samples.png"):
        pytest.fail("asked before the work is done, not after")
    assert [p.name for p in tmp_path.iterdir()] == ["samples.png"]


def test_a_device_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(EnvironmentProblem, match="not a file"), replacing(tmp_path / "pipe"):
        pytest.fail("a pipe or /dev/null would have become a file")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


@pytest.mark.parametrize("size", [0, 1, 2**20, 2**20 + 1])
def test_sha256_of(tmp_path, size):
    data = io.BytesIO(os.urandom(size)).getvalue()
    (tmp_path / "x").write_bytes(data)
    assert sha256_of(tmp_path / "x") == hashlib.sha256(data).hexdigest()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no flock")
def test_a_folder_has_one_writer_until_that_is_gone_however_it_went(tmp_path):
    folder = tmp_path / "a" / "b"
    code = f"""
import pathlib, sys
from ddpm_export.system.files import sole_writer
with sole_writer(pathlib.Path({str(folder)!r})):
    print("in", flush=True)
    sys.stdin.read()
"""
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "in\n"
    with pytest.raises(UsageError, match="is being written by another process"), sole_writer(folder):
        pytest.fail("there were two")
    holder.kill()
    holder.communicate()
    for _ in range(2):
        with sole_writer(folder):
            assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(EnvironmentProblem, match="cannot be written"), sole_writer(tmp_path / "file"):
        pytest.fail("it is a file")


def test_without_a_home_folder_one_line_says_what_to_set(monkeypatch):
    def nobody(_name_or_number):
        raise KeyError

    for name in ("HOME", "USERPROFILE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    with pytest.raises(EnvironmentProblem, match="Set XDG_CACHE_HOME"):
        cache_folder()
