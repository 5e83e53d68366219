"""What a scheduler of diffusers says of a spec: its numbers, and its steps, by the user's installed package.

Steps that are those of a sampler which every reader knows become that sampler's name and its times, others a plan.
"""

import inspect
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, zip_longest
from typing import Any

from torch import Tensor

from ddpm_export.errors import BadFileError, DdpmExportError, EnvironmentProblem, UsageError, first_line, several, shown
from ddpm_export.importers.diffusers_stepping import NotCarriedError, plan_from_scheduler
from ddpm_export.importers.layout import read_options
from ddpm_export.model.spec import FRACTIONAL_T, PLAN, RAW_EPS, TIMES, Defaults, ModelSpec
from ddpm_export.model.steps import plan as plan_of
from ddpm_export.process.rows import Plan, Row, are_falling_times
from ddpm_export.process.schedules import spacing

Values = Mapping[str, Any]

DDPM = ("DDPMScheduler", "DDPMParallelScheduler")
OTHER_PURPOSE = {
    "DDIMInverseScheduler": "it leads from an image to its noise",
    "DPMSolverMultistepInverseScheduler": "it leads from an image to its noise",
    "LCMScheduler": "it is for networks that were distilled to a few steps",
    "TCDScheduler": "it is for networks that were distilled to a few steps",
}
PREDICTIONS = {"epsilon": "eps", "sample": "x_0", "v_prediction": "v"}
VARIANCES = {
    "fixed_small": "fixed_small",
    "fixed_small_log": "fixed_small",
    "fixed_large": "fixed_large",
    "fixed_large_log": "fixed_large",
    "learned_range": "learned",
    None: "fixed_small",  # a solver that knows none
}
LACKING = {  # what holds where a class has no such entry
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
    "prediction_type": "epsilon",
    "variance_type": None,
    "clip_sample": False,
    "clip_sample_range": 1.0,
    "thresholding": False,
    "timestep_spacing": "leading",
    "timestep_type": "discrete",
    "steps_offset": 0,
    "use_flow_sigmas": False,
}
SPACINGS = ("leading", "trailing", "linspace")
TOLD = (  # what the spec's source keeps for people
    "num_train_timesteps",
    "beta_schedule",
    "beta_start",
    "beta_end",
    "rescale_betas_zero_snr",
    "prediction_type",
    "variance_type",
    "timestep_spacing",
    "steps_offset",
)
MAX_TIMES = 10_000  # as many numbers as a spec holds
STEP_OPTIONS = {"eta": 0.0, "use_clipped_model_output": False}  # what a pipeline passes on to a scheduler's step
# a scheduler's float32 leaves so little of 1 - a / a_prev near the picture that its own weights are off by 1e-4
SAME = 5e-4


@dataclass(frozen=True)
class Schedule:
    """Hold what a scheduler decides of a spec, what to keep of it for people, and what to tell the user.

    scheduler: the package's object, which has made no step. told: what its step is given besides.
    """

    alphas_cumprod: tuple[float, ...]
    prediction: str
    clip_x_0: float | None
    variance: str
    defaults: Defaults
    source: dict[str, Any]
    notes: tuple[str, ...]
    scheduler: Any
    inputs: Values


def read_schedule(package: Any, config: Values, options: Values) -> Schedule:
    """Return the numbers of a scheduler's configuration; options take the place of its entries, `_class_name` too.

    package: the installed diffusers. Raises BadFileError for what cannot be carried over, by its name, UsageError where
    an option says it, EnvironmentProblem where diffusers lacks a package that the scheduler needs.
    """
    name = options.get("_class_name", config.get("_class_name"))
    kind = _scheduler_class(package, name, options)
    inputs = _told_in_steps(kind, options)
    options = {key: value for key, value in options.items() if key not in inputs}
    values = _values(package, kind, config, options)
    says = {**LACKING, **values}
    _refuse_what_is_not_ours(says, options)
    scheduler = _built(kind, values, options)
    alphas_cumprod = _falling(scheduler, says, options)
    T = len(alphas_cumprod)
    # what DDPMPipeline and DDIMPipeline do when nobody says anything
    defaults = Defaults("ddpm", min(1000, T), 0.0) if name in DDPM else Defaults("ddim", min(50, T), 0.0)
    source = {key: values[key] for key in TOLD if type(values.get(key)) in (bool, int, float, str)}
    if says["trained_betas"] is not None:
        source["beta_schedule"] = "trained_betas"
    if says["variance_type"] == "fixed_large_log":
        scheduler = _built(kind, {**values, "variance_type": "fixed_large"}, options)
    return Schedule(
        alphas_cumprod,
        PREDICTIONS[says["prediction_type"]],
        float(says["clip_sample_range"]) if says["clip_sample"] else None,
        VARIANCES[says["variance_type"]],
        defaults,
        {"scheduler": {"class": name, **source, **inputs}, "diffusers": package.__version__},
        tuple(_notes(name, says)),
        scheduler,
        inputs,
    )


def with_stepping(spec: ModelSpec, schedule: Schedule, counts: Sequence[int], *, counts_t: bool) -> ModelSpec:
    """Return the spec with the scheduler's own steps, by default those of the first of the counts.

    One count whose steps are those of ddpm or ddim becomes that default with its times; else each becomes a plan, such
    as PNDM-50. counts_t: whether the network only knows whole times. Raises UsageError for a count that is no number of
    steps, BadFileError for steps that are no plan, by the scheduler's name.
    """
    name = type(schedule.scheduler).__name__
    plans: dict[str, Plan] = {}
    for count in counts:
        if not 1 <= count <= spec.num_train_timesteps:
            raise UsageError(
                f"The number of steps must be from 1 to {spec.num_train_timesteps}, the model's own, got {count!r}."
            )
        try:
            plan = plan_from_scheduler(schedule.scheduler, count, spec, schedule.inputs)
        except NotCarriedError as exc:
            raise BadFileError(
                f"the scheduler's steps cannot be carried over: {name} {exc}. Add --sampler ddim to leave them behind."
            ) from exc
        plans[f"{name.removesuffix('Scheduler')}-{count}"] = plan
    rows = [row for plan in plans.values() for row in plan.rows]
    is_fractional = not all(type(row.t) is int for row in rows)
    if is_fractional and counts_t:
        raise BadFileError(
            f"{name} asks for fractions of times, and time_embedding_type learned has none. Add --set "
            "timestep_spacing=leading or --sampler ddim."
        )
    known = _as_a_sampler(spec, plan, schedule.inputs) if len(counts) == 1 else None
    if known is not None:
        requires = () if known.times is None else (TIMES,)
        return replace(spec, defaults=known, requires=(*spec.requires, *requires))
    needed = {PLAN: True, FRACTIONAL_T: is_fractional, RAW_EPS: any(row.raw_eps for row in rows)}
    return replace(
        spec,
        plans={**spec.plans, **plans},
        defaults=replace(spec.defaults, num_steps=counts[0], plan=next(iter(plans))),
        requires=(*spec.requires, *(entry for entry, is_needed in needed.items() if is_needed)),
    )


def _as_a_sampler(spec: ModelSpec, plan: Plan, inputs: Values) -> Defaults | None:
    """Return a plan as a sampler that every reader knows on the plan's times; None where it is none."""
    if not are_falling_times([row.t for row in plan.rows], spec.num_train_timesteps):
        return None
    if plan.raw_eps or plan.start != 1.0:
        return None
    times = tuple(int(row.t) for row in plan.rows)
    is_even = list(times) == spacing(spec.num_train_timesteps, len(times)).tolist()
    own = None if is_even else times
    formulas: dict[str, dict[str, Any]] = {"ddpm": {}, "ddim": {"eta": float(inputs.get("eta", 0.0))}}
    for sampler, knobs in formulas.items():
        known = plan_of(spec, sampler=sampler, times=times, **knobs)
        if all(map(_is_same, known.rows, plan.rows)):
            return replace(spec.defaults, sampler=sampler, num_steps=len(times), eta=knobs.get("eta", 0.0), times=own)
    return None


def _is_same(a: Row, b: Row) -> bool:
    weights = [(a.x_0, b.x_0), (a.eps, b.eps), (a.noise, b.noise)]
    return math.isclose(a.a, b.a, rel_tol=1e-5) and all(_are_near(item, other) for item, other in weights)


def _are_near(a: Iterable[float], b: Iterable[float]) -> bool:
    return all(abs(item - other) <= SAME for item, other in zip_longest(a, b, fillvalue=0.0))


def _told_in_steps(kind: Any, options: Values) -> dict[str, Any]:
    """Return what a pipeline passes on to a scheduler's step where an option says it."""
    known = {key: default for key, default in STEP_OPTIONS.items() if key in inspect.signature(kind.step).parameters}
    stated = {key: value for key, value in options.items() if key in known}
    inputs = read_options(stated, known)
    if not 0.0 <= inputs.get("eta", 0.0) <= 1.0:
        raise UsageError(f"--set eta must be from 0 to 1, got {inputs['eta']!r}.")
    return {key: inputs[key] for key in stated}


def _scheduler_class(package: Any, name: Any, options: Values) -> Any:
    try:
        kind = getattr(package, name, None) if isinstance(name, str) else None
    except Exception as exc:  # diffusers imports lazily: what goes wrong in that module shows here
        raise EnvironmentProblem(f"diffusers cannot load {name}: {first_line(exc)}. Install diffusers again.") from exc
    if not isinstance(kind, type) or not kind.__module__.startswith("diffusers."):
        raise _refusal("_class_name", name, f"a scheduler of the installed diffusers {package.__version__}", options)
    if ".dummy_" in kind.__module__:
        raise EnvironmentProblem(
            f"diffusers cannot build {name} without {several(getattr(kind, '_backends', ()))}. Install what is missing."
        )
    if name in OTHER_PURPOSE:
        raise _refusal("_class_name", name, f"a sampler of images; {OTHER_PURPOSE[name]}", options)
    if not issubclass(kind, package.SchedulerMixin) or "beta_schedule" not in inspect.signature(kind).parameters:
        raise _refusal("_class_name", name, "a scheduler of discrete betas, which has a beta_schedule", options)
    return kind


def _values(package: Any, kind: Any, config: Values, options: Values) -> dict[str, Any]:
    """Return the value of each parameter of the class: the option's, the configuration's, or the default."""
    values = {key: p.default for key, p in inspect.signature(kind).parameters.items() if p.kind != p.VAR_KEYWORD}
    others = [getattr(package, member.name, None) for member in package.schedulers.KarrasDiffusionSchedulers]
    # where a scheduler was made from another's configuration, diffusers keeps the other's entries and uses none of them
    dormant = {key for other in others if other for key in inspect.signature(other).parameters} - set(values)
    dormant |= {"tensor_format", "timestep_values"}  # of versions before 0.6: where its arrays were; the times
    stated = {key: value for key, value in options.items() if key not in dormant and key[:1] != "_"}
    read_options(stated, {"sample_size": None, "scheduler": "", **values})
    by_default = config.get("_use_default_values")  # diffusers takes those of the installed version for them
    by_default = by_default if isinstance(by_default, list) else []
    for key, value in config.items():
        if key in values and key not in by_default:
            values[key] = value
        elif key not in values and key not in dormant and key[:1] != "_" and (key, value) != ("predict_epsilon", True):
            raise _refusal(
                key, value, f"an entry that {kind.__name__} of diffusers {package.__version__} knows", options
            )
    return {**values, **stated}


def _built(kind: Any, values: Values, options: Values) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # HeunDiscreteScheduler's way with NumPy 2: not for the user
            return kind(**values)
    except Exception as exc:  # whatever a class makes of values that are not for it
        reason = first_line(exc)
        name = next((key for key in ("trained_betas", "beta_schedule") if key in options), "configuration")
        raise _refusal(name, reason, f"one that {kind.__name__} takes", options) from exc


def _refuse_what_is_not_ours(says: Values, options: Values) -> None:
    T, offset, clip = says["num_train_timesteps"], says["steps_offset"], says["clip_sample_range"]
    rules = [
        ("num_train_timesteps", type(T) is int and 1 <= T <= MAX_TIMES, f"1 to {MAX_TIMES}"),
        ("prediction_type", says["prediction_type"] in tuple(PREDICTIONS), f"one of {', '.join(PREDICTIONS)}"),
        ("variance_type", says["variance_type"] != "learned", "learned_range: a file has no place for free variances"),
        ("variance_type", says["variance_type"] in tuple(VARIANCES), "fixed_small, fixed_large or learned_range"),
        ("thresholding", not says["thresholding"], "False: the samplers here clip by a fixed bound only"),
        ("clip_sample_range", type(clip) in (int, float) and 0 < clip < 1e9, "a number above 0"),
        ("timestep_spacing", says["timestep_spacing"] in SPACINGS, f"one of {', '.join(SPACINGS)}"),
        ("steps_offset", type(offset) is int and 0 <= offset < MAX_TIMES, "a number of steps"),
        ("timestep_type", says["timestep_type"] == "discrete", "discrete: t counts the steps here"),
        ("use_flow_sigmas", not says["use_flow_sigmas"], "False: flow matching is another process"),
    ]
    for key, holds, expected in rules:
        if not holds:
            raise _refusal(key, says[key], expected, options)


def _falling(scheduler: Any, says: Values, options: Values) -> tuple[float, ...]:
    """Return alphas_cumprod, the float32 numbers that diffusers goes by, as floats."""
    betas = "beta_schedule" if says["trained_betas"] is None else "trained_betas"
    alphas, T = getattr(scheduler, "alphas_cumprod", None), says["num_train_timesteps"]
    if not isinstance(alphas, Tensor) or tuple(alphas.shape) != (T,):
        got = f"alphas_cumprod of shape {tuple(getattr(alphas, 'shape', ()))}"
        raise _refusal(betas, got, f"({T},), as num_train_timesteps says", options)
    numbers = tuple(float(a) for a in alphas.double().tolist())
    if says["rescale_betas_zero_snr"] and says["prediction_type"] != "epsilon":
        numbers = (*numbers[:-1], 0.0)  # solvers in sigma put a small number there, some above the one before it
    falls = all(math.isfinite(a) for a in numbers) and all(b < a for a, b in pairwise(numbers))
    if not falls or numbers[0] >= 1 or numbers[-1] < 0:
        got = f"alphas_cumprod {numbers[0]!r}, ..., {numbers[-1]!r}"
        raise _refusal(betas, got, "numbers that strictly fall within (0, 1), as float32", options)
    if numbers[-1] == 0 and says["prediction_type"] == "epsilon":
        key = "rescale_betas_zero_snr" if says["rescale_betas_zero_snr"] else betas
        raise _refusal(
            key,
            "a last alphas_cumprod of 0 with prediction_type epsilon",
            "v_prediction or sample: where no signal is left, x_0 does not follow from the noise",
            options,
        )
    return numbers


def _notes(name: str, says: Values) -> Iterator[str]:
    if name in DDPM and says["variance_type"] == "fixed_large_log":
        yield f"variance_type fixed_large_log: {name} itself makes NaN of it; it is carried over as fixed_large."


def _refusal(key: str, got: Any, expected: str, options: Values) -> DdpmExportError:
    """Return the error that names an entry: of the user's where an option says it, of the file's otherwise."""
    text = shown(got) if not isinstance(got, str) else shown(got)[1:-1]
    if key in options:
        return UsageError(f"--set {key} must be {expected}, got {text}.")
    return BadFileError(
        f"the scheduler's {key} must be {expected}, got {text}. Add --set {key}=VALUE, if another will do."
    )
