"""From a path to what lies there: tensors and plain values, and where they come from. Runs no code in it."""

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any

from ddpm_export.importers import folders, hub
from ddpm_export.importers.apart import TorchFile
from ddpm_export.importers.layout import Found
from ddpm_export.system.files import sha256_of


def read_source(path: str | Path, begun: TorchFile | None = None) -> tuple[Found, dict[str, Any]]:
    """Return what lies at a path, and its entries for the spec's `source`.

    A file of torch.save or safetensors; a folder of diffusers; where nothing lies there, the name of a model on the
    hub. The source has the digest of the weights' file, for several files that of their digests. begun: the file
    at the path, where it is being read already.
    Raises BadFileError for what cannot be read safely, EnvironmentProblem where the hub cannot be reached.
    """
    if os.path.isdir(path):
        return _from_folder(Path(path))
    if not os.path.lexists(path) and hub.is_hub_name(path):
        folder, commit = hub.download(path)
        found, source = _from_folder(folder)
        name = Path(path).as_posix().partition("@")[0]
        found = dataclasses.replace(found, name=name.partition("/")[2])
        return found, {**source, "hub": name, "revision": commit}
    contents = folders.load_weights(Path(path)) if begun is None else begun.contents()
    found = Found(Path(path).stem, contents if isinstance(contents, dict) else {})
    return found, {"checkpoint_sha256": sha256_of(path)}


def _from_folder(folder: Path) -> tuple[Found, dict[str, Any]]:
    read = folders.read_folder(folder)
    digests = [sha256_of(file) for file in read.files]
    digest = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    return Found(read.name, read.state, read.config, read.autoencoder), {"checkpoint_sha256": digest}
