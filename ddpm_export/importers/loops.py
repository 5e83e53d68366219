"""The steps of a project's own loop as a plan, found by running it. Knows none of the solvers.

The loop runs once on tensors of which every element stands for one thing, a noise or an answer of the network; what it
gives to the network are then the weights. A run on random numbers proves that it does no more than such sums.
"""

import contextlib
import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ddpm_export.errors import BadFileError
from ddpm_export.importers.diffusers_stepping import (
    PIXELS,
    ROUNDING,
    SMALL,
    TOLERANCE,
    Evaluation,
    Float64,
    NotCarriedError,
    errors_of,
    rows_from_weights,
)
from ddpm_export.importers.paths import MOST, Path
from ddpm_export.model.spec import PLAN, ModelSpec
from ddpm_export.process.rows import MAX_ROWS, Plan

# (a network: (what it is given (N, 1, 1, 1), what it is told) -> what it says; N) -> the last state, (N, 1, 1, 1)
Loop = Callable[[Callable[..., Tensor], int], Tensor]
Parts = list[tuple[float, float]]  # for each evaluation, the weights of its state and of its prediction in something


class _Draws(TorchFunctionMode):
    """Gives what is asked of torch.randn and randn_like within it, by number."""

    def __init__(self, noise: Callable[[int], Tensor]) -> None:
        super().__init__()
        self.noise, self.count = noise, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in (torch.randn, torch.randn_like):
            return func(*args, **(kwargs or {}))
        self.count += 1
        return self.noise(self.count - 1)


def _ran(
    loop: Loop, size: int, noise: Callable[[int], Tensor], said: Callable[[int, Tensor], Tensor]
) -> tuple[list[float], list[Float64], int]:
    """Return what the network was told; what it was given, and after that the picture; how many noises were drawn."""
    times: list[float] = []
    given: list[Float64] = []

    def network(x: Tensor, time: Any, *_: Any, **__: Any) -> Tensor:
        if len(times) == MAX_ROWS:
            raise NotCarriedError(f"makes more than {MAX_ROWS} evaluations")
        given.append(x.double().numpy())
        times.append(float(torch.as_tensor(time).flatten()[0]))
        return said(len(times) - 1, x)

    draws = _Draws(noise)
    with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()), draws:  # tqdm's bars
        last = loop(network, size)
    return times, [*given, last.double().numpy()], draws.count


def plan_from_loop(loop: Loop, path: Path, spec: ModelSpec) -> Plan:
    """Return the rows of a loop over a network of a path, on the states of this file's form.

    spec: of that network, in this file's form. Raises NotCarriedError where the loop does anything but weigh.
    """
    zeros = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    times, _, count = _ran(loop, 1, lambda _: zeros, lambda *_: zeros)
    evaluations = [_evaluation(path, told, spec.num_train_timesteps) for told in times]
    scales = np.array([*(at.scale for at in evaluations), 1.0]).reshape(-1, 1)
    size = count + len(times)

    def element(place: int) -> Tensor:
        basis = torch.zeros(size, 1, 1, 1, dtype=torch.float64)
        basis[place] = SMALL
        return basis

    rng = np.random.default_rng(0)
    noises = [rng.standard_normal((PIXELS, 1, 1, 1)) for _ in range(count)]
    predicted = [rng.standard_normal((PIXELS, 1, 1, 1)) for _ in times]

    def said(k: int, x: Tensor) -> Tensor:
        at = evaluations[k]
        return (torch.from_numpy(predicted[k]) - at.skip * x / at.scale) / at.out

    _, given, _ = _ran(loop, PIXELS, lambda k: torch.from_numpy(noises[k]), said)
    expected = [x / scale for x, scale in zip(given[1:], scales[1:, 0], strict=True)]
    found, errors = list[Plan](), list[NotCarriedError]()
    for parts in _parts(evaluations, spec.prediction):

        def answer(k: int, x: Tensor, parts: Parts = parts) -> Tensor:
            of_state, of_prediction = parts[k]
            at, state = evaluations[k], x / evaluations[k].scale
            return ((element(count + k) - of_state * state) / of_prediction - at.skip * state) / at.out

        try:
            states = np.stack(_ran(loop, size, element, answer)[1])[:, :, 0, 0, 0] / SMALL / scales
            start, weights, mixed = _weights(states, parts, count)
            plan = Plan(rows_from_weights(evaluations, weights, weights, spec, len(times)), start)
            drawn = [sum(share * noise for share, noise in zip(shares, noises, strict=True)) for shares in mixed]
            worst = max(errors_of(plan, spec, drawn, predicted, zeros.numpy(), expected))
            if worst > TOLERANCE:
                raise NotCarriedError(f"does something in its steps that is not linear: they differ by {worst:.1e}")
            found.append(plan)
        except NotCarriedError as exc:
            errors.append(exc)
    if not found:
        raise errors[0]
    return min(found, key=lambda plan: max(row.reach for row in plan.rows))


def widened(path: Path, loops: Iterable[Loop]) -> Path:
    """Return a path whose levels reach as far as loops go that add noise to the first state, or have their own grid."""
    if path.name in MOST:
        return path
    zeros = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    wide = replace(path, sigma_max=1e4 * path.sigma_max)
    told = {time for loop in loops for time in _ran(loop, 1, lambda _: zeros, lambda *_: zeros)[0]}
    most = max(float(wide.number_at(_evaluation(wide, time, 1000).t, 1000)) for time in told)
    return replace(path, sigma_max=max(path.sigma_max, most))


def _evaluation(path: Path, told: float, T: int) -> Evaluation:
    """Return what the evaluation is of at which the network is told a time; its scale is the network's for the state.

    A time beyond an end of the path, as 0 is of a flow, is that end.
    """

    def numbers(t: float) -> tuple[float, ...]:
        alpha, sigma, _ = path.level_of(path.number_at(t, T))
        return float(alpha) ** 2, *map(float, path.numbers(alpha, sigma))

    low, high = 0.0, T - 1.0
    is_rising = numbers(high)[1] > numbers(low)[1]
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (middle, high) if (numbers(middle)[1] < told) == is_rising else (low, middle)
    t = 0.0 if low == 0.0 else high
    a, closest, *others = numbers(t)
    if abs(closest - told) > 1e-4 * max(1.0, path.time_scale, abs(told)):
        raise NotCarriedError(f"tells its network {told:g}, which is no time of its path")
    return Evaluation(t, a, *others)


def _parts(evaluations: list[Evaluation], prediction: str) -> Iterator[Parts]:
    """Yield, of each thing that a loop may look back at, how much of it are the state and the prediction.

    What the network said, then the clean images, then the noises: a multistep method weighs one of these.
    """
    yield [(-at.skip / at.out, 1.0 / at.out) for at in evaluations]
    for name in ("x_0", "eps"):
        parts = []
        for at in evaluations:
            signal, noise = math.sqrt(at.a), math.sqrt(1.0 - at.a)
            kinds = {"v": {"x_0": (signal, -noise), "eps": (noise, signal)}, name: {name: (0.0, 1.0)}}
            own, other = (signal, noise) if name == "eps" else (noise, signal)
            parts.append(kinds.get(prediction, {name: (1.0 / (other or math.nan), -own / (other or math.nan))})[name])
        if all(math.isfinite(part) and of_prediction for part, of_prediction in parts):
            yield parts


def _weights(states: Float64, parts: Parts, count: int) -> tuple[float, Float64, list[Float64]]:
    """Return the first state's weight of noise, the weights of each row, and how its noise mixes those drawn, (count,).

    states: (evaluations and the picture, noises and what parts are of). A row weighs its own state, what the network
    said and a new noise, in threes of (state, prediction, noise).
    """
    if not states[0, :count].any() or states[0, count:].any():
        raise NotCarriedError("does not begin with noise")
    start = float(np.linalg.norm(states[0, :count]))
    mixed, weights = [states[0, :count] / start], np.zeros((len(parts), 3 * len(parts)))
    for k, after in enumerate(states[1:]):
        for own in range(k, max(-1, k - 2), -1):  # the state, or that of the step before, begun again
            carrier = int(np.abs(states[own, :count]).argmax())
            kept = after[carrier] / states[own, carrier] if states[own, carrier] else 0.0
            rest = after - kept * states[own]
            # a loop that ends in [0, 1] has rounded its weights to some 1e-10
            rest[np.abs(rest) < 10 * ROUNDING * (np.abs(after) + np.abs(kept * states[own])) + ROUNDING / 100] = 0.0
            if not rest[:count][states[k, :count] != 0.0].any():
                break
        else:
            raise NotCarriedError("weighs noise of earlier steps")
        fresh = float(np.linalg.norm(rest[:count]))
        mixed.append(rest[:count] / (fresh or 1.0))
        weights[k, 3 * own], weights[k, 3 * k + 2] = kept, fresh
        for j, weight in enumerate(rest[count:][: k + 1]):
            weights[k, 3 * j] += weight * parts[j][0]
            weights[k, 3 * j + 1] += weight * parts[j][1]
    if not np.isfinite(weights).all():
        raise NotCarriedError("gives NaN or infinity")
    return 1.0 if abs(start - 1.0) < ROUNDING else start, weights, mixed


def with_loops(spec: ModelSpec, path: Path, name: str, loops: Mapping[int, Loop]) -> ModelSpec:
    """Return the spec with a plan, such as euler-20, for each number of steps; the first is the default.

    Raises BadFileError for a loop that is no plan.
    """
    plans = {}
    for num_steps, loop in loops.items():
        try:
            plans[f"{name}-{num_steps}"] = plan_from_loop(loop, path, spec)
        except NotCarriedError as exc:
            raise BadFileError(f"the steps of {name} cannot be carried over: it {exc}. Use sampler ddim.") from exc
    defaults = replace(spec.defaults, num_steps=next(iter(loops)), plan=next(iter(plans)))
    requires = tuple(dict.fromkeys((*spec.requires, PLAN)))
    return replace(spec, plans={**spec.plans, **plans}, defaults=defaults, requires=requires)


# Runge-Kutta's methods: what each evaluation adds to the state, and the weights of the step; all but the first are told
# where they are by the share of the step (Hairer, Norsett and Wanner 1993, section II.1)
TABLEAUS: dict[str, tuple[tuple[tuple[float, ...], ...], tuple[float, ...]]] = {
    "euler": ((), (1.0,)),
    "midpoint": (((0.5,),), (0.0, 1.0)),
    "heun": (((1.0,),), (0.5, 0.5)),
    "rk4": (((0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}


def flow_loop(method: str, num_steps: int, path: Path) -> Loop:
    """Return the loop of one of TABLEAUS over a flow, on num_steps even steps from noise to the picture."""
    stages, weights = TABLEAUS[method]
    sign = -1.0 if path.reverse else 1.0

    def loop(network: Callable[..., Tensor], size: int) -> Tensor:
        x, h = torch.randn(size, 1, 1, 1), -1.0 / num_steps
        for step in range(num_steps):
            slopes: list[Tensor] = []
            for shares in ((), *stages):
                s = 1.0 + h * (step + sum(shares))
                given = x + h * sum((share * slope for share, slope in zip(shares, slopes, strict=False)), 0.0 * x)
                slopes.append(sign * network(given, (1.0 - s if path.reverse else s) * path.time_scale))
            x = x + h * sum((weight * slope for weight, slope in zip(weights, slopes, strict=True)), 0.0 * x)
        return x

    return loop


def karras_loop(
    num_steps: int,
    path: Path,
    sigma_min: float,
    sigma_max: float,
    *,
    S_churn: float = 0.0,
    S_min: float = 0.0,
    S_max: float = math.inf,
    S_noise: float = 1.0,
) -> Loop:
    """Return Heun's method with churn (Karras et al. 2022, algorithm 2), from sigma_max by way of sigma_min to 0."""
    low, high = (sigma ** (1.0 / path.rho) for sigma in (sigma_min, sigma_max))
    sigmas = [path.rounded(float(root**path.rho)) for root in np.linspace(high, low, num_steps)] + [0.0]

    def loop(network: Callable[..., Tensor], size: int) -> Tensor:
        def eps(x: Tensor, sigma: float) -> Tensor:
            alpha, noise, length = map(float, path.level_of(np.float64(sigma)))
            told, scale, skip, out = map(float, path.numbers(alpha, noise))
            predicted = skip * x / length + out * network(scale * x / length, told)
            return predicted if path.form.prediction == "eps" else noise * x / length + alpha * predicted

        x = sigmas[0] * torch.randn(size, 1, 1, 1)
        for sigma, after in pairwise(sigmas):
            churned = sigma
            if S_churn > 0.0 and S_min <= sigma <= S_max:
                churned = path.rounded(sigma * (1.0 + min(S_churn / num_steps, math.sqrt(2.0) - 1.0)))
                x = x + math.sqrt(churned**2 - sigma**2) * S_noise * torch.randn_like(x)
            slope = eps(x, churned)
            end = x + (after - churned) * slope
            if after > 0.0:
                end = x + (after - churned) * (slope + eps(end, after)) / 2.0
            x = end
        return x

    return loop
