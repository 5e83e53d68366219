"""TorchScript (`.ts`) and torch.export (`.pt2`) files: a zip archive with our spec in it, run by torch on a device.

Both can run code of the file, so `open_model` asks for trust before it comes here.
"""

import os
import pickle
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_export.errors import (
    BadFileError,
    EnvironmentProblem,
    ModelRefusedError,
    first_line,
    not_installed,
    several,
    shown,
)
from ddpm_export.model.inputs import checked_inputs
from ddpm_export.model.spec import MAX_JSON_BYTES, ModelSpec
from ddpm_export.model.spec_json import spec_from_json
from ddpm_export.process.equations import Array, Model
from ddpm_export.runtimes.providers import Provider

SPEC_NAME = "ddpm_export.json"
MAX_CODE_BYTES = 2**26
END_BYTES = 22  # of an archive's last record, where no comment follows it


def spec_from_archive(path: Path) -> ModelSpec:
    """Read the spec of a torch archive as plain text, after its checksums, which torch itself does not look at.

    Raises BadFileError for a file that is no such archive, is damaged or carries no spec of ours.
    """
    try:
        if not begins_as_archive(path):
            raise zipfile.BadZipFile("File is not a zip file")
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if entry.filename.endswith(f"/extra/{SPEC_NAME}")]
            if len(entries) != 1 or entries[0].file_size > MAX_JSON_BYTES:
                raise BadFileError(
                    f"{path}: not a file of ddpm-export: it must have one entry extra/{SPEC_NAME} of at most "
                    f"{MAX_JSON_BYTES} bytes, got {len(entries)} entries. Export the checkpoint with ddpm-export."
                )
            check_archive(path, archive)
            text = archive.read(entries[0]).decode()
    except BadFileError:
        raise
    except Exception as exc:  # zipfile raises whatever a decoder met
        raise broken_file(path, exc) from exc
    return spec_from_json(text)


def check_archive(path: str | Path, archive: zipfile.ZipFile) -> None:
    """Raise BadFileError for an archive that unpacks to far more than it is long, or with a wrong checksum.

    torch compresses nothing but code, and no two entries share their bytes. Also for one that two readers may read
    otherwise: of equal names zipfile takes the last entry and torch the first, whatever their case, and torch looks
    only into the folder of the first entry.
    """
    entries = archive.infolist()
    size = sum(entry.file_size for entry in entries)
    if size > os.path.getsize(path) + MAX_CODE_BYTES:
        raise BadFileError(f"{path} would unpack to {size} bytes, far more than its own size. Do not use this file.")
    names = Counter(entry.filename.casefold() for entry in entries)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise ambiguous(path, f"its archive has {shown(twice[0])} more than once, whatever the case of its letters")
    folders = sorted({name.partition("/")[0] for name in names})
    parts = {part for name in names for part in name.split("/")}
    if len(folders) != 1 or parts & {"", ".", ".."} or not all("/" in name and "\\" not in name for name in names):
        raise ambiguous(path, f"its archive must have plain names in one folder, got {several(map(shown, names), 2)}")
    with open(path, "rb") as file:
        file.seek(-END_BYTES, os.SEEK_END)
        is_at_end = file.read(4) == b"PK\x05\x06"
    if archive.comment or not is_at_end or min(entry.header_offset for entry in entries) > 0:
        raise ambiguous(path, "something lies before or behind its archive")
    broken = archive.testzip()
    if broken is not None:
        raise BadFileError(f"{path}: damaged: the checksum of {broken!r} is wrong. Copy the file again.")


def begins_as_archive(path: str | Path) -> bool:
    """Return whether a file is an archive from its first byte, as torch looks for it.

    Raises BadFileError where it only ends as one, as zipfile looks for it: each would read something else.
    """
    with open(path, "rb") as file:
        begins = file.read(4) == b"PK\x03\x04"
    if zipfile.is_zipfile(path) and not begins:
        raise ambiguous(path, "something lies before its archive")
    return begins


def ambiguous(path: str | Path, how: str) -> BadFileError:
    """Return the error for a file that two readers would read as two."""
    return BadFileError(f"{path} is ambiguous: {how}. Do not use this file unless you made it; then save it again.")


def refused_by_torch(path: str | Path, exc: Exception, unsafe: Sequence[str] = ()) -> BadFileError:
    """Return the one error for whatever torch met in a file, in our words: torch's own advise to load it unsafely.

    unsafe: the names of functions and classes that its pickle asks for and torch does not allow.
    """
    if unsafe:
        return BadFileError(
            f"{path} holds more than tensors and plain values: its pickle asks for {several(map(shown, unsafe), 3)}. "
            "Do not use this file unless you made it; then save its state dict alone with torch.save."
        )
    reasons = {
        pickle.UnpicklingError: "its pickle is damaged, or asks for more than tensors and plain values",
        EOFError: "it ends too early",
        MemoryError: "it needs more memory than there is",
        RecursionError: "it nests without end",
    }
    reason = next((text for kind, text in reasons.items() if isinstance(exc, kind)), "its contents do not fit together")
    return BadFileError(
        f"{path} cannot be loaded by torch, which ends with {type(exc).__name__}: {reason}. Copy it again, or save its "
        "state dict alone."
    )


def broken_file(path: Path, exc: Exception) -> BadFileError:
    """Return the one error for whatever zipfile met in a file."""
    return BadFileError(f"{path} is damaged: {first_line(exc)}. Export or copy it again.")


def import_torch() -> Any:
    """Return torch, or raise EnvironmentProblem with what to install."""
    try:
        import torch
    except ImportError as exc:
        raise not_installed("torch", "export", instead=", or use the .onnx file") from exc
    return torch


def torch_device(provider: Provider, threads: int | None) -> str:
    """Return torch's device for a provider; threads, if any, hold for the whole process, as torch has it.

    Raises EnvironmentProblem where torch has no such device.
    """
    torch, device = import_torch(), provider.torch_device
    if device is None:
        raise EnvironmentProblem(f"provider {provider.name} does not run .ts and .pt2 files. Use the .onnx file.")
    if device != "cpu" and not getattr(torch, device).is_available():
        raise EnvironmentProblem(
            f"provider {provider.name}: torch cannot use it. It needs {provider.needs} and a build of torch for it; "
            "`provider=cpu` needs nothing."
        )
    if device == "cuda":  # TF32 keeps 10 bits of mantissa: parity needs it off
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
    if threads is not None:
        torch.set_num_threads(threads)
    return device


def model_from_module(module: Callable[..., Any], spec: ModelSpec, device: str, *, by_name: bool = True) -> Model:
    """Return a torch module on a device as a Model: NumPy in and out, the outputs named as the spec names them.

    by_name: whether it takes the spec's inputs by their names, after x_t and t; else in the spec's order. The model
    raises UsageError for inputs that are not those of the spec.
    """
    torch = import_torch()

    def model(x_t: Array, t: Array, **inputs: Array) -> dict[str, Array]:
        feeds = checked_inputs(spec.input_types, x_t, t, inputs)
        # torch warns of arrays that cannot be written, such as one value broadcast to all images
        writable = {name: np.require(values, requirements="W") for name, values in feeds.items()}
        tensors = {name: torch.from_numpy(values).to(device) for name, values in writable.items()}
        named = {item.name: tensors.pop(item.name) for item in spec.inputs} if by_name else {}
        with torch.no_grad():
            out = module(*tensors.values(), **named)
        outputs = out if isinstance(out, (tuple, list)) else (out,)
        if len(outputs) != len(spec.outputs) or not all(isinstance(output, torch.Tensor) for output in outputs):
            got = ", ".join(type(output).__name__ for output in outputs)
            raise ModelRefusedError(
                f"network: it must return a tensor for each of {', '.join(spec.outputs)}, as its spec says, got {got}."
            )
        return {name: output.cpu().numpy() for name, output in zip(spec.outputs, outputs, strict=True)}

    return model


def open_torch(path: Path, provider: Provider, threads: int | None) -> tuple[Model, ModelSpec]:
    """Open `*.ts` or `*.pt2` on a provider's device; the spec is read before anything in the file runs."""
    spec, is_script = spec_from_archive(path), path.suffix == ".ts"
    device = torch_device(provider, threads)
    try:
        module = _script(path, device) if is_script else _program(path, device)
    except Exception as exc:  # torch raises whatever its parser and unpickler met: one translation for all of it
        raise refused_by_torch(path, exc) from exc
    return model_from_module(module, spec, device, by_name=not is_script), spec


def _program(path: Path, device: str) -> Any:
    program = import_torch().export.load(str(path))
    if device != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    return program.module()


def _script(path: Path, device: str) -> Any:
    with warnings.catch_warnings():
        # torch deprecates TorchScript, which the documentation of the format says
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        return import_torch().jit.load(str(path), map_location=device).eval()
