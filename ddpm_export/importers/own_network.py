"""A network of the user's own class: the only import that runs code from outside an installed package.

Knows no layouts: the class itself names its weights.
"""

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ddpm_export.errors import UsageError, first_line
from ddpm_export.importers.layout import assign_weights, misfit, without_prefix


def network_from_class(
    reference: str, arguments: Mapping[str, Any], contents: Mapping[str, Any], weights: str
) -> nn.Module:
    """Import `package.module:Class`, call it with the arguments and give it the weights of a file's contents.

    contents: a state dict, or a dict that holds some, of which "ema" or "raw" chooses; a prefix that all names share,
    such as `module.`, is left out, and so is a diffusion around them. The module is looked for in the current folder
    first.
    Raises UsageError where the class cannot be made, BadFileError for missing and left-over weights.
    """
    network = _made(reference, arguments)
    state, name = _state_dict(contents, weights)
    assign_weights(network, _without_prefix(state, network, weights), name)
    return network


def named_in(reference: str, argument: str) -> Any:
    """Import what `package.module:name` names, looking in the current folder first, as python -m does.

    Raises UsageError for another text, and whatever the module raises.
    """
    module_name, colon, name = reference.partition(":")
    if not (module_name and colon and name):
        raise UsageError(
            f"{argument} must be package.module:{'Class' if argument == 'network' else 'function'}, got {reference!r}.",
            argument,
        )
    sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module_name), name)
    finally:
        sys.path.remove(str(Path.cwd()))


def _made(reference: str, arguments: Mapping[str, Any]) -> nn.Module:
    try:
        made = named_in(reference, "network")(**arguments)
    except UsageError:
        raise
    except Exception as exc:  # their module, their class: anything may be raised
        raise UsageError(
            f"network {reference} cannot be made with ({', '.join(arguments)}): {type(exc).__name__}: "
            f"{first_line(exc)}. Correct the class or its arguments.",
            "network",
        ) from exc
    if not isinstance(made, nn.Module):
        raise UsageError(f"network {reference} must be a torch.nn.Module, got a {type(made).__name__}.", "network")
    return made


def _state_dict(contents: Mapping[str, Any], weights: str) -> tuple[Mapping[str, Any], str]:
    """Return the state dict in a file, and what to call it."""
    if contents and all(isinstance(value, Tensor) for value in contents.values()):
        return contents, "weights"
    found = {
        key: value
        for key, value in contents.items()
        if isinstance(value, Mapping) and value and all(isinstance(item, Tensor) for item in value.values())
    }
    averaged = {key: value for key, value in found.items() if "ema" in key.lower()}
    chosen = averaged if averaged and weights == "ema" else {k: v for k, v in found.items() if k not in averaged}
    if len(chosen) != 1:
        raise misfit(
            "weights",
            f"{len(chosen)} state dicts {sorted(map(str, chosen))[:5]!r}",
            "one state dict, at the top of the file or under a name, with ema in the name of averaged weights",
        )
    ((name, state),) = chosen.items()
    return state, str(name)


def _without_prefix(state: Mapping[str, Any], network: nn.Module, weights: str) -> Mapping[str, Any]:
    """Return the weights behind the one prefix that all have, without what lies around them."""
    expected = network.state_dict().keys()
    first = next(iter(expected), "")
    prefixes = {key[: -len(first)] for key in state if first and key.endswith(f".{first}")}
    prefixes = {prefix for prefix in prefixes if all(f"{prefix}{name}" in state for name in expected)}
    averaged = {prefix for prefix in prefixes if "ema" in prefix}
    chosen = averaged if averaged and weights == "ema" else prefixes - averaged
    return without_prefix(state, *chosen) if len(chosen) == 1 else state
