"""How many cores there are to work with, and what they can do."""

import os
import platform
from pathlib import Path

# what runtimes choose their kernels by, widest first
WIDEST = ("amx_tile", "avx512_bf16", "avx512_vnni", "avx512f", "avx2", "avx", "sve2", "sve", "asimd")


def cores() -> int:
    """Return how many cores this process may use, at least 1; a container may have fewer than the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def instructions() -> str:
    """Return the processor's architecture and, on Linux, its widest instructions."""
    try:
        inputs = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # a system other than Linux
        inputs = ""
    flags = next((line.split() for line in inputs.splitlines() if line.startswith(("flags", "Features"))), [])
    return " ".join([platform.machine() or "unknown", *[name for name in WIDEST if name in flags][:1]])
