"""ModelSpec: the numbers that travel inside a model file, and their JSON. Opens no file; knows no runtime.

docs/format.md is the contract. A reader never guesses: what is missing, unknown or out of range is refused.
"""

import dataclasses
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from ddpm_export.errors import BadFileError, ModelRefusedError, UsageError, first_line, several, shown
from ddpm_export.model.guidance import Guidance, check_guidance, guidance_from_json, json_from_guidance
from ddpm_export.model.inputs import OWN_GUIDANCE, Input, InputTypes, check_input, input_from_json, json_from_input
from ddpm_export.model.plans import json_from_plan, plan_from_json
from ddpm_export.process.equations import VARIANCE_FRACTION, VARIANCES
from ddpm_export.process.noise import NOISE_TAG
from ddpm_export.process.rows import Plan, are_falling_times, is_number

METADATA_KEY = "ddpm_export"
FORMAT = "ddpm-export/1"
PREDICTIONS = ("eps", "x_0", "v")
GRAPHS = ("sampler", "slice", "edit")  # what a file holds that is no denoiser, docs/format.md section 5
# the entries of `requires` that this reader can honour; each changes what is made, or what the graph is fed
FRACTIONAL_T, GUIDANCE, INPUTS, PLAN, RAW_EPS, TIMES = "fractional_t", "guidance", "inputs", "plan", "raw_eps", "times"
UNDERSTOOD = frozenset({VARIANCE_FRACTION, FRACTIONAL_T, GUIDANCE, INPUTS, PLAN, RAW_EPS, TIMES})
MAX_JSON_BYTES = 256 * 1024
MAX_NESTING = 32
MAX_PIXELS = 2**26  # numbers in one image: a header must not fill the memory


@dataclass(frozen=True)
class Defaults:
    """Say how a model is sampled where the user says nothing.

    times: strictly falling ones, in place of num_steps evenly spaced ones. plan: the name of one of the file's plans,
    in place of all else. guidance: of a network that takes any, None for a scale of 1.
    """

    sampler: str = "ddim"
    num_steps: int = 50
    eta: float = 0.0
    times: tuple[int, ...] | None = None
    plan: str | None = None
    guidance: Guidance | None = None


@dataclass(frozen=True)
class ModelSpec:
    """Hold all that sampling needs to know of a network.

    prediction: eps, x_0 or v. image_shape: (C, H, W). alphas_cumprod: T floats, strictly falling within (0, 1); the
    last may be 0 unless the prediction is eps. clip_x_0: bound on |x_0|, or None. variance: of the ddpm sampler;
    learned needs a network with a second output, and then requires has variance_fraction.
    golden: outputs to verify a file by where it lands. source: for people only, nothing depends on it.
    graph: None for a denoiser, else which graph around one the file holds: sampler, slice or edit.
    inputs: what the network is told besides x_t and t; requires then has inputs. plans: solvers' tables by name.
    requires: what a reader must understand; fractional_t says that the graph's t is float32.
    Raises BadFileError for what is not possible, ModelRefusedError for what is possible but unknown to this reader.
    """

    name: str
    prediction: str
    image_shape: tuple[int, int, int]
    alphas_cumprod: tuple[float, ...]
    clip_x_0: float | None = 1.0
    variance: str = "fixed_small"
    value_range: tuple[float, float] = (-1.0, 1.0)
    defaults: Defaults = field(default_factory=Defaults)
    noise: str = NOISE_TAG
    golden: dict[str, Any] | None = None
    source: dict[str, Any] = field(default_factory=dict)
    requires: tuple[str, ...] = ()
    graph: str | None = None
    inputs: tuple[Input, ...] = ()
    plans: dict[str, Plan] = field(default_factory=dict)

    @property
    def state_shape(self) -> tuple[int, int, int]:
        """Return (C, H, W) of what is sampled."""
        return self.image_shape

    @property
    def picture_shape(self) -> tuple[int, int, int]:
        """Return (C, H, W) of what `decode` makes of a state; that of the state for pixel models."""
        return self.image_shape

    @property
    def t_dtype(self) -> str:
        """Return the dtype of the graph's t."""
        return "float32" if FRACTIONAL_T in self.requires else "int64"

    @property
    def num_train_timesteps(self) -> int:
        """Return T."""
        return len(self.alphas_cumprod)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Return the names of the network's outputs, in order."""
        return (self.prediction, *(name for name in (VARIANCE_FRACTION,) if name in self.requires))

    @property
    def input_types(self) -> InputTypes:
        """Return the network's inputs by name, in the graph's order: dtype, and shape without the batch."""
        types = {"x_t": (np.dtype(np.float32), list(self.state_shape)), "t": (np.dtype(self.t_dtype), [])}
        return types | {entry.name: (np.dtype(entry.dtype), list(entry.shape)) for entry in self.inputs}

    @property
    def label(self) -> Input | None:
        """Return the input that says which class is wanted, None where the network is told none."""
        return next((one for one in self.inputs if one.kind == "label"), None)

    @property
    def takes_guidance(self) -> bool:
        """Return whether its predictions can be guided: it knows "no class", or takes guidance in its graph."""
        can = self.guides_itself or (self.label is not None and self.label.none is not None)
        return can and (self.graph is None or GUIDANCE in self.requires)  # a graph combines only where it says so

    @property
    def guides_itself(self) -> bool:
        """Return whether the scale of guidance is an input of the network, which then combines by itself."""
        return any(one.name == OWN_GUIDANCE for one in self.inputs)

    def __post_init__(self) -> None:
        if not all(isinstance(name, str) for name in self.requires):
            raise _bad("requires", self.requires, "a list of names")
        _refuse_what_is_newer(self.requires)
        if self.graph is not None and self.graph not in GRAPHS:
            raise _too_new("the graph", self.graph, f"a denoiser, {', '.join(GRAPHS[:-1])} and {GRAPHS[-1]}")
        if not isinstance(self.name, str) or len(self.name) > 200:
            raise _bad("name", self.name, "a short string")
        if self.prediction not in PREDICTIONS:
            raise _bad("prediction", self.prediction, f"one of {', '.join(PREDICTIONS)}")
        if self.variance not in VARIANCES:
            raise _bad("variance", self.variance, f"one of {', '.join(VARIANCES)}")
        if self.variance == "learned" and VARIANCE_FRACTION not in self.requires:
            raise _bad("variance", self.variance, f"fixed unless requires has {VARIANCE_FRACTION}")
        if self.noise != NOISE_TAG:
            raise _too_new("the noise", self.noise, NOISE_TAG)
        shape = self.image_shape
        if (
            not isinstance(shape, tuple)
            or len(shape) != 3
            or not all(type(size) is int and size > 0 for size in shape)
            or math.prod(shape) > MAX_PIXELS
        ):
            raise _bad(
                "image_shape", shape, f"three positive integers [C, H, W] with a product of at most {MAX_PIXELS}"
            )
        if self.value_range != (-1.0, 1.0) or not all(is_number(v) for v in self.value_range):
            raise _bad("value_range", self.value_range, "[-1, 1]")
        if self.clip_x_0 is not None and not (is_number(self.clip_x_0) and self.clip_x_0 > 0):
            raise _bad("clip_x_0", self.clip_x_0, "a positive number or null")
        self._check_alphas_cumprod()
        if not isinstance(self.defaults.sampler, str):
            raise _bad("defaults.sampler", self.defaults.sampler, "a sampler's name")
        if type(self.defaults.num_steps) is not int or not 1 <= self.defaults.num_steps <= self.num_train_timesteps:
            raise _bad("defaults.num_steps", self.defaults.num_steps, f"1 to {self.num_train_timesteps}")
        if not is_number(self.defaults.eta) or not 0 <= self.defaults.eta <= 1:
            raise _bad("defaults.eta", self.defaults.eta, "a number from 0 to 1")
        if not isinstance(self.source, dict) or not isinstance(self.golden, (dict, type(None))):
            raise _bad("source and golden", type(self.source).__name__, "objects")
        self._check_inputs()
        self._check_plans()
        self._check_guidance()
        defaults = self.defaults
        used = {INPUTS: self.inputs, TIMES: defaults.times, PLAN: defaults.plan, GUIDANCE: defaults.guidance}
        for name, needed in used.items():
            if needed and name not in self.requires:
                raise BadFileError(f"In the model's spec, requires must name {name!r}, got {list(self.requires)!r}.")

    def _check_inputs(self) -> None:
        try:
            for one in self.inputs:
                check_input(one, self.state_shape)
        except ValueError as exc:
            raise BadFileError(f"The model's spec cannot be used: {exc}.") from exc
        if len({one.name for one in self.inputs}) < len(self.inputs) or bool(self.inputs) != (INPUTS in self.requires):
            raise BadFileError(
                "In the model's spec, inputs must have different names, and requires must name inputs if there are any."
            )

    def _check_plans(self) -> None:
        for name, plan in self.plans.items():
            if plan.needs_learned_variance and VARIANCE_FRACTION not in self.requires:
                raise BadFileError(f"Plan {name} needs a learned variance, which the network does not have.")
            if plan.raw_eps and RAW_EPS not in self.requires:
                raise BadFileError(
                    f"Plan {name} has raw_eps, so that requires must name it, got {list(self.requires)!r}."
                )
            if self.prediction == "eps" and not all(row.a > 0 for row in plan.rows):
                raise BadFileError(f"Plan {name} must keep a above 0, since the network predicts eps.")
        times, plan_name = self.defaults.times, self.defaults.plan
        if plan_name is not None and not (isinstance(plan_name, str) and plan_name in self.plans):
            raise BadFileError(f"The model's default plan, {shown(plan_name)}, is not among its plans.")
        if times is not None and not are_falling_times(times, self.num_train_timesteps):
            raise _bad("defaults.times", times, f"strictly falling integers from {self.num_train_timesteps - 1} to 0")

    def _check_guidance(self) -> None:
        if self.defaults.guidance is None:
            return
        try:
            check_guidance(self.defaults.guidance)
        except ValueError as exc:
            raise BadFileError(f"The model's spec cannot be used: {exc}.") from exc
        if not self.takes_guidance:
            raise BadFileError("In the model's spec, defaults.guidance needs a label that may be none, and has none.")

    def _check_alphas_cumprod(self) -> None:
        alphas = self.alphas_cumprod
        if not alphas or not all(is_number(a) for a in alphas):
            raise _bad("alphas_cumprod", alphas, "at least one number")
        if alphas[0] >= 1 or any(b >= a for a, b in pairwise(alphas)):
            raise _bad("alphas_cumprod", alphas, "numbers that strictly fall within (0, 1)")
        last_may_be_zero = self.prediction != "eps"
        if alphas[-1] < 0 or (alphas[-1] == 0 and not last_may_be_zero):
            raise _bad("alphas_cumprod", alphas[-1], "a last value above 0 (0 itself only with x_0 or v)")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]}")
    return value


def _is_nested_within(value: Any, levels: int) -> bool:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_is_nested_within(child, levels - 1) for child in children)


def _refuse_what_is_newer(requires: Iterable[str]) -> None:
    unknown = sorted(set(requires) - UNDERSTOOD)
    if unknown:
        raise _too_new("a reader of", several(unknown), several(sorted(UNDERSTOOD), len(UNDERSTOOD)))


def _bad(where: str, got: Any, expected: str) -> BadFileError:
    return BadFileError(f"In the model's spec, {where} must be {expected}, got {shown(got)}.")


def _too_new(what: str, got: Any, known: str) -> ModelRefusedError:
    return ModelRefusedError(
        f"The model needs {what} {shown(got)}, and this version knows {known}. Install a newer one."
    )


def json_from_spec(spec: ModelSpec) -> str:
    """Return the spec as JSON: sorted keys, no time stamps, the same text for the same spec.

    Raises UsageError where it would be more than a reader takes: plans and classes have no other limit.
    """
    values = {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec)}
    values["inputs"] = [json_from_input(one) for one in spec.inputs]
    values["plans"] = {name: json_from_plan(plan) for name, plan in spec.plans.items()}
    values["defaults"] = {name: value for name, value in vars(spec.defaults).items() if value is not None}
    if spec.defaults.guidance is not None:
        values["defaults"]["guidance"] = json_from_guidance(spec.defaults.guidance)
    for name in ("graph", "inputs", "plans"):  # newer than the format's first files: only where they are used
        if not values[name]:
            del values[name]
    return metadata_from({"format": FORMAT, **values})


def metadata_from(values: dict[str, Any]) -> str:
    """Return an object as a file's metadata, JSON with sorted keys; raises UsageError where a reader would not take it.

    That is a spec's, and what stands beside it.
    """
    text = json.dumps(values, sort_keys=True, allow_nan=False)
    if len(text) > MAX_JSON_BYTES:  # ASCII
        raise UsageError(
            f"A model's spec must have at most {MAX_JSON_BYTES} bytes, got {len(text)}. Offer fewer plans."
        )
    return text


def spec_from_json(text: str) -> ModelSpec:
    """Read and validate a spec; unknown keys are ignored, unknown requirements and majors are refused.

    Raises BadFileError where the text is no valid spec, ModelRefusedError where a newer reader is needed.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_JSON_BYTES:
        raise BadFileError(f"The model's spec must have at most {MAX_JSON_BYTES} bytes, got {len(text)}.")
    try:
        values = json.loads(text, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as exc:
        raise BadFileError(f"The model's spec is not JSON: {first_line(exc)}.") from exc
    if not _is_nested_within(values, MAX_NESTING):
        raise BadFileError(f"The model's spec must be nested at most {MAX_NESTING} levels deep.")
    if not isinstance(values, dict):
        raise BadFileError(f"The model's spec must be a JSON object, got {shown(values)}.")
    version = values.get("format")
    if not isinstance(version, str) or not version.startswith("ddpm-export/"):
        raise _bad("format", version, f"{FORMAT!r}")
    if version.split("/")[1].split(".")[0] != FORMAT.split("/")[1]:
        raise _too_new("the format", version, FORMAT)
    optional = {"golden", "source", "graph", "inputs", "plans"}
    required = [f.name for f in dataclasses.fields(ModelSpec) if f.name not in optional]
    missing = [key for key in required if key not in values]
    if missing:
        raise BadFileError(f"The model's spec must have {several(missing)}, which it lacks.")
    known = {f.name: values[f.name] for f in dataclasses.fields(ModelSpec) if f.name in values}
    for name in ("image_shape", "alphas_cumprod", "value_range", "requires"):
        if not isinstance(known[name], list) or not all(isinstance(v, (int, float, str)) for v in known[name]):
            raise _bad(name, known[name], "a list")
        known[name] = tuple(known[name])
    if all(isinstance(name, str) for name in known["requires"]):
        _refuse_what_is_newer(known["requires"])  # before what it may have changed is read
    known["value_range"] = tuple(float(v) if is_number(v) else v for v in known["value_range"])
    defaults = known["defaults"]
    wanted = ("sampler", "num_steps", "eta")
    if not isinstance(defaults, dict) or not set(wanted) <= set(defaults):
        raise _bad("defaults", defaults, f"an object with {', '.join(wanted)}")
    times = defaults.get("times")
    if times is not None and not isinstance(times, list):
        raise _bad("defaults.times", times, "a list")
    given = {name: defaults[name] for name in wanted}
    given |= {"times": None if times is None else tuple(times), "plan": defaults.get("plan")}
    fractional = FRACTIONAL_T in known["requires"]
    for name, kind in (("inputs", list), ("plans", dict)):
        if name in known and not isinstance(known[name], kind):
            raise _bad(name, known[name], "a list" if kind is list else "an object")
    try:
        known["inputs"] = tuple(input_from_json(one) for one in known.get("inputs", ()))
        T = len(known["alphas_cumprod"])
        plans = known.get("plans", {}).items()
        guidance = defaults.get("guidance")
        guidance = None if guidance is None else guidance_from_json(guidance)
        known["defaults"] = Defaults(**given, guidance=guidance)
        known["plans"] = {name: plan_from_json(name, plan, T, fractional_t=fractional) for name, plan in plans}
    except ValueError as exc:
        raise BadFileError(f"The model's spec cannot be used: {exc}.") from exc
    return ModelSpec(**known)


def guidance_for(spec: ModelSpec, given: Guidance | float | None = None) -> Guidance:
    """Return the guidance that is meant: what is given, a number being a scale for all times, or else the file's.

    Raises UsageError for what is out of its range, and for any scale but 1 of a network that takes none.
    """
    if given is None:
        return spec.defaults.guidance or Guidance()
    guidance = given if isinstance(given, Guidance) else Guidance(given)
    try:
        check_guidance(guidance)
    except ValueError as exc:
        raise UsageError(f"{exc}.") from exc
    if guidance.scale != 1 and not spec.takes_guidance:
        raise UsageError(
            f"guidance must be 1 for a network that has not learned to do without a class, got {guidance.scale:g}."
        )
    return guidance
