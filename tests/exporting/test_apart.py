"""Checkpoints are read in a child; what two readers would read as two is refused, and torch's remedies are not told."""

import io
import os
import pickle
import pickletools
import signal
import subprocess
import sys
import time
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
from representative import representative

torch = pytest.importorskip("torch")

from ddpm_export.errors import BadFileError  # noqa: E402
from ddpm_export.importers.apart import TorchFile  # noqa: E402
from ddpm_export.importers.checkpoint import load_torch_file  # noqa: E402
from ddpm_export.importers.folders import load_weights  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("in_a_child")]
STATE = {"w": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)}
SHARED = b")" + b"".join(b"q%c0h%ch%c\x86" % (k, k, k) for k in range(60))  # each holds the one before twice
BOMB = b"\x80\x02}" + SHARED + b"K\x01s."
LEGACY = {"_use_new_zipfile_serialization": False}


def saved(contents, **options):
    file = io.BytesIO()
    torch.save(contents, file, **options)
    return file.getvalue()


def zipped(entries):
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as archive:
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, content in entries:
            archive.writestr(name, content)
    return file.getvalue()


def entries_of(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def read(path):
    with TorchFile(path) as file:
        return file.contents()


def assert_same(ours, theirs):
    assert type(ours) is (dict if isinstance(theirs, OrderedDict) else type(theirs))
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for key, value in theirs.items():
            assert_same(ours[key], value)
    elif isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs)
        for item, other in zip(ours, theirs, strict=True):
            assert_same(item, other)
    elif isinstance(theirs, torch.Tensor):
        assert ours.dtype == theirs.dtype
        assert (ours.stride(), ours.storage_offset()) == (theirs.stride(), theirs.storage_offset())
        assert torch.equal(ours, theirs)
    else:
        assert ours == theirs or (ours != ours and theirs != theirs)


@pytest.mark.parametrize("options", [{}, LEGACY], ids=["archive", "legacy"])
def test_a_child_gives_what_torch_reads_here(tmp_path, options):
    base = torch.arange(24.0).reshape(2, 3, 4)
    plain = [None, True, 3, -(2**70), 0.5, float("inf"), "\u00e9\ud800", (1, ("x",)), [], {}, {1: 2, (3, "x"): 4}]
    tensors = {
        "whole": base,
        "part": base[1, 1:],
        "turned": base.permute(2, 0, 1),
        "one for all": torch.ones(1).expand(7),
        "none": torch.zeros(0, 4),
        "number": torch.tensor(3.0),
        "half": base.half(),
        "brain": base.bfloat16(),
        "integers": base.long(),
        "truths": base > 3,
        "complex": base.to(torch.complex64).conj(),
    }
    torch.save({"plain": plain, "tensors": OrderedDict(tensors)}, tmp_path / "c.pt", **options)
    ours = read(tmp_path / "c.pt")
    assert_same(ours, torch.load(tmp_path / "c.pt", weights_only=True))
    ours["tensors"]["whole"][1, 1, 0] = -7.0  # storages are shared as before
    assert ours["tensors"]["part"][0, 0] == -7.0
    assert ours["tensors"]["half"][1, 1, 0] == 16.0


def test_values_that_no_importer_asks_for_are_named(tmp_path):
    torch.save({"dtype": torch.float16, "bytes": b"x", "set": {1, 2}}, tmp_path / "c.pt")
    contents = read(tmp_path / "c.pt")
    assert {key: repr(value) for key, value in contents.items()} == {
        "dtype": "<dtype>",
        "bytes": "<bytes>",
        "set": "{1, 2}",
    }


def test_nothing_stays_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    torch.save(STATE, tmp_path / "c.pt")
    assert set(load_weights(tmp_path / "c.pt")) == {"w", "b"}
    (tmp_path / "d.pt").write_bytes(b"hello")
    with pytest.raises(BadFileError):
        load_weights(tmp_path / "d.pt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.pt", "d.pt"]


WHOLE = saved(STATE)
ENTRIES = entries_of(WHOLE)
TOP = ENTRIES[0][0].partition("/")[0]
PICKLE = dict(ENTRIES)[f"{TOP}/data.pkl"]
OTHERS = [entry for entry in ENTRIES if not entry[0].endswith("data.pkl")]
EVIL = (f"{TOP}/data.pkl", BOMB)
GOOD = (f"{TOP}/data.pkl", PICKLE)
AMBIGUOUS = {
    "the evil pickle first": zipped([EVIL, GOOD, *OTHERS]),
    "the evil pickle last": zipped([GOOD, EVIL, *OTHERS]),
    "DATA.PKL first": zipped([(f"{TOP}/DATA.PKL", BOMB), GOOD, *OTHERS]),
    "Data.pkl last": zipped([GOOD, *OTHERS, (f"{TOP}/Data.pkl", BOMB)]),
    "another folder first": zipped([("evil/data.pkl", BOMB), GOOD, *OTHERS]),
    "another folder last": zipped([GOOD, *OTHERS, ("evil/data.pkl", BOMB)]),
    "the folder's name in capitals": zipped([GOOD, *OTHERS, (f"{TOP.upper()}/data.pkl", BOMB)]),
    "a name without a folder": zipped([GOOD, *OTHERS, ("data.pkl", BOMB)]),
    "a name with a dot": zipped([GOOD, *OTHERS, (f"{TOP}/./data.pkl", BOMB)]),
    "a name with a backslash": zipped([GOOD, *OTHERS, (f"{TOP}\\data.pkl", BOMB)]),
    "a legacy file before an archive": saved(STATE, **LEGACY) + WHOLE,
    "a bomb before an archive": BOMB + WHOLE,
    "a byte before an archive": b"x" + WHOLE,
    "an archive before an archive": zipped([EVIL, *OTHERS]) + WHOLE,
    "a bomb behind an archive": WHOLE + BOMB,
    "a byte behind an archive": WHOLE + b"x",
    "a comment": WHOLE[:-2] + b"\x05\x00hello",
    "two tensors of one name": zipped([*ENTRIES, (f"{TOP}/data/0", b"x" * 24)]),
}


@pytest.mark.parametrize("content", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_what_two_readers_would_read_as_two_is_refused(tmp_path, content):
    (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(BadFileError, match=r"c\.pt is ambiguous: .*\. Do not use this file unless you made it"):
        load_torch_file(tmp_path / "c.pt")


def legacy_with_a_bomb(k):
    """Return a file of torch before 1.6 whose pickle number k, from 0, is a bomb."""
    content = saved({"a": 1}, **LEGACY)
    file, ends = io.BytesIO(content), [0]
    for _ in range(5):
        list(pickletools.genops(file))
        ends.append(file.tell())
    return content[: ends[k]] + BOMB + content[ends[k + 1] :]


BOMBS = {
    **{f"pickle {k} of 5": (legacy_with_a_bomb(k), "tuples that hold one another") for k in range(5)},
    "instructions without end": (
        zipped([(f"{TOP}/data.pkl", b"\x80\x02" + b"N0" * 2**22 + b"N."), *OTHERS]),
        "more than 4194304 instr",
    ),
    "bytes after the pickle": (zipped([(f"{TOP}/data.pkl", PICKLE + BOMB), *OTHERS]), "bytes after the pickle's end"),
    "lists that are shared": (
        zipped(
            [
                (
                    f"{TOP}/data.pkl",
                    b"\x80\x02](Nq\0" + b"".join(b"](h%ch%ceq%c" % (k, k, k + 1) for k in range(60)) + b"e.",
                ),
                *OTHERS,
            ]
        ),
        "more than 1048576 of them",
    ),
    "a list of itself": (zipped([(f"{TOP}/data.pkl", b"\x80\x02]q\x00h\x00a."), *OTHERS]), "nested more than 100 deep"),
    "1 TiB of nothing": (
        zipped([(f"{TOP}/data.pkl", b"\x80\x02cbuiltins\nbytearray\n\x8a\x06\0\0\0\0\0\x01\x85R."), *OTHERS]),
        "MemoryError",
    ),
}


@representative(("content", "words"), BOMBS.values(), by=lambda _, words: words, ids=BOMBS)
def test_bombs_are_refused_in_seconds(tmp_path, content, words):
    (tmp_path / "c.pt").write_bytes(content)
    since = time.monotonic()
    with pytest.raises(BadFileError) as caught:
        read(tmp_path / "c.pt")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - since < 60


class Calls:
    def __reduce__(self):
        return os.system, ("touch owned",)


@pytest.mark.parametrize(
    "content",
    [
        saved({"a": Calls()}),
        saved({"a": Calls()}, **LEGACY),
        saved({"a": torch.nn.Linear(2, 2)}),
        pickle.dumps({"a": 1}, 4),
        zipped([(f"{TOP}/data.pkl", b"\x80\x02ctorch\nload\nX\x01\0\0\0x\x85R."), *OTHERS]),
        zipped([(f"{TOP}/data.pkl", PICKLE[:-9]), *OTHERS]),
        zipped([GOOD]),
        WHOLE[:200],
        b"",
    ],
    ids=[
        "os.system",
        "os.system in a legacy file",
        "a module",
        "protocol 4",
        "torch.load",
        "half",
        "no storages",
        "cut",
        "empty",
    ],
)
def test_no_remedy_of_torch_is_passed_on(tmp_path, content):
    (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(BadFileError) as caught:
        load_torch_file(tmp_path / "c.pt")
    inputs = str(caught.value)
    for word in ("weights_only", "torch.load", "add_safe_globals", "safe_globals", "trust"):
        assert word not in inputs or (word == "torch.load" and "asks for 'torch.load'" in inputs)
    assert "\n" not in inputs


def test_what_a_pickle_asks_for_is_named(tmp_path):
    (tmp_path / "c.pt").write_bytes(saved({"a": Calls()}))
    with pytest.raises(
        BadFileError, match=r"more than tensors and plain values: its pickle asks for '(posix|nt)\.system'"
    ):
        load_torch_file(tmp_path / "c.pt")


def test_a_sparse_tensor_is_named(tmp_path):
    torch.save({"a": torch.ones(2).to_sparse()}, tmp_path / "c.pt")
    with pytest.raises(BadFileError, match="a tensor that is sparse_coo on cpu, not dense numbers"):
        read(tmp_path / "c.pt")


# C code that no signal interrupts: the hash of a tuple of 2^60 values
HANG = """
import sys, zipfile
def hang(archive, at=()):
    for _ in range(60):
        at = at, at
    hash(at)
if sys.argv[:1] == ['-c']:
    zipfile.ZipFile.testzip = hang
"""


@representative("times", [1, 2])
def test_a_signal_stops_an_export_whose_checkpoint_never_ends(tmp_path, times):
    """The parent waits for a child that hangs, and ends it: by the first signal, or at once by the second."""
    torch.save(STATE, tmp_path / "c.pt")
    (tmp_path / "hang").mkdir()
    (tmp_path / "hang" / "sitecustomize.py").write_text(HANG)
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", "from ddpm_export.cli.start import export; export()", "c.pt"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "hang"), str(root)]), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        stop_and_look(process, tmp_path, times)


def stop_and_look(process, folder, times):
    deadline = time.monotonic() + 60
    while not (children := child_of(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert children
    time.sleep(4.0)  # torch is imported in both, and the child hangs
    assert process.poll() is None
    since = time.monotonic()
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    assert process.wait(20) == 130
    assert time.monotonic() - since < 5
    assert process.stderr.read() == "stopped.\n"
    assert not any(Path(f"/proc/{child}").exists() and "zombie" not in status_of(child) for child in children)
    assert sorted(path.name for path in folder.iterdir()) == ["c.pt", "hang"]


def child_of(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split() or [
        child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


def status_of(pid):
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return "zombie"
