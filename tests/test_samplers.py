import collections
import inspect
import math

import numpy as np
import pytest
from gaussian import flow, gaussian_model, gaussian_spec

from ddpm_export.diffusion import Step, denoiser, trajectory
from ddpm_export.errors import UsageError
from ddpm_export.noise import noise_stream
from ddpm_export.samplers import SAMPLERS, ddim, ddpm
from ddpm_export.schedules import SCHEDULES, alphas_cumprod_from_betas, betas_from_name

T = 1000
MEAN, STD = 0.3, 0.5
BETAS = betas_from_name("linear", T)
ALPHAS_CUMPROD = alphas_cumprod_from_betas(BETAS)
SPEC = gaussian_spec(ALPHAS_CUMPROD)
SHAPE = SPEC.image_shape
# A new entry of SAMPLERS is tested as it stands; its knobs, once they are listed here.
KNOBS = {
    "ddim": [{}, {"eta": 0.5}, {"eta": 1.0}],
    "ddpm": [{}, {"variance": "fixed_large"}, {"variance": "learned"}],
}
CASES = [pytest.param(name, knobs, id=f"{name}-{knobs}") for name in SAMPLERS for knobs in KNOBS.get(name, [{}])]
every_sampler = pytest.mark.parametrize(("name", "knobs"), CASES)


def gaussian_denoiser(spec=SPEC, fraction=0.3, model=None):
    """The best denoiser for Gaussian data, which has learned a variance besides."""
    denoise = denoiser(model or gaussian_model(spec.alphas_cumprod, MEAN, STD, spec.prediction), spec)
    return lambda x_t, step: denoise(x_t, step)._replace(variance_fraction=np.full_like(x_t, fraction))


def noise64(images, seed=1, shape=SHAPE):
    noise = noise_stream(seed, range(images), shape)
    return lambda draw: noise(draw).astype(np.float64)


def last(states):
    return collections.deque(states, maxlen=1)[0]


def moments(name, knobs, num_steps, alphas_cumprod=ALPHAS_CUMPROD):
    """Mean and standard deviation of the samples, exactly: with a Gaussian model a sampler is affine in its noise.

    Image k of the batch has draw k = 1 and all others 0, and the last has none at all.
    """

    def noise(draw):
        return np.eye(num_steps + 2)[draw].reshape(-1, 1, 1, 1)

    spec = gaussian_spec(alphas_cumprod)
    x = last(SAMPLERS[name](gaussian_denoiser(spec), noise, trajectory(spec, num_steps), **knobs)).x.ravel()
    return x[-1], math.sqrt(np.square(x[:-1] - x[-1]).sum())


@pytest.mark.parametrize("schedule", SCHEDULES)
@every_sampler
def test_samples_have_the_datas_mean_and_deviation(name, knobs, schedule):
    alphas_cumprod = alphas_cumprod_from_betas(betas_from_name(schedule, T))
    mean, std = moments(name, knobs, T, alphas_cumprod)
    # x_T starts at mean 0 and not at sqrt(a_T) MEAN: that much may be left
    assert abs(mean - MEAN) < 1e-9 + math.sqrt(alphas_cumprod[-1]) * MEAN
    assert abs(std - STD) < 0.005
    assert abs(std - STD) < 0.25 * abs(moments(name, knobs, T // 10, alphas_cumprod)[1] - STD), "more steps are better"


@every_sampler
def test_sampled_moments(name, knobs):
    images, num_steps = 4096, 25
    n = images * math.prod(SHAPE)
    noise = noise_stream(2, range(images), SHAPE)
    x = last(SAMPLERS[name](gaussian_denoiser(), noise, trajectory(SPEC, num_steps), **knobs)).x.astype(np.float64)
    mean, std = moments(name, knobs, num_steps)
    assert abs(x.mean() - mean) < 5 * std / math.sqrt(n)
    assert abs(x.std() / std - 1) < 5 / math.sqrt(2 * n)


@pytest.mark.parametrize("clip_x_0", [None, 0.5])
@pytest.mark.parametrize("num_steps", [1, 7, 50, T])
def test_ddpm_is_ddim_with_eta_1(num_steps, clip_x_0):
    spec = gaussian_spec(ALPHAS_CUMPROD, clip_x_0=clip_x_0)
    steps, noise = trajectory(spec, num_steps), noise64(2)
    ours = ddpm(gaussian_denoiser(spec), noise, steps)
    for a, b in zip(ours, ddim(gaussian_denoiser(spec), noise, steps, eta=1.0), strict=True):
        np.testing.assert_allclose(a.x, b.x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("clip_x_0", [None, 0.5])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_ddpm_is_hos_algorithm_2(variance, clip_x_0):
    spec, noise = gaussian_spec(ALPHAS_CUMPROD, clip_x_0=clip_x_0), noise64(2)
    model = gaussian_model(ALPHAS_CUMPROD, MEAN, STD)
    states = ddpm(gaussian_denoiser(spec), noise, trajectory(spec, T), variance=variance)
    x = noise(0)
    for t, state in zip(reversed(range(T)), states, strict=True):
        alpha, alpha_bar = 1.0 - BETAS[t], ALPHAS_CUMPROD[t]
        alpha_bar_before = ALPHAS_CUMPROD[t - 1] if t > 0 else 1.0
        x_0 = (x - math.sqrt(1 - alpha_bar) * model(x, np.full(2, t))["eps"]) / math.sqrt(alpha_bar)
        if clip_x_0 is not None:
            x_0 = x_0.clip(-clip_x_0, clip_x_0)
        mean = (  # eq. 7
            math.sqrt(alpha_bar_before) * BETAS[t] / (1 - alpha_bar) * x_0
            + math.sqrt(alpha) * (1 - alpha_bar_before) / (1 - alpha_bar) * x
        )
        beta_tilde = (1 - alpha_bar_before) / (1 - alpha_bar) * BETAS[t]
        sigma = math.sqrt(beta_tilde if variance == "fixed_small" else BETAS[t])
        x = mean + (sigma * noise(T - t) if t > 0 else 0.0)
        np.testing.assert_allclose(state.x, x, rtol=0, atol=1e-10, err_msg=f"t = {t}")  # 1000 steps of 1e-16 each


def test_ho_without_clipping_is_algorithm_2s_own_line():
    # x = (x - beta / sqrt(1 - alpha_bar) eps) / sqrt(alpha) + sigma z
    noise, model = noise64(2), gaussian_model(ALPHAS_CUMPROD, MEAN, STD)
    x = noise(0)
    for t, state in zip(reversed(range(T)), ddpm(gaussian_denoiser(), noise, trajectory(SPEC, T)), strict=True):
        eps = model(x, np.full(2, t))["eps"]
        np.testing.assert_allclose(state.eps, eps, rtol=0, atol=1e-10)
        mean = (x - BETAS[t] / math.sqrt(1 - ALPHAS_CUMPROD[t]) * eps) / math.sqrt(1 - BETAS[t])
        if t > 0:
            mean += math.sqrt((1 - ALPHAS_CUMPROD[t - 1]) / (1 - ALPHAS_CUMPROD[t]) * BETAS[t]) * noise(T - t)
        np.testing.assert_allclose(state.x, mean, rtol=0, atol=1e-10)
        x = state.x


def test_ddims_error_halves_when_steps_double():
    x_T = np.linspace(-3, 3, 13).reshape(-1, 1, 1, 1)
    exact = flow(x_T, ALPHAS_CUMPROD[-1], MEAN, STD)
    errors = [
        np.abs(last(ddim(gaussian_denoiser(), lambda _: x_T, trajectory(SPEC, n))).x - exact).max()
        for n in (25, 50, 100, 200, 400)
    ]
    orders = np.log2(errors[:-1]) - np.log2(errors[1:])
    np.testing.assert_allclose(orders, 1.0, rtol=0, atol=0.07)
    assert errors[-1] < 0.02


def test_a_step_with_the_true_x_0_is_exact():
    # eta = 0 and data of one point: the flow is a straight line in these coordinates, and any one step is exact
    x_T = np.linspace(-3, 3, 13).reshape(-1, 1, 1, 1)
    denoise = denoiser(gaussian_model(ALPHAS_CUMPROD, MEAN, 0.0), SPEC)
    for num_steps in (1, 2, 30):
        state = last(ddim(denoise, lambda _: x_T, trajectory(SPEC, num_steps)))
        np.testing.assert_allclose(state.x, MEAN, rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_steps", [10, T])
def test_fixed_larges_mean_and_noise(num_steps):
    denoise, steps = gaussian_denoiser(), trajectory(SPEC, num_steps)
    x = noise64(2)(0)
    ones, zeros = (lambda _: np.ones_like(x)), (lambda _: np.zeros_like(x))
    for step in steps:
        (loud,) = ddpm(denoise, ones, [step], x=x, variance="fixed_large")
        (quiet,) = ddpm(denoise, zeros, [step], x=x, variance="fixed_large")
        (small,) = ddpm(denoise, zeros, [step], x=x)
        np.testing.assert_array_equal(quiet.x, small.x)
        beta = 1.0 - step.a / step.a_prev
        np.testing.assert_allclose(loud.x - quiet.x, math.sqrt(beta) if step.a_prev < 1 else 0.0, rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_steps", [10, T])
def test_a_learned_variance_lies_between_the_fixed_ones_of_the_steps_taken(num_steps):
    steps, noise = trajectory(SPEC, num_steps), noise64(2)

    def states(variance, fraction):
        return ddpm(gaussian_denoiser(fraction=fraction), noise, steps, variance=variance)

    for fraction, fixed in ((0.0, "fixed_small"), (1.0, "fixed_large")):
        for a, b in zip(states("learned", fraction), states(fixed, None), strict=True):
            np.testing.assert_allclose(a.x, b.x, rtol=0, atol=1e-12)
    x = noise(0)
    for step in steps:
        beta = 1.0 - step.a / step.a_prev
        logs = [math.log(v) if v else -math.inf for v in (beta * (1.0 - step.a_prev) / (1.0 - step.a), beta)]
        for f in (0.3, -0.1, 1.2):  # an original does not clip, so nor do we
            ones, zeros = (lambda _: np.ones_like(x)), (lambda _: np.zeros_like(x))
            (loud,) = ddpm(gaussian_denoiser(fraction=f), ones, [step], x=x, variance="learned")
            (quiet,) = ddpm(gaussian_denoiser(fraction=f), zeros, [step], x=x, variance="learned")
            std = math.exp(0.5 * ((1.0 - f) * logs[0] + f * logs[1])) if step.a_prev < 1 else 0.0  # eq. 15
            np.testing.assert_allclose(loud.x - quiet.x, std, rtol=0, atol=1e-12)


def test_each_pixel_has_its_own_learned_variance():
    noise, step = noise64(2), trajectory(SPEC, 10)[3]
    fraction = np.linspace(0.0, 1.0, noise(0).size).reshape(noise(0).shape)
    (state,) = ddpm(gaussian_denoiser(fraction=fraction), noise, [step], variance="learned")
    for k in np.ndindex(fraction.shape):
        (alone,) = ddpm(gaussian_denoiser(fraction=fraction[k]), noise, [step], variance="learned")
        assert state.x[k] == pytest.approx(alone.x[k], abs=1e-12)


def test_a_learned_variance_stays_float32():
    noise = noise_stream(1, range(2), SHAPE)
    for state in ddpm(gaussian_denoiser(), noise, trajectory(SPEC, 5), variance="learned"):
        assert state.x.dtype == np.float32


def test_a_network_without_learned_variance_has_none_to_sample_with():
    denoise = gaussian_denoiser()
    without = lambda x_t, step: denoise(x_t, step)._replace(variance_fraction=None)  # noqa: E731
    with pytest.raises(UsageError, match="the network has learned none"):
        last(ddpm(without, noise64(1), trajectory(SPEC, 5), variance="learned"))


@every_sampler
def test_no_noise_where_a_prev_is_1(name, knobs):
    drawn = []

    def noise(draw):
        drawn.append(draw)
        return np.ones((1, *SHAPE))

    (state,) = SAMPLERS[name](gaussian_denoiser(), noise, [Step(9, 500, ALPHAS_CUMPROD[500], 1.0)], **knobs)
    assert drawn == [0]
    np.testing.assert_allclose(state.x, state.x_0, rtol=0, atol=1e-15)


@every_sampler
def test_step_i_uses_draw_i_once(name, knobs):
    drawn, noise = [], noise64(1)
    steps = trajectory(SPEC, 12)
    last(SAMPLERS[name](gaussian_denoiser(), lambda draw: (drawn.append(draw), noise(draw))[1], steps, **knobs))
    assert drawn == ([0] if name == "ddim" and not knobs else list(range(12)))


@every_sampler
def test_cut_anywhere_and_resumed(name, knobs):
    steps, noise = trajectory(SPEC, 12), noise_stream(1, range(2), SHAPE)
    whole = list(SAMPLERS[name](gaussian_denoiser(), noise, steps, **knobs))
    for cut in range(1, 12):
        before = whole[cut - 1].x
        kept = before.copy()
        rest = list(SAMPLERS[name](gaussian_denoiser(), noise, steps[cut:], x=before, **knobs))
        assert len(rest) == 12 - cut
        for a, b in zip(whole[cut:], rest, strict=True):
            assert a.step == b.step
            np.testing.assert_array_equal(a[1:], b[1:])
        np.testing.assert_array_equal(before, kept)


@every_sampler
def test_samplers_are_lazy_and_keep_nothing(name, knobs):
    evaluations = []
    model = gaussian_model(ALPHAS_CUMPROD, MEAN, STD)
    denoise = gaussian_denoiser(model=lambda x_t, t: (evaluations.append(int(t[0])), model(x_t, t))[1])
    noise, steps = noise_stream(1, range(2), SHAPE), trajectory(SPEC, 8)
    states = SAMPLERS[name](denoise, noise, iter(steps), **knobs)
    assert inspect.isgenerator(states)
    assert evaluations == []
    seen = []
    for number, state in enumerate(states, start=1):
        assert evaluations == [step.t for step in steps[:number]], "one evaluation a step, none ahead"
        seen.append((state, [array.copy() for array in state[1:]]))
    for state, copies in seen:
        np.testing.assert_array_equal(state[1:], copies)
    arrays = [array for state, _ in seen for array in state[1:]]
    assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])


@pytest.mark.parametrize("clip_x_0", [None, 1.0])
@pytest.mark.parametrize("prediction", ["eps", "x_0", "v"])
@every_sampler
def test_float32_stays_float32(name, knobs, prediction, clip_x_0):
    spec = gaussian_spec(ALPHAS_CUMPROD, prediction, clip_x_0)
    noise = noise_stream(1, range(2), SHAPE)
    for state in SAMPLERS[name](gaussian_denoiser(spec), noise, trajectory(spec, 20), **knobs):
        assert [array.dtype for array in state[1:]] == [np.float32] * 3, state.step


@every_sampler
def test_float32_agrees_with_float64(name, knobs):
    noise, steps = noise_stream(1, range(4), SHAPE), trajectory(SPEC, 100)
    single = SAMPLERS[name](gaussian_denoiser(), noise, steps, **knobs)
    for a, b in zip(single, SAMPLERS[name](gaussian_denoiser(), noise64(4), steps, **knobs), strict=True):
        np.testing.assert_allclose(a.x, b.x, rtol=0, atol=1e-5, err_msg=str(a.step))


@every_sampler
def test_an_image_does_not_depend_on_its_batch(name, knobs):
    steps = trajectory(SPEC, 10)
    batch = last(SAMPLERS[name](gaussian_denoiser(), noise_stream(1, range(9), SHAPE), steps, **knobs))
    alone = last(SAMPLERS[name](gaussian_denoiser(), noise_stream(1, [7], SHAPE), steps, **knobs))
    np.testing.assert_array_equal(alone.x[0], batch.x[7])


@every_sampler
def test_the_zero_at_the_end_of_alphas_cumprod(name, knobs):
    alphas_cumprod = (*ALPHAS_CUMPROD[:-1], 0.0)
    spec = gaussian_spec(alphas_cumprod, "v")
    for num_steps in (1, 10, T):
        for state in SAMPLERS[name](gaussian_denoiser(spec), noise64(2), trajectory(spec, num_steps), **knobs):
            assert np.isfinite(state[1:]).all(), state.step


@pytest.mark.parametrize("eta", [-0.001, 1.001, math.nan, math.inf, -math.inf])
def test_eta_out_of_range(eta):
    with pytest.raises(UsageError, match="eta: out of range"):
        ddim(gaussian_denoiser(), noise64(1), trajectory(SPEC, 2), eta=eta)


def test_eta_is_rounded_to_float32():
    steps, noise = trajectory(SPEC, 5), noise64(1)
    a = last(ddim(gaussian_denoiser(), noise, steps, eta=0.1))
    b = last(ddim(gaussian_denoiser(), noise, steps, eta=float(np.float32(0.1))))
    np.testing.assert_array_equal(a.x, b.x)


@pytest.mark.parametrize("variance", ["small", "", "Learned", None])
def test_unknown_variance(variance):
    with pytest.raises(UsageError, match="variance: unknown"):
        ddpm(gaussian_denoiser(), noise64(1), trajectory(SPEC, 2), variance=variance)


def test_no_steps_is_no_state():
    assert list(ddim(gaussian_denoiser(), noise64(1), [])) == []
