"""Plans that an export adds to a file: of a sampler by its number of steps, or from a file of plans."""

import json
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ddpm_export.errors import BadFileError, UsageError, first_line
from ddpm_export.model.defaults import plan_name_of
from ddpm_export.model.plans import plan_from_json
from ddpm_export.model.spec import FRACTIONAL_T, ModelSpec
from ddpm_export.model.steps import choose
from ddpm_export.process.rows import Plan


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
            plans[plan_name_of(chosen)] = chosen.plan
    return replace(spec, plans=plans)


def _plans_from_file(path: Path, spec: ModelSpec) -> dict[str, Plan]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        T, fractional = spec.num_train_timesteps, FRACTIONAL_T in spec.requires
        plans = {name: plan_from_json(name, plan, T, fractional_t=fractional) for name, plan in values.items()}
    except OSError as exc:
        raise BadFileError(f"{path} cannot be read: {exc.strerror}.") from exc
    except (ValueError, AttributeError, RecursionError) as exc:
        raise BadFileError(
            f"{path} must hold plans by name, as python -m train.tune writes them: {first_line(exc)}."
        ) from exc
    for name, plan in plans.items():
        for row in plan.rows:
            if not math.isclose(row.a, spec.alphas_cumprod[int(row.t)], rel_tol=1e-6) and not fractional:
                raise BadFileError(f"{path}: plan {name} is of another schedule, which has {row.a:g} at t = {row.t:g}.")
    return plans
