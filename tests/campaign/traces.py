"""Traces: what each command opens, starts and reaches, by strace, and which calls a child is denied."""

import shutil
import tempfile
from pathlib import Path

from .cases import checkpoint
from .faults import Work, start, works
from .files import STRACE, TRACED, trespasses
from .worker import MARK

# what the system tells of itself and its users, fonts for curves, a semaphore of torch's, and rights without a file
USUAL = (
    "/etc/os-release",
    "/etc/passwd",
    "/etc/nsswitch.conf",
    "/proc/sys/vm/",
    "/.cache/matplotlib/",
    "/dev/shm/sem.",
    "O_PATH",
)


def all_works():
    yield from works()
    yield Work(
        "export in int8", "export", ["c.pt", "--precision", "int8", "--out", "out/i.onnx"], [], {"c.pt": checkpoint()}
    )


def denials(tally):
    from test_calls import ANSWERS, denied

    with tempfile.TemporaryDirectory() as folder:
        for call, answer in (denied(Path(folder)) or {}).items():
            tally.count("traces", "calls that the child is denied", call, None if answer in ANSWERS else answer)


def run(tally, seed, *, names=None):
    denials(tally)
    if shutil.which("strace") is None:
        tally.notes.append("\nWithout strace: nobody looked at what was opened.")
        return
    for work in all_works():
        if tally.is_over() or (names is not None and work.name not in names):
            continue
        with tempfile.TemporaryDirectory() as base:
            folder, log = Path(base, "work"), Path(base, "log")
            folder.mkdir()
            work.fill(folder)
            code, err = start(folder, work, prefix=[*STRACE, TRACED, "-o", str(log)], env={"TMPDIR": str(folder)})
            _, *calls = log.read_text(errors="replace").splitlines()  # the first starts the command itself
            log.write_text("\n".join([f'0 stat("{MARK}/begin{folder}")', *calls]))
            found = [why for _, why in trespasses(log) if not any(part in why for part in USUAL)] or [err[-300:]] * code
            tally.count("traces", work.name, f"{len(calls)} calls", "\n".join(sorted(set(found))) or None)
