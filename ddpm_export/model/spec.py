"""ModelSpec: the numbers that travel inside a model file, and their JSON. Opens no file; knows no runtime.

docs/format.md is the contract. A reader never guesses: what is missing, unknown or out of range is refused.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from ddpm_export.errors import BadFileError, ModelRefusedError, UsageError, several, shown
from ddpm_export.model.guidance import Guidance, check_guidance
from ddpm_export.model.inputs import OWN_GUIDANCE, Input, InputTypes, check_input
from ddpm_export.process.equations import VARIANCE_FRACTION, VARIANCES
from ddpm_export.process.noise import NOISE_TAG
from ddpm_export.process.rows import Plan, are_falling_times, is_number

PREDICTIONS = ("eps", "x_0", "v")
GRAPHS = ("sampler", "slice", "edit")  # what a file holds that is no denoiser, docs/format.md section 5
# the entries of `requires` that this reader can honour; each changes what is made, or what the graph is fed
FRACTIONAL_T, GUIDANCE, INPUTS, PLAN, RAW_EPS, TIMES = "fractional_t", "guidance", "inputs", "plan", "raw_eps", "times"
OPEN = "open"  # of a one-call file: spec.open lists the choices that its graph takes
UNDERSTOOD = frozenset({VARIANCE_FRACTION, FRACTIONAL_T, GUIDANCE, INPUTS, OPEN, PLAN, RAW_EPS, TIMES})
OPENABLE = ("steps", "eta", TIMES, PLAN, GUIDANCE)  # the choices that a one-call graph may take, in its order
MAX_JSON_BYTES = 256 * 1024
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
    graph: None for a denoiser, else which graph around one the file holds: sampler, slice or edit. open: the choices of
    OPENABLE that this graph takes as inputs, the others being fixed to the defaults; None where all are inputs.
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
    open: tuple[str, ...] | None = None

    @property
    def open_choices(self) -> tuple[str, ...]:
        """Return the choices that a one-call graph takes as inputs, in their order; none of a denoiser."""
        if self.graph is None or self.open is not None:
            return self.open or ()
        return ("steps", "eta", *(name for name in (TIMES, PLAN, GUIDANCE) if name in self.requires))

    @property
    def fixed_choices(self) -> dict[str, Any]:
        """Return what a one-call graph's other choices are, but for steps: see `steps_of`."""
        defaults = self.defaults
        values: dict[str, Any] = {TIMES: defaults.times}
        if self.plans or self.open is not None:
            values[PLAN] = defaults.plan
        if self.open is not None:
            values["eta"] = defaults.eta
            if self._can_be_guided:
                values[GUIDANCE] = defaults.guidance or Guidance()
        return {name: value for name, value in values.items() if name not in self.open_choices}

    def steps_of(self, plan: str | None, times: Sequence[int] | None, num_steps: int) -> int:
        """Return how many steps a one-call graph runs of a plan or of times; num_steps where steps are open."""
        if self.open is None or "steps" in self.open:
            return num_steps
        rows = times if plan is None else self.plans[plan].rows
        return self.defaults.num_steps if rows is None else len(rows)

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
        return next((item for item in self.inputs if item.kind == "label"), None)

    @property
    def takes_guidance(self) -> bool:
        """Return whether its predictions can be guided: it knows "no class", or takes guidance in its graph."""
        return self._can_be_guided and (self.graph is None or GUIDANCE in self.requires)  # a graph says so there

    @property
    def _can_be_guided(self) -> bool:
        return self.guides_itself or (self.label is not None and self.label.none is not None)

    @property
    def guides_itself(self) -> bool:
        """Return whether the scale of guidance is an input of the network, which then combines by itself."""
        return any(item.name == OWN_GUIDANCE for item in self.inputs)

    def __post_init__(self) -> None:
        if not all(isinstance(name, str) for name in self.requires):
            raise unfit("requires", self.requires, "a list of names")
        refuse_newer(self.requires)
        if self.graph is not None and self.graph not in GRAPHS:
            raise too_new("the graph", self.graph, f"a denoiser, {', '.join(GRAPHS[:-1])} and {GRAPHS[-1]}")
        if not isinstance(self.name, str) or len(self.name) > 200:
            raise unfit("name", self.name, "a short string")
        if self.prediction not in PREDICTIONS:
            raise unfit("prediction", self.prediction, f"one of {', '.join(PREDICTIONS)}")
        if self.variance not in VARIANCES:
            raise unfit("variance", self.variance, f"one of {', '.join(VARIANCES)}")
        if self.variance == "learned" and VARIANCE_FRACTION not in self.requires:
            raise unfit("variance", self.variance, f"fixed unless requires has {VARIANCE_FRACTION}")
        if self.noise != NOISE_TAG:
            raise too_new("the noise", self.noise, NOISE_TAG)
        shape = self.image_shape
        if (
            not isinstance(shape, tuple)
            or len(shape) != 3
            or not all(type(size) is int and size > 0 for size in shape)
            or math.prod(shape) > MAX_PIXELS
        ):
            raise unfit(
                "image_shape", shape, f"three positive integers [C, H, W] with a product of at most {MAX_PIXELS}"
            )
        if self.value_range != (-1.0, 1.0) or not all(is_number(v) for v in self.value_range):
            raise unfit("value_range", self.value_range, "[-1, 1]")
        if self.clip_x_0 is not None and not (is_number(self.clip_x_0) and self.clip_x_0 > 0):
            raise unfit("clip_x_0", self.clip_x_0, "a positive number or null")
        self._check_alphas_cumprod()
        if not isinstance(self.defaults.sampler, str):
            raise unfit("defaults.sampler", self.defaults.sampler, "a sampler's name")
        if type(self.defaults.num_steps) is not int or not 1 <= self.defaults.num_steps <= self.num_train_timesteps:
            raise unfit("defaults.num_steps", self.defaults.num_steps, f"1 to {self.num_train_timesteps}")
        if not is_number(self.defaults.eta) or not 0 <= self.defaults.eta <= 1:
            raise unfit("defaults.eta", self.defaults.eta, "a number from 0 to 1")
        if not isinstance(self.source, dict) or not isinstance(self.golden, (dict, type(None))):
            raise unfit("source and golden", type(self.source).__name__, "objects")
        self._check_open()
        self._check_inputs()
        self._check_plans()
        self._check_guidance()
        defaults = self.defaults
        used = {INPUTS: self.inputs, TIMES: defaults.times, PLAN: defaults.plan, GUIDANCE: defaults.guidance}
        for name, needed in used.items():
            if needed and name not in self.requires:
                raise BadFileError(f"In the model's spec, requires must name {name!r}, got {list(self.requires)!r}.")

    def _check_open(self) -> None:
        if (self.open is not None) != (OPEN in self.requires) or (self.open is not None and self.graph is None):
            raise unfit("open", self.open, "a list where requires names open, in a one-call file, and absent elsewhere")
        if self.open is None:
            return
        if self.open != tuple(name for name in OPENABLE if name in self.open):
            raise unfit("open", self.open, f"some of {', '.join(OPENABLE)}, in this order")
        missing = [name for name in (TIMES, PLAN, GUIDANCE) if name in self.open and name not in self.requires]
        if missing or (PLAN in self.open and not self.plans):
            raise unfit("open", self.open, "choices that requires names as well, and a plan only where there are plans")
        fixed = [name for name in (PLAN, TIMES) if name not in self.open and getattr(self.defaults, name) is not None]
        if fixed and set(self.open) & ({"steps", "eta", TIMES} if PLAN in fixed else {"steps"}):
            raise unfit("open", self.open, f"without a choice that the fixed {fixed[0]} makes")

    def _check_inputs(self) -> None:
        try:
            for item in self.inputs:
                check_input(item, self.state_shape)
        except ValueError as exc:
            raise BadFileError(f"The model's spec cannot be used: {exc}.") from exc
        if len({item.name for item in self.inputs}) < len(self.inputs) or bool(self.inputs) != (
            INPUTS in self.requires
        ):
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
            raise unfit("defaults.times", times, f"strictly falling integers from {self.num_train_timesteps - 1} to 0")

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
            raise unfit("alphas_cumprod", alphas, "at least one number")
        if alphas[0] >= 1 or any(b >= a for a, b in pairwise(alphas)):
            raise unfit("alphas_cumprod", alphas, "numbers that strictly fall within (0, 1)")
        last_may_be_zero = self.prediction != "eps"
        if alphas[-1] < 0 or (alphas[-1] == 0 and not last_may_be_zero):
            raise unfit("alphas_cumprod", alphas[-1], "a last value above 0 (0 itself only with x_0 or v)")


def refuse_newer(requires: Iterable[str]) -> None:
    """Raise ModelRefusedError for requirements that this reader does not know."""
    unknown = sorted(set(requires) - UNDERSTOOD)
    if unknown:
        raise too_new("a reader of", several(unknown), several(sorted(UNDERSTOOD), len(UNDERSTOOD)))


def unfit(where: str, got: Any, expected: str) -> BadFileError:
    """Return the error for an entry of a spec that is not what it must be."""
    return BadFileError(f"In the model's spec, {where} must be {expected}, got {shown(got)}.")


def too_new(what: str, got: Any, known: str) -> ModelRefusedError:
    """Return the error for what only a newer reader knows."""
    return ModelRefusedError(
        f"The model needs {what} {shown(got)}, and this version knows {known}. Install a newer one."
    )


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
