"""Bits per dimension of an opened model: the variational bound of Ho et al. 2020, term by term. NumPy only.

Knows a model, its spec and images in memory; no file, no runtime, no sampler. Times count from 0: t here is t + 1 in
the paper. The network sees float32; all else is float64.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddpm_export.errors import NonFiniteError, UsageError, several
from ddpm_export.model.denoiser import denoiser
from ddpm_export.model.spec import ModelSpec
from ddpm_export.process.equations import VARIANCE_FRACTION, VARIANCES, Array, Model, noised, numbered
from ddpm_export.process.noise import noise_stream
from ddpm_export.process.pixels import from_uint8
from ddpm_export.process.rows import Row

Float64 = NDArray[np.float64]

FIXED_FRACTIONS = {"fixed_small": 0.0, "fixed_large": 1.0}  # as a learned variance would have to say it
HALF_BIN = 1.0 / 255.0
TAIL = -30.0  # below it a series for the normal distribution's logarithm, right to 2e-12


@dataclass(frozen=True, eq=False)
class Bits:
    """Hold the bound on -log2 p(image) / (C H W) of some images, and what it is made of; all in bits per dimension.

    mean: over the images, an upper bound of the negative log-likelihood. per_image: (N,) float64.
    standard_error: of mean (see bits_per_dimension); NaN for one image. strata_error: its part that comes from
    evaluating some times instead of all, common to the images; 0.0 where all were evaluated.
    prior: the mean of the first term. times: (K,) int64, rising. terms_mean: (K,) float64, the mean term at each of
    them, unweighted. With all times, mean is prior + terms_mean.sum().
    terms, squared_errors: (N, K) float64, each image's term, and the mean over its pixels of the squared error of the
    model's x_0, in units of [-1, 1].
    """

    mean: float
    standard_error: float
    strata_error: float
    per_image: Float64
    prior: float
    times: NDArray[np.int64]
    terms_mean: Float64
    terms: Float64
    squared_errors: Float64


def strided_times(num_train_timesteps: int, stride: int, seed: int = 0) -> tuple[int, ...]:
    """Return a stratified subset of the times 0..T-1, rising: 0, and one drawn evenly from each stratum of the rest.

    1..T-1 is cut into as few strata as have a mean width of at most `stride`. They widen with the square of their
    place, in whole numbers that follow from T and the number of times: the first few hold one time each, where the
    terms are large and fall steeply; the last are up to about three times as wide as the mean. The same arguments give
    the same times on every machine.
    Raises UsageError for T or stride below 1.
    """
    for name, value in (("num_train_timesteps", num_train_timesteps), ("stride", stride)):
        if value < 1:
            raise UsageError(f"{name} must be at least 1, got {value!r}.")
    edges = strata(num_train_timesteps, 1 - (1 - num_train_timesteps) // stride)
    draw = random.Random(seed).random  # Python promises the same numbers in every version
    return tuple(low + int(draw() * (high - low)) for low, high in pairwise(edges))


def bits_per_dimension(
    model: Model,
    spec: ModelSpec,
    images: NDArray[np.uint8],
    *,
    times: Sequence[int] | None = None,
    seed: int = 0,
    batch: int = 64,
    variance: str | None = None,
    report: Callable[[int, int], None] | None = None,
) -> Bits:
    """Bound the negative log-likelihood of images (Ho et al. 2020, eq. 5), in bits per dimension of C H W, unpadded.

    The bound is KL(q(x_T|x_0) || N(0, 1)), and for every time a term: KL(q(x_t-1|x_t,x_0) || p(x_t-1|x_t)), or at
    t = 0 the discretised decoder's -log p(x_0|x_1) (eq. 13, bins of 1/127.5, the outermost open). Its Gaussian
    integrals are exact: no probability is approximated or cut off.

    images: (N, H, W, C) uint8, k becoming k/127.5 - 1. Image n at time t meets draw t + 1 of
    `noise_stream(seed, [n], spec.image_shape)`, so its term does not depend on `batch`. x_t is rounded to float32
    before anything is computed from it. The mean of p(x_t-1|x_t) is eq. 7's with the model's x_0, clipped where the
    spec clips.
    variance: of p, by default the spec's. fixed_small is the posterior's (eq. 7), which at t = 0 is 0: there it is
    that of t = 1, as in the codes of Ho and of Nichol. fixed_large is beta at every t (section 3.2; those codes put
    the posterior's of t = 1 at t = 0 here too). learned lies between the logarithms of these two, where the network
    puts it (Nichol and Dhariwal 2021, eq. 15). With a single time there is no t = 1, and all three are beta.
    times: None for all T, or a stratified subset from `strided_times`; each term then counts once for each time of its
    stratum, so that the estimate is unbiased over the drawn times.

    The standard error combines in quadrature the spread over images, each with its own noise, and strata_error, the
    choice of times, which all images share: the sum of size^2 times the variance within each stratum of the curve
    through the terms, on which the squared error of v is linear between the evaluated times and constant beyond them.
    It covers neither another training of the network nor how far the bound lies above the likelihood.

    report: called after each evaluation with (done, total). Costs K network evaluations a batch.
    Raises UsageError for images, times, batch or a variance that do not fit; NonFiniteError where the network or a term
    is not finite; BadFileError where the model lacks an output.
    """
    variance = spec.variance if variance is None else variance
    refuse_other_images(spec, images, batch)
    _check_variance(spec, variance)
    T = spec.num_train_timesteps
    chosen = range(T) if times is None else [int(t) for t in times]
    edges = strata(T, len(chosen))
    _check_times(chosen, edges, T)
    sizes = np.diff(edges).astype(np.float64)

    denoise, process = denoiser(single_precision(model, spec), spec, guidance=1), _process(spec)
    count, dimensions = len(images), math.prod(spec.state_shape)
    prior, terms = np.empty(count), np.empty((count, len(chosen)))  # nats of an image
    squared_errors = np.empty_like(terms)
    evaluations, done = len(chosen) * -(-count // batch), 0
    for start in range(0, count, batch):
        part = slice(start, min(start + batch, count))
        x_0 = from_uint8(images[part])
        noise = noise_stream(seed, range(part.start, part.stop), spec.state_shape)
        prior[part] = _per_image(_prior_nats(x_0, process.a[-1]))
        for k, t in enumerate(chosen):
            a = float(process.a[t])
            x_t = noised(x_0, noise(t + 1).astype(np.float64), a).astype(np.float32)
            # _refuse_non_finite reports what overflows
            with np.errstate(all="ignore"), numbered(range(part.start, part.stop)):
                found = denoise(x_t.astype(np.float64), Row(t + 1, t, a), None)
                fraction = FIXED_FRACTIONS.get(variance, found.variance_fraction)
                terms[part, k] = _per_image(_term_nats(x_0, found.x_0, fraction, t, process))
                squared_errors[part, k] = _per_image(np.square(x_0 - found.x_0)) / dimensions
            _refuse_non_finite(terms[part, k], "the bound", t, part.start)
            done += 1
            if report is not None:
                report(done, evaluations)

    nats_per_bit = dimensions * math.log(2.0)
    prior, terms = prior / nats_per_bit, terms / nats_per_bit
    per_image = prior + (terms * sizes).sum(axis=1)
    terms_mean = terms.mean(axis=0)
    strata_error = _strata_error(terms_mean, np.array(chosen), edges, process)
    mean, over_images = mean_and_error(per_image)
    return Bits(
        mean=float(mean),
        standard_error=math.hypot(over_images, strata_error),
        strata_error=strata_error,
        per_image=per_image,
        prior=float(prior.mean()),
        times=np.array(chosen, dtype=np.int64),
        terms_mean=terms_mean,
        terms=terms,
        squared_errors=squared_errors,
    )


class _Process(NamedTuple):
    """What the terms need of the forward process, each (T,) float64."""

    a: Float64  # alphas_cumprod
    log_small: Float64  # log of the small variance, at t = 0 that of t = 1
    log_gap: Float64  # log of the large variance over the small
    snr_drop: Float64  # a_prev / (1 - a_prev) - a / (1 - a); 0 at t = 0, where it would be infinite


def _process(spec: ModelSpec) -> _Process:
    a = np.array(spec.alphas_cumprod, dtype=np.float64)
    a_prev = np.append(1.0, a[:-1])
    large = 1.0 - a / a_prev  # beta
    small = large * (1.0 - a_prev) / (1.0 - a)  # Ho et al. 2020, eq. 7
    small[0] = small[1] if len(a) > 1 else large[0]
    snr_drop = np.zeros_like(a)
    snr_drop[1:] = (a_prev * large / (1.0 - a))[1:] / (1.0 - a_prev[1:])
    return _Process(a, np.log(small), np.log(large) - np.log(small), snr_drop)


def _prior_nats(x_0: Float64, a: float) -> Float64:
    """Return KL(N(sqrt(a) x_0, 1 - a) || N(0, 1)), the first term of Ho et al. 2020, eq. 5."""
    return 0.5 * (a * np.square(x_0) - a - math.log1p(-a))


def _term_nats(x_0: Float64, predicted: Array, fraction: Any, t: int, process: _Process) -> Float64:
    """Return the term of eq. 5 at t, element by element, given where the variance lies between small and large.

    Both means are eq. 7's, of the true and of the predicted x_0; x_t falls out of their difference, and the square of
    its coefficient over the small variance is the drop of the signal-to-noise ratio.
    """
    log_ratio = fraction * process.log_gap[t]  # of p's variance over the small one; 0.0 exactly for fixed_small
    if t == 0:
        return _decoder_nats(x_0, predicted, np.exp(0.5 * (process.log_small[0] + log_ratio)))
    errors = process.snr_drop[t] * np.square(x_0 - predicted)
    nats: Float64 = 0.5 * (np.expm1(-log_ratio) + log_ratio + np.exp(-log_ratio) * errors)
    return nats


def _decoder_nats(x_0: Float64, mean: Array, std: Any) -> Float64:
    """Return -log of the probability that N(mean, std^2) gives the bin around x_0 (Ho et al. 2020, eq. 13)."""
    low = np.where(x_0 > -1.0, x_0 - HALF_BIN - mean, -np.inf) / std
    high = np.where(x_0 < 1.0, x_0 + HALF_BIN - mean, np.inf) / std
    above = low + high > 0.0  # mirrored: small numbers lie close together below the mean, where 1 - p would lose them
    low, high = np.where(above, -high, low), np.where(above, -low, high)
    log_high = _log_normal_cdf(high)
    nats: Float64 = -(log_high + np.log(-np.expm1(_log_normal_cdf(low) - log_high)))
    return nats


_erfc = np.vectorize(math.erfc, otypes=[np.float64])  # NumPy has none; needed only at t = 0


def _log_normal_cdf(z: Float64) -> Float64:
    body = np.log(0.5 * _erfc(np.maximum(z, TAIL) * -math.sqrt(0.5)))
    tail = np.minimum(z, TAIL)
    r = 1.0 / np.square(tail)  # Abramowitz and Stegun 1964, 26.2.12
    series = np.log1p(-r * (1.0 - 3.0 * r * (1.0 - 5.0 * r * (1.0 - 7.0 * r))))
    return np.where(z > TAIL, body, series - 0.5 * np.square(tail) - np.log(-tail) - 0.5 * math.log(2.0 * math.pi))


def _per_image(nats: Float64) -> Float64:
    totals: Float64 = nats.reshape(len(nats), -1).sum(axis=1)
    return totals


def mean_and_error(values: Float64) -> tuple[Any, Any]:
    """Return the mean over the first axis and its standard error, which is NaN for one row."""
    count = len(values)
    error = values.std(axis=0, ddof=1) / math.sqrt(count) if count > 1 else np.full(values.shape[1:], math.nan)
    return values.mean(axis=0), error


def strata(T: int, count: int) -> list[int]:
    """Return where the strata of `count` of T times begin, only 0 in the first, and their end: count + 1 numbers.

    Each has at least one time; the rest of T is spread along a cubic.
    """
    last, left = count - 1, T - count
    return [0, *(1 + k + left * k**3 // last**3 for k in range(count))] if count > 1 else [0, 1]


def _strata_error(terms: Float64, times: NDArray[Any], edges: list[int], process: _Process) -> float:
    """Return the standard deviation over the draw of the times, on a curve through the terms found at them.

    A term is about snr_drop (1 - a) / 2 times the squared error of v (Salimans and Ho 2022, section 4: that of x_0 is
    1 - a times it); the first falls steeply and is known, the second is read off where it was found.
    """
    if len(times) == len(process.a):
        return 0.0
    weight = process.snr_drop * (1.0 - process.a)
    curve = weight * np.interp(np.arange(len(weight)), times[1:], terms[1:] / weight[times[1:]])
    parts = [curve[low:high] for low, high in pairwise(edges)]
    return math.sqrt(sum(len(part) ** 2 * float(part.var()) for part in parts))


def single_precision(model: Model, spec: ModelSpec) -> Model:
    """Return the model with float32 inputs and float64 outputs; it raises NonFiniteError where they are not finite."""

    def single(x_t: Array, t: Array, **inputs: Array) -> dict[str, Array]:
        outputs = model(x_t.astype(np.float32), t, **inputs)
        wide = {name: outputs[name].astype(np.float64) for name in spec.outputs if name in outputs}
        for name, values in wide.items():
            _refuse_non_finite(values, f"the network's {name}", int(t[0]), None)
        return wide

    return single


def _refuse_non_finite(values: Array, what: str, t: int, first: int | None) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        image = "" if first is None else f", image {first + int(np.argmin(finite))}"
        raise NonFiniteError(f"At t = {t}{image}, {what} became NaN or infinite. Run ddpm-check on the model.")


def refuse_other_images(spec: ModelSpec, images: NDArray[Any], batch: int) -> None:
    """Raise UsageError unless images are uint8 (N, H, W, C) of the spec's size, and batch is a number of them."""
    channels, height, width = spec.state_shape
    if images.dtype != np.uint8 or images.shape[1:] != (height, width, channels) or len(images) < 1:
        raise UsageError(
            f"images must be uint8 (N, {height}, {width}, {channels}) with N at least 1, got {images.dtype} "
            f"{images.shape!r}."
        )
    if batch < 1:
        raise UsageError(f"batch must be at least 1, got {batch!r}.")


def _check_variance(spec: ModelSpec, variance: str) -> None:
    if variance not in VARIANCES:
        raise UsageError(f"variance must be one of {', '.join(VARIANCES)}, got {variance!r}.")
    if variance == "learned" and VARIANCE_FRACTION not in spec.outputs:
        raise UsageError("variance must be fixed_small or fixed_large for a network that predicts none, got 'learned'.")


def _check_times(times: Sequence[int], edges: list[int], T: int) -> None:
    fits = len(times) > 0 and edges[-1] == T and len(times) <= T
    if not fits or not all(low <= t < high for t, (low, high) in zip(times, pairwise(edges), strict=True)):
        raise UsageError(
            f"times must rise from 0, with one time in each stratum of 1 to {T - 1}, got {several(times)}. "
            "Use strided_times."
        )
