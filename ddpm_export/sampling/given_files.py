"""Read pictures, masks and noise for an edit from files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from ddpm_export.errors import BadFileError, UsageError
from ddpm_export.images.read import read_array, read_image
from ddpm_export.model.spec import ModelSpec
from ddpm_export.process.pixels import Pixels


def given_from_files(
    spec: ModelSpec,
    *,
    image: Path | None = None,
    mask: Path | None = None,
    between: Sequence[Path] | None = None,
    x_T: Path | None = None,
    any_size: bool = False,
) -> dict[str, Any]:
    """Return arguments of `request_for`, read from pictures, a folder of pictures, or an .npy of noise.

    any_size: whether pictures may be smaller than the model's, as measured ones are. Raises UsageError for a picture of
    another size, BadFileError for a file that cannot be read.
    """
    given: dict[str, Any] = {}
    if not spec.is_picture:
        return _numbers(image, mask, between, x_T)
    size = spec.state_shape[1:]
    if image is not None or between is not None:
        paths = list(between) if between is not None else _pictures_at(cast(Path, image))
        images = [_read(path, spec.state_shape[0], None if any_size else size) for path in paths]
        others = [path for path, entry in zip(paths, images, strict=True) if entry.shape != images[0].shape]
        if others:
            raise UsageError(f"Pictures must have the same size, but {others[0]} differs from {paths[0]}.")
        given["images"] = np.stack(images)
    if between is not None:
        given["between"] = True
    if mask is not None:
        given["mask"] = _read(mask, 1, size)[..., 0]
    if x_T is not None:
        given["x_T"] = read_array(_existing(x_T))
    return given


def _numbers(
    values: Path | None, mask: Path | None, between: Sequence[Path] | None, x_T: Path | None
) -> dict[str, Any]:
    """Return what is given for a model of numbers, all of it .npy; a file of values has one entry or several."""
    ends = [read_array(_existing(path)) for path in between or ()]
    given = {"images": np.stack(ends), "between": True} if ends else {}
    files = {"images": values, "mask": mask, "x_T": x_T}
    return given | {name: read_array(_existing(path)) for name, path in files.items() if path is not None}


def _pictures_at(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(entry for entry in path.iterdir() if entry.is_file() and not entry.name.startswith("."))
    if not found:
        raise BadFileError(f"{path} is a folder without pictures.")
    return found


def _existing(path: Path) -> Path:
    if not path.is_file():  # reading a pipe would wait
        raise BadFileError(f"{path}: no such file.")
    return path


def _read(path: Path, channels: int, size: tuple[int, ...] | None) -> Pixels:
    pixels = read_image(_existing(path), channels)
    if size is not None and pixels.shape[:2] != size:
        height, width = pixels.shape[:2]
        raise UsageError(f"{path} must have {size[1]} x {size[0]} pixels, got {width} x {height}.")
    return pixels
