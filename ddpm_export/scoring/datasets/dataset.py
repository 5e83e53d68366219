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
    """Hold images as uint8 (N, H, W, C), labels int64 (N,) and the names of their classes where there are any.

    `broken` has a line for each image that could not be read; with LazyImages it grows as they are decoded.
    """

    name: str
    images: "Pixels | LazyImages"
    labels: NDArray[np.int64] | None
    license: str | None
    broken: list[str] = field(default_factory=list)
    classes: tuple[str, ...] | None = None

    def batch(self, index: NDArray[np.int64]) -> "tuple[Pixels, NDArray[np.int64] | None]":
        """Return images (B, H, W, C) at positions (B,), and the labels (B,) of the images that are seen, or None."""
        if isinstance(self.images, LazyImages):
            images, index = self.images.read(index)
        else:
            images = self.images[index]
        return images, None if self.labels is None else self.labels[index]


class LazyImages:
    """Encoded images that act as a uint8 array (N, H, W, C): shape, len(), and any index of the first axis.

    The next sound image replaces a broken one, so that what is at a position depends only on the files.
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
        self._known: dict[int, None] = {}  # positions of broken images, as they were met
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Pixels:
        """Return what an array would, decoded: uint8 (..., H, W, C); raises BadFileError where none is sound."""
        return self.read(index)[0]

    def read(self, index: Any) -> tuple[Pixels, NDArray[np.int64]]:
        """Return images uint8 (..., H, W, C), as indexing does, and the positions (...) that they come from."""
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
    """Return the data set of encoded images: decoded at once, without the broken ones, where they fit, else lazily.

    `read` takes an item, of which there is at least one, and returns uint8 (H, W, C) of `image_shape` (C, H, W) or
    raises BadFileError for a broken image; it runs in threads. `labels` (N,) and `classes` are those of the items,
    which errors call `name_of(item)`. Raises BadFileError where more than half are broken: of all, or of 64 spread over
    those that are decoded lazily.
    """
    channels, height, width = image_shape
    broken: list[str] = []
    sound: list[int] = []

    def tried(place: int) -> Pixels | str:
        try:
            return read(items[place])
        except BadFileError as exc:
            return str(exc)

    def refuse_if_most(failed: list[int], count: int) -> None:
        if 2 * len(failed) > count:
            raise _mostly_broken([name_of(items[place]) for place in failed], count)

    if len(items) * channels * height * width > MAX_ARRAY_BYTES:
        probed = np.unique(np.linspace(0, len(items) - 1, NUM_PROBED).astype(np.int64)).tolist()
        pairs = zip(probed, _in_threads(tried, probed), strict=True)
        refuse_if_most([place for place, image in pairs if isinstance(image, str)], len(probed))
        lazy = LazyImages(len(items), image_shape, lambda k: read(items[k]), broken, lambda k: name_of(items[k]))
        return Dataset(name, lazy, labels, None, broken, classes)
    images = np.empty((len(items), height, width, channels), dtype=np.uint8)
    for start in range(0, len(items), 1024):  # in parts, without a second copy of all images
        part = range(start, min(start + 1024, len(items)))
        for place, image in zip(part, _in_threads(tried, part), strict=True):
            if isinstance(image, str):
                broken.append(image)
            else:
                images[len(sound)] = image
                sound.append(place)
    refuse_if_most(sorted(set(range(len(items))) - set(sound)), len(items))
    return Dataset(name, images[: len(sound)], None if labels is None else labels[sound], None, broken, classes)


def _in_threads(do: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # Pillow decodes without the interpreter's lock
        return list(pool.map(do, items))


def _mostly_broken(names: list[str], count: int) -> BadFileError:
    first = ", ".join(names[:SHOWN])
    return BadFileError(
        f"{len(names)} of {count} images cannot be read, {first} first. Check that these are whole images."
    )
