"""Hostile files: every family's cases, each refused in one line, within time and memory, with nothing written.

All of them run in one process under strace, which shows what they opened, started and reached; what may hang or crash
its process runs as a user starts it.
"""

import hashlib
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import ROOT, hostile_checkpoints, hostile_data, hostile_models, hostile_sets, sandbox
from .cases import FAMILIES
from .worker import MARK, Ending, Worker

MAX_LINE = 1000 + len("error: \n")
LIMIT_S, SLOW_S, MAX_GROWTH_MIB = 300.0, 20.0, 2500  # of wall time; of processor time, whatever else is at work
assert hostile_models
assert hostile_checkpoints
assert hostile_data
assert hostile_sets
assert sandbox

# what Python, its packages and the system read by themselves; the case's own folder is always allowed
READABLE = (
    sys.prefix,
    sys.base_prefix,
    str(ROOT),
    *filter(None, sys.path),
    "/usr/",
    "/lib",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/proc/self/",
    "/proc/meminfo",
    "/proc/cpuinfo",
    "/proc/stat",
    "/sys/",
    "/dev/null",
    "/dev/urandom",
    "/etc/mime.types",
    "/etc/ssl/",
)
STRACE = ["strace", "-f", "-qq", "--seccomp-bpf", "-y", "-s", "300", "-e"]
TRACED = "trace=open,openat,openat2,creat,stat,newfstatat,execve,execveat,socket,connect,bind,sendto"
# what starts a process of its own: the reader of LMDBs walks a database, importers.apart reads a file
OWN_PROCESSES = (("-I", "-c"), ("-c", "import json, sys; sys.path[:] = json.loads(sys.argv[1])['path']; "))
STORAGES = f"{tempfile.gettempdir()}/ddpm-checkpoint-"  # and gives its tensors here


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content) if isinstance(content, bytes) else content(path)


def state_of(folder):
    """Return what lies below a folder: by name its kind, and of files the digest."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if name.split("/")[0] == "cache":
            continue  # features of sound images are kept there, whatever else is refused
        if path.is_symlink() or not path.is_file():
            found[name] = "link" if path.is_symlink() else "folder" if path.is_dir() else "other"
        elif path.stat().st_size > 2**28:
            found[name] = f"{path.stat().st_size} bytes"
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def is_new_and_empty(name, folder):
    """Say whether a name is a folder that was made for an output and holds nothing."""
    return (folder / name).is_dir() and not any((folder / name).iterdir())


def verdict(case, ending, before, after, folder):
    """Return why a case fell, None where it held."""
    if ending.code not in case.codes:
        return f"code {ending.code}, not {sorted(case.codes)}: {ending.err[-300:]!r}"
    if ending.seconds > SLOW_S:
        return f"took {ending.seconds:.0f} s"
    if ending.grown_mib > MAX_GROWTH_MIB:
        return f"took {ending.grown_mib} MiB"
    if ending.code == 0:
        return None
    lines = [line for line in ending.err.splitlines() if line.startswith("error: ")]
    told = [
        line for line in ending.err.splitlines() if not line.startswith(("device: ", "left out: ", "broken images"))
    ]
    if len(lines) != 1 or len(told) != 1 or len(lines[0]) > MAX_LINE or not lines[0].isprintable():
        return f"not one bounded line: {ending.err[:500]!r}"
    if ending.out and ending.code != 4:  # ddpm-check shows what a file says before it says that it is not so
        return f"wrote to stdout: {ending.out[:100]!r}"
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    left = sorted(name for name in changed if not is_new_and_empty(name, folder))
    return f"left {left}" if left else None


def start_apart(case, folder):
    """Run a case as a user does, with the limits of a worker."""
    command, *arguments = case.arguments
    entry = "evaluate" if command == "eval" else command
    code = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({32 * 2**30},) * 2); "
    code += f"from ddpm_export.cli.start import {entry} as main; main()"
    since = used_s()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env=env,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        out, err = process.communicate()
    return Ending(process.returncode, out, err, used_s() - since)


def used_s():
    """Return the processor time of processes that have ended, of this process's own."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def play(case, folder, worker):
    """Return (why it fell or None, how it ended) for a case in a new folder."""
    write(folder, case.files)
    before = state_of(folder)
    command, *arguments = case.arguments
    ending = start_apart(case, folder) if case.apart else worker.run(folder, command, arguments, LIMIT_S)
    return verdict(case, ending, before, state_of(folder), folder), ending


def cases_of(seed, names=None):
    for name, family in FAMILIES.items():
        if names is None or name in names:
            for case in family(random.Random(f"{seed} {name}")):
                yield name, case


def run(tally, seed, *, names=None, every=1, only_inside=False):
    """Play the cases of all families, or of some, or one in so many; with strace where it is there."""
    chosen = (found for k, found in enumerate(cases_of(seed, names)) if k % every == 0)
    watched = 0
    base = Path(tempfile.mkdtemp(prefix="campaign"))
    log = base / "strace.log"
    traced = shutil.which("strace") is not None
    worker = Worker([*STRACE, TRACED, "-o", str(log)] if traced else [])
    names_of = {}
    with ThreadPoolExecutor(1) as pool:
        apart = []
        for number, (name, case) in enumerate(chosen):
            if only_inside and case.apart:
                continue
            folder = base / f"{number:04}"
            folder.mkdir()
            names_of[str(folder)] = name, case.name
            if case.apart:
                apart.append((name, case, folder, pool.submit(play, case, folder, None)))
                continue
            if tally.is_over():
                break
            why, ending = play(case, folder, worker)
            tally.count("files", name, case.name, why, seconds=ending.seconds)
            watched += 1
            if why is None:
                shutil.rmtree(folder)
        for name, case, folder, future in apart:
            why, ending = future.result()
            tally.count("files", name, case.name, why, seconds=ending.seconds)
            if why is None:
                shutil.rmtree(folder, ignore_errors=True)
    worker.end()
    if traced and log.exists():  # not where every case runs as a user starts it
        for folder, why in trespasses(log):
            name, case = names_of[folder]
            tally.count("files", name, case, why, times=0)
        tally.notes.append(f"\nUnder strace: {watched} cases; what they opened, started and reached is counted above.")
    else:
        tally.notes.append("\nWithout strace: nobody looked at what was opened.")
    if not tally.fallen:
        shutil.rmtree(base, ignore_errors=True)


BEGIN = re.compile(rf'"{MARK}/begin(.*?)"')
PATH = re.compile(r'"((?:[^"\\]|\\.)*)"')
DESCRIPTOR = re.compile(r"(?:AT_FDCWD|\d+)<([^>]*)>")
WRITES = ("O_WRONLY", "O_RDWR", "O_CREAT")


def trespasses(log):
    """Yield (folder, why) of every case that opened, started or reached what is none of its business."""
    folder = None
    with log.open(errors="replace") as lines:
        for line in lines:
            call = line.split(None, 1)[-1]
            if MARK in call:
                found = BEGIN.search(call)
                folder = found.group(1) if found else None if f"{MARK}/end" in call else folder
                continue
            if folder is None:
                continue
            name = call.split("(", 1)[0]
            if name in ("execve", "execveat"):
                if not any(all(f'"{part}' in call for part in parts) for parts in OWN_PROCESSES):
                    yield folder, f"started a program: {call[:200].strip()}"
            elif name in ("socket", "connect", "bind", "sendto"):
                if "AF_UNIX, SOCK" in call or "nscd/socket" in call:
                    continue  # the C library asks for the user's name
                yield folder, f"reached for the network: {call[:200].strip()}"
            elif name.startswith("open") or name == "creat":
                path = path_of(call, folder)
                if path is not None and not may_open(path, folder, any(flag in call for flag in WRITES)):
                    yield folder, f"opened {call[:200].strip()}"


def path_of(call, folder):
    found = PATH.search(call)
    if found is None:
        return None
    at = DESCRIPTOR.search(call.split(",", 1)[0])
    return os.path.normpath(os.path.join(at.group(1) if at else folder, found.group(1)))


def may_open(path, folder, to_write):
    if path == folder or path.startswith((f"{folder}/", STORAGES)):
        return True
    if to_write:
        return path in ("/dev/null",)
    return path in ("/", "/etc", "/proc", "/dev") or path.startswith(READABLE)
