"""States that are no pictures in C++ and JavaScript: noise to the bit, samples and edits as Python makes them."""

import json

import numpy as np
import pytest
from shapes import NETWORKS, SHAPES

from ddpm_export import edit, generate
from ddpm_export.exporting.export import export_all
from ddpm_export.importers.checkpoint import Checkpoint
from ddpm_export.model.spec import Defaults, ModelSpec
from ddpm_export.process.noise import noise_stream

from .test_cpp import complaints, programs, run, sampled  # noqa: F401  # a fixture among them
from .test_web import needs, node

pytestmark = pytest.mark.torch
EDIT = """
import { readFileSync } from "node:fs";
import * as ort from "onnxruntime-node";
import { noiseStream, sample, toUint8 } from "./ddpm.js";
import { edit } from "./given.js";
import { openModel } from "./model.js";
const { model, spec } = await openModel(ort, new Uint8Array(readFileSync(process.argv[1])));
const { known, mask } = JSON.parse(process.argv[2]);
const bytes = Uint8Array.from(mask);
const made = await edit(model, spec, Float32Array.from(known), { seed: 4, mask: bytes });
const asked = [() => toUint8(made.x, spec.state_shape), () => edit(model, spec, bytes, { seed: 4, mask: bytes })];
asked.push(() => edit(model, spec, Float32Array.from(known), { seed: 4, measure: "grey" }));
const errors = [];
for (const one of asked) try { await one(); } catch (error) { errors.push(`${error.name} ${error.message}`); }
const noise = noiseStream(7n, [0, 1, 2], spec.state_shape)(1);
console.log(JSON.stringify({ noise: [...noise], x: [...made.x], images: made.images, errors }));
"""


@pytest.fixture(
    scope="module", params=["volume", *(pytest.param(k, marks=pytest.mark.long) for k in ("vector", "sequence"))]
)
def exported(request, tmp_path_factory):
    """Return the shape and a folder with a denoiser and its one-call file."""
    torch = pytest.importorskip("torch")
    shape, folder = SHAPES[request.param], tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    spec = ModelSpec(
        name="shape",
        prediction="eps",
        state_shape=shape,
        alphas_cumprod=tuple(np.linspace(0.99, 0.05, 40).tolist()),
        clip_x_0=2.5,
        defaults=Defaults(num_steps=6),
        requires=("shape",),
    )
    network = NETWORKS[request.param]()
    paths = {"onnx": folder / "net.onnx", "sampler": folder / "net.sampler.onnx"}
    list(export_all(Checkpoint(network.eval(), spec), paths))
    return shape, folder


def test_cpp_samples_as_python_does(programs, exported, tmp_path):  # noqa: F811
    _, folder = exported
    expected = generate(folder / "net.onnx", n=18, seed=7, eta=0.5)
    sampled(programs, folder / "net.onnx", tmp_path / "x.npy", "--n", "18", "--seed", "7", "--eta", "0.5")
    found = np.load(tmp_path / "x.npy")
    assert (found.dtype, found.shape) == (np.float32, expected.shape)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    for arguments in (["--out", "x.png"], ["--out", "x.npy", "--image", "x.png", "--strength", "0.5"]):
        done = run([programs / "ddpm_sample", folder / "net.onnx", *arguments], cwd=tmp_path)
        assert done.returncode == 2
        assert len(complaints(done)) == 1
    done = run([programs / "one_call", folder / "net.sampler.onnx", "3", "7", tmp_path / "one.npy"])
    assert done.returncode == 0, complaints(done)
    np.testing.assert_allclose(
        np.load(tmp_path / "one.npy"), generate(folder / "net.sampler.onnx", n=3, seed=7), atol=2e-5
    )


def test_node_samples_and_edits_as_python_does(exported, tmp_path):
    needs("onnxruntime-node", "fast-png")
    shape, folder = exported
    expected = generate(folder / "net.onnx", n=18, seed=7, eta=0.5)
    how = ("--n", "18", "--seed", "7", "--eta", "0.5")
    done = node("sample.js", folder / "net.onnx", *how, "--out", tmp_path / "x.npy")
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "x.npy")
    assert (found.dtype, found.shape) == (np.float32, expected.shape)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert node("sample.js", folder / "net.onnx", *how, "--out", tmp_path / "x.png").returncode == 2
    done = node("one_call.js", folder / "net.sampler.onnx", 3, 7, 0, tmp_path / "one.bin")
    assert done.returncode == 0, done.stderr
    values = np.fromfile(tmp_path / "one.bin", np.float32).reshape(3, *shape)
    np.testing.assert_allclose(values, generate(folder / "net.sampler.onnx", n=3, seed=7), atol=2e-5)

    known = noise_stream(3, range(2), shape)(1).clip(-1, 1)
    mask = np.zeros(shape, np.uint8)
    mask.reshape(-1)[: mask.size // 2] = 255
    asked = json.dumps({"known": known.ravel().tolist(), "mask": mask.ravel().tolist()})
    done = node("--input-type=module", "--eval", EDIT, folder / "net.onnx", asked)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    np.testing.assert_array_equal(np.float32(made["noise"]).reshape(3, *shape), noise_stream(7, range(3), shape)(1))
    x = np.float32(made["x"]).reshape(2, *shape)
    np.testing.assert_allclose(x, edit(folder / "net.onnx", known, mask=mask, seed=4), atol=2e-5)
    np.testing.assert_array_equal(x[:, mask == 0], known[:, mask == 0])
    assert made["images"] is None
    needed = ("UsageError This needs a model of pictures", "UsageError images must be", "UsageError measure must be")
    assert len(made["errors"]) == 3
    assert all(line.startswith(start) for line, start in zip(made["errors"], needed, strict=True))
