"""Posterior sampling against closed-form recursions, and what of a picture must come back exactly."""

import math
from collections import deque
from pathlib import Path

import numpy as np
import pytest
from gaussian import gaussian_model, gaussian_spec

from benchmarks import given as bias
from ddpm_export.errors import UsageError
from ddpm_export.model.denoiser import denoiser
from ddpm_export.model.steps import plan
from ddpm_export.process.equations import noised
from ddpm_export.process.given import (
    average,
    crossfade,
    grey,
    inversion,
    known_pixels,
    masked,
    measured,
    measurement_from_text,
    slerp,
    times_below,
    with_returns,
)
from ddpm_export.process.noise import GIVEN, noise_stream
from ddpm_export.process.rows import Plan, Row
from ddpm_export.process.schedules import alphas_cumprod_from_betas, betas_from_name
from ddpm_export.process.solvers import SAMPLERS
from ddpm_export.process.walk import walk

T = 1000
MEAN, STD = 0.3, 0.5
ALPHAS_CUMPROD = alphas_cumprod_from_betas(betas_from_name("linear", T))
SPEC = gaussian_spec(ALPHAS_CUMPROD, "v", 1.0, (3, 4, 6))
SHAPE = SPEC.state_shape
IMAGES = range(3)
DENOISE = denoiser(gaussian_model(ALPHAS_CUMPROD, MEAN, STD, "v"), SPEC)
NOISE, GIVEN_NOISE = noise_stream(1, IMAGES, SHAPE), noise_stream(1, IMAGES, SHAPE, domain=GIVEN)
KNOWN = np.random.default_rng(0).uniform(-1.0, 1.0, (len(IMAGES), *SHAPE)).astype(np.float32)
MASK = np.zeros(SHAPE[1:], dtype=np.float32)
MASK[:, 3:] = 1.0
MASK[0, 2] = 0.25


def last(states):
    return deque(states, maxlen=1)[0]


# --- the truth: two correlated pixels ---


def recursion(method, num_steps):
    """Mean and variance of both pixels after every row, in the letters of the papers: no code of the package."""
    a = np.cumprod(1.0 - np.linspace(1e-4, 0.02, T))
    t = [T * (num_steps - i) // num_steps - 1 for i in range(num_steps)]
    path = [*a[t], 1.0]
    covariance, k = np.array([[1.0, 0.9], [0.9, 1.0]]), 1.5
    left = dict.fromkeys(range(num_steps - 1, method.jump - 1, -method.jump), method.returns)
    m, v = np.zeros(2), np.eye(2)

    def replaced(m, v, at):
        return np.array([math.sqrt(at) * k, m[1]]), np.diag([1.0 - at, v[1, 1]])

    if not method.measures:
        m, v = replaced(m, v, path[0])
    p = 0
    while p < num_steps:
        at, s = path[p], path[p + 1]
        gain = math.sqrt(at) * covariance @ np.linalg.inv(at * covariance + (1.0 - at) * np.eye(2))
        shift = np.zeros(2)
        if method.measures:
            gain, shift = np.diag([0.0, 1.0]) @ gain, np.array([k, 0.0])
        std = method.eta * math.sqrt((1.0 - s) / (1.0 - at)) * math.sqrt(1.0 - at / s)
        of_eps = math.sqrt(max(1.0 - s - std**2, 0.0)) / math.sqrt(1.0 - at)
        slope = (math.sqrt(s) - of_eps * math.sqrt(at)) * gain + of_eps * np.eye(2)
        m = slope @ m + (math.sqrt(s) - of_eps * math.sqrt(at)) * shift
        v = slope @ v @ slope.T + std**2 * np.eye(2)
        p += 1
        if not method.measures:
            m, v = replaced(m, v, s)
        if left.get(p, 0) > 0:  # RePaint diffuses forward what it had put together
            left[p] -= 1
            p -= method.jump
            r = math.sqrt(path[p] / s)
            m, v = r * m, r**2 * v + (1.0 - r**2) * np.eye(2)
    return m, v


@pytest.mark.parametrize("num_steps", [3, 25])
@pytest.mark.parametrize("name", bias.METHODS)
def test_each_method_follows_its_own_recursion(name, num_steps):
    method = bias.METHODS[name]._replace(jump=min(bias.METHODS[name].jump, num_steps - 1))
    mean, covariance = recursion(method, num_steps)
    found = bias.moments(method, num_steps)
    np.testing.assert_allclose(found, [mean[1], covariance[1, 1]], rtol=0, atol=1e-9)
    np.testing.assert_allclose(mean[0], 1.5, atol=1e-12)
    np.testing.assert_allclose(covariance[0, 0], 0.0, atol=1e-12)


def test_the_bias_is_what_is_known_of_it_and_returns_lessen_it():
    replacement = [bias.moments(bias.Method(returns=returns), 100) for returns in (0, 1, 9, 49)]
    errors = [abs(mean - bias.TRUTH.mean) for mean, _ in replacement]
    assert errors == sorted(errors, reverse=True)
    np.testing.assert_allclose(bias.moments(bias.Method(), 1000), [0.94, 0.31], atol=5e-3)


def test_a_whole_walk_has_the_moments_that_are_carried_from_row_to_row():
    method, num_steps = bias.Method(eta=0.7, returns=2, jump=2), 6
    rows = bias.plan_of(method, num_steps)
    draws = len(rows.rows) + 1
    size = 4 * draws

    def units(domain):
        def noise(draw):
            made = np.zeros((size + 1, 1, 1, 2))
            made[domain * 2 * draws + 2 * draw + np.arange(2), 0, 0, np.arange(2)] = 1.0
            return made

        return noise

    known = np.broadcast_to([1.5, 0.0], (size + 1, 1, 1, 2))
    keep = known_pixels(known, np.array([0.0, 1.0]), units(1))
    x = last(walk(bias.correlated_denoiser(), units(0), rows, keep=keep)).x[:, 0, 0, 1]
    moments = x[-1], np.square(x[:-1] - x[-1]).sum()
    np.testing.assert_allclose(moments, bias.moments(method, num_steps), rtol=0, atol=1e-12)


# --- known pixels ---


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "consistency"])
def test_known_pixels_come_back_and_the_state_has_them_at_every_level(sampler):
    chosen = plan(SPEC, sampler=sampler, num_steps=5)
    states = list(walk(DENOISE, NOISE, chosen, keep=known_pixels(KNOWN, MASK, GIVEN_NOISE)))
    for state, a in zip(states, [*(row.a for row in chosen.rows[1:]), 1.0], strict=True):
        expected = KNOWN if a == 1.0 else noised(KNOWN, GIVEN_NOISE(state.row.i), a)
        np.testing.assert_array_equal(state.x[..., MASK == 0.0], expected[..., MASK == 0.0])
        assert state.x.dtype == np.float32
    assert np.abs(states[-1].x - KNOWN)[..., MASK == 1.0].min(axis=(0, 1)).max() > 1e-3


def test_grey_is_made_on_the_way_and_blends_in_the_picture():
    keep = known_pixels(KNOWN, MASK, GIVEN_NOISE)
    x = NOISE(0)
    np.testing.assert_array_equal(keep(x, 3, 0.5)[..., MASK > 0.0], x[..., MASK > 0.0])
    blended = 0.25 * x + 0.75 * KNOWN
    np.testing.assert_allclose(keep(x, 3, 1.0)[..., 0, 2], blended[..., 0, 2], rtol=0, atol=1e-6)


def test_a_mask_of_ones_changes_nothing_and_any_batch_gives_the_same():
    chosen = plan(SPEC, sampler="ddim", num_steps=4, eta=1.0)
    free = last(walk(DENOISE, NOISE, chosen))
    kept = last(walk(DENOISE, NOISE, chosen, keep=known_pixels(KNOWN, np.ones_like(MASK), GIVEN_NOISE)))
    np.testing.assert_array_equal(kept.x, free.x)
    together = last(walk(DENOISE, NOISE, chosen, keep=known_pixels(KNOWN, MASK, GIVEN_NOISE)))
    of_one = noise_stream(1, [2], SHAPE), noise_stream(1, [2], SHAPE, domain=GIVEN)
    alone = last(walk(DENOISE, of_one[0], chosen, keep=known_pixels(KNOWN[2:], MASK, of_one[1])))
    np.testing.assert_array_equal(alone.x[0], together.x[2])


def test_a_walk_with_known_pixels_goes_on_to_the_same_bits():
    def mixing(x_t, row, x_0_before=None):  # so that each pixel depends on its neighbour
        return DENOISE((x_t + np.roll(x_t, 1, axis=-1)) / 2.0, row, x_0_before)

    chosen = with_returns(plan(SPEC, sampler="ddim", num_steps=5, eta=1.0), 2, 2)
    keep = known_pixels(KNOWN, MASK, GIVEN_NOISE)
    states = list(walk(mixing, NOISE, chosen, keep=keep))
    for state in states[:-1]:
        again = last(walk(mixing, NOISE, chosen, keep=keep, state=state))
        np.testing.assert_array_equal(again.x, states[-1].x)


# --- measurements ---


MEASUREMENTS = {"average:2": average(2), "grey": grey(3), "mask": masked((MASK > 0.0).astype(np.float32))}


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_a_measurement_has_the_four_properties_of_a_pseudo_inverse(name):
    of, back = MEASUREMENTS[name]
    x = NOISE(0).astype(np.float64)
    y = of(x)
    np.testing.assert_allclose(of(back(y)), y, atol=1e-12)
    other = NOISE(1).astype(np.float64)
    np.testing.assert_allclose(np.vdot(back(of(x)), other), np.vdot(x, back(of(other))), rtol=1e-9)


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "consistency"])
@pytest.mark.parametrize("name", MEASUREMENTS)
def test_every_clean_image_and_the_picture_measure_what_was_given(name, sampler):
    y = MEASUREMENTS[name].of(KNOWN)
    states = list(walk(measured(DENOISE, MEASUREMENTS[name], y), NOISE, plan(SPEC, sampler=sampler, num_steps=5)))
    for state in states:
        np.testing.assert_allclose(MEASUREMENTS[name].of(state.x_0), y, rtol=0, atol=1e-5)
        at = math.sqrt(state.row.a), math.sqrt(1.0 - state.row.a)
        before = NOISE(0) if state.row.i == 1 else states[state.row.i - 2].x
        np.testing.assert_allclose(at[0] * state.x_0 + at[1] * state.eps, before, rtol=0, atol=1e-5)
    np.testing.assert_allclose(MEASUREMENTS[name].of(states[-1].x), y, rtol=0, atol=1e-5)
    assert np.abs(states[-1].x - KNOWN).max() > 0.1


def test_the_history_holds_what_was_corrected():
    chosen = plan(SPEC, sampler="dpmpp_3m", num_steps=4)
    for state in walk(measured(DENOISE, average(2), average(2).of(KNOWN)), NOISE, chosen):
        for x_0, _ in state.history:
            np.testing.assert_allclose(average(2).of(x_0), average(2).of(KNOWN), rtol=0, atol=1e-5)


def test_measurements_are_named_and_refused():
    y = measurement_from_text("average:2", SHAPE).of(KNOWN)
    np.testing.assert_allclose(y, MEASUREMENTS["average:2"].of(KNOWN))
    assert measurement_from_text("grey", SHAPE).of(KNOWN).shape == (3, 1, 4, 6)
    np.testing.assert_array_equal(measurement_from_text("mask", SHAPE, MASK).of(KNOWN)[..., MASK == 1.0], 0.0)
    for text, message in (
        ("average:3", "measure average:K must divide 4 x 6 pixels, got 'average:3'."),
        ("average:0", "must divide"),
        ("average", "measure must be average:K, grey or mask, got 'average'."),
        ("blur", "measure must be average:K, grey or mask"),
        ("mask", "measure mask needs a mask."),
    ):
        with pytest.raises(UsageError, match=message):
            measurement_from_text(text, SHAPE)


# --- between two ---


def test_a_crossfade_noised_with_one_noise_is_the_interpolation_of_noised_pictures():
    between = crossfade(KNOWN[0], KNOWN[1], 5)
    np.testing.assert_array_equal(between[[0, -1]], KNOWN[:2])
    a, z = 0.3, NOISE(0)[:1]
    of_states = 0.25 * noised(KNOWN[1], z, a) + 0.75 * noised(KNOWN[0], z, a)
    np.testing.assert_allclose(noised(between[1:2], z, a), of_states, rtol=0, atol=1e-6)


def test_noise_between_seeds_has_the_variance_of_noise():
    shape = (1, 100, 100)
    ends = [noise_stream(seed, [0], shape)(0)[0] for seed in (7, 11)]
    between = slerp(*ends, 5)
    np.testing.assert_allclose(between[[0, -1]], ends, rtol=0, atol=1e-6)
    np.testing.assert_allclose(between.std(axis=(1, 2, 3)), 1.0, atol=0.03)
    assert between.dtype == np.float32


@pytest.mark.parametrize("between", [crossfade, slerp])
def test_between_needs_two_ends(between):
    with pytest.raises(UsageError, match="There must be at least 2 images from one end to the other, got 1"):
        between(KNOWN[0], KNOWN[1], 1)


# --- other plans ---


def test_returns_visit_the_times_of_repaint():
    chosen = plan(SPEC, sampler="ddim", num_steps=7, eta=1.0)
    t = [row.t for row in chosen.rows]

    def visited(returns, jump):
        made = with_returns(chosen, returns, jump)
        assert [row.i for row in made.rows] == list(range(1, len(made.rows) + 1))
        return [t.index(row.t) for row in made.rows]

    assert with_returns(chosen, 0, 99) == chosen
    assert visited(1, 1) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6]
    assert visited(2, 3) == [0, 1, 2, 0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5, 3, 4, 5, 6]
    assert visited(1, 6) == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_row_back_keeps_the_distribution_of_its_time(eta):
    """x of the right distribution stays so: with x_0 and eps independent, its variance is that of its time."""
    chosen = plan(SPEC, sampler="ddim", num_steps=6, eta=eta)
    made = with_returns(chosen, 2, 2)
    for row, after in zip(made.rows, [*made.rows[1:], None], strict=True):
        a = 1.0 if after is None else after.a
        assert row.x_0[0] == pytest.approx(math.sqrt(a), rel=1e-12)
        assert sum(weight**2 for weight in (*row.x_0, *row.eps, *row.noise)) == pytest.approx(1.0, rel=1e-12)


def test_returns_are_refused_where_they_mean_nothing():
    two = plan(SPEC, sampler="ddim", num_steps=2)
    for made, returns, jump, message in (
        (two, -1, 1, "returns must be 0 or more, got -1."),
        (two, 1, 2, "jump must be between 1 and 1, below the plan's rows, got 2."),
        (two, 1, 0, "jump must be between 1 and 1"),
        (plan(SPEC, sampler="dpmpp_2m", num_steps=3), 1, 1, "returns need a sampler that does not look back"),
        (Plan((Row(1, 9, 0.5, (1.0,), (0.1,), (0.1, 0.2)), *two.rows)), 1, 1, "has a fixed variance. Choose ddim."),
    ):
        with pytest.raises(UsageError, match=message):
            with_returns(made, returns, jump)


def test_strength_is_a_share_of_the_training_times():
    times = [999, 749, 499, 249]
    assert times_below(times, 1.0, 1000) == times
    assert times_below(times, 0.5, 1000) == [499, 249]
    assert times_below([29, 28, 9], 0.29, 100) == [28, 9]  # 0.29 T is 29 only once rounded
    assert times_below(times, 0.25, 1000) == [249]
    for strength, message in (
        (0.24, "strength must reach the lowest time, t = 249 of 1000, got 0.24."),
        (0.0, "strength must be above 0 and at most 1, got 0.0."),
        (1.1, "above 0 and at most 1"),
        (math.nan, "above 0 and at most 1"),
    ):
        with pytest.raises(UsageError, match=message):
            times_below(times, strength, 1000)


def test_inversion_is_the_flow_backwards():
    """On Gaussian data the flow is known: mean + std (x - sqrt(a) mean) / sqrt(a std^2 + 1 - a) is kept along it."""
    spec = gaussian_spec(ALPHAS_CUMPROD, "v", None, (1, 2, 3))
    denoise = denoiser(gaussian_model(ALPHAS_CUMPROD, MEAN, STD, "v"), spec)
    picture = np.linspace(-0.9, 0.9, 6).reshape(1, 1, 2, 3)
    errors = []
    for num_steps in (100, 200, 400):
        times = [row.t for row in plan(spec, sampler="ddim", num_steps=num_steps).rows]
        found = last(walk(denoise, NOISE, inversion(spec.alphas_cumprod, times), x=picture)).x
        a_0, a_T = ALPHAS_CUMPROD[[0, -1]]
        level = np.sqrt(a_T * STD**2 + 1.0 - a_T) / np.sqrt(a_0 * STD**2 + 1.0 - a_0)
        errors.append(np.abs(found - np.sqrt(a_T) * MEAN - level * (picture - np.sqrt(a_0) * MEAN)).max())
    assert errors[0] < 0.07
    assert 1.7 < errors[0] / errors[1] < 2.3  # first order
    assert 1.7 < errors[1] / errors[2] < 2.3


def test_inversion_begins_at_time_0_and_ends_where_the_plan_begins():
    made = inversion(SPEC.alphas_cumprod, [999, 499])
    assert [(row.i, row.t) for row in made.rows] == [(1, 0), (2, 499)]
    assert made.rows[-1].x_0[0] == pytest.approx(math.sqrt(ALPHAS_CUMPROD[-1]))
    assert [row.t for row in inversion(SPEC.alphas_cumprod, [999, 0]).rows] == [0]
    with pytest.raises(UsageError, match="Inverting needs a time above 0, got only t = 0"):
        inversion(SPEC.alphas_cumprod, [0])
    with pytest.raises(UsageError, match="Inverting needs a plan at whole times, got t = 3"):
        inversion(SPEC.alphas_cumprod, [9, 3.5])


def test_the_docs_show_the_bias_that_is_computed():
    page = Path(__file__).parent.parent / "docs" / "editing-methods.md"
    rows = {
        cells[1].strip(): cells[2:4] for line in page.read_text().splitlines() if len(cells := line.split("|")) == 7
    }
    for name, method in bias.METHODS.items():
        for num_steps, inputs in zip((10, 50), rows[name], strict=True):
            if method.jump < num_steps:
                mean, variance = bias.moments(method, num_steps)
                assert inputs.strip() == f"{mean:.2f} / {variance:.2f}", name
