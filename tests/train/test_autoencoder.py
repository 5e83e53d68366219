"""Autoencoders of latents: trained and resumed to the bit; and Noto's emoji, which they are for."""

import json

import numpy as np
import pytest
import torch

from ddpm_export.errors import BadFileError, ConfigError
from ddpm_export.importers.autoencoder import AutoencoderConfig, Decoder, Encoder
from ddpm_export.scoring.datasets import emoji
from ddpm_export.scoring.datasets.folders import picture_folder
from ddpm_export.scoring.datasets.readers import open_dataset
from train.autoencoder import Config, Training, psnr

SMALL = AutoencoderConfig((1, 8, 8), (8, 8), 2, groups=4)
HOW = {"network": SMALL, "batch_size": 4, "warmup_steps": 1, "shift": 1, "adversarial_from": 2, "seed": 3}


def trained(data, steps, path=None, until=None):
    training = Training(Config(steps=steps, **HOW))
    if path is not None and path.exists():
        training.resume(path)
    losses = [found for found, _ in zip(training.train(data), range((until or steps) - training.step), strict=False)]
    return training, losses


def test_an_autoencoder_learns_and_resumes_to_the_bit(toy_folder, tmp_path):
    from ddpm_export.importers.checkpoint import save_checkpoint

    data = picture_folder(toy_folder / "images", (1, 8, 8))
    whole, losses = trained(data, 4)
    assert ["critic" in found for found in losses] == [False, False, True, True]
    path = tmp_path / "checkpoint.pt"
    part, _ = trained(data, 4, until=3)
    save_checkpoint(path, **part.state())
    resumed, _ = trained(data, 4, path)
    assert resumed.step == whole.step == 4
    for name, value in whole.ema.items():
        assert torch.equal(resumed.ema[name], value), name
    longer, losses = trained(data, 60)
    assert losses[-1]["l1"] < losses[0]["l1"]
    decibels, drawn = psnr(longer, data)
    assert drawn.shape == (40, 8, 8, 1)
    assert decibels > psnr(whole, data)[0]
    other = Training(Config(steps=4, **{**HOW, "batch_size": 2}))
    with pytest.raises(ConfigError, match="another batch_size"):
        other.resume(path)


def test_latents_are_a_power_of_two_smaller(tmp_path):
    config = AutoencoderConfig((3, 16, 32), (8, 16, 16), 4, groups=4)
    assert (config.factor, config.latent_shape) == (8, (4, 2, 4))
    mean, log_variance = Encoder(config)(torch.zeros(2, 3, 16, 32))
    assert mean.shape == log_variance.shape == (2, 4, 2, 4)
    assert Decoder(config)(mean).shape == (2, 3, 16, 32)


@pytest.mark.long
@pytest.mark.skipif(
    not (emoji.FONT.exists() and emoji.LIST.exists()), reason="needs fonts-noto-color-emoji, unicode-data"
)
def test_notos_emoji_are_drawn_once_and_held_out_with_what_looks_like_them():
    train, test = (open_dataset("noto-font", image_shape=(3, 16, 16), train=side) for side in (True, False))
    assert train.images.shape[1:] == test.images.shape[1:] == (16, 16, 3)
    assert len(train.images) > 1500
    assert len(test.images) > 100
    assert set(np.unique(train.labels)) == set(range(9))
    nearest = [np.abs(train.images.astype(int) - image).mean(axis=(1, 2, 3)).min() for image in test.images[:50]]
    assert min(nearest) > 1.0  # no picture is on both sides


def test_a_font_that_is_not_there_is_asked_for(tmp_path):
    with pytest.raises(BadFileError, match="Install fonts-noto-color-emoji"):
        open_dataset("noto-font", tmp_path, image_shape=(3, 16, 16))


@pytest.mark.parametrize("name", ["emoji-64", "emoji-128", "stanford-cars"])
def test_the_configurations_that_come_along_are_read(name):
    from train.autoencoder import CONFIGS
    from train.config import dataclass_from_dict

    config = dataclass_from_dict(Config, json.loads((CONFIGS / f"{name}.json").read_text()), "")
    assert config.network.picture_shape[0] == 3
