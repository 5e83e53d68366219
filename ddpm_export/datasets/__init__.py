"""Images for training and scoring as NumPy arrays, one file a layout. Knows neither torch nor the network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ddpm_export.datasets.cifar import cifar10
from ddpm_export.datasets.dataset import Dataset, LazyImages
from ddpm_export.datasets.folders import image_folder, noto_emoji, picture_folder, stanford_cars
from ddpm_export.datasets.idx import fashion_mnist, read_idx
from ddpm_export.datasets.lsun import lmdb_images
from ddpm_export.errors import BadFileError

__all__ = [
    "Dataset",
    "LazyImages",
    "READERS",
    "cifar10",
    "fashion_mnist",
    "image_folder",
    "lmdb_images",
    "noto_emoji",
    "open_dataset",
    "picture_folder",
    "read_idx",
    "stanford_cars",
]

# name -> reader of (place, (C, H, W), train); places without a split give all they have
READERS: dict[str, Callable[[Any, tuple[int, int, int], bool], Dataset]] = {
    "fashion-mnist": lambda place, _shape, train: fashion_mnist(place, train=train),
    "cifar10": lambda place, _shape, train: cifar10(place, train=train),
    "stanford-cars": lambda place, shape, train: stanford_cars(place, shape, train=train),
    "noto-emoji": lambda place, shape, _train: noto_emoji(place, shape),
    "lmdb": lambda place, shape, _train: lmdb_images(place, shape),
    "folder": lambda place, shape, _train: picture_folder(place, shape),
}
FETCHED = ("fashion-mnist",)  # these need no folder


def open_dataset(
    name: str, folder: str | Path | None = None, *, image_shape: tuple[int, int, int], train: bool = True
) -> Dataset:
    """Read a data set by name (`READERS`): any folder of images under the name "folder", an LMDB's under "lmdb".

    Raises BadFileError for an unknown name, a folder that is missing or holds something else, or images that do not
    have `image_shape` (C, H, W) where their size is given.
    """
    if name not in READERS:
        raise BadFileError(f"data: unknown data set. got {name!r}, expected one of {', '.join(READERS)}. Do pick one.")
    if folder is None and name not in FETCHED:
        raise BadFileError(f"data: no folder. got data set {name!r} alone, expected a path. Do pass --data DIR.")
    channels, height, width = image_shape
    if channels not in (1, 3):
        raise BadFileError(
            f"data: no data set has such images. got {channels} channels, expected 1 or 3. Do set network.image_shape."
        )
    dataset = READERS[name](folder, image_shape, train)
    if dataset.images.shape[1:] != (height, width, channels):
        raise BadFileError(
            f"data: {name} has other images than the network takes. got (H, W, C) {dataset.images.shape[1:]}, expected "
            f"{(height, width, channels)}. Do set network.image_shape to fit."
        )
    return dataset
