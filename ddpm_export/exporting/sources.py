"""From a path to what lies there: tensors and plain values, and where they come from. Runs no code in it."""

from pathlib import Path
from typing import Any

from ddpm_export.exporting.checkpoint import load_torch_file
from ddpm_export.exporting.importers.layout import Found
from ddpm_export.files import sha256_of

__all__ = ["read_source"]


def read_source(path: str | Path) -> tuple[Found, dict[str, Any]]:
    """Return what lies at a path, and what the spec's `source` shall say of it.

    Raises BadFileError for what cannot be read safely.
    """
    contents = load_torch_file(path)
    found = Found(Path(path).stem, contents if isinstance(contents, dict) else {})
    return found, {"checkpoint_sha256": sha256_of(path)}
