"""Images for training and scoring as NumPy arrays, one file a layout. Knows neither torch nor the network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ddpm_export.errors import BadFileError
from ddpm_export.scoring.datasets.cifar import cifar10
from ddpm_export.scoring.datasets.dataset import Dataset
from ddpm_export.scoring.datasets.emoji import noto_font
from ddpm_export.scoring.datasets.folders import noto_emoji, picture_folder, stanford_cars
from ddpm_export.scoring.datasets.idx import fashion_mnist
from ddpm_export.scoring.datasets.lsun import lmdb_images
from ddpm_export.scoring.datasets.sharded import sharded_images


class Reader(NamedTuple):
    """Hold how a data set is read, (place, (C, H, W), train) -> Dataset.

    has_splits: it has training and test images. needs_place: it is only found by the path of a folder or file.
    """

    read: Callable[[Any, tuple[int, int, int], bool], Dataset]
    has_splits: bool = False
    needs_place: bool = True


READERS: dict[str, Reader] = {
    "fashion-mnist": Reader(lambda place, _shape, train: fashion_mnist(place, train=train), True, needs_place=False),
    "cifar10": Reader(lambda place, _shape, train: cifar10(place, train=train), has_splits=True),
    "stanford-cars": Reader(lambda place, shape, train: stanford_cars(place, shape, train=train), has_splits=True),
    "noto-font": Reader(
        lambda place, shape, train: noto_font(place, shape, train=train), has_splits=True, needs_place=False
    ),
    "noto-emoji": Reader(lambda place, shape, _train: noto_emoji(place, shape)),
    "lmdb": Reader(lambda place, shape, _train: lmdb_images(place, shape)),
    "shards": Reader(lambda place, _shape, _train: sharded_images(place)),
    "folder": Reader(lambda place, shape, _train: picture_folder(place, shape)),
}


def open_dataset(
    name: str, folder: str | Path | None = None, *, image_shape: tuple[int, int, int], train: bool = True
) -> Dataset:
    """Read a data set by name (`READERS`): any folder of images under the name "folder", an LMDB's under "lmdb".

    A data set without splits gives all its images. Raises BadFileError for an unknown name, a folder that is missing or
    holds something else, or images of a fixed size other than `image_shape` (C, H, W).
    """
    if name not in READERS:
        raise BadFileError(f"The data set must be one of {', '.join(READERS)}, got {name!r}.")
    if folder is None and READERS[name].needs_place:
        raise BadFileError(f"The data set {name} needs the folder that holds it. Pass `data=DIR`.")
    channels, height, width = image_shape
    if channels not in (1, 3):
        raise BadFileError(f"Data sets have images of 1 or 3 channels, but the network takes {channels}.")
    dataset = READERS[name].read(folder, image_shape, train)
    if dataset.images.shape[1:] != (height, width, channels):
        raise BadFileError(
            f"{name} has images of (H, W, C) {dataset.images.shape[1:]}, but the network takes "
            f"{(height, width, channels)}."
        )
    return dataset
