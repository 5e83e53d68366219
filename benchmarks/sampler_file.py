"""What a one-call file costs beside the Python loop over its denoiser: time of a run, size, and what loading takes."""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from benchmarks.report import Report, Table, parser, run
from ddpm_export.exporting.export import export
from ddpm_export.exporting.onnx_file import writing_model
from ddpm_export.measuring.timing import PAUSE_S, interleaved, launched, machine, spread
from ddpm_export.runtimes.opening import open_file
from ddpm_export.sampling.generate import generate

__all__ = ["measure"]

LOOP, CALL, HALF, STEPS = "Python loop", "one call", "one call, float16 storage", "slices of one step"
DENOISER, EXTERNAL = "denoiser", "one call, weights beside it"
BARE = "onnxruntime alone"
LOAD = """
import sys, time
import onnxruntime
start = time.perf_counter()
for path in sys.argv[1:]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
print(time.perf_counter() - start)
"""


def measure(arguments: argparse.Namespace) -> Report:
    """Export the one-call files of a denoiser, time them against it, and load each in processes of its own."""
    conditions = machine()
    with tempfile.TemporaryDirectory() as folder:
        files = _files(Path(arguments.model), Path(folder))
        speed, ratios = _speed(files, arguments)
        loading, loads = _loading(files, arguments.rounds)
    notes = [
        f"A run: {arguments.steps} steps, each contender after a pause and in turn; the ratio is its time over that of "
        f"the Python loop in the same round, medians of {arguments.rounds} rounds, quartiles in parentheses: below 1 "
        "is faster.",
        f"Loading: fresh processes in turn, {arguments.rounds} rounds, files in the disk cache. Peak MB is the largest "
        "resident set beyond that of a process that has only imported onnxruntime, in 10^6 bytes.",
    ]
    command = f"python -m benchmarks.sampler_file --steps {arguments.steps} --batches {arguments.batches}"
    return Report(command, conditions, [speed, loading], notes, {"ratios": ratios, "loads": loads})


def _files(model: Path, folder: Path) -> dict[str, Path]:
    files = {LOOP: model}
    for name, kind, storage in (
        (CALL, "sampler", "float32"),
        (HALF, "sampler", "float16"),
        (STEPS, "slice", "float32"),
    ):
        files[name] = export(model, folder / f"{kind}-{storage}.onnx", format=kind, storage=storage, opens="all").path
    with writing_model(onnx.load(files[CALL]), folder / "external.onnx", max_inline_bytes=0):
        pass
    return {**files, EXTERNAL: folder / "external.onnx"}


def _speed(files: dict[str, Path], arguments: argparse.Namespace) -> tuple[Table, dict[str, list[float]]]:
    opened = {name: open_file(files[name]) for name in (LOOP, CALL, HALF, STEPS)}
    rows, found = [], {}
    for n in (int(size) for size in arguments.batches.split(",")):
        for eta in (0.0, 1.0):

            def contender(name: str, n: int = n, eta: float = eta) -> Callable[[], Any]:
                settings = {"n": n, "batch": n, "num_steps": arguments.steps, "sampler": "ddim", "eta": eta, "seed": 7}
                return lambda: generate(opened[name], **settings)

            timings = interleaved({name: contender(name) for name in opened}, arguments.rounds)
            for name in opened:
                ratios = [1 / speed for speed in timings.speed_against(name, LOOP)]
                found[f"{name}, n {n}, eta {eta:g}"] = ratios
                milliseconds = f"{timings.median_ms(name) / arguments.steps:.2f}"
                rows.append([f"{name}, n {n}, eta {eta:g}", milliseconds, spread(ratios)])
    return Table("A whole run", ["", "ms a step", "time over the Python loop's"], rows), found


def _loading(files: dict[str, Path], rounds: int) -> tuple[Table, dict[str, Any]]:
    paths = {BARE: [], DENOISER: [files[LOOP]], **{name: [files[name]] for name in (CALL, EXTERNAL, HALF)}}
    loads: dict[str, list[dict[str, float]]] = {name: [] for name in paths}
    for _ in range(rounds):
        for name, path in paths.items():
            time.sleep(PAUSE_S)
            loads[name].append(_loaded(name, [sys.executable, "-c", LOAD, *map(str, path)]))
    bare = statistics.median(load["peak_bytes"] for load in loads[BARE])
    rows = []
    for name, path in paths.items():
        if name == BARE:
            continue
        size = sum(part.stat().st_size for part in path[0].parent.glob(f"{path[0].name}*"))
        peak = statistics.median(load["peak_bytes"] for load in loads[name]) - bare
        seconds = spread([load["load_s"] for load in loads[name]])
        rows.append([name, f"{size / 1e6:.2f}", seconds, f"{peak / 1e6:.1f}"])
    columns = ["file", "MB", "seconds to load", "peak MB"]
    return Table("Loading", columns, rows), loads


def _loaded(name: str, command: list[str]) -> dict[str, float]:
    result, stderr = launched(name, command)
    return {"peak_bytes": result["peak_bytes"], "load_s": float(stderr.splitlines()[-1])}


def _options() -> argparse.ArgumentParser:
    options = parser("A one-call file beside the Python loop.", rounds=5)
    options.add_argument("--batches", default="1,16", help="images a run [%(default)s]")
    options.add_argument("--steps", type=int, default=50, help="steps of a run [%(default)s]")
    return options


if __name__ == "__main__":
    run(measure, _options())
