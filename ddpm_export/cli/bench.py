"""`ddpm-bench`: what one step and the first image of exported models cost here, on every engine installed."""

import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddpm_export.cli.console import entry_point, print_json
from ddpm_export.cli.help import HELP, SAFETY, WHAT, WHERE, what, where
from ddpm_export.cli.options import Json, Threads, Trust, file_of
from ddpm_export.cli.texts import numbers_from_text
from ddpm_export.errors import EnvironmentProblem, UsageError, printable

if TYPE_CHECKING:
    from ddpm_export.measuring.steps import Engine, Steps


STARTS = 5
PLANS_A_ROUND = 12  # so that the usual rounds have a 99th percentile
MB = 1e6
RUN = "from ddpm_export.cli.start import run; run()"
EAGER_RUN = """
import sys
import numpy
import torch
from ddpm_export import generate, load_checkpoint
from ddpm_export.exporting.export import eager_model
torch.set_num_threads(int(sys.argv[3]))
checkpoint = load_checkpoint(sys.argv[1])
numpy.save(sys.argv[2], generate((eager_model(checkpoint), checkpoint.spec), n=1, num_steps=1, seed=0))
"""


EXAMPLES = {
    WHAT: "ddpm-bench exported/unet.onnx unet.int8.onnx --checkpoint exported/checkpoint.pt",
    WHERE: "ddpm-bench exported/unet.onnx --batches 1,4,16 --threads 2 --rounds 21",
    SAFETY: "ddpm-bench exported/unet.ts --trust",
    HELP: "ddpm-bench --install-completion",
}


def files_of(context: typer.Context, models: list[Path]) -> list[Path]:
    """Return the files of models that are named."""
    return [file_of(context, model) for model in models]


def bench(
    models: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL...", help="Exported models of one network, such as float32 and int8.", callback=files_of
        ),
    ],
    *,
    checkpoint: Annotated[
        Path | None, what("The checkpoint they were exported from: adds rows for PyTorch, which needs torch.")
    ] = None,
    batches: Annotated[str, where("Batch sizes, a table for each.")] = "1,16",
    threads: Threads = None,
    rounds: Annotated[int, where("Rounds for each engine, for the quartiles.", min=2)] = 9,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Time one step of exported models on every engine installed, in turns, a policy's plans, and a process's start.

    Speeds are ratios within a round, their median and quartiles, above 1 is faster: against eager PyTorch and
    torch.compile with --checkpoint, else against the first model on the CPU.

    Exit codes: 0 done, 2 usage, 3 bad file, 4 model refused, 5 environment, 130 interrupted.
    """
    from ddpm_export.measuring.steps import opened_engines, timed_plans, timed_steps
    from ddpm_export.measuring.timing import machine
    from ddpm_export.model.stages import BEFORE
    from ddpm_export.runtimes.providers import PROVIDERS
    from ddpm_export.system.processor import cores

    sizes = numbers_from_text("--batches", batches) or []
    if any(size < 1 for size in sizes):
        raise UsageError(f"--batches must all be at least 1, got {batches}.")
    if len(set(models)) < len(models):
        raise UsageError("The models must be different files.")
    conditions, threads = machine(), threads or cores()
    engines, refused = opened_engines(models, PROVIDERS, threads, trust=trust)
    names = {_name(engine, models): engine for engine in engines}
    original = None
    if checkpoint is not None:
        from ddpm_export.importers.load import load_checkpoint

        original = load_checkpoint(checkpoint)
    inputs: dict[str, Any] = {"machine": conditions, "threads": threads, "rounds": rounds, "not_here": refused}
    inputs["steps"] = {}
    for size in sizes:
        calls = {name: engine.call(size) for name, engine in names.items()}
        if original is not None:
            from ddpm_export.exporting.eager import eager_calls

            calls = {**eager_calls(original, size, threads), **calls}
        tolerances = {name: engine.tolerance for name, engine in names.items()}
        steps = timed_steps(calls, rounds, tolerances=tolerances, report=partial(_say, size))
        inputs["steps"][size] = _described(steps, names, original is not None)
    policies = {name: engine for name, engine in names.items() if BEFORE in engine.spec.stages}
    inputs["plans"] = {
        name: timed_plans(_planner(engine, threads), PLANS_A_ROUND * rounds) for name, engine in policies.items()
    }
    inputs["starts"] = _starts(names, checkpoint, threads, trust) if hasattr(os, "posix_spawn") else {}
    if as_json:
        print_json(inputs)
    else:
        _print(inputs)


def _name(engine: "Engine", models: list[Path]) -> str:
    same = sum(model.name == engine.path.name for model in models) > 1
    return f"{engine.path if same else engine.path.name}, {engine.provider}"


def _say(size: int, what: str) -> None:
    print(f"batch {size}: {what}", file=sys.stderr, flush=True)


def _described(steps: "Steps", names: dict[str, "Engine"], with_torch: bool) -> list[dict[str, Any]]:
    """Return a row for each contender: its milliseconds, and its speed against others as quartiles."""
    peers = list(names)[:1]
    if with_torch:
        from ddpm_export.exporting.eager import COMPILED, EAGER

        peers = [EAGER, COMPILED]
    rows: list[dict[str, Any]] = []
    for name, seconds in steps.timings.seconds.items():
        speeds = {
            peer: statistics.quantiles(steps.timings.speed_against(name, peer), n=4)
            for peer in peers
            if peer in steps.timings.seconds
        }
        rows.append(
            {
                "engine": name,
                "precision": names[name].precision if name in names else "float32",
                "ms": 1e3 * statistics.median(seconds),
                "speed_against": speeds,
                "error": steps.errors[name],
            }
        )
    return rows + [{"engine": name, "reason": reason} for name, reason in steps.failures.items()]


def _planner(engine: "Engine", threads: int) -> Callable[[int], Any]:
    """Return what makes plan k of a policy by the file's own steps, of an observation in the middle of its limits."""
    from ddpm_export.measuring.steps import observed_at_the_middle
    from ddpm_export.sampling.generate import generate, opened_file

    opened, given = opened_file(engine.path, engine.provider, threads), observed_at_the_middle(engine.spec)
    return lambda k: generate(opened, n=1, first=k, inputs=given)


def _starts(names: dict[str, "Engine"], checkpoint: Path | None, threads: int, trust: bool) -> dict[str, Any]:
    """Return what a fresh process costs until it has written one image of one step: seconds and peak memory."""
    import numpy as np

    from ddpm_export.measuring.steps import observed_at_the_middle
    from ddpm_export.measuring.timing import launched_in_turns

    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/image.npy"
        options = ["--n", "1", "--steps", "1", "--threads", str(threads), "--out", out, *(["--trust"] if trust else [])]
        for name, values in observed_at_the_middle(next(iter(names.values())).spec).items():
            np.save(f"{folder}/{name}.npy", values)
            options += ["--input", f"{name}={folder}/{name}.npy"]
        python = [sys.executable, "-c"]
        programs = {
            name: [*python, RUN, str(engine.path), *options, "--provider", engine.provider]
            for name, engine in names.items()
        }
        if checkpoint is not None:
            programs["eager"] = [*python, EAGER_RUN, str(checkpoint), out, str(threads)]
        try:
            results = launched_in_turns(programs, STARTS)
        except OSError as exc:
            raise EnvironmentProblem(f"Processes cannot be started: {exc.strerror}.") from exc
    return {
        name: {
            "seconds": statistics.quantiles([run["seconds"] for run in runs], n=4),
            "peak_bytes": int(statistics.median(run["peak_bytes"] for run in runs)),
        }
        for name, runs in results.items()
    }


def _print(inputs: dict[str, Any]) -> None:
    from ddpm_export.measuring.timing import spread_of

    machine = inputs["machine"]
    versions = ", ".join(f"{name} {machine[name]}" for name in ("onnxruntime", "torch") if name in machine)
    typer.echo(f"{machine['cpu']} ({', '.join(machine['features'])}), {inputs['threads']} threads; {versions}.")
    if machine["others_busy_share"] is not None and machine["others_busy_share"] >= 0.1:
        typer.echo(f"Not idle: other processes used {machine['others_busy_share']:.0%} of the cores.")
    for size, rows in inputs["steps"].items():
        peers = list(dict.fromkeys(peer for row in rows for peer in row.get("speed_against", ())))
        cells = [["engine", "precision", "ms", *(f"against {peer}" for peer in peers), "error"]]
        for row in rows:
            if "reason" in row:
                cells.append([row["engine"], row["reason"]])
                continue
            speeds = [spread_of(row["speed_against"][peer]) for peer in peers]
            cells.append([row["engine"], row["precision"], f"{row['ms']:.2f}", *speeds, f"{row['error']:.1e}"])
        _table(f"One step, batch {size}", cells)
    if inputs["plans"]:
        cells = [["engine", "plans a second", "ms", "99th percentile"]]
        cells += [
            [name, f"{plan['per_second']:.1f}", f"{plan['ms']:.2f}", f"{plan['ms_99']:.2f}"]
            for name, plan in inputs["plans"].items()
        ]
        _table("A plan of one observation, by the file's own steps", cells)
    if inputs["starts"]:
        cells = [["engine", "seconds", "peak MB"]]
        cells += [
            [name, spread_of(start["seconds"]), f"{start['peak_bytes'] / MB:.0f}"]
            for name, start in inputs["starts"].items()
        ]
        _table("From a fresh process to one image of one step", cells)
    if inputs["not_here"]:
        typer.echo("\nNot available here:")
        for name, reason in inputs["not_here"].items():
            typer.echo(f"  {name}: {printable(reason)}")


def _table(title: str, rows: list[list[str]]) -> None:
    typer.echo(f"\n{title}")
    # a reason may be longer than its column
    widths = [max(len(row[k]) for row in rows if len(row) == len(rows[0]) or k == 0) for k in range(len(rows[0]))]
    for row in rows:
        line = "  ".join(printable(cell).ljust(width) for cell, width in zip(row, widths, strict=False))
        typer.echo(f"  {line.rstrip()}")


main = entry_point(bench, EXAMPLES)
