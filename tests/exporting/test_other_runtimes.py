"""One-call files give Python's images on the oldest ONNX Runtime that is promised, and on Debian's."""

import json
import subprocess
import sys

import numpy as np
import pytest
from models import COLOUR, tiny_spec, told_model
from representative import representative

from benchmarks.runtimes import PYTHON, PYTHONS, ROOT, told_by_default
from ddpm_export import generate, open_model
from ddpm_export.model.inputs import Input
from ddpm_export.process.rows import Plan, Row
from ddpm_export.runtimes.one_call import inputs_of

HOW = {
    "the oldest that is promised, Python": ("make .venv-oldest", "1.16.3"),
    "Debian's, Python": ("apt install python3-onnxruntime", ""),
}
SETTINGS = {"seed": 2**63 - 1, "first": 2**32 - 2, "n": 2, "steps": 3}
UNET = ROOT / "exported" / "unet.onnx"


def _skip_without(runtime):
    python = PYTHONS[runtime]
    if not python.exists() or subprocess.run([python, "-c", "import onnxruntime"], check=False).returncode != 0:
        pytest.skip(f"no ONNX Runtime, {runtime}: {HOW[runtime][0]}")


@pytest.mark.torch  # for its time
@representative("kind", ["sampler", "slice"])
@pytest.mark.parametrize("runtime", HOW)
def test_the_images_are_pythons(runtime, kind, shipped_exports, tmp_path):
    version = HOW[runtime][1]
    _skip_without(runtime)
    out = tmp_path / "images.npy"
    numbers = range(SETTINGS["first"], SETTINGS["first"] + SETTINGS["n"])
    settings = {**SETTINGS, "eta": 0.5, **told_by_default(open_model(UNET)[1], numbers)}
    command = [PYTHONS[runtime], "-c", PYTHON, shipped_exports / f"unet.{kind}.onnx", out, json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(version)
    expected = generate(UNET, n=2, seed=2**63 - 1, first=2**32 - 2, num_steps=3, sampler="ddim", eta=0.5)
    assert np.abs(np.load(out).astype(int) - expected.astype(int)).max() <= 1


ALL_OUTPUTS = """
import sys, numpy, onnxruntime
path, feeds, out = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
names = [value.name for value in session.get_outputs()]
numpy.savez(out, **dict(zip(names, session.run(names, dict(numpy.load(feeds))))))
"""


@representative("kind", ["sampler", "slice", "edit"])
@pytest.mark.parametrize("runtime", HOW)
def test_plans_times_and_inputs_run_there_too(runtime, kind, tmp_path):
    _skip_without(runtime)
    onnx = pytest.importorskip("onnx")
    from ddpm_export.exporting.from_denoiser import BUILDERS
    from ddpm_export.exporting.sampler import spec_of_graph

    own = Plan((Row(1, 30, 0.3, (0.5,), (0.7,), (0.2,)), Row(2, 20, 0.5, (0.9, -0.1), (0.3,))), 1.5)
    asked = (
        Input("y", "label", (), 2, ("cat", "dog")),
        Input("text", "vector", (3,)),
        Input("x_0_prev", "previous", COLOUR),
    )
    spec = tiny_spec(COLOUR, inputs=asked, requires=("inputs",), plans={"own": own})
    onnx.save(
        BUILDERS[kind](onnx.ModelProto.FromString(told_model(spec)), spec_of_graph(spec, kind)), tmp_path / "m.onnx"
    )
    shape = (2, *COLOUR)
    of_plan, of_times = {"steps": 2, "plan": 1, "times": []}, {"steps": 3, "plan": 0, "times": [30, 9, 1]}
    for how in ({**of_plan, "guidance": 1.0}, {**of_times, "guidance": 2.5}):
        values = {"seed": 5, "first": 3, "n": 2, "eta": 0.5, **how, "y": [2, 0], "text": np.ones((2, 3)), "begin": 0}
        values |= {
            "guidance_interval": [5, 1e9],
            "end": 2,
            "x": np.zeros(shape),
            "x_0_prev": np.zeros(shape),
            "history": np.zeros((2, *shape)),
            "image": np.zeros(shape),
            "mask": np.arange(96).reshape(shape) % 3 / 2,
            "strength": 0.0 if how["plan"] else 0.6,
        }
        taken = inputs_of(spec_of_graph(spec, kind))
        np.savez(tmp_path / "feeds.npz", **{name: np.asarray(values[name], taken[name][0]) for name in taken})
        found = []
        for python in (PYTHONS[runtime], sys.executable):
            command = [python, "-c", ALL_OUTPUTS, tmp_path / "m.onnx", tmp_path / "feeds.npz", tmp_path / "out.npz"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            found.append(dict(np.load(tmp_path / "out.npz")))
        assert set(found[0]) == set(found[1])
        for name in found[0]:
            np.testing.assert_allclose(
                found[0][name] * 1.0, found[1][name], rtol=0, atol=1 if name == "images" else 1e-5
            )
