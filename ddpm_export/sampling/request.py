"""Everything but the model that determines the pictures: one frozen record, checked in one place. Opens no file."""

import math
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ddpm_export.errors import UsageError
from ddpm_export.model.guidance import Guidance
from ddpm_export.model.inputs import Input, bound_inputs
from ddpm_export.model.spec import PLAN, TIMES, ModelSpec, guidance_for
from ddpm_export.model.steps import Steps, choose, plan_below, rows_below
from ddpm_export.process.equations import Array
from ddpm_export.process.given import with_returns
from ddpm_export.process.noise import noise_stream
from ddpm_export.process.solvers import FORMULAS
from ddpm_export.runtimes.one_call import is_fixed
from ddpm_export.sampling.given import Edit, Given, digest_of, given_for, label_of_pictures, refuse_contradictions

IMAGES = 16  # how many unless the request says
MAX_FRESH_SEED = 2**32
MAX_BATCH_NUMBERS = 2**26  # in one state, 256 MB of float32: a small file may claim large images


@dataclass(frozen=True, eq=False, kw_only=True)
class Request:
    """Everything that determines the images, apart from the model; `batch` is only how many are made at a time.

    inputs: values by name, (K, *shape), of which image k takes number k mod K. guidance: None for a network that takes
    none. label: the input that is the class. given: None for images from fresh noise.
    """

    steps: Steps
    seed: int
    n: int
    first: int = 0
    batch: int = 16
    guidance: Guidance | None = None
    inputs: Mapping[str, Array] = field(default_factory=dict)
    label: Input | None = None
    given: Given | None = None

    @property
    def numbers(self) -> range:
        """Return the numbers of the images."""
        return range(self.first, self.first + self.n)

    @property
    def batches(self) -> Iterator[range]:
        """Yield the image numbers of each batch."""
        return (self.numbers[start : start + self.batch] for start in range(0, self.n, self.batch))

    @property
    def num_batches(self) -> int:
        """Return how many batches there are."""
        return -(-self.n // self.batch)

    @property
    def num_rows(self) -> int:
        """Return how many states lead to an image."""
        return len(self.steps.plan.rows)

    @property
    def evaluations(self) -> int:
        """Return how many states `sample` yields: rows times batches."""
        return self.num_rows * self.num_batches

    @property
    def label_names(self) -> list[str]:
        """Return the names of the classes that images take in turn; none for a network without classes."""
        label = self.label
        return [] if label is None else [label.name_of(int(y)) for y in self.inputs[label.name]]

    def part(self, numbers: range) -> "Request":
        """Return the request for some of the images."""
        return replace(self, first=numbers.start, n=len(numbers), batch=min(self.batch, len(numbers)))

    def inputs_of(self, numbers: Iterable[int]) -> dict[str, Array]:
        """Return the network's inputs for images by their numbers: by name (B, *shape)."""
        return {name: values[[number % len(values) for number in numbers]] for name, values in self.inputs.items()}

    def places_of(self, numbers: Iterable[int]) -> list[int]:
        """Return for each image the index of the given entry it is made from."""
        return [(number - self.first) // (1 if self.given is None else self.given.ways) for number in numbers]

    def describe(self) -> dict[str, Any]:
        """Return the settings that an image follows from, for PNG text and reports; large arrays by their SHA-256."""
        steps, guidance, inputs = self.steps, self.guidance, dict(self.inputs)
        if self.label is not None:
            inputs.pop(self.label.name)
        values = {
            "plan": steps.name,
            "sampler": steps.sampler,
            "num_steps": steps.num_steps,
            "times": None if steps.grid is not None else steps.times,  # which follow from the grid
            "grid": steps.grid,
            **steps.knobs,
            "seed": self.seed,
            "label": self.label_names or None,
            "guidance": None if guidance is None else guidance.scale,
            "guidance_interval": None if guidance is None else guidance.interval,
            "inputs": {name: _described(values) for name, values in inputs.items()} or None,
            **({} if self.given is None else self.given.text),
        }
        return {name: value for name, value in values.items() if value is not None}


def request_for(
    spec: ModelSpec,
    *,
    n: int | None = None,
    seed: int | None = None,
    first: int = 0,
    batch: int = 16,
    label: Any = None,
    inputs: Mapping[str, Any] | None = None,
    guidance: Guidance | float | None = None,
    plan: str | None = None,
    sampler: str | None = None,
    num_steps: int | None = None,
    times: Sequence[int] | None = None,
    grid: str | None = None,
    images: Array | None = None,
    mask: Array | None = None,
    measure: str | None = None,
    strength: float | None = None,
    returns: int = 0,
    jump: int = 1,
    between: bool = False,
    seeds: Sequence[int] | None = None,
    x_T: Array | None = None,
    encode: Callable[[Array], Array] | None = None,
    **knobs: Any,
) -> Request:
    """Return the request for images from a model; None is the spec's default, and a fresh seed.

    n: how many images, 16 by default. first: the number of the first; image k of a seed is the same in any run.
    label: a class by name or index, "none", or several, which images take in turn; by default every class in turn.
    inputs: the network's other inputs by name, a value each or several. guidance: a scale, or with an interval.
    plan: the name of a plan of the file; or sampler, num_steps, times, grid and the sampler's knobs (eta, variance,
    order): see `model.steps.plan`.

    From pictures (docs/given.md): images: uint8 (m, H, W, C), each of which gives n images (1 by default), with a mask,
    measure or strength. mask: uint8 (H, W) or (m, H, W), 255 where pixels are made, 0 where they are known, blended
    between them; for a model of numbers images are float32 (m, *shape), and a mask has a level for each number.
    measure: average:K, grey or mask, which the images share with the pictures; these may be as small as average:K makes
    them. strength: above 0 to 1, the share of the training times at which noise is added and removed.
    returns, jump: how many times to go back, and how many rows (RePaint), with a mask or a measure. between: n images
    (9 by default) from the first of two pictures to the second. Instead of images, seeds: two, whose noise n images
    interpolate; or x_T: float (m, C, H, W), the noise itself, as `invert` finds it. The label of pictures is "none" by
    default where the network knows it. encode: turns pictures into states, for a model of latents: its file's own.

    Raises UsageError for values out of range, that do not fit the model, or that exclude each other.
    """
    for name, value in (("n", n), ("batch", batch)):
        if value is not None and value < 1:
            raise UsageError(f"{name} must be at least 1, got {value}.", name)
    edit = Edit(images, seeds, x_T, mask, measure, strength, between, returns)
    is_named = any(value is not None for value in (plan, sampler, times, grid))
    if spec.graph is not None:
        _refuse_what_is_fixed(spec, plan=plan, guidance=guidance, num_steps=num_steps, times=times, **knobs)
    steps = choose(spec, name=plan, sampler=sampler, num_steps=num_steps, times=times, grid=grid, **knobs)
    given = None
    if edit:
        refuse_contradictions(spec, edit, seed)
        seed = seeds[0] if seeds is not None else seed
        given = given_for(spec, edit, n, first, encode)
        m = len(next(array for array in (given.states, given.known) if array is not None))
        n = m * given.ways
        if spec.graph is None:  # a one-call graph leaves out rows by itself
            if not is_named and _is_beyond(spec, steps, strength, returns):
                steps = choose(spec, sampler="ddim", num_steps=num_steps or spec.defaults.num_steps, **knobs)
            rows = steps.plan if strength is None else plan_below(spec, steps, strength)
            steps = steps._replace(plan=with_returns(rows, returns, jump) if returns else rows)
        elif strength is not None:
            plan_below(spec, steps, strength, ddim_eta=spec.defaults.eta if PLAN in spec.fixed_choices else None)
        if returns:
            given = replace(given, text={**given.text, "returns": returns, "jump": jump})
        if seeds is None:
            label = label_of_pictures(spec, label, inputs)
    if spec.graph is not None:
        _refuse_beyond_graph(spec, steps)
    n = IMAGES if n is None else n
    batch, most = min(batch, n), max(1, MAX_BATCH_NUMBERS // math.prod(spec.state_shape))
    if batch > most:
        raise UsageError(f"batch must be at most {most} for images of {spec.state_shape}, got {batch}.", "batch")
    guided = guidance_for(spec, guidance)
    cycles = _cycles(spec, label, inputs or {})
    if given is not None and given.shares_noise:  # and the inputs of that image
        cycles = {name: values[[first % len(values)]] for name, values in cycles.items()}
    request = Request(
        steps=steps,
        seed=secrets.randbelow(MAX_FRESH_SEED) if seed is None else seed,
        first=first,
        n=n,
        batch=batch,
        guidance=guided if spec.takes_guidance else None,
        inputs=cycles,
        label=spec.label,
        given=given,
    )
    noise_stream(request.seed, (first, first + n - 1), spec.state_shape)  # refuses a seed and numbers out of range
    return request


def _cycles(spec: ModelSpec, label: Any, given: Mapping[str, Any]) -> dict[str, Array]:
    """Return by name the values of each input, which images take in turn."""
    if label is not None:
        if spec.label is None:
            raise UsageError("label does not apply: the network has no classes.", "label")
        if spec.label.name in given:
            raise UsageError(f"Give label or the input {spec.label.name!r}, not both.", "label")
        given = {**given, spec.label.name: label}
    elif spec.label is not None:
        given = {spec.label.name: range(len(spec.label.classes)), **given}
    known = {entry.name: entry for entry in spec.asked_inputs if entry.is_given}
    cycles = {name: known[name].cycle_of(values) for name, values in given.items() if name in known}
    for name, values in cycles.items():
        known[name].check_limits(values)
    bound_inputs(
        spec.asked_inputs, {**given, **{name: values[0] for name, values in cycles.items()}}, 1
    )  # unknown, missing
    return cycles


def _refuse_beyond_graph(spec: ModelSpec, steps: Steps) -> None:
    """Raise UsageError for steps that the graph of a one-call file cannot take."""
    remedy = "Run the .onnx it was made from."
    if steps.sampler not in (None, *FORMULAS):
        raise UsageError(f"A one-call {spec.graph} cannot sample with {steps.sampler}. {remedy}", "sampler")
    variance = steps.knobs.get("variance", "fixed_small")
    if variance != "fixed_small":
        raise UsageError(f"variance must be fixed_small in a one-call {spec.graph}, got {variance!r}.", "variance")
    fixed = spec.fixed_choices
    if PLAN in fixed and steps.name != fixed[PLAN]:
        raise UsageError(is_fixed("sampler", spec, PLAN))
    if steps.name is None and "eta" in fixed and steps.knobs.get("eta", 1.0) != fixed["eta"]:
        raise UsageError(is_fixed("sampler", spec, "eta"))
    if steps.grid is not None and TIMES in fixed:
        raise UsageError(is_fixed("grid", spec, TIMES))


def _refuse_what_is_fixed(spec: ModelSpec, **asked: Any) -> None:
    """Raise UsageError for a choice that the graph of a one-call file does not take."""
    if spec.open is not None and "steps" not in spec.open and asked.get("num_steps") is not None:
        raise UsageError(is_fixed("steps", spec))
    for name in spec.fixed_choices:
        if asked.get(name) is not None:
            raise UsageError(is_fixed(name, spec))


def _is_beyond(spec: ModelSpec, steps: Steps, strength: float | None, returns: int) -> bool:
    """Tell whether a plan's rows look back where an edit does not let them."""
    looks_back = returns > 0 and any(row.reach > 1 for row in steps.plan.rows)
    return looks_back or (strength is not None and rows_below(spec, steps, strength) is None)


def _described(values: Array) -> Any:
    return values.tolist() if values.ndim == 2 else digest_of(values)
