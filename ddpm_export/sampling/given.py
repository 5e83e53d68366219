"""What images are made from besides noise: pictures, a measurement, noise; checked against the model. Opens no file."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ddpm_export.errors import UsageError
from ddpm_export.model.spec import ModelSpec
from ddpm_export.process.equations import Array
from ddpm_export.process.given import Measurement, crossfade, measurement_from_text, slerp
from ddpm_export.process.noise import noise_stream
from ddpm_export.process.pixels import Pixels, from_uint8

BETWEEN = 9  # how many images from one end to the other, unless the request says


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

    def mask_of(self, places: Sequence[int]) -> Array | None:
        """Return the masks of pictures by their places, (B or 1, 1, H, W); None without one."""
        return self.mask if self.mask is None or len(self.mask) == 1 else self.mask[list(places)]


def refuse_contradictions(
    spec: ModelSpec,
    sources: Mapping[str, Any],
    mask: Array | None,
    measure: str | None,
    strength: float | None,
    returns: int,
    between: bool,
    seed: int | None,
) -> None:
    """Raise UsageError for what is given without what it needs, or with what it excludes."""
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


def label_of_pictures(spec: ModelSpec, label: Any, inputs: Mapping[str, Any] | None) -> Any:
    """Return the label that was asked for; without one "none", where the network knows that: a picture's is unknown."""
    own = spec.label
    if label is not None or own is None or own.none is None or own.name in (inputs or {}):
        return label
    return "none"


def beyond_graph(spec: ModelSpec) -> UsageError:
    """Return the error for a one-call file that is given what it does not take."""
    takes = "only a picture with a mask or a strength" if spec.graph == "edit" else "no picture"
    return UsageError(f"A one-call {spec.graph} takes {takes}. Run the .onnx it was made from.")


def given_for(
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
        text["images_sha256"] = digest_of(images)
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
        text["x_T_sha256"] = digest_of(states)
    if strength is not None:
        text["strength"] = strength
    if mask is not None:
        text["mask_sha256"] = digest_of(mask)
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


def digest_of(array: Array) -> str:
    """Return the SHA-256 of an array's numbers, as requests describe it."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
