"""Bits per dimension by the probability flow: the likelihood itself, where `bits` is a bound. NumPy only.

Knows a model, its spec and images in memory. Clipping is off, since a clipped value has no density.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from ddpm_export.errors import UsageError
from ddpm_export.model.denoiser import denoiser
from ddpm_export.model.spec import ModelSpec
from ddpm_export.process.equations import Array, Denoiser, Model, numbered
from ddpm_export.process.noise import Noise, noise_stream
from ddpm_export.process.pixels import from_uint8
from ddpm_export.process.rows import Row
from ddpm_export.process.schedules import times_from_grid
from ddpm_export.scoring.metrics.bits import HALF_BIN, mean_and_error, refuse_other_images, single_precision

Float64 = NDArray[np.float64]
NUDGE = 0.05  # of sigma: how far a finite difference goes; float32 resolves 1e-4 of it at the cleanest time
NORMAL = NormalDist()


@dataclass(frozen=True, eq=False)
class FlowBits:
    """Hold -log2 p(image) / (C H W) by the probability flow: per image (N,) float64, their mean and standard error."""

    mean: float
    standard_error: float
    per_image: Float64
    num_steps: int


def flow_bits(
    model: Model,
    spec: ModelSpec,
    images: NDArray[np.uint8],
    *,
    num_steps: int = 64,
    seed: int = 0,
    batch: int = 64,
    report: Callable[[int, int], None] | None = None,
) -> FlowBits:
    """Return the negative log-likelihood of images by the flow (Song et al. 2021, section 4.3), in bits per dimension.

    images: (N, H, W, C) uint8. A pixel becomes continuous within its bin by noise of the level of time 0, cut off at
    its edges (truncated-normal dequantisation, Zheng et al. 2023), whose entropy is known. The flow then leads to noise
    over num_steps trained times, 0 first, even in log SNR: with y = x / sqrt(a) and sigma the noise in it,
    dy / dlog sigma = y - x_0, in steps of second order (Lu et al. 2022b, algorithm 2). The density changes by C H W
    less the trace of dx_0/dy, a finite difference along a random sign for each pixel (Hutchinson 1989), summed by the
    trapezoidal rule. Twice the steps have a quarter of the error.

    Dequantisation is noise draw 0 of (seed, image), the signs are those of draw t + 1: no image depends on its batch.
    report: called after each time of each batch with (done, total). Costs two network evaluations a time and batch.
    Raises UsageError for images, batch or num_steps that do not fit, NonFiniteError for NaN or infinity.
    """
    refuse_other_images(spec, images, batch)
    T, dimensions = spec.num_train_timesteps, math.prod(spec.state_shape)
    if not 2 <= num_steps <= T:
        raise UsageError(f"num_steps must be between 2 and {T} for a likelihood, got {num_steps}.")
    a = np.array(spec.alphas_cumprod)
    if a[-1] == 0.0:
        raise UsageError("A likelihood needs some signal at the last time, where alphas_cumprod is 0.")
    times = np.sort(times_from_grid("log_snr", a, num_steps))
    times[0] = 0
    denoise = denoiser(single_precision(model, spec), replace(spec, clip_x_0=None), guidance=1)
    sigma = np.sqrt((1.0 - a) / a)[times]  # the noise in y (Karras et al. 2022)
    steps = np.diff(np.log(sigma))
    weights = (np.append(steps, 0.0) + np.append(0.0, steps)) / 2.0
    nats, done, all_ = np.empty(len(images)), 0, num_steps * -(-len(images) // batch)
    for start in range(0, len(images), batch):
        numbers = range(start, min(start + batch, len(images)))
        noise = noise_stream(seed, numbers, spec.state_shape)
        y, log_q = _dequantised(from_uint8(images[numbers.start : numbers.stop]), noise(0), float(sigma[0]))
        log_p, before = np.full(len(numbers), dimensions * float(steps.sum())), None
        for i, t in enumerate(times.tolist()):
            with numbered(numbers):
                x_0, trace = _clean_and_trace(denoise, y, t, float(a[t]), float(sigma[i]), noise)
            log_p -= weights[i] * trace
            if i < len(steps):
                slope = 0.0 if before is None else (x_0 - before) * steps[i] / (2.0 * steps[i - 1])
                k = math.exp(steps[i])
                y, before = k * y + (1.0 - k) * (x_0 + slope), x_0
            done += 1
            if report is not None:
                report(done, all_)
        x_T = math.sqrt(a[-1]) * y
        log_p += _sum(-0.5 * np.square(x_T) - 0.5 * math.log(2.0 * math.pi / a[-1]))
        nats[start : numbers.stop] = log_q - log_p
    per_image = nats / (dimensions * math.log(2.0))
    mean, error = mean_and_error(per_image)
    return FlowBits(float(mean), float(error), per_image, num_steps)


_cdf, _inverse_cdf = (np.vectorize(f, otypes=[np.float64]) for f in (NORMAL.cdf, NORMAL.inv_cdf))


def _dequantised(x_0: Float64, z: Array, sigma: float) -> tuple[Float64, Float64]:
    """Return x_0 + sigma u, u a standard normal within half a bin made from the normal z, and log q of each image."""
    edge = NORMAL.cdf(-HALF_BIN / sigma)
    u = _inverse_cdf(edge + (1.0 - 2.0 * edge) * _cdf(z))
    log_q = _sum(-0.5 * np.square(u) - math.log(math.sqrt(2.0 * math.pi) * sigma * (1.0 - 2.0 * edge)))
    return x_0 + sigma * u, log_q


def _clean_and_trace(
    denoise: Denoiser, y: Float64, t: int, a: float, sigma: float, noise: Noise
) -> tuple[Float64, Float64]:
    """Return x_0 as found at y = x_t / sqrt(a), and an estimate of the trace of its derivative by y, (B,)."""
    row = Row(t + 1, t, a)
    nudge = NUDGE * sigma
    signs = np.where(noise(t + 1) < 0.0, -1.0, 1.0)

    def found(at: Float64) -> Float64:
        x_t = (math.sqrt(a) * at).astype(np.float32)
        return np.asarray(denoise(x_t.astype(np.float64), row, None).x_0)

    x_0 = found(y)
    return x_0, _sum((found(y + nudge * signs) - x_0) * signs) / nudge


def _sum(values: Float64) -> Float64:
    totals: Float64 = values.reshape(len(values), -1).sum(axis=1)
    return totals
