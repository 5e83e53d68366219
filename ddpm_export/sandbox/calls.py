"""The system calls that a confined process may make, as a filter of seccomp: deny by default, by number and argument.

Each call is written name/number on x86-64/number on ARM64, with `-` where that processor has none. A number from 424
on is the same everywhere. Measured with `strace -f` of ONNX Runtime 1.20 to 1.32, NumPy, Pillow and torch's reader.
"""

import struct
from collections.abc import Iterator, Sequence

# linux/audit.h: by the name of uname, and the column of the tables below
ARCHITECTURES = {"x86_64": (0xC000003E, 1), "aarch64": (0xC00000B7, 2)}

ALWAYS = (
    # what is open, and files as far as Landlock allows them
    "read/0/63 readv/19/65 pread64/17/67 write/1/64 writev/20/66 pwrite64/18/68 lseek/8/62 close/3/57 dup/32/23",
    "open/2/- openat/257/56 access/21/- faccessat/269/48 faccessat2/439/439 readlink/89/- readlinkat/267/78",
    "stat/4/- lstat/6/- fstat/5/80 newfstatat/262/79 statx/332/291 getdents64/217/61 getcwd/79/17",
    # pictures: written beside, synced, renamed
    "mkdir/83/- mkdirat/258/34 rmdir/84/- unlink/87/- unlinkat/263/35 rename/82/- renameat/264/38 ftruncate/77/46",
    "fsync/74/82 flock/73/32 umask/95/166",
    # memory
    "mmap/9/222 mprotect/10/226 munmap/11/215 mremap/25/216 brk/12/214 madvise/28/233",
    # threads, and the registers that they may use: AMX has to be asked for
    "futex/202/98 set_robust_list/273/99 set_tid_address/218/96 rseq/334/293 gettid/186/178 sched_yield/24/124",
    "exit/60/93 exit_group/231/94 arch_prctl/158/- getcpu/309/168",
    # signals that this process handles
    "rt_sigaction/13/134 rt_sigprocmask/14/135 rt_sigreturn/15/139 sigaltstack/131/132 restart_syscall/219/128",
    # time, and waiting: Python 3.10 sleeps by select
    "clock_gettime/228/113 clock_getres/229/114 clock_nanosleep/230/115 nanosleep/35/101 gettimeofday/96/169",
    "time/201/- select/23/- pselect6/270/72 poll/7/- ppoll/271/73",
    # what the machine and this process are
    "getrandom/318/278 uname/63/160 sysinfo/99/179 getrusage/98/165 getrlimit/97/163 getpid/39/172",
    "getuid/102/174 geteuid/107/175 getgid/104/176 getegid/108/177",
)
# linux/prctl.h: names of threads and of memory, sizes of vectors on ARM64
PRCTL = (15, 16, 0x53564D41, 51, 64)  # PR_SET_NAME, PR_GET_NAME, PR_SET_VMA, PR_SVE_GET_VL, PR_SME_GET_VL
FCNTL = (*range(8), 1030)  # F_DUPFD to F_SETLKW, F_DUPFD_CLOEXEC; none that makes a file send signals
IOCTL = (0x5401, 0x802C542A, 0x5413, 0x5450, 0x5451)  # TCGETS, TCGETS2, TIOCGWINSZ, FIONCLEX, FIOCLEX; no TIOCSTI
CLONE, CLONE_THREAD, CLONE_BY_LIBRARIES = "clone/56/220", 0x10000, 0x7D0F00  # flags of the C libraries for a thread
SHARED_NUMBERS = 424  # what is newer than these answers ENOSYS, and the C library falls back to an older call

ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
LOAD, EQUAL, AT_LEAST, HAS_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in what a filter is given

Step = tuple[int, int, int, int]  # operation, steps to skip where it holds and where not, operand


def filter_for(machine: str, pid: int) -> bytes | None:
    """Return the filter for a process, as linux/filter.h has it; None for a processor that the tables lack."""
    if machine not in ARCHITECTURES:
        return None
    architecture, column = ARCHITECTURES[machine]
    program: list[Step] = [(LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, architecture), (RETURN, 0, 0, KILL)]
    program.append((LOAD, 0, 0, NUMBER))
    for call, answer in _answers(pid):
        number = call.split("/")[column]
        if number != "-":
            program += [(EQUAL, 0, len(answer), int(number)), *answer]
    program += [(AT_LEAST, 0, 1, SHARED_NUMBERS), (RETURN, 0, 0, ENOSYS), (RETURN, 0, 0, EPERM)]
    return b"".join(struct.pack("=HBBI", *step) for step in program)


def _answers(pid: int) -> Iterator[tuple[str, list[Step]]]:
    """Yield each call with the steps that answer it; arguments are words of 32 bits, two for each."""
    for call in " ".join(ALWAYS).split():
        yield call, [(RETURN, 0, 0, ALLOW)]
    yield "prctl/157/167", _where((0, PRCTL))
    yield "fcntl/72/25", _where((2, FCNTL))
    yield "ioctl/16/29", _where((2, IOCTL))
    yield "kill/62/129", _where((0, [pid]))
    yield "tgkill/234/131", _where((0, [pid]))
    yield "prlimit64/302/261", _where((0, [0, pid]), (4, [0]), (5, [0]))  # reading its own: no new limit
    yield "sched_setaffinity/203/122", _where((0, [0, pid]))
    # of other threads: pthread_getattr_np fails for any other error
    yield "sched_getaffinity/204/123", _where((0, [0, pid]), otherwise=ENOSYS)
    foreign, flags = 0xFFFFFFFF & ~CLONE_BY_LIBRARIES, (LOAD, 0, 0, ARGUMENTS)
    deny = (RETURN, 0, 0, EPERM)
    yield CLONE, [flags, (HAS_BIT, 0, 1, foreign), deny, (HAS_BIT, 1, 0, CLONE_THREAD), deny, (RETURN, 0, 0, ALLOW)]


def _where(*conditions: tuple[int, Sequence[int]], otherwise: int = EPERM) -> list[Step]:
    """Return steps that allow a call if each of these words of its arguments has one of the values beside it."""
    steps: list[Step] = []
    for word, values in conditions:
        steps.append((LOAD, 0, 0, ARGUMENTS + 4 * word))
        steps += [(EQUAL, len(values) - k, 0, value) for k, value in enumerate(values)]
        steps.append((RETURN, 0, 0, otherwise))
    return [*steps, (RETURN, 0, 0, ALLOW)]
