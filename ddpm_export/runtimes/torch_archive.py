"""What `.ts` and `.pt2` files share: a zip archive with our spec in it, and a torch device. Runs nothing of it."""

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ddpm_export.diffusion import Array, Model
from ddpm_export.errors import BadFileError, EnvironmentProblem, ModelRefusedError
from ddpm_export.spec import MAX_JSON_BYTES, ModelSpec, spec_from_json

__all__ = ["SPEC_NAME", "broken_file", "import_torch", "model_from_module", "spec_from_archive", "torch_device"]

SPEC_NAME = "ddpm_export.json"


def spec_from_archive(path: Path) -> ModelSpec:
    """Read the spec of a torch archive as plain text, after its checksums, which torch itself does not look at.

    Raises BadFileError for a file that is no such archive, is damaged or carries no spec of ours.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if entry.filename.endswith(f"/extra/{SPEC_NAME}")]
            if len(entries) != 1 or entries[0].file_size > MAX_JSON_BYTES:
                raise BadFileError(
                    f"{path}: not a file of ddpm-export. got {len(entries)} entries extra/{SPEC_NAME}, expected one "
                    f"of at most {MAX_JSON_BYTES} bytes. Do export the checkpoint with ddpm-export."
                )
            broken = archive.testzip()
            if broken is not None:
                raise BadFileError(
                    f"{path}: damaged. got a wrong checksum in {broken!r}, expected the bytes as written. Do "
                    "copy the file again."
                )
            text = archive.read(entries[0]).decode()
    except (OSError, ValueError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error) as exc:
        raise broken_file(path, exc) from exc
    return spec_from_json(text)


def broken_file(path: Path, exc: Exception) -> BadFileError:
    """Return the one error for whatever torch or zipfile met in a file."""
    reason = str(exc).splitlines()[0][:200] if str(exc) else type(exc).__name__
    return BadFileError(
        f"{path}: torch cannot load it. got {reason!r}, expected a file as ddpm-export wrote it. Do export or "
        "copy it again."
    )


def import_torch() -> Any:
    """Return torch, or raise EnvironmentProblem with what to install."""
    try:
        import torch
    except ImportError as exc:
        raise EnvironmentProblem(
            "torch: not installed. got no module of that name, expected one for .ts and .pt2 files. Do pip install "
            "'ddpm-export[export]', or use the .onnx file."
        ) from exc
    return torch


def torch_device(provider: str, threads: int | None) -> str:
    """Return torch's device for a provider; threads, if any, hold for the whole process, as torch has it.

    Raises EnvironmentProblem where the provider is cuda and torch has none.
    """
    torch = import_torch()
    if provider == "cuda" and not torch.cuda.is_available():
        raise EnvironmentProblem(
            "provider cuda: torch cannot use it. got torch.cuda.is_available() = False, expected an NVIDIA GPU with "
            "its driver and a CUDA build of torch. Do run with --provider cpu."
        )
    if provider == "cuda":  # TF32 keeps 10 bits of mantissa: parity needs it off
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
    if threads is not None:
        torch.set_num_threads(threads)
    return provider


def model_from_module(module: Callable[..., Any], spec: ModelSpec, device: str) -> Model:
    """Return a torch module on a device as a Model: NumPy in and out, the outputs named as the spec names them."""
    torch = import_torch()

    def model(x_t: Array, t: Array) -> dict[str, Array]:
        with torch.no_grad():
            out = module(torch.from_numpy(x_t).to(device), torch.from_numpy(t).to(device))
        outputs = out if isinstance(out, (tuple, list)) else (out,)
        if len(outputs) != len(spec.outputs) or not all(isinstance(output, torch.Tensor) for output in outputs):
            got = ", ".join(type(output).__name__ for output in outputs)
            raise ModelRefusedError(
                f"network: gives other outputs than its spec says. got {got}, expected a tensor for each of "
                f"{', '.join(spec.outputs)}. Do return just those."
            )
        return {name: output.cpu().numpy() for name, output in zip(spec.outputs, outputs, strict=True)}

    return model
