"""TorchScript files (`.ts`). Deprecated in torch, kept for programs that embed libtorch; pt2 is its successor."""

import io
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from ddpm_export.exporting.original import Original
from ddpm_export.exporting.program import example_inputs
from ddpm_export.exporting.proof import Proof
from ddpm_export.importers.checkpoint import Checkpoint
from ddpm_export.model.spec_json import json_from_spec
from ddpm_export.runtimes.torch_archive import SPEC_NAME

MANGLE = "___torch_mangle_"  # and a number: how torch keeps classes of one name apart


def write_torchscript(original: Original, path: Path) -> Proof:
    """Write the network, traced with a dynamic batch, beside `path`; it takes that name once it is proven."""
    _ = original.program  # refuses what a trace would fix without a word: branches on values, the batch
    checkpoint, text = original.traced_from, json_from_spec(original.spec_with_golden)
    archive = _archive(checkpoint, text)
    if any(name.endswith(".py") and MANGLE not in name for name in zipfile.ZipFile(archive).namelist()):
        # torch numbers a class unless it is the first of its name in this process: the second trace has only numbers
        archive = _archive(checkpoint, text)
    return original.write_proven(_canonical(archive), path)


class _InOrder(nn.Module):
    """A network that takes its named inputs in their order: a trace keeps no names."""

    def __init__(self, network: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.network, self.names = network, names

    def forward(self, x_t: Tensor, t: Tensor, *inputs: Tensor) -> Any:
        return self.network(x_t, t, **dict(zip(self.names, inputs, strict=True)))


def _archive(checkpoint: Checkpoint, text: str) -> io.BytesIO:
    buffer = io.BytesIO()  # a path would write its own, temporary, name into the archive
    with warnings.catch_warnings():
        # torch deprecates TorchScript: known, and said above; a user who asked for it need not read it at each export
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        # the checks of shapes inside torch's own functions; what the trace computes is proven at other batches
        warnings.filterwarnings("ignore", category=TracerWarning)
        example, named = example_inputs(checkpoint.spec)
        network = _InOrder(checkpoint.network, list(named)) if named else checkpoint.network
        example = (*example, *named.values())
        traced = torch.jit.trace(network.eval(), example, check_trace=False)  # type: ignore[no-untyped-call]
        torch.jit.save(traced, buffer, _extra_files={SPEC_NAME: text})
    return buffer


def _canonical(buffer: io.BytesIO) -> bytes:
    """Return the archive without what depends on the process that made it.

    torch numbers the classes of a trace on from all those traced before, and keeps line numbers and paths of the
    Python source beside the code, which only its error messages use.
    """
    numbers: dict[bytes, bytes] = {}
    pattern = re.compile(MANGLE.encode() + rb"(\d+)")

    def renumbered(match: re.Match[bytes]) -> bytes:
        return MANGLE.encode() + numbers.setdefault(match[1], b"%d" % len(numbers))

    out = io.BytesIO()
    with zipfile.ZipFile(buffer) as before, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as after:
        for entry in before.infolist():
            if entry.filename.endswith((".debug_pkl", "/.data/serialization_id")):
                continue
            name, content = entry.filename.encode(), before.read(entry)
            is_code = entry.filename.endswith((".py", ".pkl"))  # class names in pickles end at a newline
            name = pattern.sub(renumbered, name)
            content = pattern.sub(renumbered, content) if is_code else content
            after.writestr(zipfile.ZipInfo(name.decode()), content)  # without a date: that of 1980
    return out.getvalue()
