"""The likelihood by the probability flow against one that is known exactly: pixels that are each normal."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from gaussian import gaussian_model, gaussian_spec

from ddpm_export.errors import NonFiniteError, UsageError
from ddpm_export.process.schedules import alphas_cumprod_from_betas, betas_from_name
from ddpm_export.scoring.metrics.bits import bits_per_dimension
from ddpm_export.scoring.metrics.likelihood import flow_bits

MEAN, STD = 0.1, 0.25
A = alphas_cumprod_from_betas(betas_from_name("linear", 1000))
IMAGES = np.clip(np.random.default_rng(0).normal(140.0, 32.0, (6, 8, 8, 1)), 0, 255).round().astype(np.uint8)


def inputs(prediction="v", clip_x_0=None):
    return gaussian_model(A, MEAN, STD, prediction), gaussian_spec(A, prediction, clip_x_0, (1, 8, 8))


def exact(images):
    """Bits per dimension of each image: -log2 of the probability of its pixels' bins."""
    cdf = np.vectorize(NormalDist(MEAN, STD).cdf)
    pixels = images / 127.5 - 1.0
    return -np.log2(cdf(pixels + 1 / 255) - cdf(pixels - 1 / 255)).mean(axis=(1, 2, 3))


@pytest.mark.parametrize("prediction", ["eps", "x_0", "v"])
def test_the_likelihood_of_gaussian_data_is_the_known_one(prediction):
    found = flow_bits(*inputs(prediction), IMAGES, num_steps=128)
    np.testing.assert_allclose(found.per_image, exact(IMAGES), rtol=0, atol=0.02)
    assert found.mean == pytest.approx(found.per_image.mean())
    assert found.standard_error == pytest.approx(found.per_image.std(ddof=1) / math.sqrt(6))
    assert (len(found.per_image), found.num_steps) == (6, 128)


def test_twice_the_steps_have_a_quarter_of_the_error():
    errors = [abs(flow_bits(*inputs(), IMAGES, num_steps=n).mean - exact(IMAGES).mean()) for n in (16, 32, 64)]
    assert 3.0 < errors[0] / errors[1] < 5.0
    assert 3.0 < errors[1] / errors[2] < 5.0


def test_the_bound_lies_above_it():
    assert flow_bits(*inputs(), IMAGES, num_steps=64).mean < bits_per_dimension(*inputs(), IMAGES).mean


def test_no_image_depends_on_its_batch_and_clipping_is_off():
    whole = flow_bits(*inputs(), IMAGES, num_steps=16)
    for batch in (1, 4):
        again = flow_bits(*inputs(clip_x_0=0.1), IMAGES, num_steps=16, batch=batch)
        np.testing.assert_allclose(again.per_image, whole.per_image, rtol=1e-12)
    other = flow_bits(*inputs(), IMAGES, num_steps=16, seed=1)
    assert 0.0 < np.abs(other.per_image - whole.per_image).max() < 0.05
    assert math.isnan(flow_bits(*inputs(), IMAGES[:1], num_steps=4).standard_error)


def test_progress_is_reported_and_what_does_not_fit_refused():
    calls = []
    flow_bits(*inputs(), IMAGES, num_steps=3, batch=4, report=lambda *far: calls.append(far))
    assert calls == [(k, 6) for k in range(1, 7)]
    for change, message in (
        ({"num_steps": 1}, "num_steps must be between 2 and 1000 for a likelihood, got 1."),
        ({"num_steps": 1001}, "num_steps must be between 2 and 1000"),
        ({"batch": 0}, "batch must be at least 1, got 0."),
    ):
        with pytest.raises(UsageError, match=message):
            flow_bits(*inputs(), IMAGES, **change)
    with pytest.raises(UsageError, match="images must be uint8"):
        flow_bits(*inputs(), IMAGES[:, 1:])
    model, spec = inputs()
    with pytest.raises(NonFiniteError, match="At t = 0"):
        flow_bits(lambda x_t, t: {"v": np.nan * model(x_t, t)["v"]}, spec, IMAGES)
    ends_in_noise = gaussian_spec([0.9, 0.5, 0.0], "v", None, (1, 8, 8))
    with pytest.raises(UsageError, match="needs some signal at the last time"):
        flow_bits(gaussian_model([0.9, 0.5, 0.0], MEAN, STD, "v"), ends_in_noise, IMAGES, num_steps=3)
