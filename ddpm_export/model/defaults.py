"""Change what a spec does by default, and which plans it offers."""

from dataclasses import replace
from typing import Any

from ddpm_export.model.guidance import Guidance
from ddpm_export.model.spec import GUIDANCE, PLAN, TIMES, Defaults, ModelSpec, guidance_for
from ddpm_export.model.steps import Steps, choose
from ddpm_export.process.solvers import FORMULAS


def with_defaults(
    spec: ModelSpec, *, plan: str | None = None, guidance: Guidance | float | None = None, **how: Any
) -> ModelSpec:
    """Return the spec with other defaults, None leaving its own; raises UsageError where they make no image.

    plan, guidance, how: as of `request_for`. A sampler whose formula only Python knows becomes the file's default plan.
    """
    steps = choose(spec, name=plan, **how)
    if steps.sampler not in (None, *FORMULAS):
        plan = plan_name_of(steps)
        spec, steps = replace(spec, plans={**spec.plans, plan: steps.plan}), Steps(steps.plan, plan)
    was, guided = spec.defaults, guidance_for(spec, guidance)
    defaults = Defaults(
        sampler=steps.sampler or was.sampler,
        num_steps=steps.num_steps or was.num_steps,
        eta=float(steps.knobs.get("eta", was.eta)),
        times=steps.times,
        plan=steps.name,
        guidance=None if guided.scale == 1 else guided,
    )
    needed = {TIMES: defaults.times, PLAN: defaults.plan, GUIDANCE: defaults.guidance}
    requires = [name for name in spec.requires if name not in needed or spec.graph is not None]
    requires += [name for name, value in needed.items() if value is not None and name not in requires]
    return replace(spec, defaults=defaults, requires=tuple(requires))


def plan_name_of(chosen: Steps) -> str:
    """Return the name of a plan in a file: sampler, grid and number of steps."""
    return "-".join(map(str, filter(None, (chosen.sampler, chosen.grid, chosen.num_steps))))
