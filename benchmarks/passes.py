"""What each graph pass gives: one step of a checkpoint's graph without them, beside that graph after each and all."""

import argparse
from collections.abc import Callable

import numpy as np

from benchmarks.report import CHECKPOINT, Report, Table, run
from ddpm_export.exporting.onnx import model_from_checkpoint
from ddpm_export.exporting.passes import PASSES, rewritten
from ddpm_export.exporting.program import program_from_checkpoint
from ddpm_export.importers.load import load_checkpoint
from ddpm_export.measuring.steps import inputs_at_the_middle
from ddpm_export.measuring.timing import interleaved, machine, spread, warm_up
from ddpm_export.process.equations import Array
from ddpm_export.runtimes.onnx import model_from_bytes
from ddpm_export.system.files import sha256_of
from ddpm_export.system.processor import cores

__all__ = ["measure"]

WITHOUT, ALL = "without", "all"


def measure(arguments: argparse.Namespace) -> Report:
    """Time one step of each graph at each batch size, and compare the outputs."""
    conditions = machine()
    threads = arguments.threads or cores()
    checkpoint = load_checkpoint(arguments.checkpoint)
    spec = checkpoint.spec
    source = model_from_checkpoint(checkpoint, program_from_checkpoint(checkpoint), ())
    chosen = {WITHOUT: (), **{type(entry).__name__: (entry,) for entry in PASSES}, ALL: PASSES}
    models = {
        name: model_from_bytes(rewritten(source, passes).SerializeToString(), spec, threads=threads)
        for name, passes in chosen.items()
    }
    tables, values = [], {}
    for batch in map(int, arguments.batches.split(",")):
        x_t, t, inputs = inputs_at_the_middle(spec, batch)
        calls: dict[str, Callable[[], Array]] = {
            name: lambda model=model: model(x_t, t, **inputs)[spec.prediction]  # type: ignore[misc]  # noqa: B023
            for name, model in models.items()
        }
        for call in calls.values():
            warm_up(call)
        expected = calls[WITHOUT]()
        errors = {name: float(np.abs(call() - expected).max() / np.abs(expected).max()) for name, call in calls.items()}
        timings = interleaved(calls, arguments.rounds)
        speeds = {name: spread(timings.speed_against(name, WITHOUT)) for name in calls}
        rows = [[name, f"{timings.median_ms(name):.2f}", speeds[name], f"{errors[name]:.1e}"] for name in calls]
        tables.append(Table(f"Passes, batch {batch}", ["graph", "ms", "speed", "relative error"], rows))
        values[str(batch)] = {"seconds": dict(timings.seconds), "errors": errors}
    notes = [f"SHA-256 {sha256_of(arguments.checkpoint)[:12]}; {arguments.rounds} rounds."]
    command = f"python -m benchmarks.passes --batches {arguments.batches} --threads {threads}"
    return Report(f"{command} --rounds {arguments.rounds}", conditions, tables, notes, values)


def _options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description="Each graph pass against the graph without it.")
    options.add_argument("--checkpoint", default=CHECKPOINT, help="what `ddpm-export` reads [%(default)s]")
    options.add_argument("--rounds", type=int, default=15, help="turns of each contender [%(default)s]")
    options.add_argument("--json", action="store_true", help="print the report as JSON")
    options.add_argument("--batches", default="1,16", help="batch sizes [%(default)s]")
    options.add_argument("--threads", type=int, help="of each [one a core]")
    return options


if __name__ == "__main__":
    run(measure, _options())
