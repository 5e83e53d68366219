"""Fashion-MNIST, and the idx files it comes in. Knows neither torch nor the network."""

import gzip
import hashlib
import io
import math
import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from ddpm_export.errors import BadFileError, EnvironmentProblem, first_line
from ddpm_export.scoring.datasets.dataset import Dataset
from ddpm_export.system.download import downloaded
from ddpm_export.system.files import cache_folder, open_plain, replacing

# Xiao et al. 2017. The digests are of the unpacked files: mirrors pack them anew.
FASHION_MNIST_HOME = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
FASHION_MNIST_SHA256 = {
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
# Xiao et al. 2017, table 2
CLASSES = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
FOLDER_VARIABLE = "DDPM_EXPORT_FASHION_MNIST"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
MAX_IDX_BYTES = 2**30
MAX_DOWNLOAD_BYTES = 2**26  # packed or not


def read_idx(path: str | Path) -> NDArray[np.uint8]:
    """Read one idx file of unsigned bytes, gzipped or plain (LeCun's MNIST format): uint8, shape as in the file.

    Raises BadFileError for anything else, including a size that disagrees with the header.
    """
    try:
        with open_plain(path) as packed:
            return _idx_from(_unpacking(packed), path)
    except (OSError, EOFError, zlib.error) as exc:
        reason = getattr(exc, "strerror", None) or first_line(exc)
        raise BadFileError(f"{path} cannot be read: {reason}. Download it again.") from exc


def _unpacking(file: BinaryIO) -> BinaryIO:
    """Return a file, unpacked as it is read where it is a gzip."""
    is_packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    return cast(BinaryIO, gzip.GzipFile(fileobj=file)) if is_packed else file


def _idx_from(file: BinaryIO, path: str | Path) -> NDArray[np.uint8]:
    start = file.read(4)
    dims = start[3] if len(start) == 4 else 0
    sizes = file.read(4 * dims)
    if len(start) < 4 or start[:3] != b"\x00\x00\x08" or len(sizes) < 4 * dims:
        raise BadFileError(
            f"{path} is not an idx file of bytes: it must start with 00 00 08 and the number of dimensions, got "
            f"{start!r}."
        )
    shape = struct.unpack(f">{dims}I", sizes)
    if not 1 <= len(shape) <= 4 or 0 in shape:
        raise BadFileError(
            f"{path} must have 1 to 4 dimensions, none of them 0, got {len(shape)}, first {shape[:4]!r}."
        )
    wanted = math.prod(shape)  # Python integers: a hostile header cannot overflow
    if wanted > MAX_IDX_BYTES:
        raise BadFileError(f"{path} must have at most {MAX_IDX_BYTES} bytes of data, and its shape is {shape}.")
    raw = file.read(wanted + 1)  # bounded: a small file can unpack to fill the memory
    if len(raw) != wanted:
        raise BadFileError(
            f"{path} must have {wanted} bytes of data for shape {shape}, got {len(raw)}"
            f"{' or more' if len(raw) > wanted else ''}. Download it again."
        )
    return np.frombuffer(raw, dtype=np.uint8).reshape(shape)


def fashion_mnist(
    folder: str | Path | None = None, *, train: bool = True, home: str = FASHION_MNIST_HOME, timeout_s: float = 60.0
) -> Dataset:
    """Read Fashion-MNIST (Xiao et al. 2017): 60,000 or 10,000 images (N, 28, 28, 1) uint8 and labels 0-9.

    The files (gzipped or plain) come from `folder`, else from the folder in the environment variable
    DDPM_EXPORT_FASHION_MNIST, else from Debian's dataset-fashion-mnist, else from the user's cache, into which they are
    downloaded from `home` once and checked against their SHA-256. Raises BadFileError for missing or other files,
    EnvironmentProblem where they cannot be downloaded.
    """
    part = "train" if train else "t10k"
    names = [f"{part}-images-idx3-ubyte.gz", f"{part}-labels-idx1-ubyte.gz"]
    place = (os.environ.get(FOLDER_VARIABLE) or None) if folder is None else folder
    if place is not None:
        paths = [_gzipped_or_plain(Path(place), name) for name in names]
        for path in paths:
            if folder is None and not path.exists():
                raise BadFileError(f"{FOLDER_VARIABLE} is {place!r}, which has no {path.name}.")
    elif all((DEBIAN_FOLDER / name).exists() for name in names):
        paths = [DEBIAN_FOLDER / name for name in names]
    else:
        paths = [_downloaded(name, home, timeout_s) for name in names]
    images, labels = read_idx(paths[0]), read_idx(paths[1])
    if images.ndim != 3 or images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
        raise BadFileError(
            f"{paths[0]} is not Fashion-MNIST: its images are {images.shape} and labels {labels.shape}, not "
            "(N, 28, 28) and (N,)."
        )
    classes = CLASSES if labels.max() < len(CLASSES) else None  # others publish other labels in the same files
    return Dataset("fashion-mnist", images[..., None], labels.astype(np.int64), "MIT", classes=classes)


def _gzipped_or_plain(folder: Path, name: str) -> Path:
    plain = folder / name.removesuffix(".gz")
    return plain if plain.exists() else folder / name


def _downloaded(name: str, home: str, timeout_s: float) -> Path:
    path = cache_folder() / "fashion-mnist" / name
    if path.exists():  # written whole or not at all, and only after its digest was checked
        return path
    url = f"{home}/{name}"
    try:
        raw = downloaded(url, MAX_DOWNLOAD_BYTES, timeout_s)
    except OSError as exc:
        raise EnvironmentProblem(
            f"{url} cannot be downloaded: {exc}. Pass `data=DIR` (ddpm-eval: --data "
            f"fashion-mnist:DIR) with the four files, set {FOLDER_VARIABLE} to that folder, or install Debian's "
            "dataset-fashion-mnist."
        ) from exc
    try:
        unpacked = _unpacking(io.BytesIO(raw)).read(MAX_DOWNLOAD_BYTES + 1)  # bounded: it may be anything
    except (OSError, EOFError, zlib.error) as exc:
        raise BadFileError(f"{url} cannot be unpacked: {first_line(exc)}. Download it again.") from exc
    if len(unpacked) > MAX_DOWNLOAD_BYTES:
        raise BadFileError(f"{url} must unpack to at most {MAX_DOWNLOAD_BYTES} bytes. Get the file elsewhere.")
    digest = hashlib.sha256(unpacked).hexdigest()
    if digest != FASHION_MNIST_SHA256[name]:
        raise BadFileError(
            f"{url} must have SHA-256 {FASHION_MNIST_SHA256[name]}, got {digest}. Get the four files "
            f"elsewhere, and pass `data=DIR` (ddpm-eval: --data fashion-mnist:DIR) or set {FOLDER_VARIABLE}."
        )
    with replacing(path) as beside:
        beside.write_bytes(raw)
    return path
