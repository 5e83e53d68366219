"""A checkpoint: a network with its spec, ready to be exported, and files of torch.save, our own among them.

Imports torch only where a file is read or written: whoever names a Checkpoint need not have it.
"""

import io
import os
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpm_export.errors import BadFileError, first_line
from ddpm_export.importers.pickles import check_pickle
from ddpm_export.model.spec import ModelSpec
from ddpm_export.runtimes.torch_archive import check_archive
from ddpm_export.system.files import replacing

if TYPE_CHECKING:
    from torch import nn


PICKLES = 4  # in a file of torch before 1.6: magic, version, system, contents; the names of storages follow
CHECKPOINT_FORMAT = "ddpm-export-checkpoint/1"


@dataclass(frozen=True)
class Checkpoint:
    """Hold a network in evaluation mode, float32 on the CPU, and its spec.

    The network maps (x_t (B, C, H, W), t (B,), the spec's inputs by name) to what the spec's `prediction` names, or to
    that and variance_fraction where the spec requires it. notes: what to tell whoever exports it.
    """

    network: "nn.Module"
    spec: ModelSpec
    notes: tuple[str, ...] = ()


def save_checkpoint(path: str | Path, **contents: Any) -> None:
    """Write our own checkpoint: plain tensors and values, the same bytes for the same contents.

    The previous file is replaced only once the new one is on the disk.
    """
    import torch

    archive = io.BytesIO()  # given a path, torch would write that file's random name into the archive
    torch.save(_fresh({"format": CHECKPOINT_FORMAT, **contents}), archive)
    with replacing(path) as beside:
        beside.write_bytes(archive.getbuffer())


def load_own_checkpoint(path: str | Path, advice: str = "") -> dict[str, Any]:
    """Return what `save_checkpoint` wrote; raises BadFileError, which ends with the advice, for any other file."""
    contents = load_torch_file(path)
    if not isinstance(contents, dict) or contents.get("format") != CHECKPOINT_FORMAT:
        raise BadFileError(f"{path} is not a checkpoint of this trainer, {CHECKPOINT_FORMAT}.{advice}")
    return contents


def _fresh(value: Any) -> Any:
    """Copy containers and share equal strings: pickle writes an object that it met before as a reference."""
    if isinstance(value, dict):
        return {_fresh(key): _fresh(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_fresh, value))
    return sys.intern(value) if isinstance(value, str) else value


def load_torch_file(path: str | Path) -> Any:
    """Read a file of `torch.save` onto the CPU with `weights_only=True`; no code in it can run.

    Raises BadFileError for whatever cannot be read so, including a checksum that torch itself would not look at.
    """
    import torch

    if not os.path.isfile(path):  # a pipe would have us wait for ever
        raise BadFileError(f"{path} does not exist." if not os.path.exists(path) else f"{path} is not a file.")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                check_archive(path, archive)
                for name in archive.namelist():
                    if name.endswith("/data.pkl"):
                        check_pickle(io.BytesIO(archive.read(name)))
        else:
            with open(path, "rb") as file:
                for _ in range(PICKLES):
                    check_pickle(file)
        return torch.load(path, map_location="cpu", weights_only=True)
    except BadFileError:
        raise
    except Exception as exc:  # torch raises whatever its unpickler met: one translation for all of it
        raise BadFileError(
            f"{path} cannot be read safely: {type(exc).__name__}: {first_line(exc)}. Save it again with "
            "torch.save, as a "
            "state dict."
        ) from exc
