"""From a spec to a plan: the sampler, times and knobs that are given, or else the model's own. Opens no file."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from ddpm_export.errors import ModelRefusedError, UsageError, several, shown
from ddpm_export.model.spec import ModelSpec
from ddpm_export.process.equations import VARIANCE_FRACTION
from ddpm_export.process.given import times_below
from ddpm_export.process.rows import Plan, are_falling_times
from ddpm_export.process.schedules import times_from_grid
from ddpm_export.process.solvers import SAMPLERS, Grid
from ddpm_export.process.walk import no_learned_variance


def grid_of(
    spec: ModelSpec, num_steps: int | None = None, *, times: Iterable[int] | None = None, name: str = "uniform"
) -> Grid:
    """Return num_steps times of a named grid, or the given falling ones; without either, the spec's number of them.

    name: of one of GRIDS. Raises UsageError for an unknown one, for num_steps outside 1..T, and for times that do not
    strictly fall within 0..T-1.
    """
    T = spec.num_train_timesteps
    if times is None:
        steps = spec.defaults.num_steps if num_steps is None else num_steps
        chosen = times_from_grid(name, np.array(spec.alphas_cumprod), steps).tolist()
    else:
        chosen = [int(t) for t in times]
        if not are_falling_times(chosen, T):
            raise UsageError(
                f"times must strictly fall from at most {T - 1} to at least 0, got {several(chosen)}.", "times"
            )
        if num_steps not in (None, len(chosen)):
            raise UsageError(
                f"There are {len(chosen)} times, but num_steps is {num_steps}. Drop it.", "num_steps", "times"
            )
    return Grid(tuple(chosen), (*(float(spec.alphas_cumprod[t]) for t in chosen), 1.0))


def knobs_of(sampler: str, spec: ModelSpec, given: dict[str, Any]) -> dict[str, Any]:
    """Return the knobs of a sampler: what was given, where that is None what the spec says, else the sampler's own.

    Raises UsageError for an unknown sampler and for a knob that it does not have.
    """
    if sampler not in SAMPLERS:
        raise UsageError(f"sampler must be one of {', '.join(SAMPLERS)}, got {shown(sampler)}.", "sampler")
    known = list(inspect.signature(SAMPLERS[sampler]).parameters)[1:]
    for name, value in given.items():
        if value is not None and name not in known:
            raise UsageError(f"{name} does not apply to {sampler}.", name)
    usual = {"eta": spec.defaults.eta, "variance": spec.variance}
    chosen = {name: usual.get(name) if given.get(name) is None else given[name] for name in known}
    return {name: value for name, value in chosen.items() if value is not None}


class Steps(NamedTuple):
    """A plan and what it was made of: name, of a plan in the file; else a sampler, its steps, times and knobs.

    times: None where they are evenly spaced. grid: the name of the grid that they are of, where it was chosen by name.
    """

    plan: Plan
    name: str | None = None
    sampler: str | None = None
    num_steps: int | None = None
    times: tuple[int, ...] | None = None
    grid: str | None = None
    knobs: Mapping[str, Any] = MappingProxyType({})


def choose(
    spec: ModelSpec,
    *,
    sampler: str | None = None,
    num_steps: int | None = None,
    times: Sequence[int] | None = None,
    grid: str | None = None,
    name: str | None = None,
    **knobs: Any,
) -> Steps:
    """Return the rows from noise to picture and what they were made of; arguments and errors as of `plan`."""
    given = {"sampler": sampler, "num_steps": num_steps, "times": times, "grid": grid, **knobs}
    asked = [key for key, value in given.items() if value is not None]
    if name is None and not asked:
        name = spec.defaults.plan
    elif name is None and asked == ["num_steps"] and (name := _plan_with(spec, num_steps)) is not None:
        asked = []
    if name is not None:
        if name not in spec.plans:
            names = ", ".join(spec.plans) or "none, for the model carries none"
            raise UsageError(f"plan must be one of {names}, got {shown(name)}.", "plan")
        if asked:
            raise UsageError(f"plan {name} already fixes the steps. Drop {asked[0]}.", "plan", asked[0])
        return Steps(spec.plans[name], name)
    if sampler is None and spec.defaults.sampler not in SAMPLERS:
        raise ModelRefusedError(f"The model's default sampler, {spec.defaults.sampler!r}, is unknown to this version.")
    sampler = spec.defaults.sampler if sampler is None else sampler
    if times is not None and grid is not None:
        raise UsageError("Give grid or times, not both.", "grid")
    if times is None and num_steps is None and grid is None:
        times = spec.defaults.times
    chosen, usual = grid_of(spec, num_steps, times=times, name=grid or "uniform"), knobs_of(sampler, spec, knobs)
    if grid == "uniform":
        grid = None  # what every file can do by itself
    plan = Plan(tuple(SAMPLERS[sampler](chosen, **usual)))
    if plan.needs_learned_variance and VARIANCE_FRACTION not in spec.outputs:
        raise no_learned_variance()
    own_times = tuple(map(int, chosen.t)) if times is not None or grid is not None else None
    return Steps(plan, None, sampler, len(chosen.t), own_times, grid, usual)


def _plan_with(spec: ModelSpec, num_steps: int | None) -> str | None:
    """Return the name of the default plan's sibling for another number of steps, such as tuned-5 for tuned-8.

    None where the file carries no such plan: then the default sampler takes those steps.
    """
    family, _, count = (spec.defaults.plan or "").rpartition("-")
    name = f"{family}-{num_steps}"
    return name if count.isdigit() and name in spec.plans else None


def plan(
    spec: ModelSpec,
    *,
    sampler: str | None = None,
    num_steps: int | None = None,
    times: Sequence[int] | None = None,
    grid: str | None = None,
    name: str | None = None,
    **knobs: Any,
) -> Plan:
    """Return the rows from noise to picture: of a sampler on a grid of times, or a plan that the file has.

    grid: the name of one of GRIDS. name: of one of spec.plans; it replaces all other arguments. What is left out or
    None is the spec's default. knobs: the sampler's, such as eta or variance. Raises UsageError for arguments that make
    no plan, ModelRefusedError for a default sampler unknown to this version.
    """
    return choose(spec, sampler=sampler, num_steps=num_steps, times=times, grid=grid, name=name, **knobs).plan


def plan_below(spec: ModelSpec, steps: Steps, strength: float, *, ddim_eta: float | None = None) -> Plan:
    """Return the plan from a share of the training times on.

    ddim_eta: where a plan's rows look back beyond it, use ddim with this eta; None refuses such a plan.
    Raises UsageError for a strength that leaves no time, and for a plan of the file whose rows look back beyond it.
    """
    found = rows_below(spec, steps, strength)
    if found is None and ddim_eta is not None:
        found = rows_below(
            spec, choose(spec, sampler="ddim", num_steps=spec.defaults.num_steps, eta=ddim_eta), strength
        )
    if found is None:
        raise UsageError(
            f"strength does not apply to plan {steps.name}, whose rows look back beyond it.", "strength", "plan"
        )
    return found


def rows_below(spec: ModelSpec, steps: Steps, strength: float) -> Plan | None:
    """Return the plan from a share of the training times on; None where its rows would look back beyond that."""
    below = times_below(times_of(steps.plan), strength, spec.num_train_timesteps)
    if steps.sampler is not None:
        return plan(spec, sampler=steps.sampler, times=list(map(int, below)), **steps.knobs)
    begin = next(k for k, row in enumerate(steps.plan.rows) if row.t <= below[0])
    rows = [row._replace(i=i) for i, row in enumerate(steps.plan.rows[begin:], start=1)]
    return None if any(row.reach > row.i for row in rows) else Plan(tuple(rows))


def times_of(rows: Plan) -> list[float]:
    """Return the times of a plan's rows, falling, each once."""
    return sorted({row.t for row in rows.rows}, reverse=True)
