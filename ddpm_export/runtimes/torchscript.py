"""TorchScript files: torch runs what they say, code included, so open_model asks for trust before it comes here."""

import warnings
from pathlib import Path

from ddpm_export.providers import Provider
from ddpm_export.runtimes.opened import DenoiserFile
from ddpm_export.runtimes.torch_archive import (
    broken_file,
    import_torch,
    model_from_module,
    spec_from_archive,
    torch_device,
)

__all__ = ["open_torchscript"]


def open_torchscript(path: Path, provider: Provider, threads: int | None) -> DenoiserFile:
    """Open `*.ts` on a provider's device; the spec is read before anything in the file runs."""
    spec = spec_from_archive(path)
    torch, device = import_torch(), torch_device(provider, threads)
    try:
        with warnings.catch_warnings():
            # torch deprecates TorchScript: said where the format is chosen, no news to whoever opens a file
            warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
            module = torch.jit.load(str(path), map_location=device).eval()
    except Exception as exc:  # torch raises whatever its parser and unpickler met: one translation for all of it
        raise broken_file(path, exc) from exc
    return DenoiserFile(model_from_module(module, spec, device, by_name=False), spec)
