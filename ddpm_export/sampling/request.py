"""What decides the pictures, besides the model: one frozen record, built and checked in one place. Opens no file."""

import hashlib
import math
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ddpm_export.errors import UsageError
from ddpm_export.model.guidance import Guidance
from ddpm_export.model.inputs import Input, bound_inputs
from ddpm_export.model.spec import PLAN, TIMES, ModelSpec, guidance_for
from ddpm_export.model.steps import Steps, choose, plan_below
from ddpm_export.process.equations import Array
from ddpm_export.process.given import Measurement, crossfade, measurement_from_text, slerp, with_returns
from ddpm_export.process.noise import noise_stream
from ddpm_export.process.pixels import Pixels, from_uint8
from ddpm_export.process.solvers import FORMULAS

IMAGES, BETWEEN = 16, 9  # how many images unless the request says; BETWEEN of them from one end to the other
MAX_FRESH_SEED = 2**32
MAX_BATCH_NUMBERS = 2**26  # in one state, 256 MB of float32: a small file may claim large images


@dataclass(frozen=True, eq=False, kw_only=True)
class Given:
    """What images are made from besides noise: arrays of m entries, of which image k takes number k // ways.

    known: pictures as states (m, C, H, W), or what was measured of them, carried back. mask: (m or 1, 1, H, W), 0 where
    a pixel is known, 1 where it is made. measurement, y: what the images share with the pictures, and its values.
    strength: the share of the training times from which on noise is added and taken away again. states: (m, C, H, W),
    where the walk begins. shares_noise: whether all images have the noise of the first. text: what images follow from.
    """

    known: Array | None = None
    ways: int = 1
    mask: Array | None = None
    measurement: Measurement | None = None
    y: Array | None = None
    strength: float | None = None
    states: Array | None = None
    shares_noise: bool = False
    text: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, kw_only=True)
class Request:
    """Everything that decides the images, apart from the model; `batch` decides only how many are made at a time.

    steps: the rows, and what they were made of. inputs: values by name, (K, *shape), that images take in turn: image k
    takes number k mod K. guidance: None for a network that takes none. label: the input that says which class is
    wanted. given: pictures, a measurement or noise to begin with; None for images from noise alone.
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
        """Return for each image the place, among what is given, of what it is made from."""
        return [(number - self.first) // (1 if self.given is None else self.given.ways) for number in numbers]

    def describe(self) -> dict[str, Any]:
        """Return what an image follows from, for PNG text and reports: arrays of more than numbers by their SHA-256."""
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
    images: Pixels | None = None,
    mask: Array | None = None,
    measure: str | None = None,
    strength: float | None = None,
    returns: int = 0,
    jump: int = 1,
    between: bool = False,
    seeds: Sequence[int] | None = None,
    x_T: Array | None = None,
    **knobs: Any,
) -> Request:
    """Return the request for images from a model; what is None is the spec's default, and the seed a fresh one.

    n: how many images, 16 unless given. first: the number of the first; image k of a seed is the same in any run.
    label: a class by name or index, "none", or several, which images take in turn; without it, every class in turn.
    inputs: the network's other inputs by name, a value each or several. guidance: a scale, or with an interval.
    plan: the name of a plan of the file; or sampler, num_steps, times, grid and the sampler's knobs (eta, variance,
    order): see `model.steps.plan`.

    From pictures, see docs/given.md. images: uint8 (m, H, W, C), of each of which n images are made (1 unless given),
    with one of mask: uint8 (H, W) or (m, H, W), 255 where pixels are made, 0 where they are known, between them
    blended; measure: average:K, grey or mask, what images share with the pictures, which may be as small as what
    average:K measures; strength: above 0 to 1, from which share of the training times on noise is added and taken away.
    returns, jump: how many times to go back, and how many rows (RePaint), with a mask or a measurement. between: n
    images (9 unless given) from the first of two pictures to the second. Or, instead of images, seeds: two, between
    whose noise n images lie; or x_T: float (m, C, H, W), the noise itself, as `invert` finds it. The label of pictures
    is "none", where the network knows that, unless one is given.

    Raises UsageError for values out of range, and for what does not fit the model or goes with nothing.
    """
    for name, value in (("n", n), ("batch", batch)):
        if value is not None and value < 1:
            raise UsageError(f"{name} must be at least 1, got {value}.", name)
    sources = {"images": images, "seeds": seeds, "x_T": x_T}
    is_given = any(value is not None for value in (*sources.values(), mask, measure, strength)) or returns or between
    explicit = plan is not None or sampler is not None or num_steps is not None or times is not None or grid is not None
    steps = choose(spec, name=plan, sampler=sampler, num_steps=num_steps, times=times, grid=grid, **knobs)
    given = None
    if is_given:
        _refuse_contradictions(spec, sources, mask, measure, strength, returns, between, seed)
        seed = seeds[0] if seeds is not None else seed
        given = _given(spec, n, first, images, mask, measure, strength, between, seeds, x_T)
        m = len(next(array for array in (given.states, given.known) if array is not None))
        n = m * given.ways
        if spec.graph is None:  # a one-call graph leaves out rows by itself
            if (strength is not None or returns) and not explicit and any(row.reach > 1 for row in steps.plan.rows):
                steps = choose(spec, sampler="ddim", num_steps=spec.defaults.num_steps, **knobs)
            steps = _steps_of_edit(spec, steps, strength, returns, jump)
        if returns:
            given = replace(given, text={**given.text, "returns": returns, "jump": jump})
        if seeds is None and label is None and spec.label is not None and spec.label.none is not None:
            label = None if spec.label.name in (inputs or {}) else "none"  # a picture's class is not known
    if spec.graph is not None:
        _refuse_beyond_graph(spec, steps)
    n = IMAGES if n is None else n
    batch, most = min(batch, n), max(1, MAX_BATCH_NUMBERS // math.prod(spec.state_shape))
    if batch > most:
        raise UsageError(f"batch must be at most {most} for images of {spec.state_shape}, got {batch}.", "batch")
    guided = guidance_for(spec, guidance)
    cycles = _cycles(spec, label, inputs or {})
    if given is not None and given.shares_noise:  # and whatever else the network is told of that one image
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
    known = {entry.name: entry for entry in spec.inputs if entry.is_told}
    cycles = {name: known[name].cycle_of(values) for name, values in given.items() if name in known}
    bound_inputs(spec.inputs, {**given, **{name: values[0] for name, values in cycles.items()}}, 1)  # unknown, missing
    return cycles


def _refuse_beyond_graph(spec: ModelSpec, steps: Steps) -> None:
    """Raise UsageError for steps that the graph of a one-call file cannot take."""
    remedy = "Run the .onnx that it was made from."
    if steps.sampler not in (None, *FORMULAS):
        raise UsageError(f"A one-call {spec.graph} cannot sample with {steps.sampler}. {remedy}", "sampler")
    variance = steps.knobs.get("variance", "fixed_small")
    if variance != "fixed_small":
        raise UsageError(f"variance must be fixed_small in a one-call {spec.graph}, got {variance!r}.", "variance")
    for needed, value in ((TIMES, steps.times), (PLAN, steps.name)):
        if value is not None and needed not in spec.requires:
            what = "grid" if needed == TIMES and steps.grid is not None else needed
            raise UsageError(f"{what} cannot be chosen: the one-call {spec.graph} has no such input. {remedy}", what)


def _refuse_contradictions(
    spec: ModelSpec,
    sources: Mapping[str, Any],
    mask: Array | None,
    measure: str | None,
    strength: float | None,
    returns: int,
    between: bool,
    seed: int | None,
) -> None:
    named = [name for name, value in sources.items() if value is not None]
    wanted = {"mask": mask, "measure": measure, "strength": strength, "between": between or None}
    asked = [name for name, value in wanted.items() if value is not None]
    beyond = measure is not None or returns or between or named != ["images"]
    if spec.graph not in (None, "edit") or (spec.graph == "edit" and beyond):
        raise beyond_graph(spec)
    if returns and mask is None and measure is None:
        raise UsageError("returns needs a mask or a measure.", "returns", "mask", "measure")
    if len(named) > 1:
        raise UsageError(f"Give only one of images, seeds and x_T, got {' and '.join(named)}.", *sources)
    if "images" not in named and asked:
        raise UsageError(f"{asked[0]} needs a picture.", asked[0])
    if not named:
        raise UsageError("Give images, seeds or x_T.", *sources)
    if named == ["images"] and not asked:
        raise UsageError("A picture needs a mask, a measure or a strength.", "mask", "measure", "strength")
    if between and asked != ["strength", "between"]:
        raise UsageError("between needs a strength and no other edit option.", "between", "strength")
    if between and len(sources["images"]) != 2:
        raise UsageError(f"between needs 2 images, got {len(sources['images'])}.", "between")
    if measure not in (None, "mask") and mask is not None:
        raise UsageError(f"mask does not apply to measure {measure}.", "mask", "measure")
    if sources["seeds"] is not None and (len(sources["seeds"]) != 2 or seed is not None):
        raise UsageError(f"seeds takes two seeds and replaces seed, got {list(sources['seeds'])}.", "seeds", "seed")


def beyond_graph(spec: ModelSpec) -> UsageError:
    """Return the error for a one-call file that is given what it does not take."""
    takes = "only a picture with a mask or a strength" if spec.graph == "edit" else "no picture"
    return UsageError(f"A one-call {spec.graph} takes {takes}. Run the .onnx it was made from.")


def _given(
    spec: ModelSpec,
    n: int | None,
    first: int,
    images: Pixels | None,
    mask: Array | None,
    measure: str | None,
    strength: float | None,
    between: bool,
    seeds: Sequence[int] | None,
    x_T: Array | None,
) -> Given:
    """Return what images are made from, checked against the model."""
    shape = spec.state_shape
    known = y = measurement = states = None
    text: dict[str, Any] = {}
    mask = None if mask is None else _mask(mask, shape)
    if measure is not None:
        measurement = measurement_from_text(measure, shape, mask)
        text["measure"] = measure
    if images is not None:
        known = states_from_images(images, shape, measurement)
        text["images_sha256"] = _digest(images)
        if mask is not None and len(mask) not in (1, len(images)):
            raise UsageError(f"There must be one mask, or one for each of {len(images)} pictures, got {len(mask)}.")
        if measurement is not None:
            is_whole = known.shape[1:] == shape
            y = measurement.of(known) if is_whole else known
            known = known if is_whole else measurement.back(y)
        if between:
            known = crossfade(known[0], known[1], BETWEEN if n is None else n)
            text["between"] = len(known)
    if seeds is not None:
        begin, end = (noise_stream(seed, [first], shape)(0)[0] for seed in seeds)
        states = slerp(begin, end, BETWEEN if n is None else n)
        text |= {"between_seeds": list(seeds), "between": len(states)}
    elif x_T is not None:
        states = _states(x_T, shape)
        text["x_T_sha256"] = _digest(states)
    if strength is not None:
        text["strength"] = strength
    if mask is not None:
        text["mask_sha256"] = _digest(mask)
    is_series = between or seeds is not None
    return Given(
        known=known,
        ways=1 if n is None or is_series else n,
        mask=mask,
        measurement=measurement,
        y=y,
        strength=strength,
        states=states,
        shares_noise=is_series,
        text=text,
    )


def _steps_of_edit(spec: ModelSpec, steps: Steps, strength: float | None, returns: int, jump: int) -> Steps:
    rows = steps.plan if strength is None else plan_below(spec, steps, strength)
    return steps._replace(plan=with_returns(rows, returns, jump) if returns else rows)


def states_from_images(images: Pixels, shape: tuple[int, int, int], measurement: Measurement | None = None) -> Array:
    """Return pictures as states, (m, C, H, W) float32; or what was measured of them, where they have its shape.

    Raises UsageError for pictures of another size or dtype.
    """
    channels, height, width = shape
    fitting = [(height, width, channels)]
    if measurement is not None:
        smaller = measurement.of(np.zeros((1, *shape), dtype=np.float32)).shape[1:]
        fitting.append((*smaller[1:], smaller[0]))
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] not in fitting or len(images) < 1:
        sizes = " or ".join(f"(m, {h}, {w}, {c})" for h, w, c in dict.fromkeys(fitting))
        raise UsageError(f"images must be uint8 {sizes}, got {images.dtype} {images.shape}.", "images")
    return from_uint8(images).astype(np.float32)


def _mask(mask: Array, shape: tuple[int, int, int]) -> Array:
    """Return a mask as (m or 1, 1, H, W) float32 from 0 to 1."""
    if mask.dtype != np.uint8 or mask.ndim not in (2, 3) or mask.shape[-2:] != shape[1:]:
        raise UsageError(
            f"mask must be uint8 ({shape[1]}, {shape[2]}), or one for each picture, got {mask.dtype} {mask.shape}.",
            "mask",
        )
    return mask.reshape(-1, 1, *shape[1:]).astype(np.float32) / np.float32(255.0)


def _states(x_T: Array, shape: tuple[int, int, int]) -> Array:
    if x_T.ndim != 4 or x_T.shape[1:] != shape or not np.issubdtype(x_T.dtype, np.floating) or len(x_T) < 1:
        raise UsageError(f"x_T must be float32 (m, {', '.join(map(str, shape))}), got {x_T.dtype} {x_T.shape}.", "x_T")
    if not np.isfinite(x_T).all():
        raise UsageError("x_T must be finite, got NaN or infinity.", "x_T")
    return x_T.astype(np.float32)


def _described(values: Array) -> Any:
    return values.tolist() if values.ndim == 2 else _digest(values)


def _digest(array: Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
