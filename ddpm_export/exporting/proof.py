"""The proof that an exported file is its network. NumPy only: it compares two Models, whatever runs them."""

import dataclasses
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ddpm_export.errors import ModelRefusedError, NonFiniteError
from ddpm_export.model.denoiser import denoiser, network_inputs, results_of
from ddpm_export.model.examples import example_of_inputs
from ddpm_export.model.golden_pictures import Draw, draws_of, given_in, inputs_in
from ddpm_export.model.guidance import Guidance
from ddpm_export.model.spec import GUIDANCE, PLAN, TIMES, Defaults, ModelSpec
from ddpm_export.model.steps import choose, plan, plan_below
from ddpm_export.process.equations import Array, Model, noised, numbered
from ddpm_export.process.given import known_pixels
from ddpm_export.process.noise import GIVEN, noise_stream
from ddpm_export.process.pixels import LEVELS_PER_UNIT, to_uint8
from ddpm_export.process.rows import Plan
from ddpm_export.process.walk import walk
from ddpm_export.runtimes.opened import OneCallFile

BATCHES = (1, 2, 3, 5)
NUM_TIMES = 12
# a 1000-step trajectory under a good denoiser multiplies an error a step by at most a few: 1e-5 keeps every 8-bit pixel
# within one level
MAX_RELATIVE_ERROR = 1e-5
NUM_STEPS = 10
NUM_IMAGES = 4
# larger images are proven by an eighth of the evaluations: at 256x256 all of them take a core half an hour
MAX_VALUES_OF_SMALL = 3 * 64 * 64
MIN_EQUAL_SHARE = 0.995
MAX_LEVELS = 1
# 8-bit integers are another network: these keep out what is broken, the pictures' quality is for the user to score
MAX_INT8_ERROR, MAX_INT8_RMS_LEVELS = 0.25, 5.0
# a one-call file shows no network, only where a trajectory ends: few steps and many, without noise, with some and with
# all of it, several images, and the ends of seeds and numbers. Cut to T steps where T is less.
DRAWS = (
    Draw(0, 0, 4, 10, 0.0),
    Draw(1, 5, 3, 7, 1.0),
    Draw(2**63 - 1, 2**32 - 1, 1, 1, 0.5),
    Draw(2**32 + 7, 0, 2, 20, 0.3),
)
ROWS = ((7, 3), (0, 0), (2**63 - 1, 2**32 - 1), (7, 4))  # seed and image of each row of a graph of rows
SEED = 0
REMEDY = "Export it again, with another version of torch if that does not help."


@dataclass(frozen=True)
class Proof:
    """Tell how well two models agree.

    error is max |a - b| / max |b| of one image's output, the worst of all; where the reference gives only zeros (an
    untrained network does: its last layer starts at 0) it is max |a - b|, and relative is False. t, batch and value are
    where it was worst: value is that of the candidate, expected that of the reference. equal_share,
    max_level_difference and, of 8-bit integers, rms_levels compare uint8 images of a short trajectory on the same
    noise: ddim, or ddpm where the variance is learned, so that every output has its part in it.
    """

    error: float
    relative: bool
    t: int
    batch: int
    value: float
    expected: float
    batches: tuple[int, ...]
    times: tuple[int, ...]
    num_steps: int
    equal_share: float
    max_level_difference: int
    rms_levels: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the proof as JSON values."""
        return {**dataclasses.asdict(self), "batches": list(self.batches), "times": list(self.times)}


@dataclass(frozen=True)
class PictureProof:
    """Tell how well a one-call file reproduces the Python sampler over its network, the worst of several draws.

    error is the largest difference in x, or in levels where a graph shows pictures only, at is where; equal_share and
    max_level_difference compare uint8 images.
    """

    error: float
    at: str
    draws: tuple[str, ...]
    equal_share: float
    max_level_difference: int

    def to_json(self) -> dict[str, Any]:
        """Return the proof as JSON values."""
        return {**dataclasses.asdict(self), "draws": list(self.draws)}


@dataclass(frozen=True)
class Rounding:
    """Tell what rounded weights cost: uint8 images of a short trajectory against those of the unrounded network."""

    equal_share: float
    max_level_difference: int
    num_steps: int
    rms_levels: float


def prove(candidate: Model, reference: Model, spec: ModelSpec, *, where: str = "model", remedy: str = REMEDY) -> Proof:
    """Compare a model with the one it was made from, at every t of a grid in every batch size, and along a trajectory.

    Inputs are at the noise level of their time, from our own noise; the images of a batch have different times.
    Evaluates each model on 48 batches, and on a batch of 4 at each of 10 steps; where an image has more than 64x64x3
    values, on one batch of each size, at 8 times in all, and on one image at each step. where: what an error is about;
    remedy: what it advises.
    Raises ModelRefusedError with the worst place where they differ by more than 1e-5, and where a pixel of the
    trajectory differs by more than one level or fewer than 99.5 % are equal; NonFiniteError where the reference itself
    gives no numbers.
    """
    worst, times = _worst_place(candidate, reference, spec, where)
    error, relative, at, batch, value, expected = worst
    if not error <= MAX_RELATIVE_ERROR:
        raise ModelRefusedError(
            f"{where}: does not reproduce its network: {value!r} at t={at}, batch {batch}, instead of {expected!r} "
            f"({'relative' if relative else 'absolute'} error {error:.3g}, at most {MAX_RELATIVE_ERROR}). {remedy}"
        )
    num_steps, equal_share, difference, _ = _trajectories(candidate, reference, spec)
    _refuse_other_pictures(where, equal_share, difference, f"after {num_steps} steps")
    return Proof(*worst, BATCHES, times, num_steps, equal_share, difference)


def prove_int8(
    candidate: Model,
    reference: Model,
    spec: ModelSpec,
    *,
    where: str = "model",
    remedy: str = "Raise `calibrate`, or leave `precision` out.",
) -> Proof:
    """Compare a network of 8-bit integers with the one it was made from, in the places and pictures of `prove`.

    It computes in them, or its weights are rounded to them. where: what an error is about; remedy: what it advises.
    Raises ModelRefusedError where an output differs by more than a quarter of the largest, or the pictures of the
    trajectory by more than 5 levels in root mean square; NonFiniteError where the reference gives no numbers.
    """
    worst, times = _worst_place(candidate, reference, spec, where)
    num_steps, equal_share, difference, rms = _trajectories(candidate, reference, spec)
    if not worst[0] <= MAX_INT8_ERROR or not rms <= MAX_INT8_RMS_LEVELS:
        raise ModelRefusedError(
            f"{where}: 8-bit integers are too coarse for this network: an output is off by {worst[0]:.2g} of the "
            f"largest, at most {MAX_INT8_ERROR}, and pictures by {rms:.2g} levels in root mean square, at most "
            f"{MAX_INT8_RMS_LEVELS}. {remedy}"
        )
    return Proof(*worst, BATCHES, times, num_steps, equal_share, difference, rms)


Worst = tuple[float, bool, int, int, float, float]


def _worst_place(candidate: Model, reference: Model, spec: ModelSpec, where: str) -> tuple[Worst, tuple[int, ...]]:
    """Return where the outputs of two models differ most, as `_worst_of` does, and all times that were looked at."""
    T = spec.num_train_timesteps
    grid = sorted({round(t) for t in np.linspace(0, T - 1, min(T, NUM_TIMES)).tolist()})
    places = []
    times: set[int] = set()
    image = _no_class(spec)
    for place, batch in enumerate(BATCHES):
        firsts = [place] if _is_large(spec) else range(len(grid))
        inputs = []
        for first in firsts:
            # neighbours in the batch get other times, so that a graph that reads t[0] for all is found out
            inputs.append(_input(spec, [grid[(first + 5 * k) % len(grid)] for k in range(batch)], image))
            image += batch
        times.update(*(t.astype(np.int64).tolist() for _, t, _ in inputs))
        # one model after the other: taking turns, their thread pools would wait for each other
        expected_outputs = [_reference_output(reference, spec, x_t, t, named) for x_t, t, named in inputs]
        for (x_t, t, named), b in zip(inputs, expected_outputs, strict=True):
            outputs = candidate(x_t, t, **named)
            places += [_worst_of(outputs[name], b[name], t, where) for name in spec.outputs]
    return max(places, key=lambda place: place[0]), tuple(sorted(times))


def prove_pictures(candidate: OneCallFile, reference: Model, spec: ModelSpec, *, where: str = "model") -> PictureProof:
    """Compare the pictures of a one-call file with those of the Python sampler over the network it was made from.

    spec: the network's. Evaluates each on 4 draws of 1 to 4 images, 38 steps in all, one of 3 steps, and up to three of
    plans; of an edit one more begins with pictures. where: what an error is about.
    Raises ModelRefusedError where a pixel differs by more than one level or fewer than 99.5 % are equal.
    """
    error, at, equal_share, difference = 0.0, "", 1.0, 0
    draws = draws_of(candidate.spec, DRAWS)
    for draw in draws:
        expected_x, expected = pictures_of(reference, spec, draw)
        x, images = candidate.end(*draw.settings, **inputs_in(spec, draw), **given_in(spec, draw))
        both = (images, expected) if spec.is_picture else _levels(spec, x, expected_x)
        share, levels, _ = _difference(*both)
        _refuse_other_pictures(where, share, levels, f"at {draw}")
        off = float(np.abs(x.astype(np.float64) - expected_x).max())
        if off >= error:
            error, at = off, str(draw)
        equal_share, difference = min(equal_share, share), max(difference, levels)
    return PictureProof(error, at, tuple(map(str, draws)), equal_share, difference)


def prove_rows(
    run: Callable[[dict[str, Array]], list[Array]],
    reference: Model,
    spec: ModelSpec,
    plan: Plan,
    *,
    where: str = "model",
) -> PictureProof:
    """Compare the rows of one call of a graph of rows with what the Python sampler makes of each by itself.

    run: the graph, inputs by name -> images. Evaluates the network on a batch of 4, twice the rows where it is guided,
    and on 4 single images, at each row of the plan. Raises ModelRefusedError as `prove_pictures` does.
    """
    one_plan = of_one_plan(spec, plan)
    interval = spec.defaults.guidance.interval if spec.defaults.guidance is not None else None
    scales = (1.0, 2.5, 0.0, 0.5) if spec.takes_guidance else (None,) * 4
    guidances = [None if scale is None else Guidance(scale, interval) for scale in scales]
    draws = [
        Draw(seed, image, 1, len(plan.rows), 0.0, plan="rows", guidance=guidance)
        for (seed, image), guidance in zip(ROWS, guidances, strict=True)
    ]
    asked = [inputs_in(spec, draw) for draw in draws]
    feeds = {name: np.concatenate([entry[name] for entry in asked]) for name in asked[0]}
    feeds |= {"seed": np.array([draw.seed for draw in draws]), "image": np.array([draw.first for draw in draws])}
    if spec.takes_guidance:
        feeds["guidance"] = np.array(scales, np.float32)
    (images,) = run(feeds)
    expected = np.concatenate([pictures_of(reference, one_plan, draw)[1] for draw in draws])
    if not spec.is_picture:
        images, expected = _levels(spec, images, expected)
    if images.shape != expected.shape:
        raise ModelRefusedError(
            f"{where}: its images have shape {images.shape}, not {expected.shape}. Export it again."
        )
    at = "rows of different seeds"
    share, levels, _ = _difference(images, expected)
    _refuse_other_pictures(where, share, levels, f"in {at}")
    return PictureProof(float(levels), at, tuple(map(str, draws)), share, levels)


def of_one_plan(spec: ModelSpec, plan: Plan) -> ModelSpec:
    """Return the spec with one plan only, called rows, and without defaults that name another."""
    kept = tuple(name for name in spec.requires if name not in (PLAN, TIMES, GUIDANCE))
    return dataclasses.replace(spec, plans={"rows": plan}, defaults=Defaults(num_steps=1), requires=kept)


def pictures_of(model: Model, spec: ModelSpec, draw: Draw) -> tuple[Array, Array]:
    """Return what a draw of the Python sampler gives over a network: x (n, *shape), and its pictures or numbers.

    Raises NonFiniteError where the network gives no numbers.
    """
    noise = noise_stream(draw.seed, draw.numbers, spec.state_shape)
    if draw.plan is None:
        steps = choose(spec, sampler="ddim", num_steps=draw.num_steps, times=draw.times, eta=draw.eta)
    else:
        steps = choose(spec, name=draw.plan)
    rows, begin, keep = steps.plan, None, None
    if given := given_in(spec, draw):
        of_known = noise_stream(draw.seed, draw.numbers, spec.state_shape, domain=GIVEN)
        keep = known_pixels(given["image"], given["mask"], of_known)
        if draw.strength:
            rows = plan_below(spec, steps, draw.strength, ddim_eta=draw.eta)
            begin = noised(given["image"], noise(0), rows.rows[0].a)
    inputs = network_inputs(model, inputs_in(spec, draw))
    with numbered(draw.numbers):
        denoise = denoiser(model, spec, guidance=draw.guidance or 1, **inputs)
        x = deque(walk(denoise, noise, rows, x=begin, keep=keep), maxlen=1).pop().x
    return x, results_of(model, spec, x)


def _levels(spec: ModelSpec, x: Array, expected: Array) -> tuple[Array, Array]:
    """Return the levels of states to compare: their pixels; of numbers how far they are off, and zeros.

    A level of numbers is a 127.5th of the largest, or of 1 if that is less; a tenth of one does not count.
    """
    if spec.state_is_picture:
        return to_uint8(x), to_uint8(expected)
    unit = LEVELS_PER_UNIT / max(1.0, float(np.abs(expected).max()))
    off = np.floor(unit * np.abs(x.astype(np.float64) - expected) + 0.9)
    return off, np.zeros_like(off)


def rounding(rounded: Model, exact: Model, spec: ModelSpec) -> Rounding:
    """Return what the rounding of a network's weights does to the pictures of the proof's trajectory."""
    num_steps, equal_share, difference, rms = _trajectories(rounded, exact, spec)
    return Rounding(equal_share, difference, num_steps, rms)


def _refuse_other_pictures(where: str, equal_share: float, difference: int, at: str) -> None:
    if not equal_share >= MIN_EQUAL_SHARE or difference > MAX_LEVELS:
        raise ModelRefusedError(
            f"{where}: images differ from those of its network: {equal_share:.3%} equal values {at}, at least "
            f"{MIN_EQUAL_SHARE:.1%} expected, and the largest difference is {difference} levels, at most {MAX_LEVELS} "
            "expected. Export it again."
        )


def _is_large(spec: ModelSpec) -> bool:
    return math.prod(spec.state_shape) > MAX_VALUES_OF_SMALL


def _no_class(spec: ModelSpec) -> int:
    """Return the number of an image whose label is the last, "no class"; those after it have one after the other."""
    return max((0, *(entry.num_labels - 1 for entry in spec.inputs)))


def _difference(images: Array, expected: Array) -> tuple[float, int, float]:
    """Return the share of equal values, the largest difference in levels, and that in root mean square."""
    difference = np.abs(images.astype(np.int64) - expected.astype(np.int64))
    return float((difference == 0).mean()), int(difference.max()), math.sqrt((difference**2).mean())


def _input(spec: ModelSpec, times: list[int], image: int) -> tuple[Array, Array, dict[str, Array]]:
    """Return x_t (B, C, H, W), image k at the noise level of times[k], t (B,), and inputs of images from `image` on."""
    noise = noise_stream(SEED, range(len(times)), spec.state_shape)
    eps, x_0 = noise(0), np.clip(noise(1), -1.0, 1.0)  # an image's range, if not an image's content
    x_t = np.stack([noised(x_0[k], eps[k], spec.alphas_cumprod[t]) for k, t in enumerate(times)])
    named = example_of_inputs(spec.inputs, SEED, range(image, image + len(times)))
    return x_t, np.array(times, dtype=spec.t_dtype), named


def _reference_output(
    reference: Model, spec: ModelSpec, x_t: Array, t: Array, named: dict[str, Array]
) -> dict[str, Array]:
    outputs = reference(x_t, t, **named)
    b = {name: np.array(outputs[name]) for name in spec.outputs}  # copies: an output may alias a buffer
    if not all(np.isfinite(values).all() for values in b.values()):
        raise NonFiniteError(f"network: gives NaN or infinity at t in {t.tolist()}. Export an earlier checkpoint.")
    return b


def _worst_of(a: Array, b: Array, t: Array, where: str) -> Worst:
    """Return (error, relative, t, batch, value, expected) of the image of `a` that is farthest from that of `b`."""
    if a.shape != b.shape:
        raise ModelRefusedError(f"{where}: gives shape {a.shape} at batch {len(t)}, not {b.shape}. Export it again.")
    a, b = (out.astype(np.float64).reshape(len(t), -1) for out in (a, b))
    difference = np.abs(a - b)
    difference[np.isnan(difference)] = math.inf
    scale = np.abs(b).max(axis=1)
    errors = difference.max(axis=1) / np.where(scale > 0, scale, 1.0)  # image by image: stricter than over the batch
    image = int(errors.argmax())
    position = int(difference[image].argmax())
    return (
        float(errors[image]),
        bool(scale[image] > 0),
        int(t[image]),
        len(t),
        float(a[image, position]),
        float(b[image, position]),
    )


def _trajectories(candidate: Model, reference: Model, spec: ModelSpec) -> tuple[int, float, int, float]:
    """Return the number of steps of a short trajectory, and `_difference` of what two models end it with."""
    num_steps = min(NUM_STEPS, spec.num_train_timesteps)
    numbers = range(1 if _is_large(spec) else NUM_IMAGES)
    noise = noise_stream(SEED, numbers, spec.state_shape)
    how = {"sampler": "ddpm", "variance": "learned"} if spec.variance == "learned" else {"sampler": "ddim", "eta": 0.0}
    rows = plan(spec, num_steps=num_steps, **how)
    examples = example_of_inputs(spec.inputs, SEED, [_no_class(spec) + k for k in numbers])
    given: dict[str, Any] = {entry.name: examples[entry.name] for entry in spec.inputs if entry.is_given}
    states = []
    for model in (candidate, reference):
        last = deque(walk(denoiser(model, spec, **given), noise, rows), maxlen=1).pop()
        states.append(last.x)
    return num_steps, *_difference(*_levels(spec, *states))
