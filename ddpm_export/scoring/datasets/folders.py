"""Folders of images of any size and format, Stanford Cars' among them. Knows neither torch nor the network."""

import dataclasses
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ddpm_export.errors import BadFileError
from ddpm_export.images.read import read_image
from ddpm_export.scoring.datasets.dataset import Dataset, encoded_images

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}


def picture_folder(folder: str | Path, image_shape: tuple[int, int, int]) -> Dataset:
    """Read every image below a folder, in sorted order, cropped and resized to `image_shape` (C, H, W), C 1 or 3.

    Where every image lies in a folder below `folder`, the folders directly below it are the classes, in sorted order.
    `read_image` crops and resizes. Broken images are left out and listed in `broken`; raises BadFileError where most
    are broken, or where there is no image.
    """
    channels, height, width = image_shape
    paths = _paths(Path(folder))

    def read(path: Path) -> NDArray[np.uint8]:
        return read_image(path, channels, size=(height, width))

    return encoded_images(Path(folder).resolve().name, paths, read, image_shape, *_classes(paths, Path(folder)))


def stanford_cars(folder: str | Path, image_shape: tuple[int, int, int], *, train: bool = True) -> Dataset:
    """Read Stanford Cars (Krause et al. 2013): `cars_train` or `cars_test` in a folder, or in its `stanford_cars`.

    Each photograph's middle square is taken, as `picture_folder` does; labels are not read.
    """
    part = "cars_train" if train else "cars_test"
    for place in (Path(folder) / part, Path(folder) / "stanford_cars" / part):
        if place.is_dir():
            return dataclasses.replace(picture_folder(place, image_shape), name="stanford-cars")
    raise BadFileError(
        f"{folder} is not Stanford Cars: it has no photographs in {part} or stanford_cars/{part}. Check `data`."
    )


def noto_emoji(folder: str | Path, image_shape: tuple[int, int, int]) -> Dataset:
    """Read Google's Noto emoji, 64x64, from the unpacked npm package `emoji-datasource-google` or its image folder."""
    inner = Path(folder) / "img" / "google" / "64"  # beside it are sheets of all images
    place = inner if inner.is_dir() else folder
    return dataclasses.replace(picture_folder(place, image_shape), name="noto-emoji", license="Apache-2.0")


def _classes(paths: list[Path], folder: Path) -> tuple[NDArray[np.int64] | None, tuple[str, ...] | None]:
    """Return each path's class, the folder below `folder` that it is in, and their names; None where one is in none."""
    inner = [path.relative_to(folder).parts for path in paths]
    if any(len(parts) == 1 for parts in inner):
        return None, None
    names = sorted({parts[0] for parts in inner})
    return np.array([names.index(parts[0]) for parts in inner], dtype=np.int64), tuple(names)


def _paths(folder: Path) -> list[Path]:
    """Return the images below a folder, sorted, without hidden ones, which may be unfinished."""
    paths = []
    for place, folders, names in os.walk(folder, onerror=_refuse_unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found = (Path(place, name) for name in names if not name.startswith("."))
        paths += [path for path in found if path.suffix.lower() in IMAGE_SUFFIXES]
    paths.sort()
    if not paths:
        raise BadFileError(f"{folder} has no images: no {', '.join(sorted(IMAGE_SUFFIXES))}.")
    return paths


def _refuse_unreadable(exc: OSError) -> None:
    raise BadFileError(f"{exc.filename} is not a folder that can be read: {exc.strerror}.") from exc
