"""diffusers as an oracle: the same alphas_cumprod, model, times and noise, and every step compared.

diffusers holds alphas_cumprod in float32; its schedulers get ours in float64, so that only the equations differ.
"""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytestmark = pytest.mark.torch

from diffusers import (  # noqa: E402
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    UniPCMultistepScheduler,
)
from diffusers.schedulers import scheduling_ddpm  # noqa: E402
from gaussian import gaussian_spec  # noqa: E402
from representative import representative  # noqa: E402

from ddpm_export.model.denoiser import denoiser  # noqa: E402
from ddpm_export.model.steps import plan  # noqa: E402
from ddpm_export.process.noise import noise_stream  # noqa: E402
from ddpm_export.process.rows import Plan  # noqa: E402
from ddpm_export.process.schedules import SCHEDULES, alphas_cumprod_from_betas, betas_from_name  # noqa: E402
from ddpm_export.process.solvers import SAMPLERS, Grid  # noqa: E402
from ddpm_export.process.walk import walk  # noqa: E402

T = 1000
ALPHAS_CUMPROD = alphas_cumprod_from_betas(betas_from_name("linear", T))
THEIR_SCHEDULE = {
    "linear": "linear",
    "cosine": "squaredcos_cap_v2",
    "quadratic": "scaled_linear",
    "sigmoid": "sigmoid",
}
THEIR_PREDICTION = {"eps": "epsilon", "x_0": "sample", "v": "v_prediction"}
# of one step from the same x, relative to the largest number in it: a few roundings
TOLERANCE = {np.float64: 4e-15, np.float32: 2e-6}
SHAPE = (1, 4, 4)

precisions = representative("dtype", TOLERANCE)
predictions = representative("prediction", THEIR_PREDICTION)
clips = representative("clip_x_0", [0.4, 1.0, None])


def network(prediction):
    """A smooth function that is no denoiser at all, so that clipping has work to do and no error cancels."""

    def model(x_t, t):
        return {prediction: np.sin(2 * x_t + 0.01 * t.astype(x_t.dtype).reshape(-1, 1, 1, 1))}

    return model


def configured(scheduler, prediction, clip_x_0, **others):
    ready = scheduler(
        num_train_timesteps=T,
        beta_schedule="linear",
        prediction_type=THEIR_PREDICTION[prediction],
        clip_sample=clip_x_0 is not None,
        clip_sample_range=clip_x_0 or 1.0,
        **others,
    )
    np.testing.assert_allclose(ready.alphas_cumprod.numpy(), ALPHAS_CUMPROD, rtol=2e-5)
    ready.alphas_cumprod = torch.tensor(ALPHAS_CUMPROD)
    return ready


def compare(states, their_step, noise, model, prediction, dtype):
    """Walk both; they get our x after each step, so that the error of one step is seen alone."""
    x = torch.tensor(noise(0))
    worst = 0.0
    for state in states:
        step = state.row
        predicted = model(x.numpy(), np.full(len(x), step.t))[prediction]
        theirs = their_step(torch.tensor(predicted), step, x)
        assert state.x.dtype == dtype
        # without clipping this network's x_0 grows to 1e4: an error is a share of the largest number that went in
        size = max(1.0, float(x.abs().max()), float(np.abs(state.x_0).max()))
        worst = max(worst, float(np.abs(state.x - theirs.prev_sample.numpy()).max()) / size)
        worst = max(worst, float(np.abs(state.x_0 - theirs.pred_original_sample.numpy()).max()) / size)
        x = torch.tensor(state.x)
    assert worst <= TOLERANCE[dtype]


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name in THEIR_SCHEDULE])
@pytest.mark.parametrize("num_train_timesteps", [50, 1000])
def test_betas(name, num_train_timesteps):
    theirs = DDPMScheduler(num_train_timesteps=num_train_timesteps, beta_schedule=THEIR_SCHEDULE[name])
    betas = betas_from_name(name, num_train_timesteps)
    np.testing.assert_allclose(betas, theirs.betas.numpy(), rtol=2e-6)  # float32 there
    np.testing.assert_allclose(1.0 - betas, theirs.alphas.numpy(), rtol=2e-7, atol=1e-7)
    np.testing.assert_allclose(alphas_cumprod_from_betas(betas), theirs.alphas_cumprod.numpy(), rtol=1e-4)


@precisions
@predictions
@clips
@representative("num_steps", [37, 100])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_ddpm(variance, num_steps, clip_x_0, prediction, dtype, monkeypatch):
    spec, model = gaussian_spec(ALPHAS_CUMPROD, prediction, clip_x_0, SHAPE), network(prediction)
    steps = plan(spec, sampler="ddpm", num_steps=num_steps, variance=variance)
    stream = noise_stream(4, range(2), SHAPE)

    def noise(draw):
        return stream(draw).astype(dtype)

    scheduler = configured(DDPMScheduler, prediction, clip_x_0, variance_type=variance)
    scheduler.set_timesteps(timesteps=[row.t for row in steps.rows])

    def their_step(predicted, step, x):
        # By design: we add no noise where the plan ends. diffusers asks for t > 0 instead, and adds sqrt(beta) z
        # (fixed_large) or sqrt(1e-20) z (fixed_small, clamped) after a last t above 0. It gets z = 0 there.
        z = torch.tensor(noise(step.i)) * (step.i < num_steps)
        monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *_, **__: z)
        return scheduler.step(predicted, step.t, x)

    states = walk(denoiser(model, spec), noise, steps)
    compare(states, their_step, noise, model, prediction, dtype)


@precisions
@predictions
@clips
@representative("num_steps", [8, 50])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim(eta, num_steps, clip_x_0, prediction, dtype):
    spec, model = gaussian_spec(ALPHAS_CUMPROD, prediction, clip_x_0, SHAPE), network(prediction)
    stream = noise_stream(4, range(2), SHAPE)

    def noise(draw):
        return stream(draw).astype(dtype)

    steps = plan(spec, sampler="ddim", num_steps=num_steps, eta=eta)
    # set_alpha_to_one: alphas_cumprod is 1 after the last step. num_steps divides T: diffusers steps by T // num_steps.
    scheduler = configured(DDIMScheduler, prediction, clip_x_0, set_alpha_to_one=True, timestep_spacing="trailing")
    scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    scheduler.set_timesteps(num_steps)
    assert scheduler.timesteps.tolist() == [row.t for row in steps.rows]  # its "trailing" spacing is ours

    def their_step(predicted, step, x):
        return scheduler.step(
            predicted, step.t, x, eta=eta, use_clipped_model_output=True, variance_noise=torch.tensor(noise(step.i))
        )

    states = walk(denoiser(model, spec), noise, steps)
    compare(states, their_step, noise, model, prediction, dtype)


@pytest.mark.long
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_a_whole_ddpm_trajectory(variance, monkeypatch):
    """The same without restarting: 1000 steps end at the same image."""
    spec, model = gaussian_spec(ALPHAS_CUMPROD, "eps", 1.0, SHAPE), network("eps")
    stream = noise_stream(4, range(2), SHAPE)

    def noise(draw):
        return stream(draw).astype(np.float64)

    steps = plan(spec, sampler="ddpm", num_steps=T, variance=variance)
    scheduler = configured(DDPMScheduler, "eps", 1.0, variance_type=variance)
    scheduler.set_timesteps(timesteps=[row.t for row in steps.rows])
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *_, **__: torch.tensor(noise(draw)))
    x = torch.tensor(noise(0))
    for state in walk(denoiser(model, spec), noise, steps):
        draw = state.row.i
        x = scheduler.step(torch.tensor(model(x.numpy(), np.full(2, state.row.t))["eps"]), state.row.t, x).prev_sample
    assert math.isfinite(float(x.abs().max()))
    np.testing.assert_allclose(state.x, x.numpy(), rtol=0, atol=1e-9)


numpy_of_torch = pytest.mark.filterwarnings("ignore:.*__array_wrap__:DeprecationWarning")  # what their DEIS does
DPM = {"solver_order": 2, "final_sigmas_type": "sigma_min"}  # as if it ended at the picture, "zero" lowers the order
MULTISTEP = {
    "dpmpp_2m": (DPMSolverMultistepScheduler, {**DPM, "algorithm_type": "dpmsolver++"}),
    "dpmpp_2m_sde": (DPMSolverMultistepScheduler, {**DPM, "algorithm_type": "sde-dpmsolver++"}),
    "deis": (DEISMultistepScheduler, {"solver_order": 3}),
    "unipc-2": (UniPCMultistepScheduler, {"solver_order": 2, "solver_type": "bh2"}),
    "unipc-3": (UniPCMultistepScheduler, {"solver_order": 3, "solver_type": "bh2"}),
}


def their_multistep(name, where, **others):
    """Their scheduler on our grid: rho = sqrt((1 - a) / a) is what they call sigma."""
    scheduler, options = MULTISTEP[name]
    ready = scheduler(num_train_timesteps=T, **options, **others)
    ready.num_inference_steps, ready.timesteps = len(where.t), torch.tensor(where.t)
    a = torch.tensor(where.a, dtype=torch.float64)
    ready.sigmas = ((1.0 - a) / a).sqrt()
    return ready


def walked_by_both(name, where, n, **others):
    """Yield (row, our x, theirs); they get our x after each step."""
    sampler, _, order = name.partition("-")
    rows = SAMPLERS[sampler](where, **({"order": int(order)} if order else {}))
    spec, model = gaussian_spec(ALPHAS_CUMPROD, image_shape=SHAPE), network("eps")
    noise = noise_stream(4, range(2), SHAPE)
    scheduler = their_multistep(name, where, **others)
    x = torch.tensor(noise(0).astype(np.float64))
    for state in walk(denoiser(model, spec), lambda draw: noise(draw).astype(np.float64), Plan(tuple(rows[:n]))):
        fresh = {"variance_noise": torch.tensor(noise(state.row.i).astype(np.float64))} if state.row.noise else {}
        predicted = torch.tensor(model(x.numpy(), np.full(2, state.row.t))["eps"])
        yield state.row, state.x, scheduler.step(predicted, state.row.t, x, **fresh).prev_sample.numpy()
        x = torch.tensor(state.x)


def agree(name, both):
    # their DPM-Solver rounds its state and its noise to float32
    share = 2e-6 if name.startswith("dpmpp") else 1e-11
    for row, ours, theirs in both:
        atol = share * max(1.0, np.abs(theirs).max())
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol, err_msg=str(row))


@numpy_of_torch
@pytest.mark.parametrize("name", MULTISTEP)
def test_multistep(name):
    # uneven times, and an end before the picture: to there they find NaN without lower_order_final
    t = tuple((np.linspace(31, 1, 12).round().astype(int) ** 2 + 30).tolist())
    where = Grid(t, tuple(ALPHAS_CUMPROD[[*t, 5]].tolist()))
    agree(name, walked_by_both(name, where, len(t), lower_order_final=False))


@numpy_of_torch
@pytest.mark.parametrize("name", MULTISTEP)
def test_multistep_to_the_picture(name):
    # Below 15 steps lower_order_final lowers their order before the end, from 3 to 2 in the row before the last. We
    # lower ours in the last row only, as they do from 15 steps on.
    t = (900, 700, 500, 300, 100)
    where = Grid(t, (*ALPHAS_CUMPROD[[*t]].tolist(), 1.0))
    agree(name, walked_by_both(name, where, 3 if name in ("deis", "unipc-3") else 5, lower_order_final=True))
