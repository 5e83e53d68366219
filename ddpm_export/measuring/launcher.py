"""Run a command and print its seconds and its peak memory as JSON. The standard library alone, and little of it.

Linux counts the memory of whoever starts a process into that process's peak, so a small program has to do it:
`python -I -S launcher.py COMMAND ...`.
"""

import json
import os
import sys
import time


def main() -> None:
    """Start what the arguments say, wait for its end, and tell of it on stdout, which is not the command's."""
    argv = sys.argv[1:]
    start = time.perf_counter()
    # what the command prints goes to stderr: stdout is for the numbers
    child = os.posix_spawn(argv[0], argv, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)])
    _, status, usage = os.wait4(child, 0)
    seconds = time.perf_counter() - start
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    inputs = {
        "exit_code": os.waitstatus_to_exitcode(status),
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * unit,
    }
    os.write(1, json.dumps(inputs).encode())


if __name__ == "__main__":
    main()
