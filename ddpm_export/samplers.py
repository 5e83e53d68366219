"""Samplers as generators: one yield a step, nothing kept. NumPy alone; they know a denoiser, a noise and steps."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from ddpm_export.diffusion import Array, Denoised, Denoiser, Step, noise_std
from ddpm_export.errors import UsageError
from ddpm_export.noise import Noise
from ddpm_export.spec import VARIANCES

__all__ = ["SAMPLERS", "State", "ddim", "ddpm", "no_learned_variance"]


class State(NamedTuple):
    """What a step leaves: the step, the image after it, and the denoiser's (x_0, eps) before it, each (B, C, H, W)."""

    step: Step
    x: Array
    x_0: Array
    eps: Array


def ddim(
    denoise: Denoiser, noise: Noise, steps: Iterable[Step], *, x: Array | None = None, eta: float = 0.0
) -> Iterator[State]:
    """Yield the states of DDIM (Song et al. 2020, eq. 12); eta = 0 adds no noise, eta = 1 is DDPM's fixed_small.

    Starts at noise draw 0, or goes on from `x`, the state before the first of `steps`. One network evaluation a step.
    Raises UsageError for eta outside 0..1.
    """
    if not 0.0 <= eta <= 1.0:
        raise UsageError(
            f"eta: out of range. got {eta!r}, expected 0 (no noise) to 1 (ddpm). Do pick one in that range."
        )
    eta = float(np.float32(eta))  # the one-call graph takes float32: the same eta everywhere
    return _walk(denoise, noise, steps, x, lambda step, _: (noise_std(step, eta), noise_std(step, eta)))


def ddpm(
    denoise: Denoiser, noise: Noise, steps: Iterable[Step], *, x: Array | None = None, variance: str = "fixed_small"
) -> Iterator[State]:
    """Yield the states of ancestral sampling (Ho et al. 2020, algorithm 2), respaced where steps leave times out.

    variance: fixed_small is the posterior's (eq. 7), fixed_large is beta's, sigma_t^2 = beta_t (section 3.2), learned
    lies where the network says between the two of the steps taken (Nichol and Dhariwal 2021, eq. 15). Starts at noise
    draw 0, or goes on from `x`. One network evaluation a step. Raises UsageError for another variance, and for a
    learned one where the network has learned none.
    """
    if variance == "fixed_small":
        return ddim(denoise, noise, steps, x=x, eta=1.0)
    if variance == "fixed_large":
        return _walk(denoise, noise, steps, x, lambda step, _: (noise_std(step, 1.0), _large_std(step)))
    if variance == "learned":
        return _walk(denoise, noise, steps, x, lambda step, found: (noise_std(step, 1.0), _learned_std(step, found)))
    raise UsageError(f"variance: unknown. got {variance!r}, expected one of {', '.join(VARIANCES)}. Do pick one.")


SAMPLERS: dict[str, Callable[..., Iterator[State]]] = {"ddpm": ddpm, "ddim": ddim}


def _large_std(step: Step) -> float:
    return math.sqrt(1.0 - step.a / step.a_prev) if step.a_prev < 1.0 else 0.0


def no_learned_variance() -> UsageError:
    """Return the error for a learned variance of a network that has learned none."""
    return UsageError(
        "variance: the network has learned none. got 'learned', expected fixed_small or fixed_large. Do pick one."
    )


def _learned_std(step: Step, found: Denoised) -> Array | float:
    if found.variance_fraction is None:
        raise no_learned_variance()
    small, large = noise_std(step, 1.0), _large_std(step)
    return small * (large / small) ** found.variance_fraction if small > 0.0 else 0.0  # 0 at the end of the grid


def _walk(
    denoise: Denoiser,
    noise: Noise,
    steps: Iterable[Step],
    x: Array | None,
    stds: Callable[[Step, Denoised], tuple[float, Array | float]],
) -> Iterator[State]:
    """Walk down the steps; `stds` gives the noise that the mean makes room for and the noise that is added."""
    x = noise(0) if x is None else x
    for step in steps:
        found = denoise(x, step)
        room, added = stds(step, found)
        x = math.sqrt(step.a_prev) * found.x_0 + math.sqrt(max(0.0, 1.0 - step.a_prev - room**2)) * found.eps
        if not isinstance(added, float) or added > 0.0:
            x += added * noise(step.i)
        yield State(step, x, found.x_0, found.eps)
