"""Foreign and own checkpoint layouts, one module each, with `signs` and `load`; exactly one must match."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ddpm_export.errors import BadFileError, several
from ddpm_export.importers import diffusers, lucidrains, lucidrains_classes, native, openai, tqch
from ddpm_export.importers.layout import Found, Imported

# each module has
#   signs(found: Found) -> dict[str, bool]
#       what the layout is known by, in words or key names, and whether it is there; it matches where all of it is
#   load(found: Found, weights: str, options: Mapping[str, Any]) -> Imported
#       weights: "ema" or "raw". options: what the user says, by --config and --set; an unknown one is a UsageError.
#       Raises BadFileError, without the path, for contents that do not fit.
IMPORTERS: dict[str, ModuleType] = {
    "diffusers": diffusers,
    "lucidrains": lucidrains,
    "lucidrains_classes": lucidrains_classes,
    "native": native,
    "openai": openai,
    "tqch": tqch,
}


def import_network(
    path: str | Path,
    found: Found,
    weights: str,
    options: Mapping[str, Any],
    steps: Sequence[int] | None = None,
) -> Imported:
    """Build the network of a checkpoint by the one importer that knows its layout.

    steps: for how many each the spec has the project's own steps, where it has any; () for none, None for the usual.
    Raises BadFileError where none or several do, or where the contents do not fit the layout; UsageError for options.
    """
    signs = {name: importer.signs(found) for name, importer in IMPORTERS.items()}
    matching = [name for name, seen in signs.items() if all(seen.values())]
    if len(matching) != 1:
        names = sorted(found.keys) or sorted(map(str, found.contents))
        got = f"keys {several((repr(name[:60]) for name in names), 4)}" if names else "no tensors"
        raise BadFileError(
            f"{path} has {'an ambiguous' if matching else 'an unknown'} checkpoint layout, with {got}, where one of "
            f"{', '.join(IMPORTERS)} is known: {_verdict(signs, matching)}. See docs/importing.md, or name "
            "your own class "
            "with --network."
        )
    name = matching[0]
    try:
        imported: Imported = IMPORTERS[name].load(found, weights, options)
        if imported.stepping is not None and steps != ():
            imported = dataclasses.replace(imported, spec=imported.stepping(imported.spec, steps))
    except BadFileError as exc:
        raise BadFileError(f"In {path}, {exc}") from exc
    return dataclasses.replace(imported, source={"importer": name, **imported.source})


def _verdict(signs: dict[str, dict[str, bool]], matching: list[str]) -> str:
    """Say which layouts match, or which came nearest and what it lacks."""
    if matching:
        return f"it has all signs of {' and '.join(matching)}"
    nearest = max(signs, key=lambda name: sum(signs[name].values()) / len(signs[name]))
    if not any(signs[nearest].values()):
        return "no sign of any was found"
    lacking = [sign for sign, is_there in signs[nearest].items() if not is_there]
    return f"the nearest is {nearest}, which lacks {', '.join(lacking[:3])}"
