"""What images are made from other than fresh noise: pictures, a measurement, given noise. Opens no file."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ddpm_export.errors import UsageError
from ddpm_export.model.spec import ModelSpec
from ddpm_export.process.equations import Array
from ddpm_export.process.given import Measurement, crossfade, measurement_from_text, slerp
from ddpm_export.process.noise import noise_stream
from ddpm_export.process.pixels import from_uint8

BETWEEN = 9  # images from one end to the other, by default
SOURCES = ("images", "seeds", "x_T")


class Edit(NamedTuple):
    """What an edit was asked for, as the arguments of `request_for`."""

    images: Array | None = None
    seeds: Sequence[int] | None = None
    x_T: Array | None = None  # noqa: N815
    mask: Array | None = None
    measure: str | None = None
    strength: float | None = None
    between: bool = False
    returns: int = 0

    @property
    def sources(self) -> list[str]:
        """Return which of images, seeds and x_T are given."""
        return [name for name in SOURCES if getattr(self, name) is not None]

    @property
    def options(self) -> list[str]:
        """Return which options are given that need a picture."""
        values = {"mask": self.mask, "measure": self.measure, "strength": self.strength}
        return [name for name, value in values.items() if value is not None] + ["between"] * self.between

    def __bool__(self) -> bool:
        """Tell whether anything is given."""
        return bool(self.sources or self.options or self.returns)


@dataclass(frozen=True, eq=False, kw_only=True)
class Given:
    """What images are made from: arrays of m entries, of which image k takes number k // ways.

    known: pictures as states (m, *shape), or a measurement carried back to that shape. mask: (m or 1, 1, H, W), of
    numbers (m or 1, *shape), 0 where one is known, 1 where it is made. measurement, y: what the images share with the
    pictures, and its values.
    strength: the share of the training times at which noise is added and removed again. states: (m, *shape), where the
    walk begins. shares_noise: whether all images have the noise of the first. text: these values, to be described.
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

    def mask_of(self, places: Sequence[int]) -> Array | None:
        """Return the masks of pictures by their places, (B or 1, 1, H, W); None without one."""
        return self.mask if self.mask is None or len(self.mask) == 1 else self.mask[list(places)]


def refuse_contradictions(spec: ModelSpec, edit: Edit, seed: int | None) -> None:
    """Raise UsageError for options that lack what they need, or exclude each other."""
    sources, options = edit.sources, edit.options
    beyond = edit.measure is not None or edit.returns or edit.between or sources != ["images"]
    if spec.graph not in (None, "edit") or (spec.graph == "edit" and beyond):
        raise beyond_graph(spec)
    if edit.returns and edit.mask is None and edit.measure is None:
        raise UsageError("returns needs a mask or a measure.", "returns", "mask", "measure")
    if len(sources) > 1:
        raise UsageError(f"Give only one of images, seeds and x_T, got {' and '.join(sources)}.", *SOURCES)
    if "images" not in sources and options:
        raise UsageError(f"{options[0]} needs a picture.", options[0])
    if not sources:
        raise UsageError("Give images, seeds or x_T.", *SOURCES)
    if sources == ["images"] and not options:
        raise UsageError("A picture needs a mask, a measure or a strength.", "mask", "measure", "strength")
    if edit.between and options != ["strength", "between"]:
        raise UsageError("between needs a strength and no other edit option.", "between", "strength")
    if edit.between and edit.images is not None and len(edit.images) != 2:
        raise UsageError(f"between needs 2 images, got {len(edit.images)}.", "between")
    if edit.measure not in (None, "mask") and edit.mask is not None:
        raise UsageError(f"mask does not apply to measure {edit.measure}.", "mask", "measure")
    if edit.seeds is not None and (len(edit.seeds) != 2 or seed is not None):
        raise UsageError(f"seeds takes two seeds and replaces seed, got {list(edit.seeds)}.", "seeds", "seed")


def label_of_pictures(spec: ModelSpec, label: Any, inputs: Mapping[str, Any] | None) -> Any:
    """Return the label that was given, else "none" where the network knows it: a picture's class is unknown."""
    own = spec.label
    if label is not None or own is None or own.none is None or own.name in (inputs or {}):
        return label
    return "none"


def beyond_graph(spec: ModelSpec) -> UsageError:
    """Return the error for something given that a one-call file does not take."""
    takes = "only a picture with a mask or a strength" if spec.graph == "edit" else "no picture"
    return UsageError(f"A one-call {spec.graph} takes {takes}. Run the .onnx it was made from.")


def given_for(
    spec: ModelSpec, edit: Edit, n: int | None, first: int, encode: Callable[[Array], Array] | None = None
) -> Given:
    """Return what images are made from, checked against the model."""
    images, seeds, measure, strength = edit.images, edit.seeds, edit.measure, edit.strength
    shape, count = spec.state_shape, BETWEEN if n is None else n
    known = y = measurement = states = None
    mask = None if edit.mask is None else _mask(edit.mask, spec)
    if measure is not None:
        if not spec.state_is_picture and (measure != "mask" or spec.is_picture):
            raise UsageError(f"measure must be mask for numbers, and left out for latents, got {measure!r}.", "measure")
        measurement = measurement_from_text(measure, shape, mask)
    if images is not None:
        known = states_from_images(images, spec, measurement, encode)
        if mask is not None and len(mask) not in (1, len(images)):
            raise UsageError(f"mask must hold one mask, or one for each of {len(images)} pictures, got {len(mask)}.")
        if measurement is not None:
            is_whole = known.shape[1:] == shape
            y = measurement.of(known) if is_whole else known
            known = known if is_whole else measurement.back(y)
        if edit.between:
            known = crossfade(known[0], known[1], count)
    if seeds is not None:
        begin, end = (noise_stream(seed, [first], shape)(0)[0] for seed in seeds)
        states = slerp(begin, end, count)
    elif edit.x_T is not None:
        states = _states(edit.x_T, shape, "x_T")
    is_series = edit.between or seeds is not None
    text = {
        "measure": measure,
        "images_sha256": None if images is None else digest_of(images),
        "between_seeds": None if seeds is None else list(seeds),
        "between": count if is_series else None,
        "x_T_sha256": None if states is None or is_series else digest_of(states),
        "strength": strength,
        "mask_sha256": None if mask is None else digest_of(mask),
    }
    return Given(
        known=known,
        ways=1 if n is None or is_series else n,
        mask=mask,
        measurement=measurement,
        y=y,
        strength=strength,
        states=states,
        shares_noise=is_series,
        text={name: value for name, value in text.items() if value is not None},
    )


def states_from_images(
    images: Array,
    spec: ModelSpec,
    measurement: Measurement | None = None,
    encode: Callable[[Array], Array] | None = None,
) -> Array:
    """Return pictures or numbers as states (m, *shape) float32, or as measured values where they have that shape.

    encode: from what a user has to states, of a model that has a scale or stages. Raises UsageError for pictures and
    numbers of another size or dtype, and without `encode` where one is needed.
    """
    if not spec.state_is_picture and encode is None and (spec.units is not None or spec.stages):
        raise UsageError("The model's states are encoded: pass `encode`, as `edit` does.", "images")
    if not spec.is_picture:
        values = _states(images, spec.result_shape, "images")
        return values if encode is None else encode(values)
    shape = channels, height, width = spec.picture_shape
    fitting = [(height, width, channels)]
    if measurement is not None:
        smaller = measurement.of(np.zeros((1, *shape), dtype=np.float32)).shape[1:]
        fitting.append((*smaller[1:], smaller[0]))
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] not in fitting or len(images) < 1:
        sizes = " or ".join(f"(m, {h}, {w}, {c})" for h, w, c in dict.fromkeys(fitting))
        raise UsageError(f"images must be uint8 {sizes}, got {images.dtype} {images.shape}.", "images")
    known = from_uint8(images).astype(np.float32)
    return known if spec.state_is_picture or encode is None else encode(known)


def _mask(mask: Array, spec: ModelSpec) -> Array:
    """Return a mask as (m or 1, 1, H, W), of numbers (m or 1, *shape), float32 from 0 to 1."""
    shape = spec.state_shape
    if not spec.is_picture:
        fits = mask.dtype == np.uint8 and mask.shape[-len(shape) :] == shape and mask.ndim - len(shape) in (0, 1)
        if not fits:
            raise UsageError(f"mask must be uint8 {shape} or (m, *shape), got {mask.dtype} {mask.shape}.", "mask")
        return mask.reshape(-1, *shape).astype(np.float32) / np.float32(255.0)
    shape = spec.picture_shape
    if mask.dtype != np.uint8 or mask.ndim not in (2, 3) or mask.shape[-2:] != shape[1:]:
        raise UsageError(
            f"mask must be uint8 ({shape[1]}, {shape[2]}), or one for each picture, got {mask.dtype} {mask.shape}.",
            "mask",
        )
    made = mask.reshape(-1, 1, *shape[1:]).astype(np.float32) / np.float32(255.0)
    if spec.state_is_picture:
        return made
    (_, height, width), (_, rows, columns) = shape, spec.state_shape  # a latent is made where any of its pixels is
    latents: Array = made.reshape(-1, 1, rows, height // rows, columns, width // columns).max(axis=(3, 5))
    return latents


def _states(x: Array, shape: tuple[int, ...], name: str) -> Array:
    x = x[None] if x.shape == shape else x
    if x.shape[1:] != shape or not np.issubdtype(x.dtype, np.floating) or x.ndim < 1 or len(x) < 1:
        raise UsageError(f"{name} must be float32 (m, {', '.join(map(str, shape))}), got {x.dtype} {x.shape}.", name)
    if not np.isfinite(x).all():
        raise UsageError(f"{name} must be finite, got NaN or infinity.", name)
    return x.astype(np.float32)


def digest_of(array: Array) -> str:
    """Return the SHA-256 of an array's numbers, as requests describe it."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
