"""What a process of its own costs: on a cold start, on a step within it, and on a question to one that waits."""

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.report import Report, Table, parser, run
from ddpm_export.measuring.timing import PAUSE_S, launched_in_turns, machine, spread
from ddpm_export.sandbox.child import Worker, answer, confine

__all__ = ["be_confined", "be_free", "measure"]

STEPS = 20


def measure(arguments: argparse.Namespace) -> Report:
    """Let commands, and then processes that step, take turns, as often as `rounds` says after one not counted."""
    conditions = machine()
    with tempfile.TemporaryDirectory() as folder:
        start = "from ddpm_export.cli.start import run; run()"
        run_here = [
            sys.executable,
            "-c",
            start,
            arguments.model,
            "--n",
            "1",
            "--steps",
            "1",
            "--out",
            f"{folder}/a.npy",
        ]
        check_here = [sys.executable, "-c", "from ddpm_export.cli.check import main; main()", arguments.model]
        check_apart = [sys.executable, "-c", "from ddpm_export.cli.start import check; check()", arguments.model]
        commands = {
            "ddpm-run": run_here,
            "ddpm-run --untrusted": [*run_here, "--untrusted"],
            "ddpm-check, in this process": check_here,
            "ddpm-check": check_apart,
        }
        starts = launched_in_turns(commands, arguments.rounds)
    workers = {name: Worker(f"benchmarks.child:be_{name}", arguments.model) for name in ("free", "confined")}
    steps: dict[str, list[float]] = {name: [] for name in (*workers, "question")}
    for number in range(arguments.rounds + 1):
        for name, worker in workers.items():
            time.sleep(PAUSE_S)
            seconds = worker.ask(STEPS, timeout_s=600)
            since = time.perf_counter()
            worker.ask(0, timeout_s=600)
            if number > 0:
                steps[name].append(1e3 * seconds)
                steps["question"].append(1e3 * (time.perf_counter() - since))
    for worker in workers.values():
        worker.end()
    return Report(
        "python -m benchmarks.child",
        conditions,
        [
            Table("Cold start", ["command", "seconds", "processor seconds", "more of those"], _starts(starts)),
            Table("Within", ["what", "ms", "times as much"], _steps(steps)),
        ],
        [
            f"Fresh processes in turn, {arguments.rounds} rounds, {PAUSE_S} s of rest before each; medians, quartiles "
            f"in parentheses. A step is one of {STEPS} at batch 1, on one thread; a question asks for nothing.",
            "On a busy machine a child may be the faster one: Linux gives a new session its own share of the cores.",
        ],
        {"starts": starts, "steps": steps},
    )


def _starts(starts: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
    rows = []
    before: list[dict[str, Any]] = []
    for number, (name, results) in enumerate(starts.items()):
        pairs = zip(results, before, strict=True) if number % 2 else ()
        more = [result["cpu_seconds"] - here["cpu_seconds"] for result, here in pairs]
        processor = spread([result["cpu_seconds"] for result in results])
        seconds = spread([result["seconds"] for result in results])
        rows.append([name, seconds, processor, spread(more, 3) if more else ""])
        before = results
    return rows


def _steps(steps: dict[str, list[float]]) -> list[list[str]]:
    ratios = [a / b for a, b in zip(steps["confined"], steps["free"], strict=True)]
    return [
        ["a step, not confined (processor)", spread(steps["free"]), ""],
        ["a step, confined (processor)", spread(steps["confined"]), spread(ratios, 3)],
        ["a question and its answer", spread(steps["question"], 3), ""],
    ]


def be_confined() -> None:
    """Be a process that steps with all guards."""
    _step(fully=True)


def be_free() -> None:
    """Be the same without."""
    _step(fully=False)


def _step(fully: bool) -> None:
    model = Path(sys.argv[1])
    confine(model, timeout_s=None, fully=fully)
    from ddpm_export import denoiser, noise_stream, open_model, plan, walk

    network, spec = open_model(model, threads=1)

    def seconds_a_step(num_steps: int) -> float:
        if num_steps == 0:
            return 0.0
        noise = noise_stream(0, range(1), spec.state_shape)
        states = walk(denoiser(network, spec), noise, plan(spec, num_steps=num_steps))
        taken = [time.process_time() for _ in states]
        return statistics.median(after - before for before, after in itertools.pairwise(taken))

    answer(seconds_a_step)


if __name__ == "__main__":
    run(measure, parser("What a process of its own costs.", rounds=7))
