"""Timing by turns: what is compared is interleaved, rested and warm. Knows nothing of networks.

Timings drift by 2x from minute to minute, and thread pools spin for a while after a run and slow the next one in the
same process. So contenders take turns in a fresh order every round, with a pause before each turn, and reports give the
ratio within a round.
"""

import gc
import importlib.metadata
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddpm_export.errors import EnvironmentProblem
from ddpm_export.system.processor import cores

PAUSE_S = 0.15
TURN_S = 0.12  # one turn repeats its call for about this long
WARM_UP_CALLS = 8  # torch.jit.freeze profiles its first calls and compiles in the next ones
WARM_UP_S = 1.5
PACKAGES = ("numpy", "onnxruntime", "torch", "diffusers")
BUSY_LOOK_S = 1.0
FEATURES = ("avx2", "avx512f", "amx_tile", "asimd", "sve")


@dataclass(frozen=True)
class Timings:
    """Hold seconds by contender, one number a round; the same position is the same round."""

    seconds: Mapping[str, list[float]]

    def median_ms(self, name: str) -> float:
        """Return the median of a contender in milliseconds."""
        return 1e3 * statistics.median(self.seconds[name])

    def speed_against(self, name: str, other: str) -> list[float]:
        """Return, round by round, how many times as fast as `other` a contender was: above 1 is faster."""
        return [theirs / ours for ours, theirs in zip(self.seconds[name], self.seconds[other], strict=True)]


def spread(values: list[float], digits: int = 2) -> str:
    """Return the median and quartiles as text: `1.32 (1.29-1.36)`."""
    return spread_of(statistics.quantiles(values, n=4) if len(values) > 1 else values * 3, digits)


def spread_of(quartiles: list[float], digits: int = 2) -> str:
    """Return three quartiles as `spread` does."""
    low, middle, high = quartiles
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def warm_up(call: Callable[[], Any]) -> None:
    """Call at least 8 times and for at least 1.5 s, which compiles and caches."""
    until = time.perf_counter() + WARM_UP_S
    calls = 0
    while calls < WARM_UP_CALLS or time.perf_counter() < until:
        call()
        calls += 1


def interleaved(contenders: Mapping[str, Callable[[], Any]], rounds: int) -> Timings:
    """Time calls, already warm, that take turns in a fresh order every round.

    A turn is a pause, an uncounted call that wakes sleeping threads, and calls for about 0.12 s; their median counts.
    """
    order = list(contenders)
    shuffle = random.Random(0).shuffle
    seconds: dict[str, list[float]] = {name: [] for name in order}
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            shuffle(order)
            for name in order:
                time.sleep(PAUSE_S)
                seconds[name].append(_turn(contenders[name]))
    finally:
        gc.enable()
    return Timings(seconds)


def _turn(call: Callable[[], Any]) -> float:
    call()
    taken: list[float] = []
    until = time.perf_counter() + TURN_S
    while not taken or time.perf_counter() < until:
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def machine() -> dict[str, Any]:
    """Return what the numbers depend on: processor, cores, memory, versions and load; no names or paths."""
    cpu = _cpuinfo()
    flags = (cpu.get("flags") or cpu.get("Features") or "").split()
    versions = {name: entry.version for name in PACKAGES for entry in importlib.metadata.distributions(name=name)}
    return {
        "cpu": cpu.get("model name") or platform.processor() or platform.machine(),
        "cores": cores(),
        "features": [name for name in FEATURES if name in flags],
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **versions,
        "others_busy_share": _others_busy_share(),
    }


def _others_busy_share() -> float | None:
    """Return the share of all cores that other processes used in one second of our sleep, None where unknown."""
    before = _busy_and_all()
    time.sleep(BUSY_LOOK_S)
    after = _busy_and_all()
    if before is None or after is None or after[1] == before[1]:
        return None
    return round((after[0] - before[0]) / (after[1] - before[1]), 2)


def _busy_and_all() -> tuple[int, int] | None:
    try:
        fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    except (OSError, ValueError, IndexError):
        return None
    return sum(fields) - fields[3] - fields[4], sum(fields)  # all but idle and iowait


def _cpuinfo() -> dict[str, str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _memory_gib() -> int | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    except (AttributeError, ValueError, OSError):
        return None


def launched(name: str, command: list[str]) -> tuple[dict[str, Any], str]:
    """Return the seconds, cpu_seconds and peak_bytes of a command in a fresh process, and its output.

    Raises EnvironmentProblem where the command fails.
    """
    launcher = [sys.executable, "-I", "-S", str(Path(__file__).parent / "launcher.py"), *command]
    done = subprocess.run(launcher, capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    if result["exit_code"] != 0:
        raise EnvironmentProblem(
            f"{name} exited with {result['exit_code']} and {(done.stderr.splitlines() or ['no message'])[-1]!r}. "
            "Run it by hand."
        )
    return result, done.stderr


def launched_in_turns(
    programs: Mapping[str, list[str]], rounds: int, rehearsals: Mapping[str, list[str]] | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Launch each program in turn, with a rest before each; return the results of `launched`, one a round.

    An uncounted first round fills the disk cache. rehearsals: programs to launch in it instead, by name.
    """
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in programs}
    for number in range(rounds + 1):
        for name, program in programs.items():
            time.sleep(PAUSE_S)
            command = program if number > 0 else (rehearsals or {}).get(name, program)
            result = launched(name, command)[0]
            if number > 0:
                results[name].append(result)
    return results
