"""Sets of pictures as `ddpm-dataset` writes them, a shard at a time. Knows neither torch nor the network."""

import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm_export.scoring.datasets.dataset import Dataset, LazyImages
from ddpm_export.sets.formats import Content, check_size, read_shard
from ddpm_export.sets.records import MANIFEST, read_manifest

KEPT_SHARDS = 2  # reading in order needs one


def is_sharded(place: str | Path) -> bool:
    """Return whether a folder holds a complete set of pictures."""
    return Path(place, MANIFEST).is_file()


def sharded_images(place: str | Path) -> Dataset:
    """Read a complete set of pictures; labels are the requested ones, where the model has classes.

    Raises BadFileError for anything else, and later for a shard whose pictures do not have its digest.
    """
    manifest = read_manifest(Path(place))
    for file in manifest["files"]:  # before memory is taken for as many pictures as the manifest claims
        check_size(Path(place, file["name"]), file["bytes"], at_least=file["n"])
    name, images, labels = Path(place).resolve().name, _Shards(Path(place), manifest), manifest.get("labels")
    if labels is None:
        return Dataset(name, images, None, None)
    numbers = np.arange(manifest["first"], manifest["first"] + manifest["n"])
    of_each = np.array(labels, dtype=np.int64)[numbers % len(labels)]
    return Dataset(name, images, of_each, None, classes=tuple(manifest["classes"]))


class _Shards(LazyImages):
    """Read images from their shards, each decoded at once and kept for the next read."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        super().__init__(manifest["n"], tuple(manifest["image_shape"]), lambda _: np.empty(0, np.uint8), [])
        self._starts = np.array([file["first"] - manifest["first"] for file in manifest["files"]])
        self._reading = threading.Lock()
        self._shard = lru_cache(KEPT_SHARDS)(lambda shard: _pictures_of(folder, manifest, manifest["files"][shard]))

    def read(self, index: Any) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return images uint8 (..., H, W, C) and their positions (...)."""
        positions = self._positions[index]
        flat = np.ravel(positions)
        images = np.empty((len(flat), *self.shape[1:]), np.uint8)
        owners = np.searchsorted(self._starts, flat, side="right") - 1
        for shard in np.unique(owners).tolist():
            is_here = owners == shard
            with self._reading:
                images[is_here] = self._shard(shard)[flat[is_here] - self._starts[shard]]
        return images.reshape(*np.shape(positions), *self.shape[1:]), positions


def _pictures_of(folder: Path, manifest: dict[str, Any], file: dict[str, Any]) -> NDArray[np.uint8]:
    """Return the pictures of a shard, (N, H, W, C); raises BadFileError unless they have its digest."""
    numbers = range(file["first"], file["first"] + file["n"])
    content = Content(numbers, tuple(manifest["image_shape"]), {}, labels=manifest.get("labels", ()))
    return read_shard(folder / file["name"], manifest["format"], content, file["bytes"], file["digest"])
