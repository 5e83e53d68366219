import json

import numpy as np
import pytest
from commands import run_here

from ddpm_export.importers.checkpoint import load_torch_file
from ddpm_export.model.denoiser import denoiser
from ddpm_export.model.spec_json import spec_from_json
from ddpm_export.model.steps import plan
from ddpm_export.process.noise import noise_stream
from ddpm_export.process.pixels import to_uint8
from ddpm_export.process.walk import walk
from ddpm_export.scoring.datasets.dataset import Dataset
from train import compare
from train.loop import train
from train.pictures import model_from_weights

pytestmark = pytest.mark.torch
SHAPE = (1, 28, 28)


@pytest.fixture
def checkpoint(toy_config, tmp_path):
    """A checkpoint of 28x28 images and three classes, whose weights all matter."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 28, 28, 1), dtype=np.uint8)
    dataset = Dataset("toy", pixels, np.arange(40) % 3, None, classes=("a", "b", "c"))
    network = {"network__image_shape": "[1, 28, 28]", "network__num_classes": 3}
    return train(toy_config(**network, learning_rate=0.01), dataset, tmp_path / "run", "cpu", lambda _progress: None)


def test_samples_of_a_checkpoint_do_not_depend_on_how_many_there_are(checkpoint, monkeypatch):
    monkeypatch.setattr(compare, "CHUNK", 4)
    images = compare.samples_of_checkpoint(checkpoint, 7, 3, lambda *_: None)
    assert (images.shape, images.dtype) == ((7, 28, 28, 1), np.uint8)
    contents = load_torch_file(checkpoint)
    spec = spec_from_json(contents["spec"])
    config = compare.config_from_dict(contents["config"]).network
    model = model_from_weights(config, contents["ema"], spec, "cpu", range(5, 6))  # of class 5 mod 3
    rows = plan(spec, sampler="ddim", num_steps=3)
    *_, last = walk(denoiser(model, spec), noise_stream(0, [5], SHAPE), rows)
    assert np.abs(to_uint8(last.x)[0].astype(int) - images[5]).max() <= 1


def test_facts_of_pixels():
    images = np.zeros((2, 4, 4, 1), dtype=np.uint8)
    images[0, :, 1] = 40  # in each row of one of two images: up by 40 and down again, of three steps
    assert compare.facts_of_pixels(images) == {"at_0": 28 / 32, "roughness": pytest.approx(40.0 / 3.0)}


def test_a_line_for_real_images_and_one_a_model_by_every_extractor(tmp_path, monkeypatch):
    real = np.random.default_rng(0).integers(0, 256, (300, 28, 28, 1), dtype=np.uint8)
    replaced = {
        "SUBSET": 10,
        "open_dataset": lambda *_, **__: Dataset("real", real, None, None),
        "open_extractor": lambda *_: lambda images: (images[:, 0, ::9, ::9].reshape(-1, 16),) * 2,
        "samples_of_checkpoint": lambda *_: np.zeros((20, 28, 28, 1), dtype=np.uint8),
    }
    for name, value in replaced.items():
        monkeypatch.setattr(compare, name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    options = []
    for name in ("one", "two"):
        (tmp_path / f"{name}.onnx").write_text(name)
        options += ["--extractor", tmp_path / f"{name}.onnx"]
    code, out, err = run_here(compare.main, "run/checkpoint.pt", *options, "--n", 250, "--steps", 1)
    assert code == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["model"] for row in rows] == ["the first 250 test images", "run/checkpoint.pt"]
    assert rows[1]["at_0"] == 1.0
    for extractor in ("kid_one", "kid_two"):
        assert abs(rows[0][extractor][0]) < 5.0 * rows[0][extractor][1] < rows[1][extractor][0]
