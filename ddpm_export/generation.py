"""The second half of the straight line, in batches: from an opened model to states, or to pictures in one call."""

import json
import math
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm_export.diffusion import Model, decode, denoiser, numbered
from ddpm_export.errors import BadFileError, UsageError
from ddpm_export.images import to_uint8
from ddpm_export.noise import noise_stream
from ddpm_export.plans import Plan, Row, plan_from_json
from ddpm_export.runtimes import DenoiserFile, OneCallFile, open_file
from ddpm_export.samplers import FORMULAS, Choice, State, choose, walk
from ddpm_export.spec import FRACTIONAL_T, PLAN, TIMES, Defaults, ModelSpec

__all__ = ["Settings", "generate", "pictures", "sample", "settings_for", "with_defaults", "with_plans"]

MAX_FRESH_SEED = 2**32


@dataclass(frozen=True)
class Settings:
    """Hold everything, besides the model, that decides the images; `batch` decides only how many at a time.

    sampler, num_steps, times, grid, eta, variance and order are those of `plan`, None where they have no meaning; times
    are None, too, where they are evenly spaced. plan_name is that of a plan which the file carries.
    """

    plan: Plan
    sampler: str | None
    num_steps: int | None
    seed: int
    first: int
    n: int
    batch: int
    eta: float | None = None
    variance: str | None = None
    times: tuple[int, ...] | None = None
    plan_name: str | None = None
    grid: str | None = None
    order: int | None = None

    @property
    def numbers(self) -> range:
        """Return the numbers of the images."""
        return range(self.first, self.first + self.n)

    @property
    def batches(self) -> list[range]:
        """Return the numbers of the images of each batch."""
        return [self.numbers[start : start + self.batch] for start in range(0, self.n, self.batch)]

    @property
    def num_rows(self) -> int:
        """Return how many states lead to an image, each by one network evaluation."""
        return len(self.plan.rows)

    @property
    def evaluations(self) -> int:
        """Return how many states `sample` yields: rows times batches."""
        return self.num_rows * len(self.batches)

    def describe(self) -> dict[str, Any]:
        """Return what an image follows from, for PNG text and reports."""
        values = {**vars(self), "plan": self.plan_name}
        for name in ("batch", "n", "first", "plan_name"):
            del values[name]
        if self.grid is not None:
            del values["times"]  # follow from it
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
    plan: str | None = None,
    seed: int | None = None,
    first: int = 0,
    batch: int = 16,
    grid: str | None = None,
    order: int | None = None,
) -> Settings:
    """Fill in from the spec what is None, and a fresh seed; raises UsageError for what no image can be made from.

    times: the falling times of the steps themselves, in place of num_steps evenly spaced ones; grid: the name of one of
    GRIDS, whose times a one-call file is given. plan: the name of a plan that the file carries, in
    place of sampler, steps, times and knobs. A one-call file makes its noise itself, of fixed_small only.
    """
    chosen = choose(
        spec,
        sampler=sampler,
        num_steps=num_steps,
        times=times,
        grid=grid,
        name=plan,
        eta=eta,
        variance=variance,
        order=order,
    )
    if spec.graph is not None:
        _refuse_what_a_graph_cannot(spec, chosen)
    for name, count in (("n", n), ("batch", batch)):
        if count < 1:
            raise UsageError(f"{name} must be at least 1, got {count}.")
    settings = Settings(
        plan=chosen.plan,
        sampler=chosen.sampler,
        num_steps=chosen.num_steps,
        seed=secrets.randbelow(MAX_FRESH_SEED) if seed is None else seed,
        first=first,
        n=n,
        batch=min(batch, n),
        eta=chosen.knobs.get("eta"),
        variance=chosen.knobs.get("variance"),
        times=chosen.times,
        plan_name=chosen.name,
        grid=chosen.grid,
        order=chosen.knobs.get("order"),
    )
    noise_stream(settings.seed, (first, first + n - 1), spec.state_shape)  # refuses a seed and numbers out of range
    return settings


def with_defaults(
    spec: ModelSpec,
    *,
    sampler: str | None = None,
    num_steps: int | None = None,
    times: Sequence[int] | None = None,
    eta: float | None = None,
    plan: str | None = None,
    grid: str | None = None,
) -> ModelSpec:
    """Return the spec with other defaults, None leaving its own; raises UsageError where no image could be made so.

    A sampler whose formula only Python knows becomes a plan of the file, and that its default.
    """
    chosen = choose(spec, sampler=sampler, num_steps=num_steps, times=times, grid=grid, name=plan, eta=eta)
    if chosen.sampler not in (None, *FORMULAS):
        plan = _name_of(chosen)
        spec, chosen = replace(spec, plans={**spec.plans, plan: chosen.plan}), Choice(chosen.plan, plan)
    was = spec.defaults
    defaults = Defaults(
        sampler=chosen.sampler or was.sampler,
        num_steps=chosen.num_steps or was.num_steps,
        eta=float(chosen.knobs.get("eta", was.eta)),
        times=chosen.times,
        plan=chosen.name,
    )
    needed = {TIMES: defaults.times, PLAN: defaults.plan}
    requires = [name for name in spec.requires if name not in needed or spec.graph is not None]
    requires += [name for name, value in needed.items() if value is not None and name not in requires]
    return replace(spec, defaults=defaults, requires=tuple(requires))


def with_plans(spec: ModelSpec, wanted: Iterable[str], *, grid: str | None = None) -> ModelSpec:
    """Return the spec with plans added, for each of `sampler:steps,steps` one named sampler-steps of every number.

    A text that ends in .json is a file of plans by name (`json_from_plan`). grid: the name of one of GRIDS,
    of those that are named by sampler; unless it is uniform their names are sampler-grid-steps. Raises UsageError for
    what names no sampler, no number of steps or no grid, BadFileError for a file that does not hold plans for the spec.
    """
    plans = dict(spec.plans)
    for text in wanted:
        if text.endswith(".json"):
            plans |= _plans_from_file(Path(text), spec)
            continue
        sampler, _, counts = text.partition(":")
        if not counts or not all(count.isascii() and count.isdigit() for count in counts.split(",")):
            raise UsageError(f"plans must be given as sampler:steps,steps, such as dpmpp_2m:5,10, got {text[:80]!r}.")
        for num_steps in map(int, counts.split(",")):
            chosen = choose(spec, sampler=sampler, num_steps=num_steps, grid=grid)
            plans[_name_of(chosen)] = chosen.plan
    return replace(spec, plans=plans)


def _plans_from_file(path: Path, spec: ModelSpec) -> dict[str, Plan]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        T, fractional = spec.num_train_timesteps, FRACTIONAL_T in spec.requires
        plans = {name: plan_from_json(name, plan, T, fractional_t=fractional) for name, plan in values.items()}
    except OSError as exc:
        raise BadFileError(f"{path} cannot be read: {exc.strerror}.") from exc
    except (ValueError, AttributeError) as exc:
        raise BadFileError(f"{path} must hold plans by name, as python -m train.tune writes them: {exc}.") from exc
    for name, plan in plans.items():
        for row in plan.rows:
            if not math.isclose(row.a, spec.alphas_cumprod[int(row.t)], rel_tol=1e-6) and not fractional:
                raise BadFileError(f"{path}: plan {name} is of another schedule, which has {row.a:g} at t = {row.t:g}.")
    return plans


def _name_of(chosen: Choice) -> str:
    """Return what a file calls the plan of a choice."""
    return "-".join(map(str, filter(None, (chosen.sampler, chosen.grid, chosen.num_steps))))


def _refuse_what_a_graph_cannot(spec: ModelSpec, chosen: Choice) -> None:
    if chosen.sampler not in (None, *FORMULAS):
        raise UsageError(
            f"{chosen.sampler} cannot be chosen in a one-call {spec.graph}. Run the .onnx it was made from."
        )
    variance = chosen.knobs.get("variance", "fixed_small")
    if variance != "fixed_small":
        raise UsageError(f"variance must be fixed_small in a one-call {spec.graph}, got {variance!r}.")
    for needed, value in ((TIMES, chosen.times), (PLAN, chosen.name)):
        if value is not None and needed not in spec.requires:
            what = "grid" if needed == TIMES and chosen.grid is not None else needed
            raise UsageError(
                f"{what} cannot be chosen in a one-call {spec.graph} without the input {needed}. Run the .onnx that it "
                "was made from."
            )


def sample(model: Model, spec: ModelSpec, settings: Settings) -> Iterator[tuple[range, State]]:
    """Yield (image numbers, state) after every row of every batch; one network evaluation each.

    Raises NonFiniteError at the row where a number is no longer finite.
    """
    denoise = denoiser(model, spec)
    for numbers in settings.batches:
        noise = noise_stream(settings.seed, numbers, spec.state_shape)
        states = walk(denoise, noise, settings.plan)
        while True:
            with numbered(numbers):
                state = next(states, None)
            if state is None:
                break
            yield numbers, state


def pictures(
    opened: DenoiserFile | OneCallFile, settings: Settings, wants: Callable[[int], bool]
) -> Iterator[tuple[range, Row, NDArray[np.uint8] | None]]:
    """Yield (image numbers, row, pictures after it) of whatever file was opened; None where `wants` says no of i.

    A denoiser and a slice yield after every row of every batch, a one-call sampler after every batch.
    """
    if isinstance(opened, DenoiserFile):
        for numbers, state in sample(opened.model, opened.spec, settings):
            yield numbers, state.row, to_uint8(decode(state.x)) if wants(state.row.i) else None
        return
    eta = 1.0 if settings.eta is None else settings.eta  # ddpm, whose variance is fixed_small here
    how = (settings.num_rows, eta, settings.times, settings.plan_name)
    for numbers in settings.batches:
        for i, x, images in opened.run(settings.seed, numbers, *how):
            # on the way the state, as of a denoiser; the pictures at its end are the graph's own
            shown = images if i == settings.num_rows else to_uint8(decode(x))
            yield numbers, settings.plan.rows[i - 1], shown if wants(i) else None


def generate(
    model: str | Path | DenoiserFile | OneCallFile | tuple[Model, ModelSpec],
    *,
    provider: str = "cpu",
    threads: int | None = None,
    **settings: Any,
) -> NDArray[np.uint8]:
    """Return n images as uint8 (n, H, W, C) from a file, be it a denoiser or a one-call one, or from what was opened.

    model: a path, or what `open_model` or `open_file` gave.

    settings: n, num_steps, times, grid, sampler, eta, variance, order, plan, seed, first, batch, as in `settings_for`.
    Costs one network evaluation a row of the plan and batch. Raises what `open_file`, `settings_for` and `sample`
    raise.
    """
    if isinstance(model, (str, Path)):
        opened = open_file(model, provider, threads=threads)
    else:
        opened = DenoiserFile(*model) if isinstance(model, tuple) else model
    chosen = settings_for(opened.spec, **settings)
    done = pictures(opened, chosen, lambda i: i == chosen.num_rows)
    return np.concatenate([images for _, _, images in done if images is not None])
