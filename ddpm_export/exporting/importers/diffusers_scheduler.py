"""What a scheduler of diffusers says of a spec's numbers, computed by the user's installed package.

Only its schedule is taken: what its `step` does beyond our samplers is refused by name, or told in a note where it is
the stepping of another solver.
"""

import inspect
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor

from ddpm_export.errors import BadFileError, DdpmExportError, EnvironmentProblem, UsageError
from ddpm_export.exporting.importers.layout import read_options
from ddpm_export.schedules import spacing
from ddpm_export.spec import Defaults
from ddpm_export.wording import first_line, several, shown

__all__ = ["Schedule", "read_schedule"]

Values = Mapping[str, Any]

DDPM = ("DDPMScheduler", "DDPMParallelScheduler")
DDIM = ("DDIMScheduler", "DDIMParallelScheduler")
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
    "set_alpha_to_one": True,
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


@dataclass(frozen=True)
class Schedule:
    """Hold what a scheduler decides of a spec, what to keep of it for people, and what to tell the user."""

    alphas_cumprod: tuple[float, ...]
    prediction: str
    clip_x_0: float | None
    variance: str
    defaults: Defaults
    source: dict[str, Any]
    notes: tuple[str, ...]


def read_schedule(package: Any, config: Values, options: Values) -> Schedule:
    """Return the numbers of a scheduler's configuration; options take the place of its entries, `_class_name` too.

    package: the installed diffusers. Raises BadFileError for what cannot be carried over, by its name, UsageError where
    an option says it, EnvironmentProblem where diffusers lacks a package that the scheduler needs.
    """
    name = options.get("_class_name", config.get("_class_name"))
    kind = _scheduler_class(package, name, options)
    values = _values(package, kind, config, options)
    says = {**LACKING, **values}
    _refuse_what_is_not_ours(name, says, options)
    scheduler = _built(kind, values, options)
    alphas_cumprod = _falling(scheduler, says, options)
    T = len(alphas_cumprod)
    # what DDPMPipeline and DDIMPipeline do when nobody says anything
    defaults = Defaults("ddpm", min(1000, T), 0.0) if name in DDPM else Defaults("ddim", min(50, T), 0.0)
    told = {key: values[key] for key in TOLD if type(values.get(key)) in (bool, int, float, str)}
    if says["trained_betas"] is not None:
        told["beta_schedule"] = "trained_betas"
    return Schedule(
        alphas_cumprod,
        PREDICTIONS[says["prediction_type"]],
        float(says["clip_sample_range"]) if says["clip_sample"] else None,
        VARIANCES[says["variance_type"]],
        defaults,
        {"scheduler": {"class": name, **told}, "diffusers": package.__version__},
        tuple(_notes(name, says, scheduler)),
    )


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
    said = {key: value for key, value in options.items() if key not in dormant and key[:1] != "_"}
    read_options(said, {"sample_size": None, "scheduler": "", **values})
    by_default = config.get("_use_default_values")  # diffusers takes those of the installed version for them
    by_default = by_default if isinstance(by_default, list) else []
    for key, value in config.items():
        if key in values and key not in by_default:
            values[key] = value
        elif key not in values and key not in dormant and key[:1] != "_" and (key, value) != ("predict_epsilon", True):
            raise _refusal(
                key, value, f"an entry that {kind.__name__} of diffusers {package.__version__} knows", options
            )
    return {**values, **said}


def _built(kind: Any, values: Values, options: Values) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # HeunDiscreteScheduler's way with NumPy 2: not for the user
            return kind(**values)
    except Exception as exc:  # whatever a class makes of values that are not for it
        reason = first_line(exc)
        name = next((key for key in ("trained_betas", "beta_schedule") if key in options), "configuration")
        raise _refusal(name, reason, f"one that {kind.__name__} takes", options) from exc


def _refuse_what_is_not_ours(name: str, says: Values, options: Values) -> None:
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
    if name in DDIM:
        rules += [
            ("set_alpha_to_one", bool(says["set_alpha_to_one"]), "True: the last step here ends at x_0"),
            (
                "timestep_spacing",
                says["timestep_spacing"] != "linspace",
                "leading or trailing: its steps of T // n do not lead from one linspace time to the next",
            ),
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


def _notes(name: str, says: Values, scheduler: Any) -> Iterator[str]:
    if name not in DDPM + DDIM:
        yield f"{name}: its own stepping is not in the file, which is for ddim and ddpm on the same schedule."
        return
    if name in DDIM and says["clip_sample"]:
        yield (
            f"{name} clips x_0 and by default goes on with the eps of before; here eps follows from the clipped x_0, "
            "as with its use_clipped_model_output=True."
        )
    if name in DDPM and says["variance_type"] == "fixed_large_log":
        yield f"variance_type fixed_large_log: {name} itself makes NaN of it; it is carried over as fixed_large."
    T = says["num_train_timesteps"]
    n = min(50, max(1, T // 2))
    scheduler.set_timesteps(n)
    own, ours = scheduler.timesteps.tolist(), spacing(T, n).tolist()
    if own != ours:
        yield (
            f"timestep_spacing {says['timestep_spacing']}, steps_offset {says['steps_offset']}: in fewer than {T} "
            f"steps {name} takes other times, such as {_shown(own)} for {n}, not {_shown(ours)}. To have its own, give "
            "them: plan(spec, times=...), or ddpm-run --times."
        )
    if name in DDPM and own[-1] > 0 and VARIANCES[says["variance_type"]] != "fixed_small":
        yield (
            f"variance_type {says['variance_type']}: in fewer than {T} steps {name} ends above t = 0, and adds noise "
            "after its last step, too; here the last step ends at x_0."
        )


def _shown(times: list[int]) -> str:
    return f"{times[0]}, ..., {times[-1]}" if len(times) < 4 else f"{times[0]}, {times[1]}, ..., {times[-1]}"


def _refusal(key: str, got: Any, expected: str, options: Values) -> DdpmExportError:
    """Return the error that names an entry: of the user's where an option says it, of the file's otherwise."""
    text = shown(got) if not isinstance(got, str) else shown(got)[1:-1]
    if key in options:
        return UsageError(f"--set {key} must be {expected}, got {text}.")
    return BadFileError(
        f"the scheduler's {key} must be {expected}, got {text}. Add --set {key}=VALUE, if another will do."
    )
