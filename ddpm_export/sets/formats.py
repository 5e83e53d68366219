"""How a shard is written and read, and its digest. The only file that imports pyarrow and webdataset."""

import hashlib
import json
import math
import struct
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm_export.errors import BadFileError, first_line, not_installed
from ddpm_export.images.read import read_array, read_image
from ddpm_export.images.write import open_output, png_bytes
from ddpm_export.system.files import replacing

Pixels = NDArray[np.uint8]
Add = Callable[
    [range, NDArray[Any], Sequence[int]], None
]  # numbers, pictures (B, H, W, C), labels: none without classes
MAX_OVERHEAD = 2**16  # bytes of a picture besides its pixels: names, texts, and what a codec adds to noise
ROW_GROUP = 128  # pictures of a Parquet file that are read together


@dataclass(frozen=True)
class Content:
    """The contents of a shard: the numbers of its pictures, their shape (C, H, W), and the settings in their text.

    is_picture: False for float32 numbers of any shape in their place.

    names: of every label, empty without classes. labels: those that pictures have in turn.
    """

    numbers: range
    image_shape: tuple[int, ...]
    text: dict[str, Any]
    names: Sequence[str] = ()
    labels: Sequence[int] = ()
    is_picture: bool = True

    def labels_of(self, numbers: range) -> list[int]:
        """Return the labels of pictures by their numbers, none without classes."""
        return [self.labels[number % len(self.labels)] for number in numbers] if self.labels else []


@dataclass(frozen=True)
class Bounds:
    """The most pictures and bytes that a shard may hold."""

    pictures: int
    num_bytes: int

    def check(self, path: Path, pictures: int, num_bytes: int) -> None:
        """Raise BadFileError for a shard that holds more, before its contents are read."""
        if pictures > self.pictures or num_bytes > self.num_bytes:
            raise BadFileError(
                f"{path} holds {pictures} pictures in {num_bytes} bytes, more than the {self.pictures} in "
                f"{self.num_bytes} that it may hold. Do not use this file."
            )


@dataclass(frozen=True)
class Format:
    """The ending of a shard's name, what writes it whole or not at all, and what reads its pictures (N, H, W, C)."""

    ending: str
    write: Callable[[Path, Content], AbstractContextManager[Add]]
    read: Callable[[Path, Content, Bounds], Sequence[NDArray[Any]] | NDArray[Any]]


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as exc:
        raise not_installed("pyarrow", "shards") from exc
    return pyarrow, parquet


@contextmanager
def _write_parquet(path: Path, content: Content) -> Iterator[Add]:
    """Yield a function that adds rows of number, image and label, encoded as by Hugging Face's datasets."""
    pyarrow, parquet = _pyarrow()
    features: dict[str, Any] = {"number": {"dtype": "int64", "_type": "Value"}}
    columns = {"number": pyarrow.int64()}
    if content.is_picture:
        features["image"] = {"_type": "Image"}
        columns["image"] = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    else:
        features["values"] = {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "Sequence"}
        columns["values"] = pyarrow.list_(pyarrow.float32())
    if content.names:
        features["label"] = {"names": list(content.names), "_type": "ClassLabel"}
        columns["label"] = pyarrow.int64()
    schema = pyarrow.schema(columns, {"huggingface": json.dumps({"info": {"features": features}})})
    with replacing(path) as beside, parquet.ParquetWriter(beside, schema) as writer:
        rows: list[dict[str, Any]] = []

        def flush() -> None:
            if rows:
                writer.write_table(pyarrow.Table.from_pylist(rows, schema))
                rows.clear()

        def add(numbers: range, pixels: Pixels, labels: Sequence[int]) -> None:
            for k, (number, image) in enumerate(zip(numbers, pixels, strict=True)):
                row = {"number": number, "values": image.reshape(-1)}
                if content.is_picture:
                    row = {"number": number, "image": {"bytes": png_bytes(image), "path": f"{number:09d}.png"}}
                rows.append({**row, "label": int(labels[k])} if content.names else row)
                if len(rows) == ROW_GROUP:
                    flush()

        yield add
        flush()


def _read_parquet(path: Path, content: Content, most: Bounds) -> list[NDArray[Any]]:
    _, parquet = _pyarrow()
    column = "image" if content.is_picture else "values"
    with parquet.ParquetFile(path) as file:
        groups = [file.metadata.row_group(k) for k in range(file.metadata.num_row_groups)]
        most.check(path, file.metadata.num_rows, sum(group.total_byte_size for group in groups))
        rows = file.read(columns=[column])[column].to_pylist()
    if not content.is_picture:
        return [np.array(row, dtype=np.float32).reshape(content.image_shape) for row in rows]
    return [read_image(row["bytes"], content.image_shape[0], where=str(path)) for row in rows]


@contextmanager
def _write_tar(path: Path, content: Content) -> Iterator[Add]:
    """Yield a function that adds samples named as by WebDataset: K.png, and K.cls of a model with classes."""
    try:
        from webdataset import TarWriter
    except ImportError as exc:
        raise not_installed("webdataset", "shards") from exc
    with replacing(path) as beside, TarWriter(str(beside), encoder=False, mtime=0) as writer:

        def add(numbers: range, pixels: Pixels, labels: Sequence[int]) -> None:
            for k, (number, image) in enumerate(zip(numbers, pixels, strict=True)):
                sample = {"__key__": f"{number:09d}", "png": png_bytes(image)}
                writer.write({**sample, "cls": str(int(labels[k])).encode()} if content.names else sample)

        yield add


def _read_tar(path: Path, content: Content, most: Bounds) -> list[Pixels]:
    found: list[Pixels] = []
    with tarfile.open(path, "r:") as archive:  # never compressed: a few megabytes could unpack to any number
        for member in archive:
            file = archive.extractfile(member) if member.isreg() and member.name.endswith(".png") else None
            if file is not None:
                most.check(path, len(found) + 1, member.size)
                found.append(read_image(file.read(), content.image_shape[0], where=f"{path}: {member.name}"))
    return found


@contextmanager
def _write_as_run(path: Path, content: Content) -> Iterator[Add]:
    """Yield a function that adds pictures to an .npy or a folder, as those of a request are written."""
    names = [content.names[label] for label in content.labels]
    what = (content.numbers, content.image_shape, 1, content.text, names)
    with open_output(path, *what, is_picture=content.is_picture) as output:
        yield lambda numbers, pixels, _labels: output.add(numbers, 1, pixels)


def _read_folder(path: Path, content: Content, most: Bounds) -> list[Pixels]:
    files = sorted(path.glob("*.png"), key=lambda file: int(file.stem))
    most.check(path, len(files), size_of(path) or 0)
    return [read_image(file, content.image_shape[0]) for file in files]


FORMATS = {
    "parquet": Format(".parquet", _write_parquet, _read_parquet),
    "tar": Format(".tar", _write_tar, _read_tar),
    "npy": Format(".npy", _write_as_run, lambda path, _content, _most: read_array(path)),
    "png": Format("", _write_as_run, _read_folder),
}


def size_of(path: Path) -> int | None:
    """Return the bytes of a file or of a folder's pictures, or None; links do not count."""
    if path.is_symlink():
        return None
    if path.is_dir():
        files = list(path.glob("*.png"))
        return sum(file.lstat().st_size for file in files) if all(map(_is_plain, files)) else None
    return path.lstat().st_size if _is_plain(path) else None


def check_size(path: Path, num_bytes: int, at_least: int = 0) -> None:
    """Raise BadFileError unless a shard is a plain file or folder of this size, and at least the other."""
    found = size_of(path)
    if found is None or found != num_bytes or found < at_least:
        raise BadFileError(f"{path} must be the {num_bytes} bytes that were written. Delete it and make it again.")


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def read_shard(path: Path, format: str, content: Content, num_bytes: int, digest: str) -> NDArray[Any]:  # noqa: A002
    """Return the pictures of a shard, uint8 (N, H, W, C), or its numbers, float32 (N, *shape).

    Its kind, size and counts are checked before its contents are read, which may unpack to more than any memory. Raises
    BadFileError for a shard that differs from its record.
    """
    kind = np.dtype("uint8" if content.is_picture else "float32")
    shape = (*content.image_shape[1:], content.image_shape[0]) if content.is_picture else content.image_shape
    check_size(path, num_bytes)
    count = len(content.numbers)
    most = Bounds(count, count * (2 * math.prod(shape) * kind.itemsize + MAX_OVERHEAD))
    try:
        pixels = np.asarray(FORMATS[format].read(path, content, most))
    except (OSError, ValueError, KeyError, TypeError, tarfile.TarError) as exc:  # pyarrow's errors are ValueErrors
        raise BadFileError(f"{path} cannot be read: {first_line(exc)}. Delete it and make it again.") from exc
    wanted = (count, *shape)
    if pixels.shape != wanted or pixels.dtype != kind:
        raise BadFileError(f"{path} must hold {kind} {wanted}, got {pixels.dtype} {pixels.shape}. Make it again.")
    if hexadecimal(digest_of(content.numbers, pixels, content.labels_of(content.numbers))) != digest:
        raise BadFileError(f"{path} holds other pictures than were made. Delete it and make it again.")
    return pixels


def digest_of(numbers: range, pixels: NDArray[Any], labels: Sequence[int]) -> int:
    """Return the digest of pictures (B, H, W, C) and their labels, none without classes.

    It is the sum of the SHA-256 of each: its number and label (-1 without), int64, little-endian, and its bytes. So the
    digests of parts add up, modulo 2^256, to that of the whole, in any order. It detects accidents; it is no signature.
    """
    inputs = labels or [-1] * len(numbers)
    whole = 0
    for number, label, image in zip(numbers, inputs, pixels, strict=True):
        entry = hashlib.sha256(struct.pack("<qq", number, label) + image.tobytes())
        whole += int.from_bytes(entry.digest(), "big")
    return whole % 2**256


def hexadecimal(digest: int) -> str:
    """Return a digest, or a sum of digests, as manifests write it."""
    return f"{digest % 2**256:064x}"
