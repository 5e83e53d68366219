"""The steps of a scheduler of diffusers as a plan, found by probing the installed one. Knows none of the solvers.

Each step is given tensors of which every element stands for one thing that the step may weigh: a state, an answer of
the network, a fresh noise. What comes out are the weights. A run on random numbers, beyond the bound of clipping, then
proves that the steps are no more than such sums.
"""

import copy
import inspect
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ddpm_export.errors import first_line
from ddpm_export.importers.paths import Path
from ddpm_export.model.denoiser import denoiser
from ddpm_export.model.spec import SHAPE, Defaults, ModelSpec
from ddpm_export.process.equations import VARIANCE_FRACTION
from ddpm_export.process.rows import MAX_REACH, MAX_ROWS, Plan, Row
from ddpm_export.process.walk import walk

Float64 = NDArray[np.float64]

CHANNELS = 3  # as many as DPMSolverMultistepScheduler keeps of a network that learned its variances
SMALL = 2.0**-20  # of the elements that are probed with: no clean image comes near its bound
ROUNDING = 1e-6  # the share of float32 numbers that is left where their difference should be 0
TOLERANCE = 1e-4  # of the test: float32 over a whole run; what is not linear is off by tenths
PIXELS = 64


class NotCarriedError(Exception):
    """Why the steps of a scheduler are no plan: the end of a sentence that begins with the scheduler's name."""


class Evaluation(NamedTuple):
    """One evaluation of a scheduler: the network's time, alphas_cumprod there, and the state's factor to it.

    skip, out: the weights, in a prediction, of the state so scaled and of what the scheduler takes for the answer.
    """

    t: float
    a: float
    scale: float
    skip: float = 0.0
    out: float = 1.0


def plan_from_scheduler(
    scheduler: Any,
    num_steps: int,
    spec: ModelSpec,
    asked: Mapping[str, Any] | None = None,
    path: Path | None = None,
) -> Plan:
    """Return the rows of a scheduler of diffusers for num_steps steps, on the states that its network is given.

    scheduler: one that has made no step; it is left as it is. spec: of the network, with what it predicts and how it
    clips. asked: further arguments of `step`, such as eta, or of `set_timesteps`. path: of the scheduler's network,
    where that is not one of discrete betas. Raises NotCarriedError where its steps are not such rows.
    """
    begun = _Begun(scheduler, num_steps, asked or {}, path, spec.num_train_timesteps)
    with _quiet():
        try:
            evaluations, start, weights = _probed(begun, spec, -1.0)
            noisiest = _probed(begun, spec, 1.0)[2] if _is_learned(spec) else weights
        except NotCarriedError:
            raise
        except Exception as exc:  # whatever a class makes of a number of steps that is not for it
            raise NotCarriedError(
                f"cannot take {num_steps} steps: diffusers' own code fails with {type(exc).__name__}: {first_line(exc)}"
            ) from exc
        plan = Plan(rows_from_weights(evaluations, _shortened(weights), noisiest, spec, num_steps), start)
        return _tested(begun, plan, spec)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the package logs and warns of its own code."""
    logger = logging.getLogger("diffusers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


class _Noise(TorchFunctionMode):
    """Gives what is asked of torch.randn within it, and counts how often that was."""

    def __init__(self, noise: Tensor) -> None:
        super().__init__()
        self.noise, self.count = noise, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in (torch.randn, torch.randn_like):
            return func(*args, **(kwargs or {}))
        self.count += 1
        return self.noise.to((kwargs or {}).get("dtype") or torch.float32)


def _is_learned(spec: ModelSpec) -> bool:
    return VARIANCE_FRACTION in spec.outputs


class _Begun(NamedTuple):
    """A scheduler that made no step, how many it is to make, and what else its steps go by."""

    scheduler: Any
    num_steps: int
    asked: Mapping[str, Any]
    path: Path | None
    T: int

    def set(self) -> Any:
        """Return a copy of the scheduler that is set to this number of steps."""
        scheduler = copy.deepcopy(self.scheduler)
        scheduler.set_timesteps(self.num_steps, **self._asked_of(scheduler.set_timesteps))
        return scheduler

    def step(self, scheduler: Any, *arguments: Any) -> Tensor:
        """Return the state after a step of such a copy."""
        state: Tensor = scheduler.step(*arguments, **self._asked_of(scheduler.step)).prev_sample
        return state

    def _asked_of(self, method: Any) -> dict[str, Any]:
        known = inspect.signature(method).parameters
        return {name: value for name, value in self.asked.items() if name in known}

    def evaluation(self, scheduler: Any, t: Tensor, done: int) -> Evaluation:
        """Return what the next evaluation of such a copy is of."""
        scale = 1.0
        if hasattr(scheduler, "scale_model_input"):
            scale = float(scheduler.scale_model_input(torch.ones(1, dtype=torch.float64), t))
        index = done if getattr(scheduler, "step_index", None) is None else int(scheduler.step_index)
        if self.path is not None:
            number = float(scheduler.sigmas[index])
            alpha, sigma, length = map(float, self.path.level_of(number))
            told, _, skip, out = map(float, self.path.numbers(alpha, sigma))
            if abs(told - float(t)) > ROUNDING * 10 * max(1.0, abs(told)):
                raise NotCarriedError(f"tells its network {float(t):g} where its level is {told:g}")
            # a level at an end, rounded to float32 by the scheduler, is that end
            t_ours = self.path.t_of(number, self.T)
            t_ours = min(max(t_ours, 0.0), self.T - 1.0) if -1e-2 < t_ours < self.T - 1 + 1e-2 else t_ours
            return Evaluation(t_ours, alpha**2, 1.0 / length, skip, out)
        lists = [value for name, value in vars(scheduler).items() if name.startswith("sigmas") and len(value) > index]
        # sigma = sqrt((1 - a) / a) (Karras et al. 2022); of several lists the one that this step goes by
        levels = [1.0 / (1.0 + float(sigmas[index]) ** 2) for sigmas in lists]
        levels = levels or [float(scheduler.alphas_cumprod[int(t)])]
        a = min(levels, key=lambda a: abs(math.sqrt(a) - scale))
        number = float(t)
        return Evaluation(int(number) if number.is_integer() else number, a, scale)


def _steps(
    begun: _Begun, ask: Callable[[int, Tensor | None], tuple[Tensor, Tensor, Tensor]]
) -> Iterator[tuple[Evaluation, Tensor]]:
    """Yield each evaluation and the state after it, on the scheduler's own scale.

    ask: (number of the row from 0, the state as the network is to be given it, None at first) -> what it is given, what
    is predicted, and the noise.
    """
    scheduler = begun.set()
    times = scheduler.timesteps
    if not 1 <= len(times) <= MAX_ROWS:
        raise NotCarriedError(f"makes {len(times)} evaluations of {begun.num_steps} steps")
    x: Tensor | None = None
    for k, t in enumerate(times):
        at = begun.evaluation(scheduler, t, k)
        given, predicted, noise = ask(k, None if x is None else x * at.scale)
        answer = predicted if (at.skip, at.out) == (0.0, 1.0) else (predicted - at.skip * given) / at.out
        fresh = _Noise(noise)
        with fresh:
            x = begun.step(scheduler, answer, t, given / at.scale)
        if fresh.count > 1:
            raise NotCarriedError("adds noise more than once in a step")
        yield at, x


def _probed(begun: _Begun, spec: ModelSpec, fraction: float) -> tuple[list[Evaluation], float, Float64]:
    """Return every evaluation, the first state's weight of noise, and what the states after weigh, (rows, 3 rows).

    A state is as the network is given it. The weights are those of the state of the first evaluation, of what the
    network answered there, and of the noise after it, then those of the second, and so on; each as if it could be any
    number, though a state follows from what came before. fraction: the network's learned variance, -1 to 1.
    """
    scheduler = begun.set()
    rows = len(scheduler.timesteps)
    shape = (3 * rows, CHANNELS, 1, 1)

    def element(place: int) -> Tensor:
        basis = torch.zeros(shape, dtype=torch.float64)
        basis[place] = SMALL
        return basis

    def ask(k: int, _: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        answer = element(3 * k + 1)
        if _is_learned(spec):
            answer = torch.cat([answer, torch.full(shape, fraction, dtype=torch.float64)], dim=1)
        return element(3 * k), answer, element(3 * k + 2)

    evaluations, states = [], []
    for at, x in _steps(begun, ask):
        evaluations.append(at)
        states.append(x[:, 0, 0, 0].double().numpy() / SMALL)
    scales = [at.scale for at in evaluations[1:]] + [1.0]  # the picture is the state as it is
    weights = np.stack(states) * np.array(scales)[:, None]
    if not np.isfinite(weights).all():
        raise NotCarriedError(f"gives NaN or infinity in {begun.num_steps} steps")
    start = evaluations[0].scale * float(getattr(scheduler, "init_noise_sigma", 1.0))  # a flow's is not said
    return evaluations, 1.0 if abs(start - 1.0) < ROUNDING else start, weights


def _shortened(weights: Float64) -> Float64:
    """Return the same rows with less to look back at, where a row's own state stands for much of what was before.

    A state is the row before it. Where a row weighs old states as that row does, as UniPC's corrector makes it, the
    difference of both weighs the state instead.
    """
    shortened = weights.copy()
    for k in range(1, len(weights)):
        row, before = weights[k], weights[k - 1].copy()
        oldest = int(np.flatnonzero(row)[0]) if row.any() else 3 * k
        if oldest >= 3 * k or before[oldest] == 0.0:
            continue
        ratio = row[oldest] / before[oldest]
        rest = row - ratio * before
        rest[np.abs(rest) < 10 * ROUNDING * (np.abs(row) + np.abs(ratio * before))] = 0.0
        rest[3 * k] += ratio
        if rest.any() and np.flatnonzero(rest)[0] // 3 > oldest // 3 + 1:
            shortened[k] = rest
    return shortened


def rows_from_weights(
    evaluations: Sequence[Evaluation], weights: Float64, noisiest: Float64, spec: ModelSpec, num_steps: int
) -> tuple[Row, ...]:
    """Return rows in the clean images and noises found, which states and answers are sums of."""
    rows = []
    for k, (at, row) in enumerate(zip(evaluations, weights, strict=True)):
        if not 0 <= at.t <= spec.num_train_timesteps - 1:
            raise NotCarriedError(f"asks for t = {at.t:g} in {num_steps} steps, beyond {spec.num_train_timesteps - 1}")
        if row[2 : 3 * k : 3].any():
            raise NotCarriedError("weighs noise of earlier steps")
        oldest = int(np.flatnonzero(row)[0]) // 3 if row.any() else k
        ages = [(evaluations[j].a, row[3 * j], row[3 * j + 1]) for j in range(k, oldest - 1, -1)]
        x_0, eps = (
            _without_end(numbers) for numbers in zip(*(_of_found(*age, spec.prediction) for age in ages), strict=True)
        )
        small, large = float(abs(row[3 * k + 2])), float(abs(noisiest[k, 3 * k + 2]))
        noise = tuple(std for std in ((small,) if small == large else (small, large)) if std > 0.0)
        rows.append(Row(k + 1, at.t, at.a, x_0, eps, () if large < ROUNDING / 10 else noise))
        if rows[-1].reach > MAX_REACH:
            raise NotCarriedError(f"weighs {rows[-1].reach} evaluations in a step, more than {MAX_REACH}")
        if rows[-1].reach < 1:
            raise NotCarriedError("makes a step that reads no evaluation")
    return tuple(rows)


def _of_found(a: float, state: float, answer: float, prediction: str) -> tuple[float, float]:
    """Return the weights of a clean image and a noise for those of a state and of the network's answer to it."""
    signal, noise = math.sqrt(a), math.sqrt(1.0 - a)
    x_0, eps = {"eps": (0.0, 1.0), "x_0": (1.0, 0.0), "v": (-noise, signal)}[prediction]
    return _sum(state * signal, answer * x_0), _sum(state * noise, answer * eps)


def _sum(a: float, b: float) -> float:
    """Return a + b, and 0 where that is no more than rounding."""
    return 0.0 if abs(a + b) <= ROUNDING * (abs(a) + abs(b)) else float(a + b)


def _without_end(numbers: Sequence[float]) -> tuple[float, ...]:
    count = max((place for place, number in enumerate(numbers, start=1) if number != 0.0), default=0)
    return tuple(numbers[:count])


def _tested(begun: _Begun, plan: Plan, spec: ModelSpec) -> Plan:
    """Return a plan that does what the scheduler does on random numbers, with the raw noise where only that will do."""
    rng = np.random.default_rng(0)
    shape = (PIXELS, CHANNELS, 1, 1)
    noise = [rng.standard_normal(shape) for _ in range(len(plan.rows) + 1)]
    answers = [rng.standard_normal(shape) for _ in plan.rows]
    fraction = rng.uniform(size=shape)

    def ask(k: int, x: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        answer = torch.from_numpy(answers[k])
        if _is_learned(spec):
            answer = torch.cat([answer, torch.from_numpy(2.0 * fraction - 1.0)], dim=1)
        given = torch.from_numpy(noise[0]) * plan.start if x is None else x
        return given, answer, torch.from_numpy(noise[k + 1])

    ran = list(_steps(begun, ask))
    scales = [at.scale for at, _ in ran[1:]] + [1.0]
    states = [x.double().numpy() * scale for (_, x), scale in zip(ran, scales, strict=True)]
    errors = []
    for raw_eps in (False, True) if spec.clip_x_0 is not None else (False,):
        plan = Plan(tuple(row._replace(raw_eps=raw_eps) for row in plan.rows), plan.start)
        errors.append(max(errors_of(plan, spec, noise, answers, fraction, states)))
        if errors[-1] <= TOLERANCE:
            return plan
    raise NotCarriedError(f"does something in its steps that is not linear: they differ by {min(errors):.1e}")


def errors_of(
    plan: Plan,
    spec: ModelSpec,
    noise: Sequence[Float64],
    answers: Sequence[Float64],
    fraction: Float64,
    expected: Sequence[Float64],
) -> Iterator[float]:
    """Yield how far the state after each row is from the expected one, as a share of the largest number in it."""
    replies = iter(answers)

    def model(x_t: Float64, t: Any) -> dict[str, Float64]:
        return {spec.prediction: next(replies), VARIANCE_FRACTION: fraction}

    drawn: Any = noise.__getitem__  # in float64, unlike a noise_stream
    # a class and other inputs do not matter to a scheduler
    known = tuple(entry for entry in spec.requires if entry in (VARIANCE_FRACTION, SHAPE))
    spec = replace(spec, inputs=(), stages={}, units=None, requires=known, defaults=Defaults(num_steps=1))
    for state, x in zip(walk(denoiser(model, spec), drawn, plan), expected, strict=True):
        size = max(1.0, float(np.abs(x).max()), float(np.abs(state.x_0).max()))
        yield float(np.abs(state.x - x).max()) / size
