"""The one loop: walks the rows of a plan from noise to a picture. NumPy only; knows no solver and no network."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ddpm_export.errors import UsageError
from ddpm_export.process.equations import Array, Denoised, Denoiser, refuse_non_finite
from ddpm_export.process.noise import Noise
from ddpm_export.process.rows import Plan, Row

Keep = Callable[
    [Array, int, float], Array
]  # (a state, its draw, alphas_cumprod there) -> the state, known parts put in


class State(NamedTuple):
    """What a row leaves: the row, the state x after it, and the denoiser's (x_0, eps) before it, each (B, C, H, W).

    history: the (x_0, eps) that later rows read, newest first. `walk(..., state=state)` goes on from here exactly.
    """

    row: Row
    x: Array
    x_0: Array
    eps: Array
    history: tuple[tuple[Array, Array], ...] = ()


def no_learned_variance() -> UsageError:
    """Return the error for a learned variance of a network that has learned none."""
    return UsageError("variance must be fixed_small or fixed_large, since the network has learned none, got 'learned'.")


def walk(
    denoise: Denoiser,
    noise: Noise,
    plan: Plan,
    *,
    x: Array | None = None,
    state: State | None = None,
    keep: Keep | None = None,
) -> Iterator[State]:
    """Yield the state after every row of a plan; one network evaluation each, and nothing kept that no row reads.

    Starts at noise draw 0, or at `x` (B, C, H, W) in its place; or goes on from `state`, which an earlier walk of the
    same plan yielded, to the same bits. keep: what changes every state, the first among them, before it is yielded; of
    the picture a is 1. Raises NonFiniteError at the row whose numbers are no longer finite.
    """
    done, x_0_before, history = (0, None, ()) if state is None else (state.row.i, state.x_0, state.history)
    if state is not None:
        x = state.x
    elif x is None:
        x = noise(0) if plan.start == 1.0 else plan.start * noise(0)
    if keep is not None and state is None:
        x = keep(x, 0, plan.rows[0].a)
    for k, row in enumerate(plan.rows):
        if row.i <= done:
            continue
        with np.errstate(all="ignore"):  # an overflow is an error below
            found = denoise(x, row, x_0_before)
            history = ((found.x_0, found.eps), *history)
            x = _after(row, history, found, noise)
            if keep is not None:
                x = keep(x, row.i, plan.rows[k + 1].a if k + 1 < len(plan.rows) else 1.0)
        refuse_non_finite(x, row)
        history, x_0_before = history[: plan.kept[k]], found.x_0
        yield State(row, x, found.x_0, found.eps, history)


def weighted_sum(x_0: Sequence[Any], eps: Sequence[Any], history: Sequence[tuple[Any, Any]]) -> Any:
    """Return the sum of what evaluations found, (x_0, eps) newest first, by the weights of each.

    Newest first, the clean image before the noise: this order is fixed.
    """
    x: Any = None
    for age in range(max(len(x_0), len(eps))):
        for weights, found in zip((x_0, eps), history[age], strict=True):
            if age < len(weights):
                term = weights[age] * found
                if x is None:
                    x = term
                else:
                    x += term  # an array in place
    return x


def _after(row: Row, history: tuple[tuple[Array, Array], ...], found: Denoised, noise: Noise) -> Array:
    """Return the state after a row: the weighted sum of what was found, then fresh noise."""
    x = weighted_sum(row.x_0, row.eps, history)
    if row.noise:
        std: Any = row.noise[0]
        if len(row.noise) == 2:
            if found.variance_fraction is None:
                raise no_learned_variance()
            std = std * (row.noise[1] / std) ** found.variance_fraction
        x += std * noise(row.i)
    return np.asarray(x)
