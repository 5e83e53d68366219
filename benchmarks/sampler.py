"""What a step costs outside the network: noise, the step's arithmetic, the finiteness check, pixels."""

import argparse
import inspect
import statistics
import time
from typing import Any

from benchmarks.report import Report, Table, parser, run
from ddpm_export.measuring.timing import PAUSE_S, machine
from ddpm_export.model.spec import ModelSpec
from ddpm_export.process.equations import Array, Model
from ddpm_export.process.noise import noise_stream
from ddpm_export.process.pixels import to_uint8
from ddpm_export.process.solvers import SAMPLERS
from ddpm_export.runtimes.opening import open_model
from ddpm_export.sampling.generate import sample
from ddpm_export.sampling.request import request_for

__all__ = ["measure"]

NUM_STEPS = 20
REPEATS = 50
SEED = 0


def measure(arguments: argparse.Namespace) -> Report:
    """Run every sampler for real and split its steps into inside and outside the network."""
    conditions = machine()
    model, spec = open_model(arguments.model)
    cases: list[tuple[str, dict[str, Any]]] = []
    for name, sampler in SAMPLERS.items():
        etas = ({"eta": 0.0}, {"eta": 1.0}) if "eta" in inspect.signature(sampler).parameters else ({},)
        cases.extend((name, knobs) for knobs in etas)
    rows, values = [], []
    for batch in (int(size) for size in arguments.batches.split(",")):
        noise_s = _noise_seconds(spec, batch)
        runs: dict[int, list[dict[str, float]]] = {case: [] for case in range(len(cases))}
        _steps(model, spec, batch, cases[0][0], cases[0][1])  # warm
        for _ in range(arguments.rounds):
            for case, (name, knobs) in enumerate(cases):
                time.sleep(PAUSE_S)
                runs[case].append(_steps(model, spec, batch, name, knobs))
        for case, (name, knobs) in enumerate(cases):
            parts = {part: statistics.median(run[part] for run in runs[case]) for part in runs[case][0]}
            shares = [run["outside"] / (run["network"] + run["outside"]) for run in runs[case]]
            label = " ".join([name, *(f"eta {value:g}" for value in knobs.values())])
            rows.append(
                [
                    f"{label}, batch {batch}",
                    f"{1e3 * parts['network']:.2f}",
                    f"{1e3 * parts['outside']:.3f}",
                    f"{100 * statistics.median(shares):.1f} %",
                    f"{1e3 * noise_s:.3f}" if name == "ddpm" or knobs.get("eta") else "-",
                    f"{1e3 * parts['pixels']:.3f}",
                ]
            )
            values.append({"case": label, "batch": batch, "noise_s": noise_s, "share": shares, **parts})
    columns = ["sampler", "network ms", "outside ms", "outside / step", "noise alone ms", "pixels ms"]
    notes = [
        f"Steps of a real run of {NUM_STEPS} steps, medians of {arguments.rounds} rounds. Outside the network: noise, "
        "arithmetic and clipping, the check for finite numbers, and the conversion to uint8 as if every step were "
        "shown (a run without animation converts once). Noise alone is measured by itself, in warm caches: within a "
        "step it costs more, as the rows with and without it show."
    ]
    return Report(
        f"python -m benchmarks.sampler --batches {arguments.batches}",
        conditions,
        [Table("Outside the network, per step", columns, rows)],
        notes,
        {"cases": values},
    )


def _steps(model: Model, spec: ModelSpec, batch: int, sampler: str, knobs: dict[str, Any]) -> dict[str, float]:
    """Return seconds a step in the network, outside it, and of that in the conversion to pixels."""
    inside: list[float] = []

    def timed(x_t: Array, t: Array, **inputs: Array) -> dict[str, Array]:
        start = time.perf_counter()
        outputs = model(x_t, t, **inputs)
        inside.append(time.perf_counter() - start)
        return outputs

    settings = request_for(spec, n=batch, batch=batch, num_steps=NUM_STEPS, sampler=sampler, seed=SEED, **knobs)
    walk = sample(timed, spec, settings)
    next(walk)  # x_T and the first, cold evaluation
    inside.clear()
    whole, pixels = [], []
    start = time.perf_counter()
    for _, state in walk:
        before = time.perf_counter()
        to_uint8(state.x)
        now = time.perf_counter()
        pixels.append(now - before)
        whole.append(now - start)
        start = now
    outside = [step - network for step, network in zip(whole, inside, strict=True)]
    return {
        "network": statistics.median(inside),
        "outside": statistics.median(outside),
        "pixels": statistics.median(pixels),
    }


def _noise_seconds(spec: ModelSpec, batch: int) -> float:
    noise = noise_stream(SEED, range(batch), spec.state_shape)
    taken = []
    for draw in range(REPEATS):
        start = time.perf_counter()
        noise(draw)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def _options() -> argparse.ArgumentParser:
    options = parser("What a step costs outside the network.", rounds=5)
    options.add_argument("--batches", default="1,16", help="batch sizes [%(default)s]")
    return options


if __name__ == "__main__":
    run(measure, _options())
