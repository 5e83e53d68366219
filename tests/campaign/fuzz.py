"""Fuzzing with coverage guidance: Atheris for Python, libFuzzer for C++, a mutator of our own for JavaScript.

Each target has a process of its own; a mutant falls where it raises anything but this package's errors, takes longer
than 300 s or more than 4 GiB.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from . import ROOT
from .targets import TARGETS, seeds

HERE = Path(__file__).parent
RUNS = {  # mutants of the long form
    "spec": 400_000,
    "npy": 120_000,
    "external_data": 200_000,
    "archive": 40_000,
    "cifar": 80_000,
    "idx": 120_000,
    "checkpoint": 30_000,
    "safetensors": 60_000,
    "javascript": 200_000,
    "cpp": 400_000,
}
LIMITS = ["-timeout=300", "-rss_limit_mb=4096", "-max_len=65536", "-print_final_stats=1", "-verbosity=1"]


def environment():
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
    }


def play(tally, name, command, runs, minutes, cwd):
    """Run one fuzzer over a corpus, and count its mutants and what it found."""
    limit_s = min(7200.0, 60 * minutes)
    budget = [f"-max_total_time={int(limit_s)}"] if limit_s < 7200 else []
    done = subprocess.run(
        [*command, f"-runs={runs}", *budget, *LIMITS],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        errors="replace",
        timeout=limit_s + 600,
        check=False,
    )
    said = done.stdout + done.stderr
    found = re.search(r"stat::number_of_executed_units:\s*(\d+)", said)
    executed = int(found[1]) if found else 0
    why = None if done.returncode == 0 and found else f"code {done.returncode}: {said[-1500:]}"
    covered = re.findall(r"cov: (\d+)", said)
    tally.count("fuzz", name, "a mutant", why, times=max(executed, 1))
    if covered:
        tally.notes.append(f"\n{name}: {covered[-1]} edges covered.")


def python_target(tally, name, runs, seed, minutes):
    if importlib.util.find_spec("atheris") is None:
        tally.notes.append(f"\n{name}: without Atheris (pip install 'ddpm-export[fuzz]') mutants are drawn blindly.")
    with tempfile.TemporaryDirectory(dir=memory()) as base:
        corpus = Path(base, "corpus")
        corpus.mkdir()
        for k, content in enumerate(seeds(name)):
            (corpus / f"{k:05}").write_bytes(content)
        command = [
            sys.executable,
            "-m",
            "tests.campaign.targets",
            name,
            str(corpus),
            f"-seed={seed + 1}",
            f"-artifact_prefix={base}/",
        ]
        play(tally, name, command, runs, minutes, ROOT)
        keep_found(base)


def keep_found(base):
    for path in Path(base).glob("*-*"):
        if path.name.startswith(("crash-", "timeout-", "oom-", "leak-")):
            shutil.copy(path, Path(tempfile.gettempdir()) / f"campaign-{path.name}")


def memory():
    return "/dev/shm" if os.path.isdir("/dev/shm") else None


def javascript(tally, runs, seed):
    if shutil.which("node") is None:
        tally.notes.append("\nWithout node: nothing of JavaScript was tried.")
        return
    with tempfile.TemporaryDirectory() as base:
        path = Path(base, "seeds.json")
        path.write_text(
            json.dumps(
                {
                    "texts": [s.decode("latin-1") for s in seeds("spec")],
                    "files": [s.hex() for s in seeds("external_data")],
                }
            )
        )
        done = subprocess.run(
            ["node", str(HERE / "mutate.mjs"), str(path), str(runs), str(seed)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=3600,
            check=False,
        )
    why = None if done.returncode == 0 else f"code {done.returncode}: {(done.stdout + done.stderr)[-1500:]}"
    tally.count("fuzz", "javascript", "a mutant", why, times=int(done.stdout.split()[0]) if done.returncode == 0 else 1)


def cpp(tally, runs, seed, minutes):
    if shutil.which("clang++") is None:
        tally.notes.append("\nWithout clang++: nothing of C++ was tried.")
        return
    with tempfile.TemporaryDirectory(dir=memory()) as base:
        program = Path(base, "fuzz")
        flags = ["-std=c++17", "-O1", "-g", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=undefined"]
        built = subprocess.run(
            ["clang++", *flags, "-I", str(ROOT / "examples" / "cpp"), str(HERE / "fuzz.cpp"), "-o", str(program)],
            capture_output=True,
            text=True,
            check=False,
        )
        if built.returncode:
            tally.notes.append(f"\nC++: libFuzzer does not build here: {built.stderr.splitlines()[0]}")
            return
        for which, kind in (("spec", b"\0"), ("external_data", b"\1")):
            corpus = Path(base, which)
            corpus.mkdir()
            for k, content in enumerate(seeds(which)):
                (corpus / f"{k:05}").write_bytes(kind + content)
            command = [str(program), str(corpus), f"-seed={seed + 1}", f"-artifact_prefix={base}/"]
            play(tally, f"cpp, {which}", command, runs // 2, minutes, base)
        keep_found(base)


def run(tally, seed, *, names=None, runs=None):
    runs = {name: count for name, count in (runs or RUNS).items() if names is None or name in names}
    for name in TARGETS:
        if runs.get(name):
            python_target(tally, name, runs[name], seed, tally.minutes)
    if runs.get("javascript"):
        javascript(tally, runs["javascript"], seed)
    if runs.get("cpp"):
        cpp(tally, runs["cpp"], seed, tally.minutes)
