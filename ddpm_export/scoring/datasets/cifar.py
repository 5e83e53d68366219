"""CIFAR-10, from its binary or its python files. Unpickles no foreign code; knows neither torch nor the network."""

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm_export.errors import BadFileError
from ddpm_export.scoring.datasets.dataset import Dataset
from ddpm_export.system.files import read_bounded

# in the order of batches.meta
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FOLDERS = ("", "cifar-10-batches-bin", "cifar-10-batches-py")
PIXELS = 3 * 32 * 32  # planes of red, green and blue
MAX_BYTES = 2**26  # a file has 10,000 images, 31 MB
MAX_INSTRUCTIONS, MAX_GETS = 200_000, 32  # a file has some 40,000, and a handful

Batch = tuple[NDArray[np.uint8], NDArray[np.int64]]


def cifar10(folder: str | Path, *, train: bool = True) -> Dataset:
    """Read CIFAR-10 (Krizhevsky 2009): 50,000 or 10,000 images (N, 32, 32, 3) uint8 and labels 0-9.

    `folder` holds the batches of the binary or the python version, or the folder they were packed in. Raises
    BadFileError for a file that is missing, cut off or holds anything else.
    """
    names = [f"data_batch_{number}" for number in range(1, 6)] if train else ["test_batch"]
    for place in (Path(folder) / inner for inner in FOLDERS):
        if (place / f"{names[0]}.bin").exists():
            batches = [_binary_batch(place / f"{name}.bin") for name in names]
            break
        if (place / names[0]).exists():
            batches = [_python_batch(place / name) for name in names]
            break
    else:
        raise BadFileError(f"{folder} is not CIFAR-10: it has neither {names[0]} nor {names[0]}.bin. Check `data`.")
    planes = np.concatenate([data for data, _ in batches]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([labels for _, labels in batches])
    return Dataset("cifar10", np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels, None, classes=CLASSES)


def _binary_batch(path: Path) -> Batch:
    raw = read_bounded(path, MAX_BYTES)
    if not raw or len(raw) % (1 + PIXELS):
        raise _not_a_batch(path, f"{len(raw)} bytes, not a multiple of {1 + PIXELS}")
    rows = np.frombuffer(raw, dtype=np.uint8).reshape(-1, 1 + PIXELS)
    return _checked(path, rows[:, 1:], rows[:, 0].astype(np.int64))


def _python_batch(path: Path) -> Batch:
    try:
        raw = read_bounded(path, MAX_BYTES)
        _check_instructions(raw)
        contents = _Unpickler(io.BytesIO(raw), encoding="bytes").load()
        data, labels = contents[b"data"].pixels, np.array(contents[b"labels"])
    except BadFileError:
        raise
    except Exception as exc:  # a broken or hostile pickle raises nearly anything
        raise _not_a_batch(path, f"{type(exc).__name__}: {' '.join(str(exc).split())[:100]}") from exc
    if labels.ndim != 1 or labels.dtype.kind != "i":
        raise _not_a_batch(path, f"labels {labels.dtype}, {labels.ndim} dimensions")
    return _checked(path, data, labels.astype(np.int64))


def _checked(path: Path, data: NDArray[np.uint8], labels: NDArray[np.int64]) -> Batch:
    if len(data) != len(labels) or labels.min() < 0 or labels.max() > 9:
        raise _not_a_batch(path, f"{len(data)} images and {len(labels)} labels from {labels.min()} to {labels.max()}")
    return data, labels


def _not_a_batch(path: Path, got: str) -> BadFileError:
    return BadFileError(
        f"{path} is not a batch of CIFAR-10, 32x32 images with labels 0 to 9: {got}. Download it again."
    )


def _check_instructions(raw: bytes) -> None:
    """Raise ValueError for a pickle that would fill the memory or never end.

    A memo is as long as its highest number; a value that is fetched twice and stored again doubles each time.
    """
    gets = 0
    for count, (instruction, argument, _) in enumerate(pickletools.genops(raw), 1):
        name = instruction.name
        gets += name.endswith("GET")
        is_far = name.endswith("PUT") and int(argument or 0) > count
        if name == "DUP" or is_far or count > MAX_INSTRUCTIONS or gets > MAX_GETS:
            raise ValueError(f"the instruction {name}, number {count}")


class _Type:
    """Stands for numpy.dtype in a pickle: keeps its name and ignores its state."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        pass


class _Array:
    """Stands for numpy.ndarray in a pickle: accepts only rows of unsigned bytes as its state."""

    pixels: NDArray[np.uint8]

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        _version, shape, kind, in_columns, raw = state
        if kind.name != b"u1" or in_columns or len(shape) != 2 or shape[1] != PIXELS:
            raise ValueError(f"an array {shape} of {kind.name!r}")
        self.pixels = np.frombuffer(raw, dtype=np.uint8).reshape(shape)


STAND_INS = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
}


class _Unpickler(pickle.Unpickler):
    """Reads dicts, lists, numbers, bytes and, by stand-ins, the array that these files hold.

    numpy's own reconstruction is not safe: a type with forged flags turns bytes into pointers.
    """

    def find_class(self, module: str, name: str) -> Any:
        try:
            return STAND_INS[module, name]
        except KeyError:
            raise ValueError(f"the name {module}.{name}") from None
