"""Foreign and own checkpoint layouts, one module each, with `matches` and `load`; exactly one must match."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from ddpm_export.errors import BadFileError
from ddpm_export.exporting.importers import native
from ddpm_export.spec import ModelSpec

__all__ = ["IMPORTERS", "import_network"]

# each module has
#   matches(keys: frozenset[str], config: Mapping[str, Any]) -> bool
#       keys: all names at the top of the file; config: those of its values that are no tensors and hold none
#   load(contents: Mapping[str, Any], weights: str) -> (network, ModelSpec, what it adds to spec.source)
#       Raises BadFileError, without the path, for contents that do not fit.
IMPORTERS: dict[str, ModuleType] = {"native": native}


@dataclass(frozen=True)
class Imported:
    """Hold a network with its weights, its spec, and what its importer adds to the spec's source."""

    network: nn.Module
    spec: ModelSpec
    source: dict[str, Any]


def import_network(path: str | Path, contents: Any, weights: str) -> Imported:
    """Build the network that a read checkpoint holds, by the one importer that knows its layout.

    Raises BadFileError where none or several do, or where the contents do not fit the layout.
    """
    top: Mapping[str, Any] = contents if isinstance(contents, dict) else {}
    keys = frozenset(key for key in top if isinstance(key, str))
    config = {key: value for key, value in top.items() if isinstance(key, str) and not _holds_tensors(value)}
    matching = [name for name, importer in IMPORTERS.items() if importer.matches(keys, config)]
    if len(matching) != 1:
        found = f"keys {sorted(keys)[:5]!r} ({len(keys)} of them)" if keys else f"a {type(contents).__name__}"
        raise BadFileError(
            f"{path}: {'an ambiguous' if matching else 'an unknown'} checkpoint layout. got {found}, expected "
            f"exactly one of {', '.join(IMPORTERS)}. Do pass a checkpoint written by python -m train."
        )
    try:
        network, spec, source = IMPORTERS[matching[0]].load(top, weights)
    except BadFileError as exc:
        raise BadFileError(f"{path}: {exc}") from exc
    return Imported(network, spec, {"importer": matching[0], **source})


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, dict) and any(isinstance(v, Tensor) for v in value.values()))
