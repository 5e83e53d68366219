"""Rights that a process gives up for good: by Landlock files, by seccomp system calls, where Linux has them.

By ctypes, as no package is needed for a dozen calls.
"""

import ctypes
import os
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from ddpm_export.sandbox.calls import filter_for

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 1, 38, 22, 2
SIGKILL = 9

# linux/landlock.h; its system calls have the same numbers on every processor
CREATE_RULESET, ADD_RULE, RESTRICT_SELF, CREATE_RULESET_VERSION, RULE_PATH_BENEATH = 444, 445, 446, 1, 1
RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # how many rights to files a version knows; from 5 on there are 16
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE, MAKE_DIR, MAKE_REG, TRUNCATE = (
    1 << bit for bit in (0, 1, 2, 3, 4, 5, 7, 8, 14)
)
READ = READ_FILE | READ_DIR
WRITE = READ | WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | TRUNCATE
OF_A_FILE = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE
# what libraries, Python and ONNX Runtime read besides the folders of sys.path; of /proc nothing of other processes
SYSTEM = (
    *("/usr", "/lib", "/lib64", "/opt", "/nix/store", "/gnu/store", "/etc/ld.so.cache", "/etc/localtime"),
    *("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/sys/vm", "/sys/fs/cgroup"),
    *("/sys/devices/system", "/dev/null", "/dev/urandom"),
)


def end_with_parent(parent: int) -> None:
    """Let the kernel kill this process when the thread that started it ends; at once if the parent is gone already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def no_other_files(readable: Iterable[Path], writable: Iterable[Path]) -> str | None:
    """Give up every file but those at or below these places, what libraries need, and what is open already.

    Return by what, or None where the system has nothing of the kind. With it go TCP, and signals and sockets of other
    processes where this version of Landlock knows them. Threads that run already keep their rights.
    """
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), CREATE_RULESET_VERSION)
    if version < 1:
        return None
    handled = (1 << RIGHTS.get(version, 16)) - 1
    # files; from 4 on TCP; from 6 on signals and abstract sockets
    fields = [handled] + [3] * (version >= 4) + [3] * (version >= 6)
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    rules = libc.syscall(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    if rules < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset")
    try:
        for place, rights in [*((place, READ) for place in readable), *((place, WRITE) for place in writable)]:
            try:
                below = os.open(place, os.O_PATH | os.O_CLOEXEC)
            except OSError:
                continue  # what is not there needs no rule
            allowed = rights & handled & (-1 if place.is_dir() else OF_A_FILE)
            if libc.syscall(ADD_RULE, rules, RULE_PATH_BENEATH, struct.pack("=Qi", allowed, below), 0):
                raise OSError(ctypes.get_errno(), "landlock_add_rule")
            os.close(below)
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if libc.syscall(RESTRICT_SELF, rules, 0):
            raise OSError(ctypes.get_errno(), "landlock_restrict_self")
    finally:
        os.close(rules)
    return f"Landlock {version}"


def libraries() -> Iterator[Path]:
    """Return where Python, its packages and the system's libraries lie."""
    searched = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    for place in (*SYSTEM, sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path, *searched):
        if place:
            yield Path(place)


def no_other_calls() -> str | None:
    """Give up every system call but those of `calls.py`: threads may still be started, processes and sockets not.

    Return by what, or None where the system has nothing of the kind.
    """
    machine = os.uname().machine if sys.platform == "linux" and sys.maxsize > 2**32 else ""
    steps = filter_for(machine, os.getpid())
    if steps is None:
        return None
    code = ctypes.create_string_buffer(steps)
    filtering = struct.pack("@HP", len(steps) // 8, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filtering, 0, 0):
        return None  # a container may forbid it
    return "seccomp"
