"""What every reader returns: images as one array, or decoded when asked for where they are too many for that."""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm_export.errors import BadFileError

Pixels = NDArray[np.uint8]
MAX_ARRAY_BYTES = 2**31  # above it, images stay encoded where they are
NUM_PROBED = 64
SHOWN = 3


@dataclass(frozen=True)
class Dataset:
    """Images as uint8 (N, H, W, C), labels int64 (N,) where the source has any, and where they came from.

    `broken` tells of each image that could not be read, in a line; where images are decoded when asked for, it grows.
    `classes` names the labels in their order, where there are any.
    """

    name: str
    images: "Pixels | LazyImages"
    labels: NDArray[np.int64] | None
    license: str | None
    broken: list[str] = field(default_factory=list)
    classes: tuple[str, ...] | None = None

    def batch(self, index: NDArray[np.int64]) -> "tuple[Pixels, NDArray[np.int64] | None]":
        """Return images (B, H, W, C) at the positions of an index (B,) and their labels (B,), None without any.

        Where another image stands for a broken one, the label is that of what is seen.
        """
        if isinstance(self.images, LazyImages):
            images, index = self.images.read(index)
        else:
            images = self.images[index]
        return images, None if self.labels is None else self.labels[index]


class LazyImages:
    """Encoded images with the face of a uint8 array (N, H, W, C): shape, len(), and any index of the first axis.

    In place of a broken image comes the next sound one, so that what stands at a position depends only on the files.
    """

    def __init__(
        self,
        count: int,
        image_shape: tuple[int, int, int],
        read: Callable[[int], Pixels],
        broken: list[str],
        name_of: Callable[[int], str] = str,
    ):
        channels, height, width = image_shape
        self.shape = (count, height, width, channels)
        self.dtype = np.dtype(np.uint8)
        self._positions = np.arange(count)
        self._read, self._name_of = read, name_of
        self._broken = broken
        self._known: dict[int, None] = {}  # positions of broken ones, in the order in which they were met
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Pixels:
        """Return what an array would, decoded: uint8 (..., H, W, C); raises BadFileError where none is sound."""
        return self.read(index)[0]

    def read(self, index: Any) -> tuple[Pixels, NDArray[np.int64]]:
        """Return images uint8 (..., H, W, C), as indexing does, and the positions (...) that they were found at."""
        positions = self._positions[index]
        found = _in_threads(self._sound, np.ravel(positions).tolist())
        images = np.array([image for image, _ in found], dtype=np.uint8).reshape(*np.shape(positions), *self.shape[1:])
        return images, np.array([place for _, place in found], dtype=np.int64).reshape(np.shape(positions))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[:].astype(dtype or np.uint8, copy=False)

    def _sound(self, position: int) -> tuple[Pixels, int]:
        for place in range(position, position + len(self)):
            place %= len(self)
            if place in self._known:
                continue
            try:
                return self._read(place), place
            except BadFileError as exc:
                with self._lock:
                    if place not in self._known:
                        self._known[place] = None
                        self._broken.append(str(exc))
        raise _mostly_broken([self._name_of(place) for place in self._known], len(self))


def encoded_images(
    name: str,
    items: Sequence[Any],
    read: Callable[[Any], Pixels],
    image_shape: tuple[int, int, int],
    labels: NDArray[np.int64] | None = None,
    classes: tuple[str, ...] | None = None,
    *,
    name_of: Callable[[Any], str] = str,
) -> Dataset:
    """Return the data set of encoded images: where they fit, decoded at once and without the broken ones, else lazily.

    `items` are what `read` takes, one an image, at least one; `read` returns uint8 (H, W, C) of `image_shape` (C, H, W)
    or raises BadFileError for a broken one, and runs in threads. `labels` (N,) and `classes` are those of the items,
    `name_of` gives what errors call one. Raises BadFileError where more than half are broken: of all, or of 64 spread
    over those that are decoded lazily.
    """
    broken: list[str] = []
    channels, height, width = image_shape
    if len(items) * channels * height * width > MAX_ARRAY_BYTES:
        lazy = LazyImages(
            len(items), image_shape, lambda place: read(items[place]), broken, lambda k: name_of(items[k])
        )
        probed = np.unique(np.linspace(0, len(items) - 1, NUM_PROBED).astype(np.int64)).tolist()
        tried = _in_threads(lambda place: _try(read, items[place]), probed)
        failed = [items[place] for place, image in zip(probed, tried, strict=True) if isinstance(image, str)]
        if 2 * len(failed) > len(probed):
            raise _mostly_broken([name_of(item) for item in failed], len(probed))
        return Dataset(name, lazy, labels, None, broken, classes)
    images = np.empty((len(items), height, width, channels), dtype=np.uint8)
    sound: list[int] = []
    for start in range(0, len(items), 1024):  # a part at a time: no second copy of them all
        for place, image in enumerate(_in_threads(lambda item: _try(read, item), items[start : start + 1024]), start):
            if isinstance(image, str):
                broken.append(image)
            else:
                images[len(sound)] = image
                sound.append(place)
    if 2 * len(broken) > len(items):
        is_sound = set(sound)
        failed = [item for place, item in enumerate(items) if place not in is_sound]
        raise _mostly_broken([name_of(item) for item in failed], len(items))
    return Dataset(name, images[: len(sound)], None if labels is None else labels[sound], None, broken, classes)


def _try(read: Callable[[Any], Pixels], item: Any) -> Pixels | str:
    try:
        return read(item)
    except BadFileError as exc:
        return str(exc)


def _in_threads(do: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # Pillow decodes without the interpreter's lock
        return list(pool.map(do, items))


def _mostly_broken(names: list[str], count: int) -> BadFileError:
    first = ", ".join(names[:SHOWN])
    return BadFileError(
        f"{len(names)} of {count} images cannot be read, {first} first. Check that these are whole images."
    )
