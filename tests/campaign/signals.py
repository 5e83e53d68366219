"""Signals: every command, from the first line of its entry module to its end, once and twice.

It ends with 130 and at most one line (or was through, with 0), soon; nothing is half there, and the next run gives the
bytes of an undisturbed one and leaves nothing else behind.
"""

import os
import random
import signal
import subprocess
import sys
import time

from models import mix_model

from . import ROOT
from .faults import CALLS, ENTRY, Work, fault_of_next, learnt, start, works
from .sandbox import foreign

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PHASES, SOON_S, LATE_S = 8, 1.0, 4.0  # a busy machine takes its time: what is late is counted, what hangs falls
# the first call of `heed` stands for the entry module's first line: until then Python itself answers
BEGIN = """
heed = start.heed
def heeded(handler):
    before = heed(handler)
    import os
    os.write({pipe}, b".")
    start.heed = heed
    return before
start.heed = heeded
"""


def all_works():
    yield from works()
    model = mix_model()
    sampling = ["m.onnx", "--n", "3", "--steps", "2", "--seed", "0", "--untrusted", "--out", "out/a.npy"]
    yield Work("run --untrusted", "run", sampling, ["out/a.npy"], {"m.onnx": model})
    yield Work("check", "check", ["m.onnx"], [], {"m.onnx": model})
    adopting = ["theirs.onnx", "--schedule", "linear", "--timesteps", "40", "--out", "out"]
    yield Work("adopt", "adopt", adopting, ["out/unet.onnx"], {"theirs.onnx": foreign(model)})
    (of_tar,) = (work for work in works() if work.name == "run to shards of tar")
    line = [*of_tar.arguments, "--engine", "ray:workers=1"]
    yield Work("run to shards on Ray", "dataset", line, of_tar.outputs, of_tar.files, is_replaced=False)


def interrupted(folder, work, after_s, numbers, pause_s):
    """Start a work, send it signals, and return (code, stderr, seconds from the first signal to its end)."""
    reading, writing = os.pipe()
    code = ENTRY + BEGIN.format(pipe=writing) + CALLS[work.command]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *work.arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=[writing],
        preexec_fn=lambda: [signal.signal(number, signal.SIG_DFL) for number in NUMBERS],
    )
    os.close(writing)
    os.read(reading, 1)
    os.close(reading)
    time.sleep(after_s)
    since = time.perf_counter()
    for number in numbers:
        if process.poll() is None:
            process.send_signal(number)
        time.sleep(pause_s if len(numbers) > 1 else 0)
    try:
        _, err = process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        _, err = process.communicate()
    return process.returncode, err, time.perf_counter() - since


def verdict(work, code, err, seconds, folder):
    if code not in (130, 0):
        return f"code {code}: {err[-300:]!r}"
    told = [
        line
        for line in err.splitlines()
        if not line.startswith(("device: ", "starting", "going on", "step ", "already", "note: ", "images: "))
    ]
    if "Traceback" in err or len(told) > (2 if work.command == "train" else 1):  # training says where it goes on
        return f"more than a line: {err[-300:]!r}"
    if seconds > LATE_S * (4 if "Ray" in work.name else 1):  # its own processes are ended first
        return f"{seconds:.1f} s"
    return work.fault(folder)


def run(tally, seed, *, names=None, phases=PHASES):
    noise, late, ends = random.Random(seed), [], []
    for work in all_works():
        if names is not None and work.name not in names:
            continue
        with learnt(work) as folder:
            work.put_before(folder)
            since = time.perf_counter()
            start(folder, work)
            whole_s = time.perf_counter() - since
            cases = [(k, first, twice) for k in range(phases) for first in NUMBERS for twice in (False, True)]
            for k, first, twice in cases:
                if tally.is_over():
                    break
                if work.is_replaced or noise.random() < 0.3:
                    work.put_before(folder)
                after_s = 0.0 if k == 0 else whole_s * (k - 1 + noise.random()) / max(1, phases - 1)
                sent = [first, noise.choice(NUMBERS)] if twice else [first]
                code, err, seconds = interrupted(folder, work, after_s, sent, noise.uniform(0, 0.05))
                why = verdict(work, code, err, seconds, folder)
                if code == 130:
                    ends.append(seconds)
                    late += [seconds] if seconds > SOON_S else []
                if why is None and (k, twice) in ((phases // 2, True), (phases - 1, False)):
                    why = fault_of_next(folder, work)
                kind = f"{first.name}{' and another' if twice else ''}"
                tally.count(
                    "signals", f"{work.name}", f"{kind} after {after_s:.2f} s of {whole_s:.2f}", why, seconds=seconds
                )
    ends.sort()
    if ends:
        median = ends[len(ends) // 2]
        slow = f"{len(late)} after more than {SOON_S:g} s, at most {ends[-1]:.2f} s"
        tally.notes.append(f"\n{len(ends)} ended with 130: median {median:.2f} s, {slow}.")
