"""Whether one-call files give Python's images on every ONNX Runtime here: the oldest, Debian's, the newest, in JS."""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import Report, Table, parser, run
from ddpm_export.exporting.export import export
from ddpm_export.measuring.timing import machine
from ddpm_export.model.spec import ModelSpec, guidance_for
from ddpm_export.process.equations import Array
from ddpm_export.runtimes.opening import open_model
from ddpm_export.sampling.generate import generate
from ddpm_export.sampling.request import request_for

__all__ = ["measure", "told_by_default"]

ROOT = Path(__file__).parents[1]
SEED, FIRST = 7, 5
# a sampler in one call, a slice in two: half of the steps, and the rest from the state that they left
PYTHON = """
import json, sys, numpy, onnxruntime
path, out, settings = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
n, steps = settings["n"], settings["steps"]
types = {name: numpy.float32 for name in ("eta", "guidance", "guidance_interval")}
feeds = {"times": numpy.zeros(0, numpy.int64)}
feeds |= {name: numpy.array(value, types.get(name, numpy.int64)) for name, value in settings.items()}
shapes = {value.name: value.shape for value in session.get_inputs()}
if "x" not in shapes:
    images = session.run(["images"], feeds)[0]
else:
    del feeds["n"]
    carried = [name for name in ("x", "history") if name in shapes]  # from one slice to the next
    for name in carried:
        feeds[name] = numpy.zeros([n if isinstance(size, str) else size for size in shapes[name]], numpy.float32)
    for begin, end in ((0, steps // 2), (steps // 2, steps)):
        feeds.update(begin=numpy.array(begin), end=numpy.array(end))
        images, *after = session.run(["images", *(name + "_after" for name in carried)], feeds)
        feeds.update(zip(carried, after))
numpy.save(out, images)
print(onnxruntime.__version__)
"""
PYTHONS = {
    "the oldest that is promised, Python": ROOT / ".venv-oldest" / "bin" / "python",  # make .venv-oldest
    "Debian's, Python": Path("/usr/bin/python3"),  # apt install python3-onnxruntime
    "here, Python": Path(sys.executable),
}
NODE = ROOT / "examples" / "web" / "test" / "one_call.js"  # needs make examples/web/node_modules


def measure(arguments: argparse.Namespace) -> Report:
    """Export both one-call files of a denoiser and run them on each runtime; one that is not here is named."""
    conditions = machine()
    rows, values = [], {}
    etas = (0.0, 1.0)
    settings: dict[str, Any] = {"seed": SEED, "first": FIRST, "n": arguments.n, "steps": arguments.steps}
    settings |= told_by_default(open_model(arguments.model)[1], range(FIRST, FIRST + arguments.n))
    expected = {
        eta: generate(
            arguments.model, n=arguments.n, first=FIRST, seed=SEED, num_steps=arguments.steps, sampler="ddim", eta=eta
        )
        for eta in etas
    }
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("sampler", "slice"):
            path = export(arguments.model, Path(folder) / f"{kind}.onnx", format=kind, opens="all").path
            commands = {
                **{name: [str(python), "-c", PYTHON] for name, python in PYTHONS.items()},
                "onnxruntime-node": ["node", str(NODE), "node"],
                "onnxruntime-web, WASM": ["node", str(NODE), "web"],
            }
            for name, command in commands.items():
                found = {eta: _images(command, path, {**settings, "eta": eta}) for eta in etas}
                reasons = [result for result in found.values() if isinstance(result, str)]
                version = next((result[0] for result in found.values() if not isinstance(result, str)), "")
                label = f"{name} {version}".strip()
                if reasons:
                    rows.append([label, kind, reasons[0], ""])
                    continue
                differences = [np.abs(result[1].astype(int) - expected[eta]) for eta, result in found.items()]
                largest = max(int(difference.max()) for difference in differences)
                equal = min(float((difference == 0).mean()) for difference in differences)
                rows.append([label, kind, f"{largest}", f"{equal:.3%}"])
                values[f"{label}, {kind}"] = {"largest": largest, "equal": equal}
    table = Table(
        "One-call files against the Python sampler", ["ONNX Runtime", "file", "levels apart", "equal values"], rows
    )
    notes = [
        f"{arguments.n} images from number {FIRST} on, seed {SEED}, {arguments.steps} steps, eta 0 and eta 1; the "
        "worse of both. A slice is run in pieces, each from the state that the one before left."
    ]
    return Report("python -m benchmarks.runtimes", conditions, [table], notes, values)


def told_by_default(spec: ModelSpec, numbers: range) -> dict[str, Any]:
    """Return by name what a one-call graph takes of images besides its settings, as a sampler says it: JSON values."""
    inputs: dict[str, Any] = {
        name: values.tolist() for name, values in request_for(spec, seed=SEED).inputs_of(numbers).items()
    }
    if spec.plans:
        inputs["plan"] = 0  # none of them
    if spec.takes_guidance:
        guided = guidance_for(spec)
        interval = guided.interval or (0, spec.num_train_timesteps - 1)
        inputs |= {"guidance": guided.scale, "guidance_interval": list(interval)}
    return inputs


def _images(command: list[str], path: Path, settings: dict[str, Any]) -> tuple[str, Array] | str:
    """Return (version, images uint8 (n, H, W, C)) of a runtime, or why there are none."""
    text = json.dumps(settings)
    try:
        if command[0] == "node":
            done = subprocess.run([*command, str(path), text], capture_output=True, text=True, check=True)
            seen = json.loads(done.stdout.splitlines()[-1])
            if "error" in seen:
                return str(seen["error"])
            version = json.loads(
                (NODE.parents[1] / "node_modules" / f"onnxruntime-{command[2]}" / "package.json").read_text()
            )
            return version["version"], np.array(seen["pixels"], dtype=np.uint8).reshape(seen["shape"])
        out = path.with_suffix(".npy")
        done = subprocess.run([*command, str(path), str(out), text], capture_output=True, text=True, check=True)
        return done.stdout.strip(), np.load(out)
    except FileNotFoundError:
        return "not here"
    except subprocess.CalledProcessError as exc:
        lines = exc.stderr.strip().splitlines()
        return "not here" if "ModuleNotFoundError" in exc.stderr or "ERR_MODULE" in exc.stderr else lines[-1][:80]


def _options() -> argparse.ArgumentParser:
    options = parser("One-call files on every runtime that is here.")
    options.add_argument("--n", type=int, default=16, help="images [%(default)s]")
    options.add_argument("--steps", type=int, default=50, help="steps [%(default)s]")
    return options


if __name__ == "__main__":
    run(measure, _options())
