"""One network evaluation on every engine available: checked by golden vectors, compared, and timed in turns."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_export.errors import EnvironmentProblem, ModelRefusedError, UsageError, first_line
from ddpm_export.measuring import timing
from ddpm_export.measuring.timing import WARM_UP_CALLS, Timings, interleaved, warm_up
from ddpm_export.model.examples import example_of_inputs
from ddpm_export.model.golden import promised_tolerance, replay_golden
from ddpm_export.model.spec import ModelSpec
from ddpm_export.process.equations import Array, Model, noised
from ddpm_export.process.noise import noise_stream
from ddpm_export.runtimes.opening import open_model
from ddpm_export.runtimes.providers import provider_from_name

Call = Callable[[], Array]
MAX_RELATIVE_ERROR = 1e-2  # of the same network; weights stored as float16 are at about 1e-3


@dataclass(frozen=True)
class Engine:
    """A file on a provider. precision: float32, bfloat16 or int8; tolerance: its largest error relative to another."""

    path: Path
    provider: str
    precision: str
    tolerance: float
    model: Model
    spec: ModelSpec

    def call(self, batch: int) -> Call:
        """Return a function that evaluates a batch at the middle of the schedule: the prediction (B, C, H, W)."""
        x_t, t, asked = inputs_at_the_middle(self.spec, batch)
        model, prediction = self.model, self.spec.prediction
        return lambda: model(x_t, t, **asked)[prediction]


@dataclass(frozen=True)
class Steps:
    """Seconds by contender, errors relative to the first, and why others did not run."""

    timings: Timings
    errors: Mapping[str, float]
    failures: Mapping[str, str]


def inputs_at_the_middle(spec: ModelSpec, batch: int) -> tuple[Array, Array, dict[str, Array]]:
    """Return x_t (B, C, H, W) at the middle of the schedule, t (B,), and examples of other inputs by name."""
    middle = spec.num_train_timesteps // 2
    noise = noise_stream(0, range(batch), spec.state_shape)
    x_0 = np.clip(noise(1), -1, 1)
    asked = example_of_inputs(spec.inputs, 0, range(batch))
    times = np.full(batch, middle, dtype=spec.t_dtype)
    return noised(x_0, noise(0), spec.alphas_cumprod[middle]), times, asked


def observed_at_the_middle(spec: ModelSpec) -> dict[str, Array]:
    """Return a value of every input that a user must give, in the middle of its limits: 0 without any; no labels."""
    return {
        entry.name: np.broadcast_to(np.mean(entry.limits or [[0.0]], axis=0), entry.shape).astype(np.float32)
        for entry in spec.asked_inputs
        if entry.is_given and entry.kind != "label" and entry.none is None
    }


def timed_plans(make: Callable[[int], Any], plans: int) -> dict[str, float]:
    """Return how long it takes to make plans 0, 1, ... of a policy, with a rest before each; warm.

    ms and ms_99: their median and 99th percentile. per_second: of the median.
    """
    taken = []
    for k in range(plans + WARM_UP_CALLS):
        time.sleep(timing.PAUSE_S)
        begun = time.perf_counter()
        make(k)
        taken.append(time.perf_counter() - begun)
    middle, high = map(float, np.percentile(taken[WARM_UP_CALLS:], (50, 99)))
    return {"plans": plans, "per_second": 1 / middle, "ms": 1e3 * middle, "ms_99": 1e3 * high}


def opened_engines(
    paths: Sequence[Path], providers: Iterable[str], threads: int | None, *, trust: bool = False
) -> tuple[list[Engine], dict[str, str]]:
    """Return every file on every provider that runs it here, and by name why the others do not.

    Raises what `open_model` raises where a file does not run on the CPU, and UsageError for different networks.
    """
    engines: list[Engine] = []
    refused: dict[str, str] = {}
    for provider in providers:
        for path in paths:
            try:
                engine = _opened(path, provider, threads, trust)
            except (EnvironmentProblem, ModelRefusedError) as exc:
                if provider == "cpu":
                    raise
                missing = isinstance(exc, EnvironmentProblem)  # whatever the file
                refused[provider if missing else f"{path.name}, {provider}"] = str(exc)
                continue
            if engines and _shape(engine.spec) != _shape(engines[0].spec):
                raise UsageError(
                    f"{path} must be of the same network as {engines[0].path}, which predicts "
                    f"{_shape(engines[0].spec)}, got {_shape(engine.spec)}."
                )
            engines.append(engine)
    return engines, refused


def _opened(path: Path, provider: str, threads: int | None, trust: bool) -> Engine:
    model, spec = open_model(path, provider, threads=threads, trust=trust)
    device = provider_from_name(provider)
    precision, tolerance = promised_tolerance(spec.golden, device.precision)
    failed = [result for result in replay_golden(model, spec, precision=device.precision) if not result.passed]
    if failed:
        raise ModelRefusedError(
            f"{path} does not compute what it promises on {provider}: error {failed[0].error:.3g}. See ddpm-check."
        )
    return Engine(path, provider, precision, max(tolerance, MAX_RELATIVE_ERROR), model, spec)


def _shape(spec: ModelSpec) -> tuple[Any, ...]:
    return spec.prediction, spec.state_shape, tuple(entry.name for entry in spec.inputs)


def timed_steps(
    calls: Mapping[str, Call],
    rounds: int,
    *,
    tolerances: Mapping[str, float] | None = None,
    report: Callable[[str], None] | None = None,
) -> Steps:
    """Warm contenders up, compare their outputs with the first one's, and time them in turns.

    tolerances: of relative errors, max |a - b| / max |b|, 1e-2 by default. Contenders that do not run are returned with
    their reason. Raises ModelRefusedError where one gives another network's output.
    """
    running: dict[str, Call] = {}
    failures: dict[str, str] = {}
    for name, call in calls.items():
        if report is not None:
            report(f"warming up {name}")
        try:
            warm_up(call)
        except Exception as exc:  # such as torch.compile without a C compiler
            failures[name] = f"does not run here: {first_line(exc, 80)}"
        else:
            running[name] = call
    expected = next(iter(running.values()))() if running else np.zeros(1)
    scale = float(np.abs(expected).max()) or 1.0
    errors = {name: float(np.abs(call() - expected).max()) / scale for name, call in running.items()}
    for name, error in errors.items():
        most = (tolerances or {}).get(name, MAX_RELATIVE_ERROR)
        if not error <= most:
            raise ModelRefusedError(
                f"{name} must agree with {next(iter(running))} within {most:g}, got a relative error of {error:.2g}. "
                "Name files of one network, and the checkpoint they were exported from."
            )
    return Steps(interleaved(running, rounds), errors, failures)
