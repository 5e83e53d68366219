"""Bits per dimension against the paper's formulas in loops, against torch, and against an entropy known exactly."""

import dataclasses
import itertools
import math
from fractions import Fraction
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import pytest
from gaussian import classes_model, gaussian_model, gaussian_spec

from ddpm_export.errors import BadFileError, NonFiniteError, UsageError
from ddpm_export.model.guidance import Guidance
from ddpm_export.model.inputs import Input
from ddpm_export.model.spec import Defaults
from ddpm_export.process.noise import noise_stream
from ddpm_export.process.schedules import SCHEDULES, alphas_cumprod_from_betas, betas_from_name
from ddpm_export.scoring.metrics.bits import bits_per_dimension, strided_times

MEAN, STD = 0.1, 0.25  # four deviations within [-1, 1]: next to nothing falls into the open bins
VARIANCES = ("fixed_small", "fixed_large", "learned")
every_variance = pytest.mark.parametrize("variance", VARIANCES)
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES)


def alphas(T, schedule="linear"):
    return alphas_cumprod_from_betas(betas_from_name(schedule, T))


def rescaled(T):
    """Betas of linear shape whose sum is that of 1000 steps: also few steps end in noise, as they must."""
    return alphas_cumprod_from_betas(betas_from_name("linear", T, beta_start=0.1 / T, beta_end=20.0 / T))


def learned(spec):
    return dataclasses.replace(spec, requires=("variance_fraction",), variance="learned")


def with_fraction(model, fraction):
    """The model, with a learned variance besides: fraction is a number, or an array over the times."""
    values = np.broadcast_to(fraction, 1000)
    return lambda x_t, t: {**model(x_t, t), "variance_fraction": np.full_like(x_t, values[t[0]])}


def always(prediction, value):
    def model(x_t, t):
        assert len(t) == len(x_t)
        return {prediction: np.full_like(x_t, value)}

    return model


def variances(a):
    """The posterior's variance, beta's, and p(x_t-1|x_t)'s true one of Gaussian data: the first plus what x_0 adds."""
    a_prev = np.append(1.0, a[:-1])
    beta = 1.0 - a / a_prev
    posterior = beta * (1.0 - a_prev) / (1.0 - a)
    open_x_0 = STD**2 * (1.0 - a) / (a * STD**2 + 1.0 - a)  # Var(x_0|x_t)
    true = posterior + a_prev * np.square(beta / (1.0 - a)) * open_x_0
    return np.append(posterior[1], posterior[1:]), beta, true


def best_fraction(a):
    small, large, true = variances(a)
    fraction = np.zeros(1000)
    fraction[: len(a)] = np.log(true / small) / np.log(large / small)
    return fraction


def bins():
    """The probabilities of the 256 values under N(MEAN, STD^2), the outermost open."""
    edges = [0.0, *(NormalDist(MEAN, STD).cdf((k + 0.5) / 127.5 - 1.0) for k in range(255)), 1.0]
    return np.diff(edges)


ENTROPY = -float(sum(p * math.log2(p) for p in bins() if p > 0.0))


def gaussian_images(count, height=8, width=8, seed=3):
    values = np.random.default_rng(seed).choice(256, size=(count, height, width, 1), p=bins() / bins().sum())
    return values.astype(np.uint8)


def curved(x_t, t, prediction="eps"):
    """No denoiser at all: wrong everywhere, so that clipping works and no error cancels."""
    values = np.sin(2.0 * x_t + 0.3 * t.astype(x_t.dtype).reshape(-1, 1, 1, 1))
    return {prediction: values, "variance_fraction": 0.5 + 0.7 * np.cos(3.0 * x_t)}


def any_images(count, shape, seed=5):
    channels, height, width = shape
    images = np.random.default_rng(seed).integers(0, 256, size=(count, height, width, channels)).astype(np.uint8)
    images[0, 0, 0, 0], images[-1, -1, -1, -1] = 0, 255
    return images


def slowly(predict, spec, image, number, seed, variance):
    """The terms of Ho et al. 2020, eq. 5, in nats of one image: (prior, [L_0, L_1, ...]), pixel by pixel in loops."""
    alpha_bars = spec.alphas_cumprod
    betas = [1.0 - alpha_bars[0]] + [1.0 - after / before for before, after in pairwise(alpha_bars)]
    T, (channels, height, width) = len(betas), spec.state_shape
    pixels = [(c, h, w) for c in range(channels) for h in range(height) for w in range(width)]
    x_0 = {(c, h, w): int(image[h, w, c]) / 127.5 - 1.0 for c, h, w in pixels}
    draws = noise_stream(seed, [number], spec.state_shape)

    def divergence(mean_q, variance_q, mean_p, variance_p):  # of two normal distributions
        return 0.5 * (
            math.log(variance_p / variance_q) + variance_q / variance_p + (mean_q - mean_p) ** 2 / variance_p - 1.0
        )

    prior = sum(divergence(math.sqrt(alpha_bars[-1]) * x_0[at], 1.0 - alpha_bars[-1], 0.0, 1.0) for at in pixels)
    terms = []
    for t in range(T):
        alpha_bar, before, beta = alpha_bars[t], alpha_bars[t - 1] if t else 1.0, betas[t]
        z = draws(t + 1)[0]
        x_t = np.zeros((1, channels, height, width), dtype=np.float32)
        for at in pixels:  # eq. 4
            x_t[0][at] = math.sqrt(alpha_bar) * x_0[at] + math.sqrt(1.0 - alpha_bar) * float(z[at])
        outputs = predict(x_t, np.array([t]))
        u = max(t, 1)  # the posterior's variance at t = 0 is that of t = 1
        beta_tilde = (1.0 - alpha_bars[u - 1]) / (1.0 - alpha_bars[u]) * betas[u]
        total = 0.0
        for at in pixels:
            x, options = float(x_t[0][at]), float(outputs[spec.prediction][0][at])
            guess = {
                "eps": (x - math.sqrt(1.0 - alpha_bar) * options) / math.sqrt(alpha_bar),
                "x_0": options,
                "v": math.sqrt(alpha_bar) * x - math.sqrt(1.0 - alpha_bar) * options,
            }[spec.prediction]
            if spec.clip_x_0 is not None:
                guess = min(max(guess, -spec.clip_x_0), spec.clip_x_0)
            share = {"fixed_small": 0.0, "fixed_large": 1.0}.get(variance)
            share = float(outputs["variance_fraction"][0][at]) if share is None else share
            sigma_2 = math.exp(share * math.log(beta) + (1.0 - share) * math.log(beta_tilde))  # Nichol 2021, eq. 15

            def posterior_mean(of_x_0):  # eq. 7, at this t and x
                return (
                    math.sqrt(before) * beta / (1.0 - alpha_bar) * of_x_0  # noqa: B023
                    + math.sqrt(1.0 - beta) * (1.0 - before) / (1.0 - alpha_bar) * x  # noqa: B023
                )

            if t > 0:
                total += divergence(posterior_mean(x_0[at]), beta_tilde, posterior_mean(guess), sigma_2)
            else:  # eq. 13
                decoder = NormalDist(posterior_mean(guess), math.sqrt(sigma_2))
                upper = decoder.cdf(x_0[at] + 1.0 / 255.0) if x_0[at] < 1.0 else 1.0
                lower = decoder.cdf(x_0[at] - 1.0 / 255.0) if x_0[at] > -1.0 else 0.0
                total -= math.log(upper - lower)
        terms.append(total)
    return prior, terms


# --- against the formulas ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prediction", "clip_x_0"), [("eps", None), ("eps", 1.0), ("v", 0.6), ("x_0", None), ("x_0", 1.0)]
)
@every_variance
def test_every_term_is_the_papers(variance, prediction, clip_x_0):
    # betas this large leave no probability at t = 0 so small that the slow difference of two cdfs loses it
    a = alphas_cumprod_from_betas(np.linspace(0.05, 0.4, 12))
    spec = learned(gaussian_spec(a, prediction, clip_x_0, image_shape=(2, 3, 2)))
    images = any_images(3, spec.state_shape)

    def model(x_t, t):
        return curved(x_t, t, prediction)

    found = bits_per_dimension(model, spec, images, seed=7, variance=variance)
    per_bit = 12 * math.log(2.0)
    slow = [slowly(model, spec, image, n, 7, variance) for n, image in enumerate(images)]
    # float64 throughout; the last bits of x_t differ before it is rounded to float32, hence not 1e-12
    np.testing.assert_allclose(found.terms_mean, np.mean([terms for _, terms in slow], axis=0) / per_bit, rtol=1e-6)
    np.testing.assert_allclose(found.prior, np.mean([prior for prior, _ in slow]) / per_bit, rtol=1e-12)
    totals = [(prior + sum(terms)) / per_bit for prior, terms in slow]
    np.testing.assert_allclose(found.per_image, totals, rtol=1e-6)
    assert found.mean == pytest.approx(np.mean(totals), rel=1e-6)
    assert found.standard_error == pytest.approx(np.std(totals, ddof=1) / math.sqrt(3), rel=1e-5)


def test_the_optimal_denoisers_total_is_the_slow_one_over_all_times():
    spec = gaussian_spec(alphas(1000))
    model, images = gaussian_model(spec.alphas_cumprod, MEAN, STD), gaussian_images(2, 2, 3)
    found = bits_per_dimension(model, spec, images, seed=1)
    for n in range(2):
        prior, terms = slowly(model, spec, images[n], n, 1, "fixed_small")
        # terms of the last times weigh errors by 1e-5 and less: their float32 roundings do not show
        assert found.per_image[n] == pytest.approx((prior + sum(terms)) / (6 * math.log(2.0)), rel=1e-6)


def test_by_default_the_variance_is_the_specs():
    spec, images = gaussian_spec(alphas(20)), any_images(2, (1, 2, 3))
    for variance in VARIANCES:
        own = dataclasses.replace(learned(spec), variance=variance)
        expected = bits_per_dimension(curved, learned(spec), images, variance=variance)
        np.testing.assert_array_equal(bits_per_dimension(curved, own, images).per_image, expected.per_image)


@pytest.mark.parametrize(("fraction", "fixed"), [(0.0, "fixed_small"), (1.0, "fixed_large")])
def test_a_learned_variance_at_its_ends_is_a_fixed_one(fraction, fixed):
    spec, images = gaussian_spec(alphas(50)), any_images(4, (1, 2, 3))
    model = gaussian_model(spec.alphas_cumprod, MEAN, STD)
    ends = bits_per_dimension(with_fraction(model, fraction), learned(spec), images)
    expected = bits_per_dimension(model, spec, images, variance=fixed)
    np.testing.assert_array_equal(ends.terms_mean, expected.terms_mean)
    np.testing.assert_array_equal(ends.per_image, expected.per_image)


@every_variance
@every_schedule
def test_no_term_is_negative(schedule, variance):
    for T in (2, 60):
        a = alphas(T, schedule)
        spec = learned(gaussian_spec(a, image_shape=(1, 8, 8)))
        images = gaussian_images(16)
        for model in (gaussian_model(a, MEAN, STD), curved):
            for fraction in (0.3, -0.2, 1.4):
                found = bits_per_dimension(with_fraction(model, fraction), spec, images, variance=variance)
                # expm1(-d) + d of |d| < 1 is right to 1e-16
                assert found.terms_mean[1:].min() >= -1e-15
                assert found.terms_mean[0] >= 0.0
                assert found.prior >= 0.0
                assert found.per_image.min() >= 0.0


def test_a_perfect_prediction_costs_nothing_but_the_decoder():
    spec = gaussian_spec(alphas(30), "x_0", image_shape=(1, 4, 4))
    image = np.full((1, 4, 4, 1), 77, dtype=np.uint8)
    found = bits_per_dimension(always("x_0", 77 / 127.5 - 1.0), spec, image)
    np.testing.assert_allclose(found.terms_mean[1:], 0.0, atol=1e-10)  # float32's 77: (3e-8)^2 times 5e3
    assert found.terms_mean[0] > 0.0


def test_what_follows_from_the_networks_float32_is_float64():
    spec = gaussian_spec(alphas(30), "x_0", clip_x_0=0.6, image_shape=(1, 1, 1))
    found = bits_per_dimension(always("x_0", 0.9), spec, np.full((1, 1, 1, 1), 100, dtype=np.uint8))
    snr = alphas(30) / (1.0 - alphas(30))
    expected = 0.5 * (snr[:-1] - snr[1:]) * (100 / 127.5 - 1.0 - 0.6) ** 2 / math.log(2.0)
    np.testing.assert_allclose(found.terms_mean[1:], expected, rtol=1e-11)  # float32's 0.6 is off by 4e-8


# --- the decoder ------------------------------------------------------------------------------------------------------


def decoder_bits(mean, std, values):
    """-log2 of the probability of each value: of one time, the term at 0 is all there is of the model."""
    a = 1.0 - std**2
    spec = gaussian_spec([a], "x_0", image_shape=(1, 1, 1))
    images = np.array(values, dtype=np.uint8).reshape(-1, 1, 1, 1)
    found = bits_per_dimension(always("x_0", mean), spec, images, batch=256)
    prior = 0.5 * (a * (images.ravel() / 127.5 - 1.0) ** 2 - a - math.log(1.0 - a))
    return found.per_image - prior / math.log(2.0)


@pytest.mark.parametrize("std", [0.001, 0.01, 0.1, 0.9])
@pytest.mark.parametrize("mean", [-3.0, -1.0, 0.0, 0.30078125, 0.99609375, 5.0])
def test_the_256_probabilities_sum_to_1(mean, std):
    # the prior that is taken off again is of the size of a few bits, so 1e-14 comes back
    assert math.fsum(2.0 ** -decoder_bits(mean, std, range(256))) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("value", [0, 1, 40, 100, 126, 129, 200, 254, 255])
@pytest.mark.parametrize("std", [0.004, 0.01, 0.03])
def test_a_probability_too_small_for_a_float_is_still_exact(std, value):
    (found,) = decoder_bits(0.0, std, [value])
    # the bin's integral with its largest density, at the near edge, taken out; Simpson's rule on what is left
    near = (abs(value / 127.5 - 1.0) - 1.0 / 255.0) / std
    width = 40.0 / near if value in (0, 255) else 2.0 / 255.0 / std  # open: until e^-40 is left
    u, step = np.linspace(0.0, width, 8001, retstep=True)
    weights = np.ones(8001)
    weights[1:-1:2], weights[2:-1:2] = 4.0, 2.0
    integral = float((weights * np.exp(-near * u - 0.5 * u * u)).sum()) * step / 3.0
    nats = 0.5 * near**2 + 0.5 * math.log(2.0 * math.pi) - math.log(integral)
    assert found * math.log(2.0) == pytest.approx(nats, rel=1e-9)
    if std == 0.004 and value in (0, 255):
        assert nats > 30_000.0  # e^-745 is the smallest float


# --- the entropy ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("T", "schedule"), [(30, None), (1000, None), (1000, "cosine")])
def test_with_the_true_variance_the_bound_is_the_entropy(T, schedule):
    """The best model for Gaussian data has the data's own distribution, whatever T, and the bound is nearly tight.

    What is left: q(x_1|x_0) is centred in x_0's bin where p(x_1|x_0) is spread over it, so their variances differ by
    r = bin^2 / 12 / beta_0 of themselves and the bound by r^2 / 4 nats, under 0.01 bits from beta_0 = 4e-5 on; and the
    prior, under 1e-4. Of the rest, Monte Carlo, the images' own choice is taken out in the second pair of lines.
    """
    a = alphas(T, schedule) if schedule else rescaled(T)
    spec = learned(gaussian_spec(a, image_shape=(1, 8, 8)))
    model, images = with_fraction(gaussian_model(a, MEAN, STD), best_fraction(a)), gaussian_images(128)
    found = bits_per_dimension(model, spec, images, batch=128)
    assert found.prior < 1e-4
    assert found.standard_error < 0.025
    assert -4 * found.standard_error < found.mean - ENTROPY < 0.01 + 4 * found.standard_error
    above = found.per_image - -np.log2(bins())[images].mean(axis=(1, 2, 3))
    error = above.std(ddof=1) / math.sqrt(128)
    assert -4 * error < above.mean() < 0.01 + 4 * error


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_more_steps_bring_a_fixed_variance_as_near_to_the_entropy_as_it_can_come(variance):
    """A fixed variance s is not the true one r: of each step (r / s - 1 - log(r / s)) / 2 nats are left.

    fixed_large is the true one where the noise is small against the data: of T = 1000, 0.008 bits are left.
    fixed_small never is: most of its gap, 0.8 bits, lies in the first few times, however many follow.
    """
    gaps = []
    for T in (30, 200, 1000):
        a = rescaled(T)
        spec = gaussian_spec(a, image_shape=(1, 8, 8))
        found = bits_per_dimension(gaussian_model(a, MEAN, STD), spec, gaussian_images(64), variance=variance)
        small, large, true = variances(a)
        ratio = true / {"fixed_small": small, "fixed_large": large}[variance]
        gaps.append(float((ratio - 1.0 - np.log(ratio)).sum()) / 2.0 / math.log(2.0))
        assert found.mean - ENTROPY > -4 * found.standard_error
        # the decoder's bins, of a size with its deviation, make its share of the gap a little smaller
        assert abs(found.mean - ENTROPY - gaps[-1]) < 0.02 + 4 * found.standard_error
    assert gaps[0] > gaps[1] > gaps[2]


def test_the_terms_expectation_is_known():
    # E (x_0 - E[x_0|x_t])^2 = STD^2 (1 - a) / (a STD^2 + 1 - a), so each KL has a mean known in closed form
    a = alphas(1000)
    spec = gaussian_spec(a, image_shape=(1, 8, 8))
    found = bits_per_dimension(gaussian_model(a, MEAN, STD), spec, gaussian_images(64))
    open_x_0 = STD**2 * (1.0 - a) / (a * STD**2 + 1.0 - a)
    snr = a / (1.0 - a)
    expected = 0.5 * (snr[:-1] - snr[1:]) * open_x_0[1:] / math.log(2.0)
    # a mean of 4096 squares of normals: a relative deviation of sqrt(2 / 4096), 5 of them for 999 terms
    np.testing.assert_allclose(found.terms_mean[1:], expected, rtol=5 * math.sqrt(2 / 4096) + 0.001)


# --- batches, seeds, images -------------------------------------------------------------------------------------------


@every_variance
def test_the_batch_changes_no_bit(variance):
    spec = learned(gaussian_spec(alphas(12), clip_x_0=1.0, image_shape=(3, 5, 7)))
    images = any_images(7, spec.state_shape)
    whole = bits_per_dimension(curved, spec, images, variance=variance, batch=64)
    for batch in (1, 2, 3, 7):
        parts = bits_per_dimension(curved, spec, images, variance=variance, batch=batch)
        for name in ("per_image", "terms_mean", "times"):
            np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))
        assert (parts.mean, parts.prior, parts.standard_error) == (whole.mean, whole.prior, whole.standard_error)


def test_an_image_does_not_depend_on_the_others():
    spec = gaussian_spec(alphas(12), image_shape=(1, 4, 4))
    images = any_images(5, spec.state_shape)
    whole = bits_per_dimension(curved, spec, images)
    np.testing.assert_array_equal(bits_per_dimension(curved, spec, images[:2]).per_image, whole.per_image[:2])
    again = bits_per_dimension(curved, spec, images, seed=1)
    assert (again.per_image != whole.per_image).all()


def test_a_time_has_its_own_draw_in_every_subset():
    spec, images = gaussian_spec(alphas(40)), any_images(3, (1, 2, 3))
    whole = bits_per_dimension(curved, spec, images)
    for seed in range(5):
        some = bits_per_dimension(curved, spec, images, times=strided_times(40, 6, seed))
        np.testing.assert_array_equal(some.terms_mean, whole.terms_mean[some.times])


def test_the_network_sees_float32_once_for_each_batch_and_time():
    seen, options = [], []

    def model(x_t, t):
        assert (x_t.dtype, t.dtype) == (np.float32, np.int64)
        assert x_t.flags.c_contiguous
        seen.append((len(x_t), *set(t.tolist())))
        return curved(x_t, t)

    spec = gaussian_spec(alphas(3))
    report = lambda done, total: options.append((done, total))  # noqa: E731
    found = bits_per_dimension(model, spec, any_images(5, (1, 2, 3)), batch=3, report=report)
    assert seen == [(3, 0), (3, 1), (3, 2), (2, 0), (2, 1), (2, 2)]
    assert options == [(done, 6) for done in range(1, 7)]
    assert (len(found.per_image), found.times.tolist()) == (5, [0, 1, 2])
    assert found.mean == pytest.approx(found.prior + found.terms_mean.sum(), rel=1e-14)


def test_a_model_that_gives_the_same_buffer_each_time():
    buffer = np.empty((4, 1, 2, 3), dtype=np.float32)

    def model(x_t, t):
        buffer[:] = curved(x_t, t)["eps"]
        return {"eps": buffer}

    spec, images = gaussian_spec(alphas(8)), any_images(4, (1, 2, 3))
    expected = bits_per_dimension(curved, spec, images).per_image
    np.testing.assert_array_equal(bits_per_dimension(model, spec, images).per_image, expected)


def test_one_image_has_no_standard_error_and_one_time_no_posterior():
    images = any_images(1, (1, 2, 3))
    assert math.isnan(bits_per_dimension(curved, gaussian_spec(alphas(4)), images).standard_error)
    spec = learned(gaussian_spec([0.9]))
    fixed = [bits_per_dimension(curved, spec, images, variance=variance).mean for variance in VARIANCES]
    assert fixed[0] == fixed[1] == fixed[2]
    assert strided_times(1, 10) == (0,)


def test_the_zero_at_the_end_of_alphas_cumprod():
    a = (*alphas(50)[:-1], 0.0)
    spec = gaussian_spec(a, "v", image_shape=(1, 8, 8))
    model, images = gaussian_model(a, MEAN, STD, "v"), gaussian_images(8)
    for times in (None, strided_times(50, 7)):
        found = bits_per_dimension(model, spec, images, times=times)
        assert found.prior == 0.0
        assert np.isfinite([found.mean, found.standard_error, *found.terms_mean]).all()


# --- some of the times ------------------------------------------------------------------------------------------------


def strata_of(T, stride):
    """The strata's edges by the rule itself: the k-th begins k times and a share (k / strata)^3 of the rest after 1."""
    strata = -(-(T - 1) // stride)
    rest = T - 1 - strata
    return [0, *(1 + k + math.floor(Fraction(rest) * Fraction(k, strata) ** 3) for k in range(strata)), T]


@pytest.mark.parametrize("T", [1, 2, 3, 11, 100, 999, 1000])
@pytest.mark.parametrize("stride", [1, 2, 7, 10, 100, 5000])
def test_strided_times_are_one_of_each_stratum(T, stride):
    for seed in range(3):
        times = strided_times(T, stride, seed)
        assert times == strided_times(T, stride, seed)
        assert len(times) == 1 - (1 - T) // stride
        edges = strata_of(T, stride)
        assert edges[-1] == T
        assert all(low <= t < high for t, (low, high) in zip(times, pairwise(edges), strict=True))
    if stride == 1:
        assert times == tuple(range(T))


def test_where_terms_are_steep_every_time_is_there():
    sizes = np.diff(strata_of(1000, 10))
    assert sizes[:11].tolist() == [1] * 11
    assert (np.diff(sizes) >= -1).all()  # they widen, to within a whole number
    assert sizes.max() == 28


def test_the_draws_are_even_and_the_same_everywhere():
    counts, edges = np.zeros(1000), strata_of(1000, 10)
    for seed in range(500):
        counts[list(strided_times(1000, 10, seed))] += 1
    for low, high in pairwise(edges):
        p = 1.0 / (high - low)
        # binomial: 5 deviations of the 999 counts
        assert np.abs(counts[low:high] - 500 * p).max() <= 5 * math.sqrt(500 * p * (1.0 - p))
    assert strided_times(1000, 250, 0) == (0, 13, 63, 203, 718)


def test_the_estimate_is_unbiased_over_the_draws():
    # a stratum of n times has each of them with probability 1/n, times a weight of n: the mean over all draws is exact
    spec, images = gaussian_spec(alphas(12)), any_images(2, (1, 2, 3))
    whole = bits_per_dimension(curved, spec, images)
    strata = [range(low, high) for low, high in pairwise(strata_of(12, 4))]
    means = [bits_per_dimension(curved, spec, images, times=times).mean for times in itertools.product(*strata)]
    assert len(means) == 1 * 1 * 3 * 7
    assert np.mean(means) == pytest.approx(whole.mean, rel=1e-12)


@every_variance
def test_a_subset_agrees_with_all_within_4_standard_errors(variance):
    T = 400
    a = rescaled(T)
    spec = learned(gaussian_spec(a, image_shape=(1, 8, 8)))
    model, images = with_fraction(gaussian_model(a, MEAN, STD), 0.5), gaussian_images(24)
    whole = bits_per_dimension(model, spec, images, variance=variance)
    assert whole.strata_error == 0.0
    for stride in (5, 20):
        off, estimated = [], []
        for seed in range(12):
            times = strided_times(T, stride, seed)
            some = bits_per_dimension(model, spec, images, variance=variance, times=times)
            assert abs(some.mean - whole.mean) < 4 * some.standard_error
            assert some.standard_error > some.strata_error > 0.0
            assert some.mean == pytest.approx(some.per_image.mean(), rel=1e-14)
            off.append(some.mean - whole.mean)
            estimated.append(some.strata_error)
        # same images, same noise: what is left is the choice of times alone, 12 draws of it
        ratio = math.sqrt(np.mean(np.square(off)) / np.mean(np.square(estimated)))
        assert 0.3 < ratio < 2.0


def test_each_term_counts_as_often_as_its_stratum_has_times():
    spec, images = gaussian_spec(alphas(30)), any_images(3, (1, 2, 3))
    found = bits_per_dimension(curved, spec, images, times=(0, 1, 7, 28))  # 1, 2..9, 10..29 after 0
    weights = [1, 1, 8, 20]
    assert found.mean == pytest.approx(found.prior + np.dot(weights, found.terms_mean), rel=1e-13)


def test_the_strata_error_is_what_the_draws_do_on_a_curve_that_is_known():
    # every weight of the squared error of v alike: the curve through any one term is the whole of it
    spec, images = gaussian_spec(rescaled(100), "v"), any_images(2, (1, 2, 3))

    def model(x_t, t):  # v is off by 0.1 everywhere
        a = np.asarray(spec.alphas_cumprod)[t].reshape(-1, 1, 1, 1)
        x_0 = images.transpose(0, 3, 1, 2) / 127.5 - 1.0
        return {"v": (np.sqrt(a) * x_t - x_0) / np.sqrt(1.0 - a) + 0.1}

    whole = bits_per_dimension(model, spec, images)
    some = bits_per_dimension(model, spec, images, times=strided_times(100, 9))
    strata = [whole.terms_mean[low:high] for low, high in pairwise(strata_of(100, 9))]
    expected = math.sqrt(sum(len(stratum) ** 2 * stratum.var() for stratum in strata))
    assert some.strata_error == pytest.approx(expected, rel=1e-6)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [[], [0], [1, 2], [0, 9, 3], range(31), [0, 31], [0, -1], [0, 0], [0, 4, 5, 28]])
def test_times_that_are_no_stratified_subset(times):
    with pytest.raises(UsageError, match=r"times must rise from 0, with one time in each stratum"):
        bits_per_dimension(curved, gaussian_spec(alphas(30)), any_images(2, (1, 2, 3)), times=times)


@pytest.mark.parametrize(("T", "stride", "name"), [(0, 1, "num_train_timesteps"), (10, 0, "stride"), (9, -1, "stride")])
def test_strides_out_of_range(T, stride, name):
    with pytest.raises(UsageError, match=f"{name} must be at least 1"):
        strided_times(T, stride)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 2, 3, 1), dtype=np.float32),
        np.zeros((2, 1, 2, 3), dtype=np.uint8),
        np.zeros((2, 2, 3), dtype=np.uint8),
        np.zeros((0, 2, 3, 1), dtype=np.uint8),
    ],
)
def test_images_that_do_not_fit(images):
    with pytest.raises(UsageError, match="images must be uint8"):
        bits_per_dimension(curved, gaussian_spec(alphas(3)), images)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"batch": 0}, "batch must be at least 1"),
        ({"variance": "small"}, "variance must be one of"),
        ({"variance": "learned"}, "for a network that predicts none"),
        ({"seed": -1}, "seed must be from 0"),
    ],
)
def test_arguments_out_of_range(knobs, message):
    with pytest.raises(UsageError, match=message):
        bits_per_dimension(curved, gaussian_spec(alphas(3)), any_images(2, (1, 2, 3)), **knobs)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["eps", "variance_fraction"])
def test_a_number_that_is_not_finite_is_refused_though_clipping_would_hide_it(name, value):
    def model(x_t, t):
        outputs = curved(x_t, t)
        if t[0] == 2:
            outputs[name][-1, 0, 0, 0] = value
        return outputs

    spec = learned(gaussian_spec(alphas(4), clip_x_0=1.0))
    with pytest.raises(NonFiniteError, match=f"At t = 2, the network's {name} became NaN or infinite"):
        bits_per_dimension(model, spec, any_images(2, (1, 2, 3)))


def test_a_variance_beyond_every_float_is_refused():
    def model(x_t, t):
        outputs = curved(x_t, t)
        if len(x_t) == 3:  # the second batch
            outputs["variance_fraction"][1] = -1e6
        return outputs

    with pytest.raises(NonFiniteError, match="At t = 0, image 7, the bound became NaN or infinite"):
        bits_per_dimension(model, learned(gaussian_spec(alphas(4))), any_images(9, (1, 2, 3)), batch=6)


def test_an_output_that_is_missing():
    with pytest.raises(BadFileError, match="no output 'eps', which its spec names"):
        bits_per_dimension(always("v", 0.0), gaussian_spec(alphas(3)), any_images(1, (1, 2, 3)))


# --- torch ------------------------------------------------------------------------------------------------------------


@pytest.mark.torch
@every_variance
def test_torch_agrees_on_one_image(variance):
    torch = pytest.importorskip("torch")
    spec = learned(gaussian_spec(alphas(1000), clip_x_0=1.0, image_shape=(3, 8, 8)))
    image = any_images(1, spec.state_shape)
    model = gaussian_model(spec.alphas_cumprod, MEAN, STD)

    def network(x_t, t):  # smooth, so that float32's roundings stay small, with a variance of its own
        return {"eps": 0.9 * model(x_t, t)["eps"], "variance_fraction": 0.5 + 0.4 * np.tanh(x_t)}

    found = bits_per_dimension(network, spec, image, seed=11, variance=variance)

    a = torch.tensor(spec.alphas_cumprod, dtype=torch.float64)
    before = torch.cat([torch.ones(1, dtype=torch.float64), a[:-1]])
    beta = 1 - a / before
    small = beta * (1 - before) / (1 - a)
    small[0] = small[1]
    x_0 = torch.tensor(image, dtype=torch.float64).permute(0, 3, 1, 2) / 127.5 - 1
    draws = noise_stream(11, [0], spec.state_shape)
    p, q = torch.distributions.Normal(0.0, 1.0), torch.distributions.Normal
    total = torch.distributions.kl_divergence(q(a[-1].sqrt() * x_0, (1 - a[-1]).sqrt()), p).sum()
    for t in range(1000):
        z = torch.tensor(draws(t + 1)).double()
        x_t = (a[t].sqrt() * x_0 + (1 - a[t]).sqrt() * z).float()
        outputs = network(x_t.numpy(), np.array([t]))
        guess = ((x_t.double() - (1 - a[t]).sqrt() * torch.tensor(outputs["eps"])) / a[t].sqrt()).clamp(-1, 1)
        share = {"fixed_small": torch.zeros_like(x_0), "fixed_large": torch.ones_like(x_0)}.get(variance)
        share = torch.tensor(outputs["variance_fraction"]).double() if share is None else share
        std = torch.exp(0.5 * (share * beta[t].log() + (1 - share) * small[t].log()))
        of_x_0 = before[t].sqrt() * beta[t] / (1 - a[t])
        of_x_t = (1 - beta[t]).sqrt() * (1 - before[t]) / (1 - a[t])
        mean_q, mean_p = of_x_0 * x_0 + of_x_t * x_t, of_x_0 * guess + of_x_t * x_t
        if t > 0:
            total += torch.distributions.kl_divergence(q(mean_q, small[t].sqrt()), q(mean_p, std)).sum()
        else:
            # log(cdf(high) - cdf(low)) from their logarithms, on the side where both are small
            low = torch.where(x_0 == -1.0, -math.inf, (x_0 - 1 / 255 - mean_p) / std)
            high = torch.where(x_0 == 1.0, math.inf, (x_0 + 1 / 255 - mean_p) / std)
            low, high = torch.where(low + high > 0, -high, low), torch.where(low + high > 0, -low, high)
            low, high = torch.special.log_ndtr(low), torch.special.log_ndtr(high)
            total -= (high + torch.log1p(-torch.exp(low - high))).sum()
    assert found.mean == pytest.approx(float(total) / (192 * math.log(2.0)), rel=1e-6)


def test_a_network_with_classes_is_told_none_and_never_guided():
    label = Input("y", "label", none=2, classes=("dark", "light"))
    defaults = Defaults(num_steps=5, guidance=Guidance(3.0))
    asked = gaussian_spec(alphas(20), clip_x_0=1.0, inputs=(label,), requires=("inputs", "guidance"), defaults=defaults)
    images = np.random.default_rng(0).integers(0, 256, (3, 2, 3, 1), dtype=np.uint8)
    found = bits_per_dimension(classes_model(alphas(20), (-0.5, 0.5, MEAN), STD), asked, images)
    plain = bits_per_dimension(gaussian_model(alphas(20), MEAN, STD), gaussian_spec(alphas(20), clip_x_0=1.0), images)
    assert found.mean == plain.mean
