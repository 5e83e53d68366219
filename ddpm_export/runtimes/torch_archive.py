"""TorchScript (`.ts`) and torch.export (`.pt2`) files: a zip archive with our spec in it, run by torch on a device.

Both can run code of the file, so `open_model` asks for trust before it comes here.
"""

import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_export.errors import BadFileError, EnvironmentProblem, ModelRefusedError, not_installed
from ddpm_export.model.codec import MAX_JSON_BYTES
from ddpm_export.model.inputs import checked_inputs
from ddpm_export.model.spec import ModelSpec
from ddpm_export.model.spec_json import spec_from_json
from ddpm_export.process.equations import Array, Model
from ddpm_export.runtimes.providers import Provider
from ddpm_export.system.archives import begins_as_archive, broken_file, check_archive, refused_by_torch

SPEC_NAME = "ddpm_export.json"


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
