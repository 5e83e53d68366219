"""The equations of one reverse step, in the letters of Ho et al. 2020 and Song et al. 2020. NumPy alone.

Coefficients are Python floats, computed in float64 and rounded once when they meet a float32 array.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddpm_export.errors import BadFileError, UsageError
from ddpm_export.schedules import spacing
from ddpm_export.spec import VARIANCE_FRACTION, ModelSpec

__all__ = [
    "Array",
    "Denoised",
    "Denoiser",
    "Model",
    "OneCall",
    "Step",
    "denoiser",
    "noise_std",
    "noised",
    "trajectory",
]

Array = NDArray[Any]
Model = Callable[..., dict[str, Array]]
# what a one-call file does: (seed, image numbers, num_steps, eta) -> where it stops to show it, the number of the step,
# from 1, the state x after it (B, C, H, W) and its pictures, uint8 (B, H, W, C); the last one is the end
OneCall = Callable[[int, range, int, float], Iterator[tuple[int, Array, Array]]]


class Step(NamedTuple):
    """One step of a trajectory: i, its noise draw, from 1; t; a = alphas_cumprod[t]; a_prev, 1.0 at the end."""

    i: int
    t: int
    a: float
    a_prev: float


class Denoised(NamedTuple):
    """What a network's output says of a noisy image, each (B, C, H, W): the clean image and the noise in it.

    variance_fraction, where the network learned it, says where between the logarithms of the step's small and large
    variance its own lies (Nichol and Dhariwal 2021, eq. 15): 0 small, 1 large, and beyond where the network says so.
    """

    x_0: Array
    eps: Array
    variance_fraction: Array | None = None


Denoiser = Callable[[Array, Step], Denoised]


def noised(x_0: Array, eps: Array, a: float) -> Array:
    """Return x_t = sqrt(a) x_0 + sqrt(1 - a) eps (Ho et al. 2020, eq. 4), in the shape and dtype of its arguments."""
    return math.sqrt(a) * x_0 + math.sqrt(1.0 - a) * eps


def trajectory(spec: ModelSpec, num_steps: int | None = None, *, times: Iterable[int] | None = None) -> list[Step]:
    """Return the steps from noise to image: num_steps evenly spaced ones, or those at the given falling times.

    Without either, the spec's default number. Raises UsageError for num_steps outside 1..T and for times that do not
    strictly fall within 0..T-1.
    """
    T = spec.num_train_timesteps
    if times is None:
        grid = spacing(T, spec.defaults.num_steps if num_steps is None else num_steps).tolist()
    else:
        grid = [int(t) for t in times]
        falls = all(later < earlier for earlier, later in pairwise(grid))
        if not grid or not falls or grid[0] >= T or grid[-1] < 0 or num_steps not in (None, len(grid)):
            raise UsageError(
                f"times: not a trajectory. got {grid[:5]!r} ({len(grid)} of them), expected strictly falling times "
                f"from {T - 1} to 0. Do sort them."
            )
    a = [float(spec.alphas_cumprod[t]) for t in grid]
    return [Step(i + 1, t, a[i], a[i + 1] if i + 1 < len(a) else 1.0) for i, t in enumerate(grid)]


def denoiser(model: Model, spec: ModelSpec, **inputs: Array) -> Denoiser:
    """Bind a model, what it predicts, its clipping and its named inputs: (x_t, step) -> (x_0, eps, variance_fraction).

    One network evaluation a call. x_0 follows from eps (Ho et al. 2020, eq. 4), v (Salimans and Ho 2022, section 4) or
    itself; where clip_x_0 is set, x_0 is clipped and eps is what then leads from it to x_t.
    """

    def denoise(x_t: Array, step: Step) -> Denoised:
        outputs = model(x_t, np.full(len(x_t), step.t, dtype=np.int64), **inputs)
        missing = [name for name in spec.outputs if name not in outputs]
        if missing:
            raise BadFileError(
                f"model: no output of the spec's name. got {sorted(outputs)!r}, expected {missing[0]!r}. Do "
                "export the model again."
            )
        x_0, eps = _denoised(outputs[spec.prediction], x_t, step.a, spec)
        fraction = outputs[VARIANCE_FRACTION].copy() if VARIANCE_FRACTION in spec.outputs else None
        return Denoised(x_0, eps, fraction)

    return denoise


def _denoised(predicted: Array, x_t: Array, a: float, spec: ModelSpec) -> tuple[Array, Array]:
    signal, noise = math.sqrt(a), math.sqrt(1.0 - a)
    # copies: `predicted` may be a buffer that the next evaluation overwrites, and what is yielded must stay
    if spec.prediction == "eps":
        x_0, eps = (x_t - noise * predicted) * (1.0 / signal), predicted.copy()
    elif spec.prediction == "v":
        x_0, eps = signal * x_t - noise * predicted, noise * x_t + signal * predicted
    else:
        x_0, eps = predicted.copy(), (x_t - signal * predicted) * (1.0 / noise)
    if spec.clip_x_0 is not None:
        x_0 = np.clip(x_0, -spec.clip_x_0, spec.clip_x_0)
        eps = (x_t - signal * x_0) * (1.0 / noise)
    return x_0, eps


def noise_std(step: Step, eta: float) -> float:
    """Return DDIM's noise standard deviation (Song et al. 2020, eq. 16); eta = 1 is Ho's fixed_small, eq. 7."""
    a, a_prev = step.a, step.a_prev
    return eta * math.sqrt((1.0 - a_prev) / (1.0 - a)) * math.sqrt(1.0 - a / a_prev)
