"""torch.export files (`.pt2`), the successor of TorchScript: graphs of ATen operators, loaded without source."""

import io
from pathlib import Path

import torch

from ddpm_export.exporting.original import Original
from ddpm_export.exporting.proof import Proof
from ddpm_export.model.spec_json import json_from_spec
from ddpm_export.runtimes.torch_archive import SPEC_NAME


def write_pt2(original: Original, path: Path) -> Proof:
    """Write the network with a dynamic batch beside `path`; it takes that name once it is proven."""
    buffer = io.BytesIO()  # a path would write its own, temporary, name into the archive
    torch.export.save(original.program, buffer, extra_files={SPEC_NAME: json_from_spec(original.spec_with_golden)})
    return original.write_proven(buffer.getbuffer(), path)
