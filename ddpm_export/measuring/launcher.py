"""Run a command and print its seconds and its peak memory as JSON. Imports little, and only of the standard library.

Linux counts the memory of the parent into a process's peak, so the parent must be a small program:
`python -I -S launcher.py COMMAND ...`.
"""

import json
import os
import sys
import time


def main() -> None:
    """Run the command of the arguments, and print its cost on stdout; its own output goes to stderr."""
    argv = sys.argv[1:]
    start = time.perf_counter()
    child = os.posix_spawn(argv[0], argv, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)])
    _, status, usage = os.wait4(child, 0)
    seconds = time.perf_counter() - start
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    result = {
        "exit_code": os.waitstatus_to_exitcode(status),
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * unit,
    }
    os.write(1, json.dumps(result).encode())


if __name__ == "__main__":
    main()
