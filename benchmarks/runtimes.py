"""Whether one-call files give Python's images on every ONNX Runtime here: the oldest, Debian's, the newest, in JS."""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.report import Report, Table, parser, run
from ddpm_export.diffusion import Array
from ddpm_export.exporting import export
from ddpm_export.generation import generate
from ddpm_export.measuring.timing import machine

__all__ = ["measure"]

ROOT = Path(__file__).parents[1]
SEED, FIRST = 7, 5
# a sampler in one call, a slice in two: half of the steps, and the rest from the state that they left
PYTHON = """
import json, sys, numpy, onnxruntime
path, out, settings = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
eta, n, steps = numpy.array(settings.pop("eta"), numpy.float32), settings["n"], settings["steps"]
feeds = {"eta": eta, "times": numpy.zeros(0, numpy.int64)}
feeds |= {name: numpy.array(value, numpy.int64) for name, value in settings.items()}
shape = next((value.shape[1:] for value in session.get_inputs() if value.name == "x"), None)
if shape is None:
    images = session.run(["images"], feeds)[0]
else:
    del feeds["n"]
    x = numpy.zeros([n, *shape], numpy.float32)
    for begin, end in ((0, steps // 2), (steps // 2, steps)):
        feeds.update(x=x, begin=numpy.array(begin), end=numpy.array(end))
        x, images = session.run(["x_after", "images"], feeds)
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
    settings = {"seed": SEED, "first": FIRST, "n": arguments.n, "steps": arguments.steps}
    expected = {
        eta: generate(
            arguments.model, n=arguments.n, first=FIRST, seed=SEED, num_steps=arguments.steps, sampler="ddim", eta=eta
        )
        for eta in etas
    }
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("sampler", "slice"):
            path = export(arguments.model, Path(folder) / f"{kind}.onnx", format=kind).path
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


def _images(command: list[str], path: Path, settings: dict[str, float]) -> tuple[str, Array] | str:
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
