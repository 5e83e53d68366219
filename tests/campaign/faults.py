"""Faults of the disk and sudden ends: at every write, fsync and rename, at limits, and kill -9 at any moment.

However it ends, what was at the output's name is there whole, or the new content is; the next run gives the bytes of a
run that nothing happened to, and leaves nothing else behind.
"""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

from commands import heeding_interrupts
from models import extractor_file, mix_model

from . import ROOT
from .cases import checkpoint, png
from .forks import Forks
from .hostile_data import TOY

SYSTEM_CALLS = ("write", "pwrite64", "fsync", "rename")
STRACE = ("strace", "-f", "--seccomp-bpf", "-qq")
KINDS = ("error=EIO", "error=ENOSPC", "signal=KILL", "signal=INT")
KILLS = {"run": 600, "eval": 200, "train": 100, "export": 100}
ENTRY = "from ddpm_export.cli import start; "
CALLS = {name: f"start.{name}()" for name in ("run", "dataset", "export", "check", "adopt")} | {
    "eval": "start.evaluate()"
}
CALLS |= {"train": "import runpy; runpy.run_module('train', run_name='__main__')"}
MODULES = {
    "run": "ddpm_export.cli.run",
    "dataset": "ddpm_export.cli.dataset",
    "eval": "ddpm_export.cli.eval",
    "export": "ddpm_export.cli.export",
    "train": "train.cli",
}


class Work:
    """One command in a folder, its outputs, and what they hold when nothing happens.

    is_replaced: whether a run makes its outputs anew, in place of what is there; else it goes on with what it finds.
    """

    def __init__(self, name, command, arguments, outputs, files, is_replaced=True):
        self.name, self.command, self.arguments, self.outputs, self.files = name, command, arguments, outputs, files
        self.is_replaced = is_replaced
        self.before, self.after, self.other = {}, {}, set()

    def fill(self, folder):
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def put_before(self, folder):
        """Lay what was there before at the outputs' names, and nothing else beside."""
        for path in [*folder.rglob("*")][::-1]:
            name = str(path.relative_to(folder))
            if name not in self.files and path.is_file():
                path.unlink()
            elif path.is_dir() and not any(key.startswith(f"{name}/") for key in self.files):
                shutil.rmtree(path, ignore_errors=True)
        for name, content in self.before.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)

    def names(self, folder):
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {"said"}

    def learn(self, folder, start):
        """Run it once, undisturbed, and keep what its outputs hold."""
        code, err = start(folder, self)
        assert code == 0, (self.name, code, err)
        self.after = {name: (folder / name).read_bytes() for name in self.outputs}
        self.other = self.names(folder) - self.files.keys() - set(self.outputs)
        self.before = {name: content[::-1] for name, content in self.after.items()} if self.is_replaced else {}

    def fault(self, folder):
        """Return what is wrong with the outputs right after an end, None where each is whole or not there."""
        for name in self.outputs:
            path = folder / name
            content = path.read_bytes() if path.exists() else None
            if content in (self.before.get(name), self.after[name]):
                continue
            if self.command != "train":
                return f"{name} is neither the file before nor the new one"
            if why := fault_of_checkpoint(path):  # it may be of any step
                return why
        return None

    def fault_after_next(self, folder):
        """Return what is wrong after the next run, which nothing happened to."""
        for name in self.outputs:
            if (folder / name).read_bytes() != self.after[name]:
                return f"{name} has other bytes after the next run"
        strange = self.names(folder) - self.files.keys() - set(self.outputs) - self.other
        strange |= {str(path.relative_to(folder)) for path in folder.rglob(".*part*")}
        return f"left behind: {sorted(strange)}" if strange else None


def works():
    model = mix_model()
    sampling = ["m.onnx", "--n", "3", "--steps", "2", "--seed", "0"]
    for ending in ("npy", "png", "gif", "webp"):
        yield Work(
            f"run to .{ending}", "run", [*sampling, "--out", f"out/a.{ending}"], [f"out/a.{ending}"], {"m.onnx": model}
        )
    pictures = [f"out/{k:06}.png" for k in range(3)]
    yield Work("run to a folder", "run", [*sampling, "--out", "out"], pictures, {"m.onnx": model})
    for kind in ("parquet", "tar"):
        shards = [f"out/{k:05}-of-00002.{kind}" for k in range(2)]
        kept = [f"out/.records/{name}.json" for name in ("set", "00000", "00001")]
        making = ["make", *sampling, "--out", "out", "--format", kind, "--shards", "2"]
        made = [*shards, *kept, "out/manifest.json"]
        yield Work(f"run to shards of {kind}", "dataset", making, made, {"m.onnx": model}, is_replaced=False)
    one_call = ["m.onnx", "--format", "sampler", "--out", "out/m.sampler.onnx"]
    yield Work("export of a one-call file", "export", one_call, ["out/m.sampler.onnx"], {"m.onnx": model})
    exporting = ["c.pt", "--out", "out/unet.onnx"]
    yield Work("export of a checkpoint", "export", exporting, ["out/unet.onnx"], {"c.pt": checkpoint()})
    files = {"m.onnx": model, "e.onnx": extractor_file()}
    files |= {f"data/{k:02}.png": png((6, 5)) for k in range(12)}
    scoring = ["m.onnx", "--data", "data", "--extractor", "e.onnx", "--n", "12", "--batch", "4", "--json"]
    scoring += ["--steps", "2", "--cache", "cache", "--metrics"]
    yield Work("eval", "eval", [*scoring, "fid"], [], files, is_replaced=False)
    drawing = [*scoring, "fid,bits,rate", "--t-stride", "20", "--curve", "out/c.csv", "--strip", "out/s.png"]
    yield Work("eval with its curve", "eval", drawing, ["out/c.csv", "out/s.png"], files)
    files = {"t.json": json.dumps({**TOY, "steps": 6}).encode(), **{f"data/{k:02}.png": png((8, 8)) for k in range(12)}}
    training = ["--config", "t.json", "--data", "data", "--out", "out", "--device", "cpu"]
    yield Work("train", "train", training, ["out/checkpoint.pt"], files, is_replaced=False)


def start(folder, work, *, prefix=(), limit=None, env=None, keeps=True, timeout_s=120):
    """Run a work as a user starts it; return (exit code, stderr). keeps: its stdout, in its folder."""
    before = (
        f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); " if limit is not None else ""
    )
    command = [*prefix, sys.executable, "-c", before + ENTRY + CALLS[work.command], *work.arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(env or {})}
    # no bytecode: Python's own files are not this package's
    environment |= {"PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            errors="replace",
            preexec_fn=heeding_interrupts,
        )
    except subprocess.TimeoutExpired:  # it fell, and the campaign goes on
        return 124, f"not over after {timeout_s} s"
    if keeps:
        (folder / "said").write_text(done.stdout)
    return done.returncode, done.stderr


@contextmanager
def learnt(work, begin=start):
    """Yield a folder in which a work has its files, and has run once, so that it is known what its outputs hold."""
    with tempfile.TemporaryDirectory() as base:
        folder = Path(base, "work")
        folder.mkdir()
        work.fill(folder)
        work.learn(folder, begin)
        yield folder


def fault_of_next(folder, work, begin=start):
    """Run a work that nothing happens to; return what is wrong with its end or its outputs."""
    code, said = begin(folder, work)
    return f"the next run ends with {code}: {said[-300:]!r}" if code else work.fault_after_next(folder)


def told_well(code, err, kind):
    """Return what is wrong with how a command ended and what it said."""
    if "KILL" in kind:
        return None if code in (-9, 137, 0) else f"code {code}"
    allowed = {0, 130} if "INT" in kind else {0, 3, 5}
    if code not in allowed or "Traceback" in err:
        return f"code {code}: {err[-300:]!r}"
    lines = [line for line in err.splitlines() if line.startswith(("error: ", "stopped."))]
    return None if len(lines) <= 1 else f"more than a line: {err[-300:]!r}"


def indices_of(folder, work):
    """Return how often a run makes each call, at most in any of its threads."""
    log = folder.parent / "strace.log"
    work.put_before(folder)
    trace = [*STRACE, "-o", str(log), "-e", f"trace={','.join(SYSTEM_CALLS)}"]
    code, err = start(folder, work, prefix=trace)
    assert code == 0, err
    counts = {}
    for line in log.read_text(errors="replace").splitlines():
        found = re.match(r"(\d+)\s+(\w+)\(", line)
        if found:
            counts[found[2], found[1]] = counts.get((found[2], found[1]), 0) + 1
    return {call: max((n for (name, _), n in counts.items() if name == call), default=0) for call in SYSTEM_CALLS}


def inject(tally, works_, every=1):
    if shutil.which("strace") is None:
        tally.notes.append("\nWithout strace: no fault was injected.")
        return
    for work in works_:
        with learnt(work) as folder:
            counts = indices_of(folder, work)
            places = [(call, k, kind) for call, n in counts.items() for k in range(1, n + 1) for kind in KINDS]
            places += [(call, f"{k}+", "error=ENOSPC") for call, n in counts.items() for k in range(1, n + 1, 3)]
            for call, k, kind in places[::every]:
                if tally.is_over():
                    return
                work.put_before(folder)
                prefix = [*STRACE, "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:{kind}:when={k}"]
                code, err = start(folder, work, prefix=prefix)
                why = told_well(code, err, kind) or work.fault(folder)
                why = why or fault_of_next(folder, work)
                tally.count("faults", f"{work.name}: {kind.split('=')[1]}", f"{call} {k}", why)


def limit_sizes(tally, works_):
    for work in works_:
        with learnt(work) as folder:
            largest = max([len(content) for content in work.after.values()] or [4000])
            for limit in (0, 1, 100, largest // 2, largest - 1):
                if tally.is_over():
                    return
                work.put_before(folder)
                code, err = start(folder, work, limit=limit)
                why = told_well(code, err, "error") or work.fault(folder)
                why = why or fault_of_next(folder, work)
                tally.count("faults", "RLIMIT_FSIZE", f"{work.name}, {limit}", why)


def fill_disk(tally, works_):
    """Run each work on a file system that has no room for its output; needs the right to mount one."""
    for work in works_:
        with learnt(work) as folder:
            disk = folder.parent / "disk"
            disk.mkdir()
            if subprocess.run(
                ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, check=False
            ).returncode:
                tally.notes.append("\nNo tmpfs could be mounted: no disk was full.")
                return
            try:
                work.fill(disk)
                for left in (0, 4096, 8192):
                    if tally.is_over():
                        return
                    work.put_before(disk)
                    fill = disk / "fill"
                    fill.unlink(missing_ok=True)
                    free = os.statvfs(disk)
                    fill.write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - left)))
                    code, err = start(disk, work, env={"TMPDIR": "/tmp"}, keeps=False)  # there is no room there
                    why = told_well(code, err, "error") or work.fault(disk)
                    fill.unlink()
                    why = why or fault_of_next(disk, work)
                    tally.count("faults", "a full disk", f"{work.name}, {left} bytes left", why)
            finally:
                subprocess.run(["umount", disk], check=False)


def kill(tally, works_, kills, noise):
    """Kill -9 at moments spread over the time that each work takes; what is resumed ends with the same bits."""
    for command, count in kills.items():
        chosen = [work for work in works_ if work.command == command]
        if not chosen:
            continue
        forks = Forks(
            MODULES[command],
            *(["onnxruntime", "PIL.Image"] if command != "train" else []),
            *(["torch", "onnx"] if command in ("export", "train") else []),
        )

        def begin(folder, work, forks=forks):
            code, _ = forks.run(folder, MODULES[work.command], work.arguments)
            return code, (folder / "said").read_text()

        for work in chosen:
            with learnt(work, begin) as folder:
                promised = scores(folder) if command == "eval" else None
                work.put_before(folder)
                _, whole_s = forks.run(folder, MODULES[command], work.arguments)
                done, killed = 0, 0
                for _ in range(count // len(chosen)):
                    if tally.is_over():
                        break
                    if work.is_replaced or noise.random() < 0.2:
                        work.put_before(folder)
                    code, _ = forks.run(folder, MODULES[command], work.arguments, noise.uniform(0, whole_s))
                    killed += code == -9
                    done += 1
                    why = work.fault(folder)
                    if why is None and (done % 10 == 0 or command in ("export",)):
                        why = fault_of_next(folder, work, begin)
                        if why is None and command == "eval" and scores(folder) != promised:
                            why = f"scores {scores(folder)} in place of {promised}"
                    tally.count("faults", f"kill -9: {work.name}", done, why)
                tally.notes.append(f"\nkill -9, {work.name}: {killed} of {done} were killed before they ended.")
        forks.end()


def scores(folder):
    values = json.loads((folder / "said").read_text().splitlines()[-1])
    return {name: value for name, value in values.items() if "second" not in name}


def fault_of_checkpoint(path):
    from ddpm_export.errors import BadFileError
    from ddpm_export.importers.checkpoint import load_torch_file

    try:
        return None if load_torch_file(path) else "an empty checkpoint"
    except BadFileError as exc:
        return str(exc)


def run(tally, seed, *, names=None, kills=KILLS):
    made = [work for work in works() if names is None or work.name in names]
    inject(tally, made)
    limit_sizes(tally, made)
    fill_disk(tally, made)
    kill(tally, made, kills, random.Random(seed))
