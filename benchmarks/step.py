"""One network evaluation: the exported file in ONNX Runtime beside what PyTorch offers, same threads, float32.

`ddpm-bench` measures the same for any file, with other engines; this one adds frozen TorchScript.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks.report import Report, Table, parser, run
from ddpm_export.measuring.steps import opened_engines, timed_steps
from ddpm_export.measuring.timing import machine, spread
from ddpm_export.system.files import sha256_of
from ddpm_export.system.processor import cores

__all__ = ["measure"]

OURS = "ONNX Runtime CPU"


def measure(arguments: argparse.Namespace) -> Report:
    """Time one step at each batch size, after the outputs agreed; rows that cannot run say why."""
    from ddpm_export.exporting.eager import CHANNELS_LAST, COMPILED, eager_calls
    from ddpm_export.importers.load import load_checkpoint

    conditions = machine()
    batches = [int(batch) for batch in arguments.batches.split(",")]
    threads = arguments.threads or cores()
    [engine], _ = opened_engines([Path(arguments.model)], ["cpu"], threads)
    checkpoint = load_checkpoint(arguments.checkpoint)
    parameters = sum(p.numel() for p in checkpoint.network.parameters())
    tables: list[Table] = []
    values: dict[str, Any] = {}
    for batch in batches:
        calls = {**eager_calls(checkpoint, batch, threads, frozen=True), OURS: engine.call(batch)}
        steps = timed_steps(calls, arguments.rounds, report=lambda what: print(what, file=sys.stderr))
        timings = steps.timings
        rows = []
        for name in steps.errors:
            against = [
                spread(timings.speed_against(name, other)) if other in steps.errors else "-"
                for other in (CHANNELS_LAST, COMPILED)
            ]
            rows.append([name, f"{timings.median_ms(name):.2f}", *against, f"{steps.errors[name]:.1e}"])
        rows.extend([name, reason, "-", "-", "-"] for name, reason in steps.failures.items())
        columns = ["one step", "ms", f"speed against {CHANNELS_LAST}", f"against {COMPILED}", "relative error"]
        tables.append(Table(f"One step, batch {batch}", columns, rows))
        values[str(batch)] = {
            "seconds": dict(timings.seconds),
            "errors": dict(steps.errors),
            "failures": dict(steps.failures),
        }
    notes = [
        f"{engine.path.name}: {parameters:,} parameters, images {engine.spec.state_shape}, SHA-256 "
        f"{sha256_of(engine.path)[:12]}; {threads} threads on both sides, float32, {arguments.rounds} rounds.",
        "Speeds are medians of the ratio within a round, quartiles in parentheses; above 1 is faster. The error is "
        "against eager.",
    ]
    return Report(f"python -m benchmarks.step --batches {arguments.batches}", conditions, tables, notes, values)


def _options() -> argparse.ArgumentParser:
    options = parser("One network evaluation beside PyTorch's.", rounds=15, checkpoint=True)
    options.add_argument("--batches", default="1,16", help="batch sizes [%(default)s]")
    options.add_argument("--threads", type=int, help="of both sides [one a core]")
    return options


if __name__ == "__main__":
    run(measure, _options())
