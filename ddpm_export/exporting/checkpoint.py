"""Our own checkpoint: one atomic `weights_only` file with network, EMA, optimiser, step, config and spec."""

import io
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch

from ddpm_export.errors import BadFileError
from ddpm_export.files import replacing

__all__ = ["CHECKPOINT_FORMAT", "load_torch_file", "save_checkpoint"]

CHECKPOINT_FORMAT = "ddpm-export-checkpoint/1"


def save_checkpoint(path: str | Path, **contents: Any) -> None:
    """Write plain tensors and values, the same bytes for the same contents.

    The previous file is replaced only once the new one is on the disk.
    """
    archive = io.BytesIO()  # given a path, torch would write that file's random name into the archive
    torch.save(_fresh({"format": CHECKPOINT_FORMAT, **contents}), archive)
    with replacing(path) as beside:
        beside.write_bytes(archive.getbuffer())


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
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                broken = archive.testzip()
            if broken is not None:
                raise BadFileError(
                    f"{path}: damaged. got a wrong checksum in {broken!r}, expected the bytes as written. Do copy "
                    "the file again."
                )
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as exc:
        raise BadFileError(f"{path} does not exist.") from exc
    except BadFileError:
        raise
    except Exception as exc:  # torch raises whatever its unpickler met: one translation for all of it
        reason = f"{type(exc).__name__}: {(str(exc).splitlines() or [''])[0][:200]}"
        raise BadFileError(
            f"{path}: not a checkpoint that can be read safely. got {reason!r}, expected tensors and plain values "
            "saved by torch.save. Do save it again as a state dict."
        ) from exc
