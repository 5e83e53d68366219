"""The numbers and the steps of a scheduler of diffusers, by the user's installed package.

Steps of a sampler that every reader knows become that sampler's name and times, others a plan.
"""

import inspect
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, zip_longest
from typing import Any

from torch import Tensor

from ddpm_export.errors import BadFileError, DdpmExportError, EnvironmentProblem, UsageError, first_line, several, shown
from ddpm_export.importers import choices
from ddpm_export.importers.diffusers_paths import NOT_ROWS, PATHS, USUAL_STEPS, path_of
from ddpm_export.importers.diffusers_stepping import NotCarriedError, plan_from_scheduler
from ddpm_export.importers.layout import uneven_times
from ddpm_export.importers.paths import Path
from ddpm_export.model.spec import FRACTIONAL_T, PLAN, RAW_EPS, TIMES, Defaults, ModelSpec
from ddpm_export.model.steps import plan as plan_of
from ddpm_export.process.rows import Plan, Row, are_falling_times

Values = Mapping[str, Any]

DDPM = ("DDPMScheduler", "DDPMParallelScheduler")
OTHER_PURPOSE = {
    "DDIMInverseScheduler": "it leads from an image to its noise",
    "DPMSolverMultistepInverseScheduler": "it leads from an image to its noise",
    **NOT_ROWS,
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
# what a file can hold of a scheduler, and the value of a class without such an entry
KNOWN: dict[str, choices.Option] = {
    "num_train_timesteps": choices.within(1, choices.MAX_TIMESTEPS),
    "trained_betas": choices.anything(),
    "rescale_betas_zero_snr": choices.anything(False),
    "prediction_type": choices.one_of(PREDICTIONS, default="epsilon"),
    "variance_type": choices.Option(
        "fixed_small, fixed_large or learned_range: a file has no place for free variances",
        lambda value: value in tuple(VARIANCES),
    ),
    "clip_sample": choices.anything(False),
    "clip_sample_range": choices.Option("a number above 0", lambda v: type(v) in (int, float) and 0 < v < 1e9, 1.0),
    "thresholding": choices.Option(
        "False: the samplers here clip by a fixed bound only", lambda value: not value, False
    ),
    "timestep_spacing": choices.one_of(("leading", "trailing", "linspace"), default="leading"),
    "timestep_type": choices.Option("discrete: t counts the steps here", lambda value: value == "discrete", "discrete"),
    "steps_offset": choices.within(0, choices.MAX_TIMESTEPS - 1, 0),
    "use_flow_sigmas": choices.Option(
        "False: for a flow take FlowMatchEulerDiscreteScheduler", lambda value: not value, False
    ),
}
RECORDED = (  # in the spec's source, for people
    *("num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "rescale_betas_zero_snr", "prediction_type"),
    *("variance_type", "timestep_spacing", "steps_offset"),
)
STEP_OPTIONS = {
    "eta": choices.within(0.0, 1.0, 0.0),
    "use_clipped_model_output": choices.like(False),
    **{name: choices.within(0.0, 1e9) for name in ("s_churn", "s_tmin", "s_tmax", "s_noise")},
    "mu": choices.like(None),
}  # of a scheduler's step, and of its set_timesteps
# a scheduler's float32 leaves so little of 1 - a / a_prev near the picture that its own weights are off by 1e-4
SAME = 5e-4


@dataclass(frozen=True)
class Schedule:
    """Hold what a scheduler decides of a spec, what its source records, and notes for the user.

    scheduler: the package's object, which has made no step. inputs: further arguments of its step. path: of a network
    that is not one of discrete betas.
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
    path: Path | None = None


def read_schedule(package: Any, config: Values, options: Values) -> Schedule:
    """Return the numbers of a scheduler's configuration; options replace its entries, `_class_name` too.

    package: the installed diffusers. Raises BadFileError for an entry that cannot be carried over, UsageError where it
    is an option, EnvironmentProblem where diffusers lacks a package that the scheduler needs.
    """
    name = options.get("_class_name", config.get("_class_name"))
    kind = _scheduler_class(package, name, options)
    inputs = _inputs_of_steps(kind, options)
    options = {key: value for key, value in options.items() if key not in inputs}
    values = _values(package, kind, config, options)
    path = path_of(name, values)
    if path is not None:
        return _schedule_of_path(package, kind, path, values, inputs, options)
    entries = {**{key: entry.default for key, entry in KNOWN.items()}, **values}
    for key, entry in KNOWN.items():
        if not entry.fits(entries[key]):
            raise _refusal(key, entries[key], entry.expected, options)
    scheduler = _built(kind, values, options)
    alphas_cumprod = _falling(scheduler, entries, options)
    T = len(alphas_cumprod)
    # as DDPMPipeline and DDIMPipeline sample by default
    steps = USUAL_STEPS.get(name, 50)
    defaults = Defaults("ddpm", min(1000, T), 0.0) if name in DDPM else Defaults("ddim", min(steps, T), 0.0)
    source = {key: values[key] for key in RECORDED if type(values.get(key)) in (bool, int, float, str)}
    if entries["trained_betas"] is not None:
        source["beta_schedule"] = "trained_betas"
    notes: tuple[str, ...] = ()
    if entries["variance_type"] == "fixed_large_log":
        scheduler = _built(kind, {**values, "variance_type": "fixed_large"}, options)
        if name in DDPM:
            notes = (f"variance_type fixed_large_log: {name} makes NaN of it, so it is carried over as fixed_large.",)
    return Schedule(
        alphas_cumprod,
        PREDICTIONS[entries["prediction_type"]],
        float(entries["clip_sample_range"]) if entries["clip_sample"] else None,
        VARIANCES[entries["variance_type"]],
        defaults,
        {"scheduler": {"class": name, **source, **inputs}, "diffusers": package.__version__},
        notes,
        scheduler,
        inputs,
    )


def _schedule_of_path(package: Any, kind: Any, path: Path, values: Values, inputs: Values, options: Values) -> Schedule:
    """Return the numbers of a scheduler of another path; its own steps follow by `with_stepping`."""
    if values.get("invert_sigmas"):
        raise _refusal("invert_sigmas", True, "false: a flow here goes from noise, s = 1, to the picture", options)
    source = {key: value for key, value in values.items() if type(value) in (bool, int, float, str)}
    sampler = "consistency" if path.name == "consistency" else "ddim"
    return Schedule(
        path.alphas_cumprod(1000),
        path.form.prediction,
        1.0 if values.get("clip_denoised") else None,
        "fixed_small",
        Defaults(sampler, USUAL_STEPS.get(kind.__name__, 50), 0.0),
        {"scheduler": {"class": kind.__name__, **source, **inputs}, "diffusers": package.__version__},
        (),
        _built(kind, values, options),
        inputs,
        path,
    )


def with_stepping(spec: ModelSpec, schedule: Schedule, counts: Sequence[int], *, counts_t: bool) -> ModelSpec:
    """Return the spec with the scheduler's own steps; the first of the counts is the default.

    A single count whose steps are those of ddpm or ddim becomes that default with its times; otherwise each becomes a
    plan, such as PNDM-50. counts_t: whether the network knows only whole times. Raises UsageError for a count that is
    no number of steps, BadFileError for steps that are no plan.
    """
    name = type(schedule.scheduler).__name__
    plans: dict[str, Plan] = {}
    for count in counts:
        if not 1 <= count <= spec.num_train_timesteps:
            raise UsageError(
                f"The number of steps must be from 1 to {spec.num_train_timesteps}, the model's own, got {count!r}."
            )
        try:
            plan = plan_from_scheduler(schedule.scheduler, count, spec, schedule.inputs, schedule.path)
        except NotCarriedError as exc:
            raise BadFileError(
                f"the scheduler's steps cannot be carried over: {name} {exc}. Use sampler ddim instead.", "sampler"
            ) from exc
        plans[f"{name.removesuffix('Scheduler')}-{count}"] = plan
    rows = [row for plan in plans.values() for row in plan.rows]
    is_fractional = not all(type(row.t) is int for row in rows)
    if is_fractional and counts_t:
        raise BadFileError(
            f"{name} asks for fractions of times, and time_embedding_type learned has none. Add "
            "timestep_spacing=leading, or use sampler ddim.",
            *("timestep_spacing=leading", "sampler"),
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
        requires=tuple(dict.fromkeys((*spec.requires, *(entry for entry, is_needed in needed.items() if is_needed)))),
    )


def _as_a_sampler(spec: ModelSpec, plan: Plan, inputs: Values) -> Defaults | None:
    """Return a plan as a sampler that every reader knows on the plan's times; None where it is none."""
    T = spec.num_train_timesteps
    if plan.raw_eps or plan.start != 1.0 or not are_falling_times([row.t for row in plan.rows], T):
        return None
    times = tuple(int(row.t) for row in plan.rows)
    formulas: dict[str, dict[str, Any]] = {"ddpm": {}, "ddim": {"eta": float(inputs.get("eta", 0.0))}}
    for sampler, knobs in formulas.items():
        known = plan_of(spec, sampler=sampler, times=times, **knobs)
        if all(map(_is_same, known.rows, plan.rows)):
            entries = {"sampler": sampler, "num_steps": len(times), "eta": knobs.get("eta", 0.0)}
            return replace(spec.defaults, **entries, times=uneven_times(times, T))
    return None


def _is_same(a: Row, b: Row) -> bool:
    weights = [(a.x_0, b.x_0), (a.eps, b.eps), (a.noise, b.noise)]
    return math.isclose(a.a, b.a, rel_tol=1e-5) and all(_are_near(item, other) for item, other in weights)


def _are_near(a: Iterable[float], b: Iterable[float]) -> bool:
    return all(abs(item - other) <= SAME for item, other in zip_longest(a, b, fillvalue=0.0))


def _inputs_of_steps(kind: Any, options: Values) -> dict[str, Any]:
    """Return the options that a pipeline passes on to a scheduler's step."""
    parameters = {**inspect.signature(kind.step).parameters, **inspect.signature(kind.set_timesteps).parameters}
    known = {key: option for key, option in STEP_OPTIONS.items() if key in parameters}
    stated = {key: value for key, value in options.items() if key in known}
    choices.read_options(stated, known)
    return stated


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
    is_known = "beta_schedule" in inspect.signature(kind).parameters or name in PATHS
    if not issubclass(kind, package.SchedulerMixin) or not is_known:
        raise _refusal(
            "_class_name",
            name,
            f"a scheduler of discrete betas, which has a beta_schedule, or {several(PATHS, 9)}",
            options,
        )
    return kind


def _values(package: Any, kind: Any, config: Values, options: Values) -> dict[str, Any]:
    """Return the value of each parameter of the class: the option's, the configuration's, or the default."""
    values = {key: p.default for key, p in inspect.signature(kind).parameters.items() if p.kind != p.VAR_KEYWORD}
    names = [*(member.name for member in package.schedulers.KarrasDiffusionSchedulers), *PATHS]
    others = [getattr(package, name, None) for name in names]
    # where a scheduler was made from another's configuration, diffusers keeps the other's entries and uses none of them
    dormant = {key for other in others if other for key in inspect.signature(other).parameters} - set(values)
    dormant |= {"tensor_format", "timestep_values"}  # of versions before 0.6: where its arrays were; the times
    stated = {key: value for key, value in options.items() if key not in dormant and key[:1] != "_"}
    choices.read_options(
        stated, {key: choices.like(value) for key, value in {"sample_size": None, "scheduler": "", **values}.items()}
    )
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


def _falling(scheduler: Any, entries: Values, options: Values) -> tuple[float, ...]:
    """Return alphas_cumprod, the float32 numbers that diffusers goes by, as floats."""
    betas = "beta_schedule" if entries["trained_betas"] is None else "trained_betas"
    alphas, T = getattr(scheduler, "alphas_cumprod", None), entries["num_train_timesteps"]
    if not isinstance(alphas, Tensor) or tuple(alphas.shape) != (T,):
        got = f"alphas_cumprod of shape {tuple(getattr(alphas, 'shape', ()))}"
        raise _refusal(betas, got, f"({T},), as num_train_timesteps says", options)
    numbers = tuple(float(a) for a in alphas.double().tolist())
    if entries["rescale_betas_zero_snr"] and entries["prediction_type"] != "epsilon":
        numbers = (*numbers[:-1], 0.0)  # solvers in sigma put a small number there, some above the one before it
    falls = all(math.isfinite(a) for a in numbers) and all(b < a for a, b in pairwise(numbers))
    if not falls or numbers[0] >= 1 or numbers[-1] < 0:
        got = f"alphas_cumprod {numbers[0]!r}, ..., {numbers[-1]!r}"
        raise _refusal(betas, got, "numbers that strictly fall within (0, 1), as float32", options)
    if numbers[-1] == 0 and entries["prediction_type"] == "epsilon":
        key = "rescale_betas_zero_snr" if entries["rescale_betas_zero_snr"] else betas
        raise _refusal(
            key,
            "a last alphas_cumprod of 0 with prediction_type epsilon",
            "v_prediction or sample: where no signal is left, x_0 does not follow from the noise",
            options,
        )
    return numbers


def _refusal(key: str, got: Any, expected: str, options: Values) -> DdpmExportError:
    """Return the error that names an entry: a UsageError for the user's, a BadFileError for the file's."""
    text = shown(got) if not isinstance(got, str) else shown(got)[1:-1]
    if key in options:
        return UsageError(f"{key!r} must be {expected}, got {text}.")
    pair = f"{key}=VALUE"
    return BadFileError(f"the scheduler's {key} must be {expected}, got {text}. Add {pair} if another will do.", pair)
