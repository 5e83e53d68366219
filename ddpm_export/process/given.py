"""Given something: pixels that are known, a measurement, a picture to start from. NumPy only.

Posterior sampling changes x (`known_pixels`, an argument of `walk`) or x_0 (`measured`, around a denoiser), or takes
another plan; none of it knows a solver, a network or a file. docs/given.md says how far each is from the truth.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ddpm_export.errors import UsageError, shown
from ddpm_export.process.elementwise import sqrt
from ddpm_export.process.equations import Array, Denoised, Denoiser, Level, clean_and_noise, noised
from ddpm_export.process.noise import Noise
from ddpm_export.process.rows import Plan, Row
from ddpm_export.process.walk import Keep


class Measurement(NamedTuple):
    """A linear measurement y = A x of images x (B, C, H, W), and the way back: A+, its pseudo-inverse."""

    of: Callable[[Array], Array]
    back: Callable[[Array], Array]


def known_pixels(known: Array, mask: Array, noise: Noise) -> Keep:
    """Return what puts known pixels into every state of a walk (replacement: Song et al. 2021, appendix I.2).

    known: (B, C, H, W) in [-1, 1]. mask: 0 where a pixel is known, 1 where it is to be made, in a shape that fits
    known's. noise: of the known pixels, draw i after row i, from the domain GIVEN.

    Until the picture, whatever is not wholly known is made: a mixture of two noises would have too little of it. The
    picture itself is mask x + (1 - mask) known, so that values between 0 and 1 blend.
    """
    mask = np.asarray(mask, dtype=known.dtype)
    made = mask > 0.0

    def keep(x: Array, draw: int, a: float) -> Array:
        if a == 1.0:
            return mask * x + (1.0 - mask) * known
        return np.where(made, x, noised(known, noise(draw), a))

    return keep


def measured(denoise: Denoiser, measurement: Measurement, y: Array) -> Denoiser:
    """Return a denoiser whose clean images measure y: x_0 = A+ y + x_0 - A+ A x_0 (DDNM: Wang et al. 2023, eq. 13).

    After clipping, which is not repeated; eps is then what leads from this x_0 to x_t. Costs what `denoise` does.
    """
    target = measurement.back(y)

    def corrected(x_t: Array, row: Row, x_0_before: Array | None) -> Denoised:
        found = denoise(x_t, row, x_0_before)
        x_0 = target + (found.x_0 - measurement.back(measurement.of(found.x_0)))
        x_0, eps = clean_and_noise(x_0, x_t, Level(row.a), "x_0", None)
        return found._replace(x_0=x_0, eps=eps)

    return corrected


def average(size: int) -> Measurement:
    """Return the means of squares of size x size pixels: (B, C, H, W) -> (B, C, H / size, W / size)."""

    def of(x: Array) -> Array:
        batch, channels, height, width = x.shape
        squares = x.reshape(batch, channels, height // size, size, width // size, size)
        means: Array = squares.mean(axis=(3, 5), dtype=x.dtype)
        return means

    return Measurement(of, lambda y: y.repeat(size, axis=2).repeat(size, axis=3))


def grey(channels: int) -> Measurement:
    """Return the mean of the channels: (B, C, H, W) -> (B, 1, H, W)."""
    return Measurement(lambda x: x.mean(axis=1, keepdims=True, dtype=x.dtype), lambda y: y.repeat(channels, axis=1))


def masked(mask: Array) -> Measurement:
    """Return the pixels that are known, 0 in their mask as in `known_pixels`; values between weigh the measurement."""
    return Measurement(lambda x: (1.0 - np.asarray(mask, dtype=x.dtype)) * x, lambda y: y)


def measurement_from_text(text: str, shape: Sequence[int], mask: Array | None = None) -> Measurement:
    """Return the measurement that `average:4`, `grey` or `mask` names, of images of a shape (C, H, W).

    Raises UsageError for another name, for squares that do not fill the image, and for a mask that is not there.
    """
    name, _, size = text.partition(":")
    if name == "average" and size.isascii() and size.isdigit():
        if int(size) < 1 or any(length % int(size) for length in shape[1:]):
            raise UsageError(f"measure average:K must divide {shape[1]} x {shape[2]} pixels, got {shown(text)}.")
        return average(int(size))
    if text == "grey":
        return grey(shape[0])
    if text == "mask":
        if mask is None:
            raise UsageError("measure mask needs a mask.")
        return masked(mask)
    raise UsageError(f"measure must be average:K, grey or mask, got {shown(text)}.")


def crossfade(first: Array, last: Array, count: int) -> Array:
    """Return (1 - s) first + s last for `count` shares s from 0 to 1, (count, *shape), of pictures of one shape.

    Noised with one noise these are the states that Ho et al. 2020 interpolate between (section 4.3): it is linear.
    Raises UsageError for a count below 2.
    """
    share = _shares(count, first).astype(first.dtype)
    between: Array = (1.0 - share) * first + share * last
    return between


def slerp(first: Array, last: Array, count: int) -> Array:
    """Return cos(s pi / 2) first + sin(s pi / 2) last for `count` shares s from 0 to 1, of noise of one shape.

    These are again normal, of variance 1 (Song et al. 2020, appendix D.5, whose angle is 90 degrees for independent
    noise of many pixels). Raises UsageError for a count below 2.
    """
    angle = _shares(count, first) * (math.pi / 2.0)
    between: Array = np.cos(angle).astype(first.dtype) * first + np.sin(angle).astype(first.dtype) * last
    return between


def _shares(count: int, ends: Array) -> Array:
    if count < 2:
        raise UsageError(f"There must be at least 2 images from one end to the other, got {count}.")
    return np.linspace(0.0, 1.0, count).reshape(-1, *(1,) * ends.ndim)


def with_returns(plan: Plan, returns: int, jump: int = 1) -> Plan:
    """Return a plan that goes `jump` rows back, `returns` times from each place (RePaint: Lugmayr et al. 2022).

    The places are `jump` rows apart, the last one before the last row. Going back adds noise, so it is merged into the
    row before: with r = sqrt(a_u / a_s) from a_s back to a_u its weights are r times theirs, and its noise is
    sqrt(r^2 n^2 + 1 - r^2). Costs about 1 + returns times the evaluations. Raises UsageError for returns below 0, for
    a jump that does not fit the plan, and for a plan whose rows look back or weigh a learned variance.
    """
    rows, left = plan.rows, {}
    if returns < 0:
        raise UsageError(f"returns must be 0 or more, got {returns}.")
    if returns:
        if not 1 <= jump < len(rows):
            raise UsageError(f"jump must be between 1 and {len(rows) - 1}, below the plan's rows, got {jump}.")
        if any(row.reach > 1 for row in rows) or plan.needs_learned_variance:
            raise UsageError("returns need a sampler that does not look back and has a fixed variance. Choose ddim.")
        left = dict.fromkeys(range(len(rows) - 1, jump - 1, -jump), returns)
    walked: list[Row] = []
    place = 0  # rows that lie behind, of those given
    while place < len(rows):
        row = rows[place]
        place += 1
        if left.get(place, 0) > 0:
            left[place] -= 1
            row = _and_back(row, rows[place].a, rows[place - jump].a)
            place -= jump
        walked.append(row._replace(i=len(walked) + 1))
    return Plan(tuple(walked), plan.start)


def _and_back(row: Row, a_s: float, a_u: float) -> Row:
    """Return a row that ends at a_u, where noise carries what ended at a_s."""
    r = math.sqrt(a_u / a_s)
    noise = sum(row.noise)
    weights = [tuple(r * weight for weight in weights) for weights in (row.x_0, row.eps)]
    return row._replace(x_0=weights[0], eps=weights[1], noise=(math.sqrt(r * r * noise * noise + 1.0 - r * r),))


def times_below(times: Sequence[float], strength: float, num_train_timesteps: int) -> list[float]:
    """Return the times below strength T, where a picture that is noised gets made again (SDEdit: Meng et al. 2022).

    Raises UsageError for a strength outside 0..1, and for one below which there is no time.
    """
    if not 0.0 < strength <= 1.0:
        raise UsageError(f"strength must be above 0 and at most 1, got {strength!r}.")
    end = math.floor(strength * num_train_timesteps + 0.5)
    below = [t for t in times if t < end]
    if not below:
        raise UsageError(
            f"strength must reach the lowest time, t = {min(times):g} of {num_train_timesteps}, got {strength!r}."
        )
    return below


def inversion(alphas_cumprod: Sequence[float], times: Sequence[float]) -> Plan:
    """Return DDIM's plan backwards, from a picture to the noise that leads to it (Song et al. 2020, section 4.3).

    times: falling, of the plan that would lead to the picture. A picture counts as the state at time 0, where its walk
    begins. Give the denoiser a spec that does not clip: what is clipped cannot be found again. Raises UsageError for
    fractions of times, and where the only time is 0.
    """
    fraction = next((t for t in times if t != int(t)), None)
    if fraction is not None:
        raise UsageError(f"Inverting needs a plan at whole times, got t = {fraction:g}.")
    rising = sorted({0, *(int(t) for t in times)})
    if len(rising) < 2:
        raise UsageError("Inverting needs a time above 0, got only t = 0.")
    rows = []
    for i, (t, t_next) in enumerate(pairwise(rising), start=1):
        a_next = float(alphas_cumprod[t_next])
        rows.append(Row(i, t, float(alphas_cumprod[t]), (sqrt(a_next),), (sqrt(1.0 - a_next),)))
    return Plan(tuple(rows))
