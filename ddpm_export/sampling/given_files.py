"""Read from files what an edit is given."""

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
    """Return what `request_for` is given, read from pictures, a folder of pictures, and an .npy of noise.

    any_size: pictures may be smaller than the model's, as what is measured is. Raises UsageError for a picture of
    another size, BadFileError for what cannot be read.
    """
    given: dict[str, Any] = {}
    size = spec.state_shape[1:]
    if image is not None or between is not None:
        paths = list(between) if between is not None else _pictures_at(cast(Path, image))
        images = [_read(path, spec.state_shape[0], None if any_size else size) for path in paths]
        others = [path for path, entry in zip(paths, images, strict=True) if entry.shape != images[0].shape]
        if others:
            raise UsageError(f"Pictures must have one size, but {others[0]} has another than {paths[0]}.")
        given |= {"images": np.stack(images), "between": between is not None}
    if mask is not None:
        given["mask"] = _read(mask, 1, size)[..., 0]
    if x_T is not None:
        _refuse_what_is_no_file(x_T)
        given["x_T"] = read_array(x_T)
    return given


def _pictures_at(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(entry for entry in path.iterdir() if entry.is_file() and not entry.name.startswith("."))
    if not found:
        raise BadFileError(f"{path} is a folder without pictures.")
    return found


def _refuse_what_is_no_file(path: Path) -> None:
    if not path.is_file():  # a pipe would be waited for
        raise BadFileError(f"{path}: no such file.")


def _read(path: Path, channels: int, size: tuple[int, ...] | None) -> Pixels:
    _refuse_what_is_no_file(path)
    pixels = read_image(path, channels)
    if size is not None and pixels.shape[:2] != size:
        height, width = pixels.shape[:2]
        raise UsageError(f"{path} must have {size[1]} x {size[0]} pixels, got {width} x {height}.")
    return pixels
