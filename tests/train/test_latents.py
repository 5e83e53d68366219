"""Latent models: trained on what an autoencoder makes of pictures, resumed to the bit, exported with their stages."""

import numpy as np
import pytest
from PIL import Image

from ddpm_export.errors import BadFileError
from ddpm_export.exporting.export import export
from ddpm_export.importers.autoencoder import AutoencoderConfig
from ddpm_export.importers.checkpoint import load_torch_file, save_checkpoint
from ddpm_export.importers.load import load_checkpoint
from ddpm_export.runtimes.opening import open_model
from ddpm_export.sampling.generate import generate
from ddpm_export.scoring.datasets.folders import picture_folder
from ddpm_export.system.files import sha256_of
from train.autoencoder import Config, Training
from train.latents import open_data

pytestmark = pytest.mark.torch
LATENT = ("--set", "network.image_shape=[2,4,4]", "--set", "horizontal_flips=true")


@pytest.fixture(scope="module")
def autoencoder(toy_folder, tmp_path_factory):
    network = AutoencoderConfig((1, 8, 8), (8,), 2, groups=4)
    training = Training(Config(steps=3, network=network, batch_size=4, shift=1))
    for _ in training.train(picture_folder(toy_folder / "images", (1, 8, 8))):
        pass
    path = tmp_path_factory.mktemp("autoencoder") / "checkpoint.pt"
    save_checkpoint(path, **training.state())
    return path


def test_a_latent_model_is_trained_resumed_exported_and_sampled(run, autoencoder, tmp_path, toy_config, toy_folder):
    how = (*LATENT, "--autoencoder", autoencoder)
    code, _, err = run(*how, "--steps", 4)
    assert code == 0, err
    path = tmp_path / "out" / "checkpoint.pt"
    whole = sha256_of(path)
    path.unlink()
    assert run(*how, "--steps", 2)[0] == run(*how, "--steps", 4)[0] == 0
    assert sha256_of(path) == whole
    assert np.asarray(Image.open(path.with_name("samples.png"))).std() > 0

    checkpoint = load_checkpoint(path)
    spec = checkpoint.spec
    assert (spec.state_shape, spec.result_shape, spec.clip_x_0) == ((2, 4, 4), (1, 8, 8), None)
    export(checkpoint, tmp_path / "unet.onnx")
    images = generate(tmp_path / "unet.onnx", n=2, num_steps=3, seed=5)
    assert images.shape == (2, 8, 8, 1)

    # the encoder's states are those of the training: standardised means
    data = open_data(toy_config(network__image_shape=[2, 4, 4]), toy_folder / "images", autoencoder)
    np.testing.assert_allclose(data.states[0].mean(dim=(0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(data.states[0].std(dim=(0, 2, 3)), 1, atol=1e-5)
    pictures = np.asarray(data.images)[:3].transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
    states = data.states[:, :3].numpy()
    network, _ = open_model(tmp_path / "unet.onnx")
    np.testing.assert_allclose(network.encode(pictures), states[0], atol=1e-4)
    np.testing.assert_allclose(network.encode(pictures[..., ::-1].copy()), states[1], atol=1e-4)
    np.testing.assert_allclose(network.decode(states[0]), data.decoder("cpu")(states[0]), atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("autoencoder"), "autoencoder does not fit"),
        (lambda c: c["autoencoder"]["config"].update(widths=[8, 8]), "one from"),
        (lambda c: c["autoencoder"]["config"].update(groups=3), "multiples of groups=3"),
        (lambda c: c["autoencoder"]["config"].update(groups=True), "autoencoder.config.groups must be an integer"),
        (lambda c: c["autoencoder"]["weights"].pop("decoder.conv_in.bias"), "decoder.*conv_in.bias missing"),
    ],
)
def test_a_checkpoint_whose_autoencoder_does_not_fit_is_refused(run, autoencoder, tmp_path, change, message):
    assert run(*LATENT, "--autoencoder", autoencoder, "--steps", 1, "--set", "picture_every=0")[0] == 0
    contents = load_torch_file(tmp_path / "out" / "checkpoint.pt")
    change(contents)
    save_checkpoint(tmp_path / "other.pt", **{k: v for k, v in contents.items() if k != "format"})
    with pytest.raises(BadFileError, match=message):
        load_checkpoint(tmp_path / "other.pt")


def test_what_is_no_autoencoder_and_latents_of_another_shape_are_refused(run, autoencoder, tmp_path, toy_folder):
    code, _, err = run("--autoencoder", autoencoder)
    assert code == 2
    assert "network.image_shape must be [2, 4, 4]" in err
    code, _, err = run(*LATENT, "--autoencoder", toy_folder / "toy.json")
    assert code == 3
    assert "Traceback" not in err
    run("--steps", 1)
    code, _, err = run(*LATENT, "--autoencoder", tmp_path / "out" / "checkpoint.pt")
    assert code == 3
    assert "is no autoencoder" in err
