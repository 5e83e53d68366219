"""Encoded images in an LMDB, as LSUN publishes them. The only file that names lmdb."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm_export.datasets.dataset import Dataset, encoded_images
from ddpm_export.errors import BadFileError
from ddpm_export.images import read_image
from ddpm_export.wording import first_line, not_installed

__all__ = ["lmdb_images"]


def lmdb_images(path: str | Path, image_shape: tuple[int, int, int]) -> Dataset:
    """Read the images that an LMDB holds as values (LSUN, Yu et al. 2015), in the order of their keys.

    Each is cropped and resized to `image_shape` (C, H, W), C 1 or 3, as `read_image` does. Raises BadFileError for what
    is no LMDB or an empty one, EnvironmentProblem where the package lmdb is missing.
    """
    try:
        import lmdb
    except ImportError as exc:
        raise not_installed("lmdb", "lmdb") from exc
    try:
        # no lock: nobody writes, and the folder may be read-only; no readahead: positions come in random order
        database = lmdb.open(str(path), subdir=Path(path).is_dir(), readonly=True, lock=False, readahead=False)
        with database.begin() as transaction, transaction.cursor() as cursor:
            keys = list(cursor.iternext(keys=True, values=False))
    except lmdb.Error as exc:
        raise BadFileError(f"{path} cannot be read as an LMDB: {first_line(exc)}.") from exc
    if not keys:
        raise BadFileError(f"{path} must hold images, and is an empty LMDB.")
    channels, height, width = image_shape

    def read(key: Any) -> NDArray[np.uint8]:
        with database.begin() as transaction:
            value = transaction.get(key, b"")
        return read_image(value, channels, size=(height, width), where=name_of(key))

    def name_of(key: Any) -> str:
        return f"{path}, key {key!r}"

    return encoded_images(Path(path).name, keys, read, image_shape, name_of=name_of)
