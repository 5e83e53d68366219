"""From pictures to pictures: filled in, measured, begun from, gone between, and back to noise. In batches.

The mathematics is in `given`; here is which picture belongs to which image, and what goes with what.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from ddpm_export.errors import UsageError
from ddpm_export.model.choice import plan_below, times_of
from ddpm_export.model.denoiser import decode
from ddpm_export.model.spec import ModelSpec
from ddpm_export.process.equations import Array, Denoiser, noised
from ddpm_export.process.given import (
    Measurement,
    crossfade,
    inversion,
    known_pixels,
    measured,
    measurement_from_text,
    slerp,
    with_returns,
)
from ddpm_export.process.noise import GIVEN, noise_stream
from ddpm_export.process.pixels import from_uint8, to_uint8
from ddpm_export.process.rows import Plan
from ddpm_export.process.walk import walk
from ddpm_export.runtimes.opened import DenoiserFile
from ddpm_export.sampling.generate import (
    Given,
    Settings,
    Walks,
    cannot_be_given,
    denoiser_file,
    opened_file,
    pictures,
    sample,
    settings_for,
)

BETWEEN = 9  # how many images from one end to the other, unless told
Pixels = NDArray[np.uint8]


class Edit(NamedTuple):
    """A run that is given something: its settings, how a batch is walked, and what its images follow from besides.

    given: what a one-call edit is given of a batch, in place of a walk.
    """

    settings: Settings
    walks: Walks
    text: dict[str, Any]
    given: Given


class Inverted(NamedTuple):
    """Noise x_T (m, C, H, W) float32 that leads to pictures, and how far from them: each one's RMSE (m,) in levels."""

    x_T: Array  # noqa: N815
    rmse: NDArray[np.float64]


def edit(
    model: Any,
    images: Pixels | None = None,
    *,
    provider: str = "cpu",
    threads: int | None = None,
    **given: Any,
) -> Pixels:
    """Return images made from pictures, seeds or noise, uint8 (n, H, W, C).

    model: a path of a denoiser or a one-call edit, or what `open_model` or `open_file` gave. images, given: as in
    `edit_for`.
    Costs one network evaluation a row of the plan and batch. Raises what `edit_for` and `sample` raise.
    """
    opened = opened_file(model, provider, threads)
    made = edit_for(opened.spec, images, **given)
    done = pictures(opened, made.settings, lambda i: i == made.settings.num_rows, made.walks, made.given)
    return np.concatenate([pixels for _, _, pixels in done if pixels is not None])


def edit_for(
    spec: ModelSpec,
    images: Pixels | None = None,
    *,
    mask: Array | None = None,
    measure: str | None = None,
    strength: float | None = None,
    returns: int = 0,
    jump: int = 1,
    between: bool = False,
    seeds: Sequence[int] | None = None,
    x_T: Array | None = None,
    n: int | None = None,
    **settings: Any,
) -> Edit:
    """Return the run that makes images of what is given; see docs/given.md.

    images: uint8 (m, H, W, C), of each of which n are made (1 unless given): image k, counted from `first`, is of
    picture k // n. They have to be given with one of these:
    mask: uint8 (H, W) or (m, H, W), 255 where pixels are to be made, 0 where they are known, between them blended.
    measure: average:K, grey or mask; images may be as small as what average:K measures.
    strength: above 0 to 1, the share of the training times from which on noise is added and taken away again.
    returns, jump: how often to go back, and how many rows (RePaint), with a mask or a measurement.
    between: n images (9 unless given) from the first of two pictures to the second, all with the noise of one image.
    In place of images:
    seeds: two, between whose noise n images lie. x_T: (m, C, H, W), the noise itself, as `invert` finds it.
    settings: of `settings_for`; the label of pictures and of their noise is none, where the network knows that, unless
    one is given.

    Raises UsageError for what does not fit the model, or goes with nothing.
    """
    is_beyond_a_graph = measure is not None or returns or between or seeds is not None or x_T is not None
    if spec.graph not in (None, "edit") or (spec.graph == "edit" and is_beyond_a_graph):
        raise cannot_be_given(spec)
    _refuse_what_does_not_go_together(images, mask, measure, strength, returns, between, seeds, x_T, settings)
    shape = spec.state_shape
    known, y, measurement, states = None, None, None, None
    text: dict[str, Any] = {}
    mask = None if mask is None else _mask(mask, shape)
    if measure is not None:
        measurement = measurement_from_text(measure, shape, mask)
        text["measure"] = measure
    if images is not None:
        known = _known(images, shape, measurement)
        text["images_sha256"] = _digest(images)
        if measurement is not None:
            whole = known.shape[1:] == shape
            y = measurement.of(known) if whole else known
            known = known if whole else measurement.back(y)
    if images is not None and mask is not None and len(mask) not in (1, len(images)):
        raise UsageError(f"mask must be one, or one for each of {len(images)} pictures, got {len(mask)}.")
    if between and known is not None:
        known = crossfade(known[0], known[1], BETWEEN if n is None else n)
    if seeds is not None:
        first = settings.get("first", 0)
        one, other = (noise_stream(seed, [first], shape)(0)[0] for seed in seeds)
        states = slerp(one, other, BETWEEN if n is None else n)
        settings["seed"] = seeds[0]
        text["between_seeds"] = list(seeds)
    elif x_T is not None:
        states = _states(x_T, shape)
        text["x_T_sha256"] = _digest(states)
    given = next(array for array in (states, known) if array is not None)
    is_row = between or seeds is not None
    ways = 1 if n is None or is_row else n
    if seeds is None:
        settings = _telling_nothing(spec, settings)
    chosen = settings_for(spec, n=len(given) * ways, **settings)
    if is_row:
        text["between"] = len(given)
        # whatever the network is told besides is that of one image, too
        inputs = {name: values[[chosen.first % len(values)]] for name, values in chosen.inputs.items()}
        chosen = replace(chosen, inputs=inputs)
    rows = chosen.choice.plan
    if strength is not None:
        rows = plan_below(spec, chosen.choice, strength)
        text["strength"] = strength
    if returns:
        rows = with_returns(rows, returns, jump)
        text |= {"returns": returns, "jump": jump}
    if mask is not None:
        text["mask_sha256"] = _digest(mask)
    if spec.graph is None:  # else the graph leaves rows out itself
        chosen = _with_plan(chosen, rows)

    def places(numbers: Sequence[int]) -> list[int]:
        return [(number - chosen.first) // ways for number in numbers]

    def walks(denoise: Denoiser, numbers: Sequence[int]) -> Any:
        of = places(numbers)
        whose = [chosen.first] * len(numbers) if is_row else numbers
        noise = noise_stream(chosen.seed, whose, shape, draws=rows.draws)
        x, keep = None if states is None else states[of], None
        if known is not None and strength is not None:
            x = noised(known[of], noise(0), rows.rows[0].a)
        if measurement is not None and y is not None:
            denoise = measured(denoise, measurement, y[of])
        elif mask is not None and known is not None:
            some = mask if len(mask) == 1 else mask[of]
            keep = known_pixels(known[of], some, noise_stream(chosen.seed, whose, shape, domain=GIVEN))
        return walk(denoise, noise, rows, keep=keep, x=x)

    def in_one_call(numbers: Sequence[int]) -> dict[str, Any]:
        of = places(numbers)
        image = cast(Array, known)[of]
        some = (
            np.ones_like(image) if mask is None else np.broadcast_to(mask if len(mask) == 1 else mask[of], image.shape)
        )
        return {"image": image, "mask": some, "strength": strength or 0.0}

    return Edit(chosen, walks, text, in_one_call)


def invert(
    model: Any,
    images: Pixels,
    *,
    provider: str = "cpu",
    threads: int | None = None,
    report: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> Inverted:
    """Return the noise from which a plan without noise leads back to pictures, uint8 (m, H, W, C), nearly.

    model, settings: as in `generate`. The way to noise is DDIM's, by the plan's times; the way back, which says the
    error, is the plan itself. report: called after each evaluation with those done and those to do, twice as many as
    `generate` costs. Raises UsageError for pictures that do not fit the model and for a plan that adds noise.
    """
    opened = denoiser_file(model, provider, threads)
    spec = opened.spec
    known = _known(images, spec.state_shape, None)
    chosen = settings_for(spec, n=len(images), **_telling_nothing(spec, settings))
    if any(row.noise for row in chosen.choice.plan.rows):
        raise UsageError("Inverting needs a plan that adds no noise. Choose ddim with eta 0.")
    backwards = _with_plan(chosen, inversion(spec.alphas_cumprod, times_of(chosen.choice.plan)))
    free = DenoiserFile(opened.model, replace(spec, clip_x_0=None))  # what is clipped cannot be found again
    done, all_ = 0, backwards.evaluations + chosen.evaluations

    def tell() -> None:
        nonlocal done
        done += 1
        if report is not None:
            report(done, all_)

    x_T = _last_states(free, backwards, _from(known, backwards), tell)
    back = to_uint8(decode(_last_states(opened, chosen, _from(x_T, chosen), tell)))
    errors = back.astype(np.float64) - images
    return Inverted(x_T, np.sqrt(np.square(errors).mean(axis=(1, 2, 3))))


def _from(states: Array, settings: Settings) -> Walks:
    """Return walks that begin at states, (n, C, H, W) for all images of the settings."""

    def walks(denoise: Denoiser, numbers: Sequence[int]) -> Any:
        noise = noise_stream(settings.seed, numbers, states.shape[1:])
        return walk(denoise, noise, settings.choice.plan, x=states[[number - settings.first for number in numbers]])

    return walks


def _last_states(
    opened: DenoiserFile, settings: Settings, walks: Walks, tell: Callable[[], None] = lambda: None
) -> Array:
    last = []
    for _, state in sample(opened.model, opened.spec, settings, walks):
        tell()
        if state.row.i == settings.num_rows:
            last.append(state.x)
    return np.concatenate(last)


def _refuse_what_does_not_go_together(
    images: Pixels | None,
    mask: Array | None,
    measure: str | None,
    strength: float | None,
    returns: int,
    between: bool,
    seeds: Sequence[int] | None,
    x_T: Array | None,
    settings: dict[str, Any],
) -> None:
    said = {"mask": mask, "measure": measure, "strength": strength, "between": between or None}
    named = [name for name, value in said.items() if value is not None]
    sources = [name for name, value in (("images", images), ("seeds", seeds), ("x_T", x_T)) if value is not None]
    if returns and mask is None and measure is None:
        raise UsageError("returns need a mask or a measure.")
    if len(sources) > 1:
        raise UsageError(f"Of images, seeds and x_T there must be only one, got {' and '.join(sources)}.")
    if images is None and named:
        raise UsageError(f"{named[0]} needs a picture.")
    if not sources:
        raise UsageError("There must be one of images, seeds and x_T, got none.")
    if images is not None and not named:
        raise UsageError("A picture needs a mask, a measure or a strength.")
    if between and (strength is None or len(named) > 2):
        raise UsageError("between needs a strength, and nothing else besides.")
    if between and images is not None and len(images) != 2:
        raise UsageError(f"between needs 2 images, got {len(images)}.")
    if measure is not None and measure != "mask" and mask is not None:
        raise UsageError(f"mask does not apply to measure {measure}.")
    if seeds is not None and (len(seeds) != 2 or settings.get("seed") is not None):
        raise UsageError(f"seeds must be 2 and stand in place of seed, got {list(seeds)}.")


def _with_plan(settings: Settings, rows: Plan) -> Settings:
    return replace(settings, choice=settings.choice._replace(plan=rows))


def _telling_nothing(spec: ModelSpec, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings with no class, unless they say one: of a picture it is not known, and every one is wrong."""
    label = spec.label
    if label is None or label.none is None or label.name in (settings.get("inputs") or {}):
        return settings
    return {**settings, "label": "none" if settings.get("label") is None else settings["label"]}


def _known(images: Pixels, shape: tuple[int, int, int], measurement: Measurement | None) -> Array:
    """Return pictures as states, (m, C, H, W) float32; or what was measured of them, where they have its shape."""
    channels, height, width = shape
    fitting = [(height, width, channels)]
    if measurement is not None:
        smaller = measurement.of(np.zeros((1, *shape), dtype=np.float32)).shape[1:]
        fitting.append((*smaller[1:], smaller[0]))
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] not in fitting or len(images) < 1:
        sizes = " or ".join(f"(m, {h}, {w}, {c})" for h, w, c in dict.fromkeys(fitting))
        raise UsageError(f"images must be uint8 {sizes}, got {images.dtype} {images.shape}.")
    return from_uint8(images).astype(np.float32)


def _mask(mask: Array, shape: tuple[int, int, int]) -> Array:
    """Return a mask as (m or 1, 1, H, W) float32 from 0 to 1."""
    if mask.dtype != np.uint8 or mask.ndim not in (2, 3) or mask.shape[-2:] != shape[1:]:
        raise UsageError(
            f"mask must be uint8 ({shape[1]}, {shape[2]}), or one for each picture, got {mask.dtype} {mask.shape}."
        )
    return mask.reshape(-1, 1, *shape[1:]).astype(np.float32) / np.float32(255.0)


def _states(x_T: Array, shape: tuple[int, int, int]) -> Array:
    if x_T.ndim != 4 or x_T.shape[1:] != shape or not np.issubdtype(x_T.dtype, np.floating) or len(x_T) < 1:
        raise UsageError(f"x_T must be float32 (m, {', '.join(map(str, shape))}), got {x_T.dtype} {x_T.shape}.")
    if not np.isfinite(x_T).all():
        raise UsageError("x_T must be finite, got NaN or infinity.")
    return x_T.astype(np.float32)


def _digest(array: Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
