"""TorchScript files (`.ts`). Deprecated in torch, kept for programs that embed libtorch; pt2 is its successor."""

import io
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.jit._trace import TracerWarning

from ddpm_export.exporting.program import example_inputs, program_from_network
from ddpm_export.files import replacing
from ddpm_export.runtimes.torch_archive import SPEC_NAME
from ddpm_export.spec import json_from_spec

if TYPE_CHECKING:
    from ddpm_export.exporting import Checkpoint

__all__ = ["writing"]

MANGLE = "___torch_mangle_"  # and a number: how torch keeps classes of one name apart


@contextmanager
def writing(checkpoint: "Checkpoint", path: Path) -> Iterator[Path]:
    """Trace the network with a dynamic batch, write it beside `path` and give it that name if no error follows."""
    program_from_network(
        checkpoint.network, example_inputs(checkpoint)
    )  # refuses what a trace would fix without a word: branches on values, the batch
    archive = _archive(checkpoint)
    if any(name.endswith(".py") and MANGLE not in name for name in zipfile.ZipFile(archive).namelist()):
        # torch numbers a class unless it is the first of its name in this process: the second trace has numbers alone
        archive = _archive(checkpoint)
    with replacing(path) as beside:
        beside.write_bytes(_canonical(archive))
        yield beside


def _archive(checkpoint: "Checkpoint") -> io.BytesIO:
    buffer = io.BytesIO()  # a path would write its own, temporary, name into the archive
    with warnings.catch_warnings():
        # torch deprecates TorchScript: known, and said above; a user who asked for it need not read it at each export
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        # the checks of shapes inside torch's own functions; what the trace computes is proven at other batches
        warnings.filterwarnings("ignore", category=TracerWarning)
        traced = torch.jit.trace(checkpoint.network, example_inputs(checkpoint), check_trace=False)  # type: ignore[no-untyped-call]
        torch.jit.save(traced, buffer, _extra_files={SPEC_NAME: json_from_spec(checkpoint.spec)})
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
            is_code = entry.filename.endswith(
                (".py", ".pkl")
            )  # class names in pickles end at a newline: any length fits
            name = pattern.sub(renumbered, name)
            content = pattern.sub(renumbered, content) if is_code else content
            after.writestr(zipfile.ZipInfo(name.decode()), content)  # without a date: that of 1980
    return out.getvalue()
