import copy

import numpy as np
import pytest
import torch

from ddpm_export.importers.unet import UNet
from ddpm_export.model.denoiser import denoiser
from ddpm_export.model.spec import ModelSpec
from ddpm_export.model.steps import plan
from ddpm_export.process import equations as diffusion
from ddpm_export.process.schedules import alphas_cumprod_from_betas, betas_from_name
from train.config import CHOICES
from train.loop import _Draws, _Order, _update, _update_ema
from train.losses import LOSSES, noised, shares_of_times, target

pytestmark = pytest.mark.torch


def formula(name, d):
    size = np.abs(d)
    return {"l1": size, "l2": d**2, "huber": np.where(size < 1.0, 0.5 * d**2, size - 0.5)}[name].mean()


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_their_formulas(name, rng):
    d = rng.normal(size=(4, 1, 8, 8)) * 2.0
    assert (np.abs(d) > 1.0).any()
    assert (np.abs(d) < 1.0).any()
    loss = LOSSES[name](torch.from_numpy(d), torch.zeros(d.shape, dtype=torch.float64))
    np.testing.assert_allclose(loss.item(), formula(name, d), rtol=1e-12)


def test_every_choice_of_loss_exists():
    assert tuple(LOSSES) == CHOICES["loss"]


def test_log_normal_times_have_normal_logarithms_of_sigma(toy_config):
    a = alphas_cumprod_from_betas(betas_from_name("quadratic", 1000))
    shares = shares_of_times("log_normal", {"mean": -0.5}, torch.from_numpy(a))
    shares = shares.numpy() / shares.numpy().sum()
    log_sigma = np.log((1 - a) / a) / 2
    mean = shares @ log_sigma
    assert mean == pytest.approx(-0.5, abs=0.01)
    assert np.sqrt(shares @ (log_sigma - mean) ** 2) == pytest.approx(1.2, abs=0.02)
    config = toy_config(batch_size=20_000, num_train_timesteps=1000)
    drawn = np.bincount(_Draws(config, 3, slice(None), 0, torch.from_numpy(shares)).t.numpy(), minlength=1000)
    np.testing.assert_allclose(
        np.add.reduceat(drawn / 20_000, range(0, 1000, 50)), np.add.reduceat(shares, range(0, 1000, 50)), atol=0.01
    )
    assert shares_of_times("uniform", {}, torch.from_numpy(a)) is None


@pytest.mark.parametrize("prediction", CHOICES["prediction"])
def test_a_network_that_says_its_target_denoises_perfectly(prediction, rng):
    betas = betas_from_name("linear", 100)
    spec = ModelSpec("toy", prediction, (1, 4, 4), tuple(alphas_cumprod_from_betas(betas).tolist()), clip_x_0=None)
    for step in plan(spec, num_steps=5).rows:
        x_0, eps = rng.normal(size=(2, 3, 1, 4, 4))
        a = torch.full((3, 1, 1, 1), step.a, dtype=torch.float64)
        x_t = noised(torch.from_numpy(x_0), torch.from_numpy(eps), a).numpy()
        np.testing.assert_allclose(x_t, diffusion.noised(x_0, eps, step.a), rtol=1e-12)
        options = target(prediction, torch.from_numpy(x_0), torch.from_numpy(eps), a).numpy()
        denoised = denoiser(lambda _x, _t, options=options: {prediction: options}, spec)(x_t, step)
        np.testing.assert_allclose(denoised.x_0, x_0, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(denoised.eps, eps, rtol=1e-9, atol=1e-9)


def test_ema_halves_the_distance_in_its_half_life(toy_config):
    config = toy_config(batch_size=8, ema_halflife_images=80, ema_rampup_ratio=0.1)
    network = torch.nn.Linear(5, 3)
    ema = {name: value.detach() + 1.0 for name, value in network.state_dict().items()}
    for step in range(1000, 1010):  # 10 steps of 8 images; 0.1 * 8000 images are beyond the ramp
        _update_ema(ema, network, config, step)
    for name, value in network.state_dict().items():
        np.testing.assert_allclose((ema[name] - value).numpy(), 0.5, rtol=1e-5)


def test_ema_half_life_is_a_share_of_the_images_seen_at_first(toy_config):
    config = toy_config(batch_size=8, ema_halflife_images=80_000, ema_rampup_ratio=0.5)
    network = torch.nn.Linear(5, 3)
    ema = {name: value.detach() + 1.0 for name, value in network.state_dict().items()}
    _update_ema(ema, network, config, step=4)  # a half-life of 16 images, 8 of which are one step
    np.testing.assert_allclose((ema["bias"] - network.bias.detach()).numpy(), 0.5**0.5, rtol=1e-5)


def _rate(config, step):
    network = UNet(config.network)
    optimizer = torch.optim.Adam(network.parameters(), lr=123.0)
    alphas = torch.linspace(0.99, 0.01, config.num_train_timesteps)
    draws = _Draws(config, step, slice(None), 0)
    _update(config, network, network, optimizer, torch.zeros(8, 1, 8, 8), None, draws, alphas, step, None)
    return optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 1 / 4), (2, 3 / 4), (3, 1.0), (100, 1.0), (400, 1 / 2), (1600, 1 / 4)]
)
def test_learning_rate_rises_stays_and_falls_as_the_root(step, expected, toy_config):
    config = toy_config(learning_rate=0.01, warmup_steps=4, constant_steps=100, steps=2000)
    assert _rate(config, step) == pytest.approx(0.01 * expected, rel=1e-12)


@pytest.mark.parametrize(("step", "expected"), [(60, 1.0), (80, 1.0), (90, 1 / 2), (99, 1 / 20)])
def test_learning_rate_falls_in_a_line_to_the_end_of_the_training(step, expected, toy_config):
    config = toy_config(learning_rate=0.01, warmup_steps=4, constant_steps=100, steps=100, cooldown_steps=20)
    assert _rate(config, step) == pytest.approx(0.01 * expected, rel=1e-12)


def test_an_update_clips_the_gradient(toy_config):
    config = toy_config(gradient_norm_max=1e-3, bf16="false")
    network = UNet(config.network)
    before = copy.deepcopy(network.state_dict())
    sgd = torch.optim.SGD(network.parameters(), lr=1.0)
    config_lr = toy_config(gradient_norm_max=1e-3, bf16="false", learning_rate=1, warmup_steps=0)
    alphas = torch.linspace(0.99, 0.01, config.num_train_timesteps)
    draws = _Draws(config_lr, 0, slice(None), 0)
    _update(config_lr, network, network, sgd, torch.ones(8, 1, 8, 8), None, draws, alphas, 0, None)
    moved = sum(float((value - before[name]).square().sum()) for name, value in network.state_dict().items()) ** 0.5
    assert moved == pytest.approx(1e-3, rel=1e-2)


def test_an_epoch_shows_every_image_once_and_epochs_differ():
    order = _Order(seed=3, count=43, batch_size=8, batches=5)
    epochs = [np.concatenate([order.batch(5 * epoch + i) for i in range(5)]).tolist() for epoch in range(2)]
    assert [len(set(epoch)) for epoch in epochs] == [40, 40]
    assert epochs[0] != epochs[1]
    assert _Order(3, 43, 8, 5).batch(7).tolist() == order.batch(7).tolist()  # from (seed, step) alone
