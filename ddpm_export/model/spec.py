"""ModelSpec: the numbers that travel inside a model file, and their JSON. Opens no file; knows no runtime.

docs/format.md is the contract. A reader never guesses: what is missing, unknown or out of range is refused.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from ddpm_export.errors import ModelRefusedError, UsageError, several, shown
from ddpm_export.model.codec import (
    OBJECT,
    TEXT,
    Form,
    MisfitError,
    bad_file,
    chain,
    choice,
    integer,
    nullable,
    number,
    record,
    rule,
    text,
    tuple_of,
)
from ddpm_export.model.guidance import GUIDANCE_FORM, Guidance
from ddpm_export.model.inputs import OWN_GUIDANCE, Input, InputTypes, input_form
from ddpm_export.model.plans import BELOW_1, POSITIVE, plans_form
from ddpm_export.model.stages import AFTER, BEFORE, Stage, Units, stages_form, units_form
from ddpm_export.process.equations import VARIANCE_FRACTION, VARIANCES
from ddpm_export.process.noise import NOISE_TAG
from ddpm_export.process.rows import Plan

PREDICTIONS = ("eps", "x_0", "v")
GRAPHS = ("sampler", "slice", "edit")  # of one-call files, docs/format.md section 5
# the entries of `requires` that this reader can honour; each changes what is made, or what the graph is fed
FRACTIONAL_T, GUIDANCE, INPUTS, PLAN, RAW_EPS, TIMES = "fractional_t", "guidance", "inputs", "plan", "raw_eps", "times"
OPEN = "open"  # of a one-call file: spec.open lists the choices that its graph takes
SHAPE = "shape"  # the state has other than three dimensions, and is no picture
STAGED, UNITS = "stages", "units"  # graphs beside this one are a part of what is made; states are scaled at the end
UNDERSTOOD = frozenset(
    {VARIANCE_FRACTION, FRACTIONAL_T, GUIDANCE, INPUTS, OPEN, PLAN, RAW_EPS, SHAPE, STAGED, TIMES, UNITS}
)
OPENABLE = ("steps", "eta", TIMES, PLAN, GUIDANCE)  # the choices that a one-call graph may take, in its order
MAX_PIXELS = 2**26  # numbers in one image: a header must not fill the memory


@dataclass(frozen=True)
class Defaults:
    """Say how a model is sampled unless the user chooses.

    times: strictly falling, in place of num_steps evenly spaced ones. plan: the name of one of the file's plans, in
    place of all else. guidance: None for a scale of 1.
    """

    sampler: str = "ddim"
    num_steps: int = 50
    eta: float = 0.0
    times: tuple[int, ...] | None = None
    plan: str | None = None
    guidance: Guidance | None = None


UNSAID = Defaults()  # of a spec of fewer than 50 times, one step for each


@dataclass(frozen=True)
class ModelSpec:
    """Hold all that sampling needs to know of a network.

    prediction: eps, x_0 or v. state_shape: (C, H, W) of pictures, else one, two or four sizes; requires then has shape.
    alphas_cumprod: T floats, strictly falling within (0, 1); the last may be 0 unless the prediction is eps. clip_x_0:
    bound on |x_0|, or None. variance: of the ddpm sampler; learned needs a network with a second output, and then
    requires has variance_fraction.
    golden: outputs that verify a file where it lands. source: for people only, nothing depends on it.
    graph: None for a denoiser, else the graph around one: sampler, slice or edit. open: the choices of OPENABLE that
    this graph takes as inputs, the others fixed to the defaults; None where all are inputs. inputs: those other than
    x_t and t; requires then has inputs. plans: solvers' tables by name. requires: what a reader must understand;
    fractional_t means that the graph's t is float32. stages: graphs that run once, by name; units: what the last state
    is scaled by, before `after` where there is one.
    Entries may be JSON values: each is read by its form (`codec`). Raises BadFileError for a misfit, ModelRefusedError
    for an entry that only a newer reader knows.
    """

    name: str
    prediction: str
    state_shape: tuple[int, ...]
    alphas_cumprod: tuple[float, ...]
    clip_x_0: float | None = 1.0
    variance: str = "fixed_small"
    value_range: tuple[float, float] = (-1.0, 1.0)
    defaults: Defaults = UNSAID
    noise: str = NOISE_TAG
    golden: dict[str, Any] | None = None
    source: dict[str, Any] = field(default_factory=dict)
    requires: tuple[str, ...] = ()
    graph: str | None = None
    inputs: tuple[Input, ...] = ()
    plans: dict[str, Plan] = field(default_factory=dict)
    stages: dict[str, Stage] = field(default_factory=dict)
    units: Units | None = None
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
    def result_shape(self) -> tuple[int, ...]:
        """Return the shape of what is made of one state: its own, unless a stage follows."""
        after = self.stages.get(AFTER)
        return self.state_shape if after is None else after.outputs[after.result]

    @property
    def is_picture(self) -> bool:
        """Return whether what is made are pictures, uint8, or else numbers, float32."""
        after = self.stages.get(AFTER)
        return self.state_is_picture if after is None else after.result == "images"

    @property
    def state_is_picture(self) -> bool:
        """Return whether a state is a picture by itself."""
        return SHAPE not in self.requires and self.units is None and AFTER not in self.stages

    @property
    def asked_inputs(self) -> tuple[Input, ...]:
        """Return the inputs that a user gives: those of the network that no stage makes, and those of `before`."""
        before = self.stages.get(BEFORE, Stage({}))
        own = [entry for entry in self.inputs if entry.name not in before.outputs]
        return (*own, *(entry for entry in before.inputs if entry not in own))

    @property
    def picture_shape(self) -> tuple[int, int, int]:
        """Return (C, H, W) of the pictures; raises UsageError where there are none."""
        if not self.is_picture:
            raise UsageError(f"This needs a model of pictures, got one of numbers of shape {self.result_shape}.")
        channels, height, width = self.result_shape
        return channels, height, width

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
        """Return the input that chooses a class, None for a network without classes."""
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
        with bad_file("The model's spec"):
            self._read({"requires": REQUIRES})
            refuse_newer(self.requires)
            if self.graph is not None and self.graph not in GRAPHS:
                raise too_new("the graph", self.graph, f"a denoiser, {', '.join(GRAPHS[:-1])} and {GRAPHS[-1]}")
            if self.noise != NOISE_TAG:
                raise too_new("the noise", self.noise, NOISE_TAG)
            self._read(PLAIN)
            if self.defaults is UNSAID:
                least = min(UNSAID.num_steps, self.num_train_timesteps)
                object.__setattr__(self, "defaults", Defaults(num_steps=least))
            plans = plans_form(self.num_train_timesteps, fractional_t=FRACTIONAL_T in self.requires)
            self._read({"plans": plans, "inputs": tuple_of(input_form(self.state_shape))})
            self._read({"defaults": _defaults_form(self), "units": nullable(units_form(self.state_shape))})
            self._read({"stages": stages_form(self.state_shape, self.inputs)})
            for fits, place, expected, got in self._rules():
                if not fits:
                    raise MisfitError(place, expected, got)

    def _read(self, forms: Mapping[str, Form]) -> None:
        for name, form in forms.items():
            object.__setattr__(self, name, form(getattr(self, name), name))

    def _rules(self) -> Iterator[tuple[bool, str, str, Any]]:
        """Yield the rules between entries: whether one holds, the place it is about, what that must be, the value."""
        requires, defaults, names = self.requires, self.defaults, [item.name for item in self.inputs]
        fits = (len(self.state_shape) == 3) == (SHAPE not in requires)
        yield fits, "state_shape", "of three sizes, or another number where requires has shape", self.state_shape
        is_learned = VARIANCE_FRACTION in requires
        yield is_learned or self.variance != "learned", "variance", "fixed without variance_fraction", self.variance
        above_0 = self.prediction != "eps" or self.alphas_cumprod[-1] > 0
        yield above_0, "alphas_cumprod", "above 0 at the end where eps is predicted", self.alphas_cumprod[-1]
        yield from self._rules_of_open()
        yield len(set(names)) == len(names), "inputs", "of different names", names
        yield bool(names) or INPUTS not in requires, "inputs", "there, as requires names them", names
        for name, plan in self.plans.items():
            place, least = f"plans.{name}", min(row.a for row in plan.rows)
            yield is_learned or not plan.needs_learned_variance, place, "a plan without a learned variance", requires
            yield self.prediction != "eps" or least > 0, place, "of rows whose a is above 0, for eps", least
        guides = defaults.guidance is None or self.takes_guidance
        yield guides, "defaults.guidance", "absent, since the network has no label that may be none", defaults.guidance
        needed = {
            INPUTS: bool(names),
            RAW_EPS: any(plan.raw_eps for plan in self.plans.values()),
            TIMES: defaults.times is not None,
            PLAN: defaults.plan is not None,
            GUIDANCE: defaults.guidance is not None,
            STAGED: bool(self.stages.keys() & {BEFORE, AFTER}),
            UNITS: self.units is not None,
        }
        for name, is_used in needed.items():
            yield name in requires or not is_used, "requires", f"a list with {name}, which the spec uses", requires

    def _rules_of_open(self) -> Iterator[tuple[bool, str, str, Any]]:
        opens, requires = self.open, self.requires
        is_there = opens is not None
        fits = is_there == (OPEN in requires) and not (is_there and self.graph is None)
        yield fits, "open", "a list where requires names open, in a one-call file, and absent elsewhere", opens
        if opens is None:
            return
        in_order = tuple(name for name in OPENABLE if name in opens)
        yield opens == in_order, "open", f"some of {', '.join(OPENABLE)}, in this order", opens
        named = all(name in requires for name in (TIMES, PLAN, GUIDANCE) if name in opens)
        fits = named and (PLAN not in opens or bool(self.plans))
        yield fits, "open", "choices that requires names as well, and a plan only where there are plans", opens
        for name, others in ((PLAN, {"steps", "eta", TIMES}), (TIMES, {"steps"})):
            is_fixed = name not in opens and getattr(self.defaults, name) is not None
            yield not (is_fixed and others & set(opens)), "open", f"without a choice that the fixed {name} makes", opens
            if is_fixed:
                return


REQUIRES = tuple_of(TEXT)
FALLING = rule(lambda values: all(b < a for a, b in pairwise(values)), "strictly falling")
FEW_PIXELS = rule(lambda shape: math.prod(shape) <= MAX_PIXELS, f"of at most {MAX_PIXELS} numbers")
PLAIN: dict[str, Form] = {  # the entries whose form depends on no other entry
    "name": text(200),
    "prediction": choice(PREDICTIONS),
    "variance": choice(VARIANCES),
    "state_shape": tuple_of(integer(1, MAX_PIXELS), 1, 4, FEW_PIXELS),
    "value_range": chain(
        tuple_of(number(), 2, 2, rule(lambda ends: ends == (-1, 1), "[-1, 1]")), lambda *_: (-1.0, 1.0)
    ),
    "clip_x_0": nullable(POSITIVE),
    "alphas_cumprod": tuple_of(BELOW_1, 1, math.inf, FALLING),
    "source": OBJECT,
    "golden": nullable(OBJECT),
    "open": nullable(tuple_of(choice(OPENABLE))),
}


def times_form(num_train_timesteps: int) -> Form:
    """Return the form of the strictly falling times of steps, read as a tuple."""
    return tuple_of(integer(0, num_train_timesteps - 1), 1, num_train_timesteps, FALLING)


def _defaults_form(spec: "ModelSpec") -> Form:
    T, plan = spec.num_train_timesteps, choice(tuple(spec.plans))
    return record(
        {"sampler": TEXT, "num_steps": integer(1, T), "eta": number(0, 1)},
        {"times": nullable(times_form(T)), "plan": nullable(plan), "guidance": nullable(GUIDANCE_FORM)},
        into=Defaults,
    )


def refuse_newer(requires: Iterable[str]) -> None:
    """Raise ModelRefusedError for requirements that this reader does not know."""
    unknown = sorted(set(requires) - UNDERSTOOD)
    if unknown:
        raise too_new("a reader of", several(unknown), several(sorted(UNDERSTOOD), len(UNDERSTOOD)))


def too_new(what: str, got: Any, known: str) -> ModelRefusedError:
    """Return the error for something that only a newer reader knows."""
    return ModelRefusedError(
        f"The model needs {what} {shown(got)}, and this version knows {known}. Install a newer one."
    )


def guidance_for(spec: ModelSpec, given: Guidance | float | None = None) -> Guidance:
    """Return the guidance given, a number being a scale for all times, or else the file's.

    Raises UsageError for values out of range, and for any scale but 1 of a network that takes none.
    """
    if given is None:
        return spec.defaults.guidance or Guidance()
    guidance = given if isinstance(given, Guidance) else Guidance(given)
    if guidance.scale != 1 and not spec.takes_guidance:
        raise UsageError(
            f"guidance must be 1 for a network that has not learned to do without a class, got {guidance.scale:g}."
        )
    return guidance
