"""Files of torch.save, read in a child: its process gives back raw storages as safetensors, and JSON that names them.

Whatever the file does to torch happens under the child's limits (`ddpm_export/sandbox`); this process sees no pickle.
"""

import json
import os
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ddpm_export.errors import BadFileError, DdpmExportError, EnvironmentProblem, shown
from ddpm_export.importers.checkpoint import check_is_file, load_torch_file
from ddpm_export.sandbox.child import Worker, answer, confine
from ddpm_export.system.archives import MAX_CODE_BYTES

if TYPE_CHECKING:
    from torch import Tensor


SPARE_BYTES = 2**30  # of memory, beyond what torch takes and twice the file
START_S, BYTES_A_SECOND = 120, 2**24  # of a slow disk on a busy machine
MAX_VALUES, MAX_NESTED = 2**20, 100


class TorchFile:
    """A file of torch.save that a child reads from now on, while this process goes on with something else.

    Raises BadFileError for a path that is no file. To be used in `with`, whose end is the child's.
    """

    def __init__(self, path: str | Path) -> None:
        check_is_file(path)
        self._path, size = path, os.path.getsize(path)
        if os.name != "posix":
            return
        descriptor, self._place = tempfile.mkstemp(prefix="ddpm-checkpoint-", suffix=".safetensors")
        os.close(descriptor)
        self._worker = Worker("ddpm_export.importers.apart:be_reader", str(path), self._place)
        self._answer = self._worker.begin(timeout_s=START_S + size / BYTES_A_SECOND)

    def __enter__(self) -> "TorchFile":
        return self

    def __exit__(self, *_exception: object) -> None:
        if os.name == "posix":
            self._worker.end()
            os.unlink(self._place)

    def contents(self) -> Any:
        """Return the tensors and plain values in it, on the CPU. Raises BadFileError for what cannot be read safely."""
        if os.name != "posix":  # there is no child
            return load_torch_file(self._path)
        inputs = self._answer.result()
        from safetensors.torch import load_file

        # copied: a mapped file is not aligned, and is about to go
        storages = {name: storage.clone() for name, storage in load_file(self._place).items()}
        return _rebuilt(inputs, storages)


@contextmanager
def reading(path: str | Path) -> Iterator[TorchFile | None]:
    """Begin to read a path at once where a file of torch.save may lie there, before anything of torch is imported."""
    if not os.path.isfile(path) or Path(path).suffix == ".safetensors":
        yield None
        return
    with TorchFile(path) as file:
        yield file


def be_reader() -> None:
    """Be the child: `arguments` are the file to read and the one to write storages into."""
    path, place = map(Path, sys.argv[1:])
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 2)  # the parent imports torch as well, and says what there is to say of it
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # a thread that ran before would keep its rights
    import numpy as np
    import torch

    del np, torch
    import resource  # Windows has none

    size = os.path.getsize(path)
    most = size + 2 * MAX_CODE_BYTES
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    confine(
        path,
        timeout_s=START_S + size / BYTES_A_SECOND,
        memory_gib=(_addresses() + 2 * size + SPARE_BYTES) / 2**30,
        writes=[place],
        remedy="Do not use this file unless you made it",
    )
    answer(lambda: _told(path, place))


def _addresses() -> int:
    """Return how many bytes of addresses this process has; many where the system neither says nor limits it."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGESIZE")
    except OSError:
        return 2**35


def _told(path: Path, place: Path) -> Any:
    """Read the file, write its storages and return its contents as JSON."""
    storages: dict[int, Any] = {}
    try:
        inputs = _described(load_torch_file(path), storages)
        json.dumps(inputs)  # an integer of too many digits
    except DdpmExportError:
        raise
    except ValueError as exc:
        raise BadFileError(f"{path} cannot be read safely: {exc}. Save its state dict alone.") from exc
    try:
        with place.open("wb") as file:
            _write_safetensors(file, [storage for storage, _ in storages.values()])
    except OSError as exc:
        raise EnvironmentProblem(
            f"{place} cannot be written: {exc.strerror}. Set TMPDIR to a folder with room."
        ) from exc
    return inputs


def _write_safetensors(file: BinaryIO, storages: list["Tensor"]) -> None:
    """Write storages, each as bytes, named by their place; the package itself would copy all of them first."""
    ends = [0, *accumulate(storage.numel() for storage in storages)]
    header = {
        str(k): {"dtype": "U8", "shape": [storage.numel()], "data_offsets": ends[k : k + 2]}
        for k, storage in enumerate(storages)
    }
    text = json.dumps(header).encode()
    file.write(struct.pack("<Q", len(text)) + text)
    for storage in storages:
        file.write(storage.numpy().data)


def _described(contents: Any, storages: dict[int, Any]) -> Any:
    """Return contents as JSON: plain values as they are, everything else as [kind, items]; fill in storages.

    Raises ValueError for what nests or repeats without end, and for tensors whose values do not lie in a storage.
    """
    import torch

    count = 0

    def described(value: Any, depth: int) -> Any:
        nonlocal count
        count += 1
        if depth > MAX_NESTED or count > MAX_VALUES:
            raise ValueError(f"values nested more than {MAX_NESTED} deep, or more than {MAX_VALUES} of them")
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, torch.Tensor):
            return ["tensor", _described_tensor(value, storages)]
        if isinstance(value, dict):
            pairs = [[described(key, depth + 1), described(item, depth + 1)] for key, item in value.items()]
            return ["dict", pairs]
        for kind in (list, tuple, set):
            if isinstance(value, kind):
                return [kind.__name__, [described(item, depth + 1) for item in value]]
        return ["other", type(value).__name__]

    return described(contents, 0)


def _described_tensor(tensor: "Tensor", storages: dict[int, Any]) -> list[Any]:
    import torch

    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested or tensor.device.type != "cpu":
        kind = "quantized" if tensor.is_quantized else f"{tensor.layout} on {tensor.device}".removeprefix("torch.")
        raise ValueError(f"a tensor that is {kind}, not dense numbers")
    plain = tensor.detach().resolve_conj().resolve_neg()
    storage = plain.untyped_storage()
    whole = torch.empty(0, dtype=torch.uint8).set_(storage)
    # the tensor is kept beside its number: the address of one that is gone may be another's
    _, number = storages.setdefault(storage.data_ptr(), (whole, len(storages)))
    dtype = str(plain.dtype).removeprefix("torch.")
    return [dtype, number, plain.storage_offset(), list(plain.shape), list(plain.stride())]


class _Other:
    """Stand for a value that is neither a tensor nor plain, and that no importer asks for."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __repr__(self) -> str:
        return f"<{self.kind}>"


def _rebuilt(inputs: Any, storages: dict[str, "Tensor"]) -> Any:
    """Return the contents that `_described` was given."""
    if not isinstance(inputs, list):
        return inputs
    kind, items = inputs
    if kind == "tensor":
        return _rebuilt_tensor(storages, *items)
    if kind == "other":
        return _Other(items)
    if kind == "dict":
        return {_rebuilt(key, storages): _rebuilt(item, storages) for key, item in items}
    kinds: dict[str, Callable[[Any], Any]] = {"list": list, "tuple": tuple, "set": set}
    return kinds[kind](_rebuilt(item, storages) for item in items)


def _rebuilt_tensor(
    storages: dict[str, "Tensor"], dtype: str, number: int, offset: int, shape: list[int], stride: list[int]
) -> "Tensor":
    import torch

    kind = getattr(torch, dtype)
    if not isinstance(kind, torch.dtype):
        raise BadFileError(f"the checkpoint's process told of a type {shown(dtype)}.")
    storage = storages[str(number)]
    whole = storage[: len(storage) - len(storage) % kind.itemsize].view(kind)
    return whole.as_strided(shape, stride, offset)  # which refuses what lies beyond the storage
