"""Foreign and own checkpoint layouts, one module each, with `signs` and `load`; exactly one must match."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ddpm_export.errors import BadFileError, several, shown
from ddpm_export.importers import (
    diffusers,
    diffusion_policy,
    edm,
    lerobot,
    lucidrains,
    lucidrains_classes,
    native,
    openai,
    tqch,
)
from ddpm_export.importers.folders import CLASSES, MODEL
from ddpm_export.importers.layout import Found, Imported

# each module has
#   signs(found: Found) -> dict[str, bool]: what the layout is known by, and whether it is there; all of it has to be
#   load(found: Found, weights: str, options: Mapping[str, Any]) -> Imported
#       weights: "ema" or "raw". options: the user's. Raises UsageError for these, and BadFileError, without the path,
#       for contents that do not fit.
IMPORTERS: dict[str, ModuleType] = {
    "diffusers": diffusers,
    "diffusion_policy": diffusion_policy,
    "edm": edm,
    "lerobot": lerobot,
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

    steps: numbers of the project's own steps to put into the spec, where it has any; () for none, None for the usual.
    Raises BadFileError where no or several importers know the layout and where the contents do not fit it; UsageError
    for options.
    """
    signs = {name: importer.signs(found) for name, importer in IMPORTERS.items()}
    matching = [name for name, seen in signs.items() if all(seen.values())]
    if len(matching) != 1:
        names = sorted(found.keys) or sorted(map(str, found.contents))
        kind = found.config.get(MODEL, {}).get("_class_name")
        if not matching and isinstance(kind, str) and kind not in CLASSES:
            raise BadFileError(
                f"{path} holds a {shown(kind)}, which has no importer; of diffusers there are {several(CLASSES)}. "
                "Adopt it with its class: see 'Your own class' in docs/importing-modules.md."
            )
        if not matching and any(".diffusion_model." in f".{name}" for name in names):
            raise BadFileError(
                f"{path} has the layout of latent-diffusion, whose configuration lies in another file. Convert it with "
                "diffusers' scripts/conversion_ldm_uncond.py and export the folder."
            )
        got = f"keys {several((repr(name[:60]) for name in names), 4)}" if names else "no tensors"
        raise BadFileError(
            f"{path} has {'an ambiguous' if matching else 'an unknown'} checkpoint layout, with {got}; known are "
            f"{', '.join(IMPORTERS)}: {_verdict(signs, matching)}. See 'Your own class' in docs/importing-modules.md."
        )
    name = matching[0]
    try:
        imported: Imported = IMPORTERS[name].load(found, weights, options)
        if imported.stepping is not None and steps != ():
            imported = dataclasses.replace(imported, spec=imported.stepping(imported.spec, steps))
    except BadFileError as exc:
        raise BadFileError(f"In {path}, {exc}", *exc.fields) from exc
    return dataclasses.replace(imported, source={"importer": name, **imported.source})


def _verdict(signs: dict[str, dict[str, bool]], matching: list[str]) -> str:
    """Return which layouts match, or which comes nearest and what it lacks."""
    if matching:
        return f"it has all signs of {' and '.join(matching)}"
    nearest = max(signs, key=lambda name: sum(signs[name].values()) / len(signs[name]))
    if not any(signs[nearest].values()):
        return "no sign of any was found"
    lacking = [sign for sign, is_there in signs[nearest].items() if not is_there]
    return f"the nearest is {nearest}, which lacks {', '.join(lacking[:3])}"
