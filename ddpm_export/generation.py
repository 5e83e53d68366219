"""The second half of the straight line, in batches: from an opened model to states, or to pictures in one call."""

import inspect
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ddpm_export.diffusion import Array, Model, OneCall, Step, denoiser, trajectory
from ddpm_export.errors import NonFiniteError, UsageError
from ddpm_export.images import to_uint8
from ddpm_export.noise import noise_stream
from ddpm_export.runtimes import open_file
from ddpm_export.samplers import SAMPLERS, State, no_learned_variance
from ddpm_export.spec import VARIANCE_FRACTION, Defaults, ModelSpec

__all__ = ["Settings", "generate", "pictures", "sample", "settings_for", "with_defaults"]

MAX_FRESH_SEED = 2**32


@dataclass(frozen=True)
class Settings:
    """Hold everything, besides the model, that decides the images; `batch` decides only how many at a time.

    eta is None for samplers that have none, and so is variance; times is None for the evenly spaced ones.
    """

    sampler: str
    num_steps: int
    seed: int
    first: int
    n: int
    batch: int
    eta: float | None
    variance: str | None
    times: tuple[int, ...] | None = None

    @property
    def numbers(self) -> range:
        """Return the numbers of the images."""
        return range(self.first, self.first + self.n)

    @property
    def batches(self) -> list[range]:
        """Return the numbers of the images of each batch."""
        return [self.numbers[start : start + self.batch] for start in range(0, self.n, self.batch)]

    @property
    def evaluations(self) -> int:
        """Return how many states `sample` yields: steps times batches."""
        return self.num_steps * len(self.batches)

    def describe(self) -> dict[str, Any]:
        """Return what an image follows from, for PNG text and reports."""
        values = asdict(self)
        for name in ("batch", "n", "first"):
            del values[name]
        return {name: value for name, value in values.items() if value is not None}


def settings_for(
    spec: ModelSpec,
    *,
    n: int = 16,
    num_steps: int | None = None,
    times: Sequence[int] | None = None,
    sampler: str | None = None,
    eta: float | None = None,
    variance: str | None = None,
    seed: int | None = None,
    first: int = 0,
    batch: int = 16,
) -> Settings:
    """Fill in from the spec what is None, and a fresh seed; raises UsageError for what no image can be made from.

    times: the falling times of the steps themselves, in place of num_steps evenly spaced ones. A one-call file makes
    its time grid and noise itself, so that times and another variance than fixed_small have no place there.
    """
    if spec.graph is not None:
        _refuse_what_a_graph_cannot(spec.graph, times, variance)
    sampler = spec.defaults.sampler if sampler is None else sampler
    if sampler not in SAMPLERS:
        raise UsageError(f"sampler: unknown. got {sampler!r}, expected one of {', '.join(SAMPLERS)}. Do pick one.")
    for name, count in (("n", n), ("batch", batch)):
        if count < 1:
            raise UsageError(f"{name}: too few. got {count}, expected at least 1. Do raise it.")
    num_steps = len(trajectory(spec, num_steps, times=times))
    given = {"eta": eta, "variance": variance}
    usual = {"eta": spec.defaults.eta, "variance": spec.variance}
    knobs = inspect.signature(SAMPLERS[sampler]).parameters
    for name, value in given.items():
        if value is not None and name not in knobs:
            raise UsageError(
                f"{name}: has no meaning for {sampler}. got {value!r}, expected none. Do leave it out, or "
                "choose another sampler."
            )
    chosen: dict[str, Any] = {
        name: (usual[name] if value is None else value) if name in knobs else None for name, value in given.items()
    }
    if chosen["variance"] == "learned" and VARIANCE_FRACTION not in spec.outputs:
        raise no_learned_variance()
    settings = Settings(
        sampler=sampler,
        num_steps=num_steps,
        seed=secrets.randbelow(MAX_FRESH_SEED) if seed is None else seed,
        first=first,
        n=n,
        batch=min(batch, n),
        times=None if times is None else tuple(times),
        **chosen,
    )
    noise_stream(settings.seed, (first, first + n - 1), spec.image_shape)
    _sampler(settings, None, None, [])
    return settings


def with_defaults(
    spec: ModelSpec, *, sampler: str | None = None, num_steps: int | None = None, eta: float | None = None
) -> ModelSpec:
    """Return the spec with other defaults, None leaving its own; raises UsageError where no image could be made so."""
    settings = settings_for(spec, sampler=sampler, num_steps=num_steps, eta=eta, seed=0)
    eta = spec.defaults.eta if settings.eta is None else settings.eta
    return replace(spec, defaults=Defaults(settings.sampler, settings.num_steps, eta))


def _refuse_what_a_graph_cannot(graph: str, times: Sequence[int] | None, variance: str | None) -> None:
    for name, value, expected in (("times", times, "none"), ("variance", variance, "fixed_small")):
        if value is not None and value != expected:
            raise UsageError(
                f"{name}: has no place in a one-call {graph}. got {value!r}, expected {expected}. Do leave it out, or "
                "run the .onnx that the file was made from."
            )


def _sampler(settings: Settings, denoise: Any, noise: Any, steps: Any) -> Iterator[State]:
    knobs = {name: value for name in ("eta", "variance") if (value := getattr(settings, name)) is not None}
    return SAMPLERS[settings.sampler](denoise, noise, steps, **knobs)


def sample(model: Model, spec: ModelSpec, settings: Settings) -> Iterator[tuple[range, State]]:
    """Yield (image numbers, state) after every step of every batch; one network evaluation each.

    Raises NonFiniteError at the step where a number is no longer finite.
    """
    steps = trajectory(spec, settings.num_steps, times=settings.times)
    for numbers in settings.batches:
        noise = noise_stream(settings.seed, numbers, spec.image_shape)
        states = _sampler(settings, denoiser(_watched(model, spec, steps, numbers), spec), noise, steps)
        while True:
            with np.errstate(all="ignore"):  # what overflows is told below, as an error
                state = next(states, None)
            if state is None:
                break
            _refuse_non_finite(state.x, state.step, numbers)
            yield numbers, state


def pictures(
    opened: Model | OneCall, spec: ModelSpec, settings: Settings, wants: Callable[[int], bool]
) -> Iterator[tuple[range, Step, NDArray[np.uint8] | None]]:
    """Yield (image numbers, step, pictures after it) of whatever file was opened; None where `wants` says no of i.

    A denoiser and a slice yield after every step of every batch, a one-call sampler after every batch.
    """
    if spec.graph is None:
        for numbers, state in sample(cast(Model, opened), spec, settings):
            yield numbers, state.step, to_uint8(state.x) if wants(state.step.i) else None
        return
    steps = trajectory(spec, settings.num_steps)
    eta = 1.0 if settings.eta is None else settings.eta  # ddpm, whose variance is fixed_small here
    for numbers in settings.batches:
        for i, x, images in cast(OneCall, opened)(settings.seed, numbers, settings.num_steps, eta):
            # on the way the state, as of a denoiser; at its end it is x_0, whose pictures the graph itself gives
            shown = images if i == settings.num_steps else to_uint8(x)
            yield numbers, steps[i - 1], shown if wants(i) else None


def _watched(model: Model, spec: ModelSpec, steps: list[Step], numbers: range) -> Model:
    """Return the model, stopped where it predicts what is not finite: clipping would hide an infinity."""
    step_at = {step.t: step for step in steps}

    def watched(x_t: Array, t: Array, **inputs: Array) -> dict[str, Array]:
        outputs = model(x_t, t, **inputs)
        for name in set(spec.outputs).intersection(outputs):
            _refuse_non_finite(outputs[name], step_at[int(t[0])], numbers)
        return outputs

    return watched


def _refuse_non_finite(values: Array, step: Step, numbers: range) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        image = numbers[int(np.argmin(finite.reshape(len(numbers), -1).all(axis=1)))]
        raise NonFiniteError(
            f"step {step.i} (t = {step.t}), image {image}: a number is not finite. got NaN or infinity, expected "
            "finite values. Do run ddpm-check on the model."
        )


def generate(
    model: str | Path | tuple[Model | OneCall, ModelSpec],
    *,
    provider: str = "cpu",
    threads: int | None = None,
    **settings: Any,
) -> NDArray[np.uint8]:
    """Return n images as uint8 (n, H, W, C) from a file, be it a denoiser or a one-call one, or from what was opened.

    settings: n, num_steps, times, sampler, eta, variance, seed, first, batch, as in `settings_for`. Costs num_steps
    network evaluations a batch. Raises what `open_file`, `settings_for` and `sample` raise.
    """
    opened, spec = open_file(model, provider, threads=threads) if isinstance(model, (str, Path)) else model
    chosen = settings_for(spec, **settings)
    done = pictures(opened, spec, chosen, lambda step: step == chosen.num_steps)
    return np.concatenate([images for _, _, images in done if images is not None])
