"""A checkpoint: a network with its spec, ready to be exported, and files of torch.save, our own among them.

Imports torch only where a file is read or written: whoever names a Checkpoint need not have it.
"""

import io
import os
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpm_export.errors import BadFileError, first_line
from ddpm_export.importers.pickles import check_pickle
from ddpm_export.model.spec import ModelSpec
from ddpm_export.system.archives import ambiguous, begins_as_archive, check_archive, refused_by_torch
from ddpm_export.system.files import replacing

if TYPE_CHECKING:
    from torch import nn


PICKLES = 5  # in a file of torch before 1.6: magic, version, system, contents, names of storages; their bytes follow
# how the weights get out of pickles that need their project's code, by what they ask for
APART = {
    "omegaconf.": (
        "a pickle of a workspace",
        "Where it was trained, take its weights and configuration out into a folder",
        "import dill, json, os, torch; from omegaconf import OmegaConf; from safetensors.torch import save_file; "
        "OmegaConf.register_new_resolver('eval', eval); os.makedirs('policy'); "
        "c = torch.load({!r}, map_location='cpu', pickle_module=dill); s = c['state_dicts']; "
        "save_file({{k: v.contiguous() for k, v in s.get('ema_model', s['model']).items()}}, "
        "'policy/model.safetensors'); "
        "json.dump(OmegaConf.to_container(c['cfg'].policy, resolve=True), open('policy/config.json', 'w'))",
    ),
    "torch_utils.persistence": (
        "a pickle of EDM",
        "In a clone of its repository, take weights and options of a network-snapshot out into a file",
        "import pickle, torch; n = pickle.load(open({!r}, 'rb'))['ema']; torch.save({{'options': {{'class_name': "
        "type(n).__name__, **n.init_kwargs}}, 'state_dict': n.state_dict()}}, 'edm.pt')",
    ),
}
CHECKPOINT_FORMAT = "ddpm-export-checkpoint/1"


@dataclass(frozen=True)
class Checkpoint:
    """Hold a network in evaluation mode, float32 on the CPU, and its spec.

    The network maps (x_t (B, C, H, W), t (B,), the spec's inputs by name) to what the spec's `prediction` names, or to
    that and variance_fraction where the spec requires it. notes: sentences for whoever exports it. stages: those that
    spec.stages describes, by name: each maps its inputs by name to its output, or outputs in order.
    """

    network: "nn.Module"
    spec: ModelSpec
    notes: tuple[str, ...] = ()
    stages: Mapping[str, "nn.Module"] = field(default_factory=dict)


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


def check_is_file(path: str | Path) -> None:
    """Raise BadFileError where there is no regular file: a pipe would have us wait for ever."""
    if not os.path.isfile(path):
        raise BadFileError(f"{path} does not exist." if not os.path.exists(path) else f"{path} is not a file.")


def load_torch_file(path: str | Path) -> Any:
    """Read a file of `torch.save` onto the CPU with `weights_only=True`; no code in it can run.

    In this process, where a hostile one can still take all time and memory: `apart.py` reads those of strangers.
    Raises BadFileError for whatever cannot be read so, for a checksum that torch itself would not look at, and for
    archives that another reader would read otherwise.
    """
    import torch

    check_is_file(path)
    try:
        is_archive = begins_as_archive(path)
        if is_archive:
            with zipfile.ZipFile(path) as archive:
                check_archive(path, archive)
                _check_contents(path, archive, torch._C.PyTorchFileReader(str(path)))
        else:
            with open(path, "rb") as file:
                head = file.read(4096)
                _refuse_apart(path, [name for name in APART if name.encode() in head])
                file.seek(0)
                for _ in range(PICKLES):
                    check_pickle(file)
            if _is_tar(path):
                raise ValueError("a tar archive that is a pickle as well")
    except BadFileError:
        raise
    except Exception as exc:  # zipfile, pickletools and torch's archive raise whatever they met: one translation
        raise BadFileError(
            f"{path} cannot be read safely: {type(exc).__name__}: {first_line(exc)}. Save it again with "
            "torch.save, as a state dict."
        ) from exc
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as exc:
        unsafe: list[str] = []
        with suppress(Exception):  # it reads what torch.load has just failed to
            unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path) if is_archive else []
        _refuse_apart(path, unsafe, exc)
        raise refused_by_torch(path, exc, unsafe) from exc


def _refuse_apart(path: str | Path, asked: list[str], cause: Exception | None = None) -> None:
    """Raise BadFileError where a pickle asks for what one of APART does; it says how the weights get out of it."""
    for name, (kind, remedy, code) in APART.items():
        if any(one.startswith(name) for one in asked):
            raise BadFileError(
                f"{path} is {kind}, which runs code when it is read. {remedy}, and name that: "
                f'python -c "{code.format(str(path))}"'
            ) from cause


def _check_contents(path: str | Path, archive: zipfile.ZipFile, reader: Any) -> None:
    """Check the pickle of an archive; raise BadFileError where torch's reader finds another, or other entries."""
    top = archive.namelist()[0].partition("/")[0]
    theirs = {f"{top}/{name}" for name in reader.get_all_records()}
    pickled = archive.read(f"{top}/data.pkl")
    if theirs != set(archive.namelist()) or reader.get_record("data.pkl") != pickled:
        raise ambiguous(path, "torch finds other contents in it than its directory names")
    file = io.BytesIO(pickled)
    check_pickle(file)
    if file.read(1):
        raise ValueError("bytes after the pickle's end")


def _is_tar(path: str | Path) -> bool:
    """Say whether torch would take a file for a tar archive of its first versions, which holds other pickles."""
    try:
        tarfile.open(path, "r:").close()
    except tarfile.TarError:
        return False
    return True
