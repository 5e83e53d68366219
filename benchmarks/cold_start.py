"""From nothing to images, in fresh processes: wall time, processor time and peak memory.

One image of one step; with --pictures several, sampled as each --how says, beside a DDPMPipeline of --pipeline-steps.
"""

import argparse
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.report import Report, Table, parser, run
from ddpm_export.errors import EnvironmentProblem
from ddpm_export.measuring.timing import launched_in_turns, machine, spread

__all__ = ["measure"]

HERE = Path(__file__).parent
OURS, EAGER, PIPELINE = "ddpm-run", "eager PyTorch", "diffusers DDPMPipeline"
MB = 1e6


def measure(arguments: argparse.Namespace) -> Report:
    """Start each program in turn, as often as `rounds` says after one that is not counted (it fills the disk cache)."""
    conditions = machine()
    with tempfile.TemporaryDirectory() as folder:
        hows = arguments.how or ["--steps 1"]
        programs = {
            OURS if len(hows) == 1 else f"{OURS} {how}": [
                _console_script("ddpm-run"),
                arguments.model,
                *("--n", str(arguments.pictures)),
                *how.split(),
                *("--out", f"{folder}/a.npy"),
            ]
            for how in hows
        }
        first = next(iter(programs))
        if arguments.pictures == 1:
            programs[EAGER] = [sys.executable, str(HERE / "first_image/eager.py"), arguments.checkpoint]
            programs[EAGER].append(f"{folder}/b.npy")
        notes = []
        builder = [sys.executable, str(HERE / "first_image/diffusers_pipeline.py")]
        built = subprocess.run([*builder, "build", f"{folder}/pipeline"], capture_output=True, text=True, check=False)
        if built.returncode == 0:
            inputs = [str(arguments.pictures), str(arguments.pipeline_steps)]
            programs[PIPELINE] = [*builder, "run", f"{folder}/pipeline", f"{folder}/c.npy", *inputs]
            notes.append(f"diffusers: a random UNet2DModel of {int(built.stdout):,} parameters, saved beforehand.")
        else:
            reason = (built.stderr.splitlines() or ["no reason"])[-1]
            notes.append(f"diffusers does not run here: {reason[:120]}")
        # one step reads the same files as a thousand
        rehearsals = {name: [*program[:-1], "1"] for name, program in programs.items() if name == PIPELINE}
        runs = launched_in_turns(programs, arguments.rounds, rehearsals)
    rows = [[name, *_cells(runs[name], runs[first])] for name in programs]
    images = f"{arguments.pictures} images" if arguments.pictures > 1 else "one image, one step"
    columns = [images, "seconds", "processor seconds", f"times {first}'s wall time", "peak MB"]
    notes.append(
        f"Fresh processes in turn, {arguments.rounds} rounds, files in the disk cache; medians, quartiles in "
        "parentheses. Peak MB is the largest resident set of the process, in 10^6 bytes."
    )
    command = "python -m benchmarks.cold_start"
    if arguments.pictures > 1:
        command += f" --pictures {arguments.pictures}" + "".join(f" --how={how!r}" for how in hows)
        command += f" --pipeline-steps {arguments.pipeline_steps} --rounds {arguments.rounds}"
    return Report(command, conditions, [Table("Cold start", columns, rows)], notes, runs)


def _options() -> argparse.ArgumentParser:
    options = parser("From nothing to images.", rounds=7, checkpoint=True)
    options.add_argument("--pictures", type=int, default=1, help="images of a run, in one batch [%(default)s]")
    options.add_argument("--how", action="append", help="options of ddpm-run, one run each [--steps 1]")
    options.add_argument("--pipeline-steps", type=int, default=1, help="of DDPMPipeline [%(default)s]")
    return options


def _cells(results: list[dict[str, Any]], ours: list[dict[str, Any]]) -> list[str]:
    ratios = [a["seconds"] / b["seconds"] for a, b in zip(results, ours, strict=True)]
    return [
        spread([result["seconds"] for result in results]),
        f"{statistics.median(result['cpu_seconds'] for result in results):.2f}",
        spread(ratios, 1),
        f"{statistics.median(result['peak_bytes'] for result in results) / MB:.0f}",
    ]


def _console_script(name: str) -> str:
    path = Path(sysconfig.get_path("scripts")) / name
    if not path.exists():
        raise EnvironmentProblem(f"{name} is not installed. Run: pip install -e '.[cpu]'.")
    return str(path)


if __name__ == "__main__":
    run(measure, _options())
