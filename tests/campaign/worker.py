"""Commands within one process that has limits: started once, it runs one after another, and is replaced if it dies.

`python -m tests.campaign.worker` reads a JSON list (folder, command, arguments) a line and answers with how it ended.
"""

import contextlib
import importlib
import json
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

from . import ROOT

MAINS = {name: f"ddpm_export.cli.{name}" for name in ("run", "edit", "check", "eval", "export", "adopt", "dataset")}
MAINS["train"] = "train.cli"
ADDRESSES = 12 * 2**30
LOADED = (
    "onnx",
    "torch",
    "diffusers.models.unets.unet_2d",
    "urllib3",
    "safetensors.torch",
    "lmdb",
    "PIL.Image",
    "matplotlib.pyplot",
    "rich.table",
)
MARK = "/campaign"  # a name that nothing has: asking for it marks in strace's log where a case begins and ends


class Ending:
    """How a command ended: exit code (minus the signal's number where one ended it), what it said, what it took."""

    def __init__(self, code, out="", err="", seconds=0.0, grown_mib=0):
        self.code, self.out, self.err, self.seconds, self.grown_mib = code, out, err, seconds, grown_mib


class Worker:
    """Runs commands in a process of its own; `prefix` is a command to start it under, such as strace."""

    def __init__(self, prefix=()):
        self.prefix, self.process = list(prefix), None

    def run(self, folder, command, arguments, limit_s=60.0):
        """Return how a command ended in a folder; one that takes longer than the limit is killed: -9."""
        if self.process is None:
            env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "MPLCONFIGDIR": "/nonexistent"}
            self.process = subprocess.Popen(
                [*self.prefix, sys.executable, "-m", "tests.campaign.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                cwd=ROOT,
                env=env,
                start_new_session=True,
            )
            self.process.stdout.readline()
        self.process.stdin.write(json.dumps([str(folder), command, [str(a) for a in arguments]]) + "\n")
        self.process.stdin.flush()
        timer = threading.Timer(limit_s, self._kill)
        timer.start()
        line = self.process.stdout.readline()
        timer.cancel()
        if line:
            return Ending(**json.loads(line))
        code = self.process.wait()
        self.process = None
        return Ending(code)

    def end(self):
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait()
            self.process.stdout.close()
        self.process = None

    def _kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, 9)


def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def serve():
    from commands import run_here

    answers = os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    for name in LOADED:
        importlib.import_module(name)
    importlib.import_module("ddpm_export.runtimes.onnx")._onnxruntime()  # as the package imports it, without telemetry
    mains = {name: importlib.import_module(module).main for name, module in MAINS.items()}
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        folder, command, arguments = json.loads(line)
        os.chdir(folder)
        before, since = peak_mib(), time.process_time()
        with contextlib.suppress(OSError):
            os.stat(f"{MARK}/begin{folder}")
        ending = run_here(mains[command], *arguments)
        with contextlib.suppress(OSError):
            os.stat(f"{MARK}/end")
        told = {"code": ending.code, "out": ending.out, "err": ending.err}
        told |= {"seconds": time.process_time() - since, "grown_mib": peak_mib() - before}
        print(json.dumps(told), file=answers, flush=True)


if __name__ == "__main__":
    assert Path.cwd() == ROOT
    serve()
