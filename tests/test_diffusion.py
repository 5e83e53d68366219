import dataclasses
import math

import numpy as np
import pytest
from gaussian import gaussian_model, gaussian_spec
from hypothesis import given
from hypothesis import strategies as st

from ddpm_export.errors import BadFileError, UsageError
from ddpm_export.model.denoiser import denoiser
from ddpm_export.model.inputs import Input
from ddpm_export.model.steps import grid_of as grid
from ddpm_export.process.equations import noised
from ddpm_export.process.rows import Row
from ddpm_export.process.schedules import alphas_cumprod_from_betas, betas_from_name
from ddpm_export.process.solvers import ddim, ddim_weights

ALPHAS_CUMPROD = alphas_cumprod_from_betas(betas_from_name("linear", 1000))
ZERO_AT_THE_END = (0.9, 0.5, 0.1, 0.0)
PREDICTIONS = ["eps", "x_0", "v"]
STEPS = ddim(grid(gaussian_spec(ALPHAS_CUMPROD), 9))


def oracle(x_0, eps, prediction, alphas_cumprod=ALPHAS_CUMPROD):
    """A model that knows the truth, and says it in the asked parametrisation."""

    def model(x_t, t):
        a = float(alphas_cumprod[t[0]])
        v = math.sqrt(a) * eps - math.sqrt(1.0 - a) * x_0
        return {prediction: {"eps": eps, "x_0": x_0, "v": v}[prediction]}

    return model


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_one_truth_in_three_parametrisations(prediction, rng):
    truth = rng.uniform(-1, 1, (2, 1, 4, 4)), rng.standard_normal((2, 1, 4, 4))
    spec = gaussian_spec(ALPHAS_CUMPROD, prediction)
    for dtype, tolerance, steps in ((np.float64, 1e-12, STEPS), (np.float32, 1e-6, [STEPS[4]])):
        x_0, eps = (array.astype(dtype) for array in truth)
        for step in steps:
            got = denoiser(oracle(x_0, eps, prediction), spec)(noised(x_0, eps, step.a), step)
            # how an error of x_t comes out
            gain = max(1.0, math.sqrt(step.a / (1 - step.a)), math.sqrt((1 - step.a) / step.a))
            np.testing.assert_allclose(got.x_0, x_0, rtol=0, atol=tolerance * gain)
            np.testing.assert_allclose(got.eps, eps, rtol=0, atol=tolerance * gain)


@pytest.mark.parametrize("clip_x_0", [None, 0.3])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_x_0_and_eps_always_lead_back_to_x_t(prediction, clip_x_0, rng):
    x_t = 2.0 * rng.standard_normal((3, 1, 4, 4))
    spec = gaussian_spec(ALPHAS_CUMPROD, prediction, clip_x_0)
    model = gaussian_model(ALPHAS_CUMPROD, 0.3, 0.5, prediction)
    for step in STEPS:
        x_0, eps, _ = denoiser(model, spec)(x_t, step)
        np.testing.assert_allclose(noised(x_0, eps, step.a), x_t, rtol=0, atol=1e-12)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_clipping_binds_and_eps_follows(prediction, rng):
    step, bound = STEPS[4], 0.3
    x_t = 3.0 * rng.standard_normal((3, 1, 4, 4))
    model = gaussian_model(ALPHAS_CUMPROD, 0.3, 0.5, prediction)
    free = denoiser(model, gaussian_spec(ALPHAS_CUMPROD, prediction))(x_t, step)
    clipped = denoiser(model, gaussian_spec(ALPHAS_CUMPROD, prediction, bound))(x_t, step)
    outside = np.abs(free.x_0) > bound
    assert outside.any()
    assert not outside.all()
    np.testing.assert_array_equal(clipped.x_0, np.clip(free.x_0, -bound, bound))
    np.testing.assert_allclose(clipped.eps[~outside], free.eps[~outside], rtol=0, atol=1e-12)
    assert (np.abs(clipped.eps - free.eps)[outside] > 0).all()
    raw = denoiser(model, gaussian_spec(ALPHAS_CUMPROD, prediction, bound))(x_t, step._replace(raw_eps=True))
    np.testing.assert_array_equal(raw.x_0, clipped.x_0)
    np.testing.assert_array_equal(raw.eps, free.eps)


@pytest.mark.parametrize("clip_x_0", [None, 1.0])
@pytest.mark.parametrize("prediction", ["x_0", "v"])
def test_pure_noise_at_the_end(prediction, clip_x_0, rng):
    # a = 0: x_t is eps itself, and says nothing of x_0
    x_0, x_t = rng.uniform(-1, 1, (2, 1, 4, 4)), rng.standard_normal((2, 1, 4, 4))
    spec = gaussian_spec(ZERO_AT_THE_END, prediction, clip_x_0)
    step, a_prev = ddim(grid(spec, 4))[0], ZERO_AT_THE_END[2]
    assert step.a == 0.0
    got = denoiser(oracle(x_0, x_t, prediction, ZERO_AT_THE_END), spec)(x_t, step)
    np.testing.assert_allclose(got.x_0, x_0, rtol=0, atol=1e-15)
    np.testing.assert_allclose(got.eps, x_t, rtol=0, atol=1e-15)
    assert ddim_weights(step.a, a_prev, 1.0)[2] == math.sqrt(1.0 - a_prev)  # nothing of x_t is kept


@pytest.mark.parametrize("clip_x_0", [None, 1.0])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_float32_stays_float32(prediction, clip_x_0, rng):
    x_t = rng.standard_normal((2, 1, 2, 3)).astype(np.float32)
    spec = gaussian_spec(ALPHAS_CUMPROD, prediction, clip_x_0)
    got = denoiser(gaussian_model(ALPHAS_CUMPROD, 0.3, 0.5, prediction), spec)(x_t, STEPS[2])
    assert [array.dtype for array in got[:2]] == [np.float32] * 2
    assert got.variance_fraction is None
    assert noised(x_t, x_t, STEPS[2].a).dtype == np.float32


@pytest.mark.parametrize("clip_x_0", [None, 1.0])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_models_buffer_may_be_used_again(prediction, clip_x_0, rng):
    buffer = np.zeros((2, 1, 2, 3))

    def model(x_t, t):
        buffer[...] = 0.1 * t[0]
        return {prediction: buffer, "variance_fraction": buffer}

    x_t = rng.standard_normal(buffer.shape)
    plain = gaussian_spec(ALPHAS_CUMPROD, prediction, clip_x_0)
    denoise = denoiser(model, dataclasses.replace(plain, requires=("variance_fraction",)))
    kept = denoise(x_t, STEPS[0])
    expected = [array.copy() for array in kept]
    denoise(x_t, STEPS[1])
    np.testing.assert_array_equal(kept, expected)


def test_what_a_model_is_given():
    seen = {}

    def model(x_t, t, **inputs):
        seen.update(t=t, **inputs)
        return {"eps": x_t}

    inputs = (
        Input("y", "label", none=3, classes=("a", "b", "c")),
        Input("strength", "vector", (2,)),
        Input("x_0_prev", "previous", (1, 2, 3)),
    )
    spec = gaussian_spec(ALPHAS_CUMPROD, inputs=inputs, requires=("inputs",))
    denoise, x_t = denoiser(model, spec, y=["c", 3, 0], strength=[0.5, -1.0]), np.zeros((3, 1, 2, 3), np.float32)
    found = denoise(x_t, STEPS[1])
    np.testing.assert_array_equal(seen["t"], np.full(3, STEPS[1].t, dtype=np.int64), strict=True)
    np.testing.assert_array_equal(seen["y"], np.array([2, 3, 0]), strict=True)
    np.testing.assert_array_equal(seen["strength"], np.tile(np.float32([0.5, -1.0]), (3, 1)), strict=True)
    np.testing.assert_array_equal(seen["x_0_prev"], x_t, strict=True)
    denoise(x_t, STEPS[2], found.x_0 + 1)
    np.testing.assert_array_equal(seen["x_0_prev"], found.x_0 + 1)


def test_time_is_told_in_the_dtype_of_the_file():
    seen = {}

    def model(x_t, t):
        seen.update(t=t)
        return {"eps": x_t}

    spec = gaussian_spec(ALPHAS_CUMPROD, requires=("fractional_t",))
    denoiser(model, spec)(np.zeros((2, 1, 2, 3), np.float32), Row(1, 12.25, 0.5))
    np.testing.assert_array_equal(seen["t"], np.float32([12.25, 12.25]), strict=True)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"label": 1}, "The model has no input 'label'; it has y, strength"),
        ({"y": 1}, "Input 'strength', of kind vector and shape"),
        ({"y": "d", "strength": 0.0}, "Input 'y' must be one of a, b, c or its index from 0 to 2, got 'd'"),
        ({"y": 4, "strength": 0.0}, "Input 'y' must be one of"),
        ({"y": 1.0, "strength": 0.0}, "Input 'y' must be one of"),
        ({"strength": 0.0}, r"Input 'strength' must have shape \(2,\) or \(1, 2\), got float64 \(\)"),
        ({"strength": [0.0, math.nan]}, "Input 'strength' must be finite"),
        ({"strength": [0.0, 1.0], "y": [0, 1, 2]}, r"Input 'y' must have shape \(\) or \(2,\), got int64 \(3,\)"),
        ({"strength": [0.0, 1.0], "x_0_prev": 0.0}, "The model has no input 'x_0_prev'"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_by_name(inputs, message):
    known = (
        Input("y", "label", none=3, classes=("a", "b", "c")),
        Input("strength", "vector", (2,)),
        Input("x_0_prev", "previous", (1, 2, 3)),
    )
    spec = gaussian_spec(ALPHAS_CUMPROD, inputs=known, requires=("inputs",))
    with pytest.raises(UsageError, match=message):
        denoiser(lambda x_t, *_, **__: {"eps": x_t}, spec, **inputs)(np.zeros((2, 1, 2, 3), np.float32), STEPS[1])


def test_a_learned_variance_comes_as_the_network_says_it(rng):
    fraction = rng.uniform(-0.2, 1.2, (1, 1, 2, 3))  # beyond 0 and 1 as well
    spec = gaussian_spec(ALPHAS_CUMPROD, clip_x_0=0.1)
    learned = dataclasses.replace(spec, requires=("variance_fraction",))
    outputs = {"eps": fraction + 1.0, "variance_fraction": fraction}
    got = denoiser(lambda *_: outputs, learned)(fraction, STEPS[0])
    np.testing.assert_array_equal(got.variance_fraction, fraction)
    assert denoiser(lambda *_: outputs, spec)(fraction, STEPS[0]).variance_fraction is None
    del outputs["variance_fraction"]
    with pytest.raises(BadFileError, match="no output 'variance_fraction'"):
        denoiser(lambda *_: outputs, learned)(fraction, STEPS[0])


def test_a_model_without_the_promised_output():
    denoise = denoiser(lambda x_t, _: {"noise": x_t}, gaussian_spec(ALPHAS_CUMPROD))
    with pytest.raises(BadFileError, match=r"no output 'eps', which its spec names; it has \['noise'\]"):
        denoise(np.zeros((1, 1, 2, 3)), STEPS[0])


@given(st.floats(0.0, 1.0), st.floats(-1, 1), st.floats(-6, 6))
def test_noised_is_the_paper(a, x_0, eps):
    expected = a**0.5 * x_0 + (1 - a) ** 0.5 * eps
    np.testing.assert_allclose(noised(np.array([x_0]), np.array([eps]), a), [expected], rtol=0, atol=1e-15)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 50, 300, 999, 1000])
def test_a_grid_follows_the_spec(num_steps):
    where = grid(gaussian_spec(ALPHAS_CUMPROD), num_steps)
    assert list(where.t) == [1000 * (num_steps - i) // num_steps - 1 for i in range(num_steps)]
    assert list(where.a) == [ALPHAS_CUMPROD[t] for t in where.t] + [1.0]
    assert all(type(a) is float for a in where.a)  # an np.float64 would make float32 arrays float64


def test_a_grid_of_times():
    spec = gaussian_spec(ALPHAS_CUMPROD)
    assert grid(spec, times=range(999, -1, -1)) == grid(spec, 1000)
    assert grid(spec, 3, times=np.array([700, 30, 2])).t == (700, 30, 2)


@pytest.mark.parametrize("num_steps", [1, 10, 1000])
def test_noise_std(num_steps):
    where = grid(gaussian_spec(ALPHAS_CUMPROD), num_steps)
    assert ddim_weights(where.a[-2], 1.0, 1.0)[2] == 0.0
    for a, a_prev in zip(where.a[:-2], where.a[1:-1], strict=True):
        posterior = (1.0 - a_prev) / (1.0 - a) * (1.0 - a / a_prev)  # Ho et al. 2020, eq. 7
        noise_std = ddim_weights(a, a_prev, 1.0)[2]
        np.testing.assert_allclose(noise_std**2, posterior, rtol=1e-12)
        np.testing.assert_allclose(ddim_weights(a, a_prev, 0.3)[2], 0.3 * noise_std, rtol=1e-12)
        assert ddim_weights(a, a_prev, 0.0)[2] == 0.0
