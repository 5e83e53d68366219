"""Rate and distortion against the paper's words in loops, and against what is known of a Gaussian."""

import math

import numpy as np
import pytest
from gaussian import gaussian_model, gaussian_spec

from ddpm_export.errors import UsageError
from ddpm_export.process.noise import noise_stream
from ddpm_export.process.pixels import from_uint8
from ddpm_export.process.schedules import alphas_cumprod_from_betas, betas_from_name, times_from_grid
from ddpm_export.scoring.metrics.bits import bits_per_dimension, strided_times
from ddpm_export.scoring.metrics.rate import coder_costs, message_bits, progressive, rate_distortion

T, MEAN, STD = 60, 0.1, 0.25
A = alphas_cumprod_from_betas(betas_from_name("linear", T, beta_start=0.1 / T, beta_end=20.0 / T))
SPEC = gaussian_spec(A, "eps", None, (1, 8, 8))
MODEL = gaussian_model(A, MEAN, STD)
IMAGES = np.clip(np.random.default_rng(0).normal(140.0, 32.0, (12, 8, 8, 1)), 0, 255).astype(np.uint8)
BITS = bits_per_dimension(MODEL, SPEC, IMAGES, seed=4)
RATE = rate_distortion(BITS, T)


def test_rate_is_what_was_sent_before_and_distortion_that_of_what_is_seen():
    x_0, noise = from_uint8(IMAGES), noise_stream(4, range(12), (1, 8, 8))
    seen = progressive(MODEL, SPEC, IMAGES, tuple(range(T)), seed=4)
    for t in range(T):
        sent = BITS.prior + BITS.terms_mean[t + 1 :].sum()  # the receiver of x_t knows these
        assert RATE.rate[t] == pytest.approx(sent, abs=1e-12)
        x_t = math.sqrt(A[t]) * x_0 + math.sqrt(1.0 - A[t]) * noise(t + 1)
        found = (x_t - math.sqrt(1.0 - A[t]) * MODEL(x_t, np.full(12, t))["eps"]) / math.sqrt(A[t])  # eq. 15
        np.testing.assert_allclose(seen[t], found, atol=1e-6 / math.sqrt(A[t]))  # x_t is float32
        levels = 127.5 * (found - x_0)
        assert RATE.rmse[t] == pytest.approx(math.sqrt(np.mean(levels**2)), rel=1e-5)
    assert RATE.rate[0] + RATE.lossless == pytest.approx(BITS.mean)


def test_the_distortion_of_gaussian_data_is_that_of_its_posterior():
    images = np.clip(np.random.default_rng(1).normal(140.0, 32.0, (256, 8, 8, 1)), 0, 255).round().astype(np.uint8)
    mean, std = 140.0 / 127.5 - 1.0, 32.0 / 127.5
    found = rate_distortion(bits_per_dimension(gaussian_model(A, mean, std), SPEC, images), T)
    expected = 127.5 * np.sqrt(std**2 * (1.0 - A) / (A * std**2 + 1.0 - A))
    np.testing.assert_allclose(found.rmse, expected, rtol=0.03)
    assert (np.abs(found.rmse - expected) < 5.0 * found.rmse_error + 0.1).all()


def test_errors_are_those_of_the_mean_over_images():
    of_one = rate_distortion(bits_per_dimension(MODEL, SPEC, IMAGES[:1], seed=4), T)
    assert math.isnan(of_one.rate_error[0])
    sent = np.array([BITS.per_image - BITS.terms[:, : t + 1].sum(axis=1) for t in range(T)])
    np.testing.assert_allclose(RATE.rate_error, sent.std(axis=1, ddof=1) / math.sqrt(12), rtol=1e-9, atol=1e-12)
    squared = BITS.squared_errors[:, 5]
    slope = 127.5 / (2.0 * math.sqrt(squared.mean()))
    assert RATE.rmse_error[5] == pytest.approx(slope * squared.std(ddof=1) / math.sqrt(12))


def test_a_subset_of_the_times_gives_the_same_curve_nearly():
    some = bits_per_dimension(MODEL, SPEC, IMAGES, seed=4, times=strided_times(T, 3, seed=1))
    found = rate_distortion(some, T)
    np.testing.assert_array_equal(found.times, some.times)
    np.testing.assert_allclose(found.rate, RATE.rate[some.times], rtol=0.1, atol=0.02)
    assert found.rate[0] + found.lossless == pytest.approx(some.mean)


def test_a_message_takes_more_than_it_carries():
    np.testing.assert_allclose(message_bits(np.array([0.0, 1.0, 7.0, 1023.0])), [4.0, 6.0, 14.0, 1037.0])


def test_fewer_messages_are_a_process_of_their_own():
    """All times are the process itself; fewer are what the bound says of a spec that has only these."""
    whole, *_ = coder_costs(RATE, SPEC, (T,))
    assert whole.messages == T
    assert whole.kl == pytest.approx(RATE.rate[0])
    kl = np.array([BITS.prior, *BITS.terms_mean[1:]]) * 64
    assert whole.cost * 64 == pytest.approx((kl + np.log2(kl + 1.0) + 4.0).sum())
    few = np.ceil(np.maximum(kl, 1e-9) / 16.0)
    in_groups = (kl + few * (np.log2(kl / few + 1.0) + 4.0)).sum()
    assert whole.in_groups * 64 == pytest.approx(in_groups)
    assert whole.in_groups > whole.cost
    assert whole.largest == pytest.approx(kl.max())
    times = np.sort(times_from_grid("log_snr", A, 7))
    times[0] = 0
    shorter = gaussian_spec(A[times], "eps", None, (1, 8, 8))

    def model(x_t, t):
        return MODEL(x_t, times[t])

    # other noise, so equal only as far as the mean over 12 x 64 pixels is
    few = rate_distortion(bits_per_dimension(model, shorter, IMAGES, seed=4), 7)
    (found,) = coder_costs(RATE, SPEC, (7,))
    assert found.kl == pytest.approx(few.rate[0], rel=0.1)
    assert found.kl > whole.kl  # fewer steps are worse models of the way back
    assert found.lossless == RATE.lossless


def test_costs_are_only_for_counts_that_there_are_times_for_and_need_all_terms():
    assert [cost.messages for cost in coder_costs(RATE, SPEC)] == [10, 20, 50]
    some = bits_per_dimension(MODEL, SPEC, IMAGES, times=strided_times(T, 3))
    with pytest.raises(UsageError, match="A coder's cost needs the terms at all 60 times, got 21"):
        coder_costs(rate_distortion(some, T), SPEC)
