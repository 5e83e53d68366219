"""A process that has imported the commands and forks one for each that is asked for: a kill a few milliseconds apart.

`python -m tests.campaign.forks MODULE ...` reads a JSON list (folder, module, arguments) a line; it answers with the
process's number as it starts and its exit status once it ends.
"""

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from . import ROOT


class Forks:
    """Start commands whose modules are imported already; each may be killed after a time."""

    def __init__(self, *modules):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.campaign.forks", *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "ORT_DISABLE_TELEMETRY": "1"},
        )
        self.process.stdout.readline()

    def run(self, folder, module, arguments, kill_after_s=None, number=9):
        """Return (exit code or minus a signal, seconds); what it said is in the folder's `said`."""
        print(json.dumps([str(folder), module, [str(one) for one in arguments]]), file=self.process.stdin, flush=True)
        pid, since = int(self.process.stdout.readline()), time.perf_counter()
        if kill_after_s is not None:
            time.sleep(kill_after_s)
            os.kill(pid, number)  # a child that has ended stays a zombie until it is told to be waited for
        print(file=self.process.stdin, flush=True)
        status, seconds = json.loads(self.process.stdout.readline())
        return os.waitstatus_to_exitcode(status), seconds if kill_after_s is None else time.perf_counter() - since

    def end(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def serve(modules):
    answers, nothing = os.fdopen(os.dup(1), "w"), os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 1)
    loaded = {name: importlib.import_module(name) for name in modules}
    print("ready", file=answers, flush=True)
    while line := sys.stdin.readline():
        folder, module, arguments = json.loads(line)
        since = time.perf_counter()
        pid = os.fork()
        if pid == 0:
            be(loaded.get(module) or importlib.import_module(module), folder, arguments)
        print(pid, file=answers, flush=True)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        seconds = time.perf_counter() - since
        sys.stdin.readline()
        print(json.dumps([os.waitpid(pid, 0)[1], seconds]), file=answers, flush=True)


def be(module, folder, arguments):
    code = 1
    try:
        os.chdir(folder)
        said = os.open("said", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        sys.argv = ["ddpm", *arguments]
        module.main()
    except SystemExit as end:
        code = end.code
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


if __name__ == "__main__":
    assert Path.cwd() == ROOT
    serve(sys.argv[1:])
