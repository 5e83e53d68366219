"""torch.export files: torch builds the graph a file describes, so open_model asks for trust before it comes here."""

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

__all__ = ["open_pt2"]


def open_pt2(path: Path, provider: Provider, threads: int | None) -> DenoiserFile:
    """Open `*.pt2` on a provider's device; the spec is read before anything else in the file."""
    spec = spec_from_archive(path)
    torch, device = import_torch(), torch_device(provider, threads)
    try:
        program = torch.export.load(str(path))
        if device != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, device)
        module = program.module()
    except Exception as exc:  # torch raises whatever its parser met: one translation for all of it
        raise broken_file(path, exc) from exc
    return DenoiserFile(model_from_module(module, spec, device), spec)
