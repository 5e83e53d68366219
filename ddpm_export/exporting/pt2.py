"""torch.export files (`.pt2`), the successor of TorchScript: graphs of ATen operators, loaded without source."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ddpm_export.exporting.program import example_inputs, program_from_network
from ddpm_export.files import replacing
from ddpm_export.runtimes.torch_archive import SPEC_NAME
from ddpm_export.spec import json_from_spec

if TYPE_CHECKING:
    from ddpm_export.exporting import Checkpoint

__all__ = ["writing"]


@contextmanager
def writing(checkpoint: "Checkpoint", path: Path) -> Iterator[Path]:
    """Export the network with a dynamic batch, write it beside `path` and give it that name if no error follows."""
    program = program_from_network(checkpoint.network, example_inputs(checkpoint))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # absolute paths of this machine
    buffer = io.BytesIO()  # a path would write its own, temporary, name into the archive
    torch.export.save(program, buffer, extra_files={SPEC_NAME: json_from_spec(checkpoint.spec)})
    with replacing(path) as beside:
        beside.write_bytes(buffer.getbuffer())
        yield beside
