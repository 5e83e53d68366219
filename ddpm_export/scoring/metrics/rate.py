"""Rate against distortion of progressive coding (Ho et al. 2020, section 4.3), from the terms of the bound. NumPy only.

A receiver of x_t has received the prior and the terms above t, and can show the network's x_0. This computes what a
coder would cost; it is none.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ddpm_export.errors import UsageError
from ddpm_export.model.denoiser import denoiser
from ddpm_export.model.spec import ModelSpec
from ddpm_export.process.equations import Array, Model, noised
from ddpm_export.process.noise import noise_stream
from ddpm_export.process.pixels import from_uint8
from ddpm_export.process.rows import Row
from ddpm_export.process.schedules import times_from_grid
from ddpm_export.scoring.metrics.bits import Bits, mean_and_error, strata

Float64 = NDArray[np.float64]
LEVELS = 127.5  # of one unit in [-1, 1]
GROUP_BITS = 16.0  # 65,536 samples of a group of pixels


@dataclass(frozen=True, eq=False)
class Rate:
    """Hold rate and distortion at each time t, rising: all (K,) float64, with standard errors over the images.

    rate: bits per dimension sent before x_t is known. rmse: of the x_0 that the network then finds, in levels of 255.
    lossless: L_0 of Ho et al. 2020, table 4, in bits per dimension; L_1 + ... + L_T is rate[0].
    """

    times: NDArray[np.int64]
    rate: Float64
    rate_error: Float64
    rmse: Float64
    rmse_error: Float64
    lossless: float
    lossless_error: float


def rate_distortion(bits: Bits, num_train_timesteps: int) -> Rate:
    """Return the curve of Ho et al. 2020, figure 5, of the images whose bits were measured.

    With a subset of the times, a term counts once for each time of its stratum. Costs no evaluation. The standard
    errors of one image are NaN.
    """
    edges = np.array(strata(num_train_timesteps, len(bits.times)))
    sizes, above = np.diff(edges), edges[1:] - 1 - bits.times  # of a time's stratum: all of it, and what lies above it
    prior = bits.per_image - bits.terms @ sizes
    weighted = bits.terms * sizes
    sent = prior[:, None] + weighted.sum(axis=1, keepdims=True) - weighted.cumsum(axis=1) + bits.terms * above
    rate, rate_error = mean_and_error(sent)
    squared, squared_error = mean_and_error(bits.squared_errors)
    rmse = np.sqrt(squared)
    lossless, lossless_error = mean_and_error(bits.terms[:, :1])
    return Rate(
        times=bits.times,
        rate=rate,
        rate_error=rate_error,
        rmse=LEVELS * rmse,
        rmse_error=LEVELS * squared_error / (2.0 * np.maximum(rmse, 1e-12)),
        lossless=float(lossless[0]),
        lossless_error=float(lossless_error[0]),
    )


@dataclass(frozen=True)
class CoderCost:
    """Hold what a coder of samples would send of an image with the mean terms, in bits per dimension.

    messages: how many, one a time and one for x_T. kl: their information. cost: their length. largest: bits of the
    largest message; finding it takes about 2^largest samples. in_groups: their length where each is cut into groups of
    pixels of at most 16 bits, which a machine can find. lossless: L_0, by an arithmetic coder.
    """

    messages: int
    kl: float
    cost: float
    largest: float
    in_groups: float
    lossless: float


def coder_costs(
    rate: Rate, spec: ModelSpec, counts: tuple[int, ...] = (10, 20, 50, 100, 200, 500, 1000)
) -> list[CoderCost]:
    """Return what sending an image by `count` of all times would cost, for each count that there are times for.

    Fewer times, even in log SNR and with 0 among them, are a process whose terms follow from the squared errors
    measured at them: with the posterior's variance KL = (SNR(s) - SNR(t)) / 2 |x_0 - x_0 found|^2, from t to the next
    time s below. Raises UsageError unless all times were measured.
    """
    T, dimensions = spec.num_train_timesteps, math.prod(spec.state_shape)
    if len(rate.times) != T:
        raise UsageError(f"A coder's cost needs the terms at all {T} times, got {len(rate.times)}.")
    a = np.array(spec.alphas_cumprod)
    snr, squared = a / (1.0 - a), np.square(rate.rmse / LEVELS)
    found = []
    for count in counts:
        if not 2 <= count <= T:
            continue
        times = np.sort(times_from_grid("log_snr", a, count))
        times[0] = 0
        drops = snr[times[:-1]] - snr[times[1:]]
        sent = 0.5 * drops * squared[times[1:]] / math.log(2.0)
        kl = np.append(sent, rate.rate[-1]) * dimensions  # bits of an image; the last sends x_T
        groups = np.maximum(np.ceil(kl / GROUP_BITS), 1.0)
        found.append(
            CoderCost(
                messages=len(kl),
                kl=float(kl.sum()) / dimensions,
                cost=float(message_bits(kl).sum()) / dimensions,
                largest=float(kl.max()),
                in_groups=float((groups * message_bits(kl / groups)).sum()) / dimensions,
                lossless=rate.lossless,
            )
        )
    return found


def message_bits(kl: Float64) -> Float64:
    """Return about what sending a sample of q by p takes, KL + log2(KL + 1) + 4 bits (Theis and Ahmed 2022)."""
    return kl + np.log2(np.maximum(kl, 0.0) + 1.0) + 4.0


def progressive(
    model: Model, spec: ModelSpec, images: NDArray[np.uint8], times: tuple[int, ...], *, seed: int = 0
) -> Array:
    """Return the x_0 found in x_t of images (N, H, W, C) at each time, (K, N, C, H, W) float32.

    x_t has draw t + 1 of the seed, as in `bits_per_dimension` (Ho et al. 2020, eq. 15 and algorithm 4). Costs one
    network evaluation a time.
    """
    denoise = denoiser(model, spec, guidance=1)
    x_0, noise = from_uint8(images), noise_stream(seed, range(len(images)), spec.state_shape)
    shown = []
    for t in times:
        a = float(spec.alphas_cumprod[t])
        x_t = noised(x_0, noise(t + 1).astype(np.float64), a).astype(np.float32)
        shown.append(denoise(x_t, Row(t + 1, t, a), None).x_0)
    return np.stack(shown)
