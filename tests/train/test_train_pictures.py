import json

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_export.importers.checkpoint import load_torch_file
from ddpm_export.importers.unet import UNet
from ddpm_export.runtimes.torch_archive import model_from_module
from ddpm_export.system.files import sha256_of
from train.loop import spec_from_config, train
from train.pictures import draw_loss, draw_samples

pytestmark = pytest.mark.torch


def silent(_progress):
    pass


@pytest.fixture
def weights(toy_config):
    network = UNet(toy_config().network)
    return {name: value + 0.05 * torch.randn(value.shape) for name, value in network.state_dict().items()}


def test_pictures_do_not_change_a_bit_of_the_training(toy_config, toy_dataset, tmp_path):
    config = toy_config(picture_every=2, checkpoint_every=3)
    spec = spec_from_config(config, toy_dataset)
    drawn = []

    def draw(ema, step):
        drawn.append(step)
        draw_samples(tmp_path / "samples.png", config.network, ema, spec, "cpu", step)
        draw_loss(tmp_path / "loss.png", tmp_path / "with" / "log.jsonl")

    without = train(config, toy_dataset, tmp_path / "without", "cpu", silent)
    assert sha256_of(train(config, toy_dataset, tmp_path / "with", "cpu", silent, draw)) == sha256_of(without)
    assert drawn == [2, 4, 6]
    # what was drawn last are the EMA weights of the checkpoint
    ema = load_torch_file(without)["ema"]
    draw_samples(tmp_path / "again.png", config.network, ema, spec, "cpu", 6)
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "samples.png").read_bytes()


def test_samples_are_a_grid_of_sixteen_and_leave_no_trace(toy_config, toy_dataset, weights, tmp_path):
    config = toy_config()
    spec = spec_from_config(config, toy_dataset)
    before = {name: value.clone() for name, value in weights.items()}
    state = torch.get_rng_state()
    draw_samples(tmp_path / "s.png", config.network, weights, spec, "cpu", 7)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(weights[name], value) and not weights[name].requires_grad for name, value in before.items())
    with Image.open(tmp_path / "s.png") as image:
        pixels = np.asarray(image)
        assert json.loads(image.text["ddpm_export"]) == {"step": "7", "weights": "ema"}
    tiles = pixels.reshape(4, 8, 4, 8).transpose(0, 2, 1, 3).reshape(16, 64)
    assert len(np.unique(tiles, axis=0)) == 16


def test_a_network_is_a_model(toy_config, toy_dataset, weights, rng):
    spec = spec_from_config(toy_config(prediction="v"), toy_dataset)
    network = UNet(toy_config().network).eval()
    network.load_state_dict(weights)
    x_t, t = rng.normal(size=(3, 1, 8, 8)).astype(np.float32), np.array([0, 5, 19])
    (name, predicted), *rest = model_from_module(network, spec, "cpu")(x_t, t).items()
    assert (name, predicted.dtype, rest) == ("v", np.float32, [])
    expected = network(torch.from_numpy(x_t), torch.from_numpy(t)).detach()
    np.testing.assert_array_equal(predicted, expected.numpy())


def test_the_loss_is_plotted_from_the_log(tmp_path):
    log = tmp_path / "log.jsonl"
    draw_loss(tmp_path / "loss.png", log)
    log.write_text("")
    draw_loss(tmp_path / "loss.png", log)
    assert not (tmp_path / "loss.png").exists()
    log.write_text("".join(json.dumps({"step": s, "loss": 1.0 / s}) + "\n" for s in range(1, 9)))
    draw_loss(tmp_path / "loss.png", log)
    with Image.open(tmp_path / "loss.png") as image:
        assert len(np.unique(np.asarray(image.convert("L")))) > 10
