"""Encoded images in an LMDB, as LSUN publishes them. The only file that names lmdb."""

import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm_export.errors import BadFileError, first_line, not_installed
from ddpm_export.images.read import read_image
from ddpm_export.scoring.datasets.dataset import Dataset, encoded_images
from ddpm_export.system.files import open_plain

MAGIC = 0xBEEFC0DE
MAX_IMAGE_BYTES = 2**28  # encoded; LSUN's have some 20,000
META = struct.Struct("<16x 2I 2Q I 92x Q")  # page header, magic, version, address, map size, page size, ..., last page
WALK = """
import sys
path, *sys.path[:] = sys.argv[1:]
import lmdb, os
with lmdb.open(path, subdir=os.path.isdir(path), readonly=True, lock=False, readahead=False) as database:
    with database.begin(buffers=True) as transaction, transaction.cursor() as cursor:
        for _ in cursor.iternext():
            pass
"""


def lmdb_images(path: str | Path, image_shape: tuple[int, int, int]) -> Dataset:
    """Read the images that an LMDB holds as values (LSUN, Yu et al. 2015), in the order of their keys.

    `read_image` crops and resizes each to `image_shape` (C, H, W), C 1 or 3. Raises BadFileError for a file that is no
    LMDB or an empty one, EnvironmentProblem where the package lmdb is missing.
    """
    try:
        import lmdb
    except ImportError as exc:
        raise not_installed("lmdb", "lmdb") from exc
    _check_length(Path(path) / "data.mdb" if os.path.isdir(path) else Path(path))
    _walk_apart(path)
    try:
        # no lock: nobody writes, and the folder may be read-only; no readahead: positions come in random order
        database = lmdb.open(str(path), subdir=os.path.isdir(path), readonly=True, lock=False, readahead=False)
        with database.begin() as transaction, transaction.cursor() as cursor:
            keys = list(cursor.iternext(keys=True, values=False))
    except lmdb.Error as exc:
        raise BadFileError(f"{path} cannot be read as an LMDB: {first_line(exc)}.") from exc
    if not keys:
        raise BadFileError(f"{path} is an empty LMDB. It must hold images.")
    channels, height, width = image_shape

    def read(key: Any) -> NDArray[np.uint8]:
        try:
            with database.begin(buffers=True) as transaction:
                found = transaction.get(key, b"")
                if len(found) > MAX_IMAGE_BYTES:  # a node of a few bytes may claim 4 GiB of a file that is mostly holes
                    raise BadFileError(f"{name_of(key)} must have at most {MAX_IMAGE_BYTES} bytes, got {len(found)}.")
                value = bytes(found)
        except lmdb.Error as exc:
            raise BadFileError(f"{name_of(key)} cannot be read from the LMDB: {first_line(exc)}.") from exc
        return read_image(value, channels, size=(height, width), where=name_of(key))

    def name_of(key: Any) -> str:
        return f"{path}, key {key!r}"

    return encoded_images(Path(path).name, keys, read, image_shape, name_of=name_of)


def _check_length(file: Path) -> None:
    """Raise BadFileError for a file that is cut off: lmdb maps it, and reading beyond its end kills the process."""
    try:
        with open_plain(file) as opened:
            found = META.unpack(opened.read(META.size))
            size = os.fstat(opened.fileno()).st_size
            opened.seek(found[4])
            pages = max(found[5], META.unpack(opened.read(META.size))[5]) + 1  # the newer of two, whichever it is
    except (OSError, ValueError, struct.error) as exc:
        raise BadFileError(f"{file} cannot be read as an LMDB: {first_line(exc)}.") from exc
    if found[0] == MAGIC and size < pages * found[4]:
        raise BadFileError(f"{file} must have {pages * found[4]} bytes, got {size}. Download it again.")


def _walk_apart(path: str | Path) -> None:
    """Walk the whole tree in another process, since a damaged page ends it; raise BadFileError then."""
    command = [sys.executable, "-I", "-c", WALK, str(path), *sys.path]
    ended = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode
    if ended < 0:
        raise BadFileError(f"{path} cannot be read as an LMDB: its pages are damaged. Download it again.")
