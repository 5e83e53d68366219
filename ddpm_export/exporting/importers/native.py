"""Our own checkpoints, as `python -m train` writes them. Trusts nothing in them: a file may come from anywhere."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ddpm_export.errors import BadFileError, ConfigError
from ddpm_export.exporting.checkpoint import CHECKPOINT_FORMAT
from ddpm_export.exporting.unet import UNet, UNetConfig
from ddpm_export.spec import ModelSpec, spec_from_json

__all__ = ["load", "matches"]

STATE_DICTS = {"ema": "ema", "raw": "network"}
# bounds that no sensible network meets: every block is an object to build before a weight can be compared
MAX_BLOCKS = 64
MAX_LEVELS = 16
MAX_CHANNELS = 2**16


def matches(keys: frozenset[str], config: Mapping[str, Any]) -> bool:
    """Tell whether this is our layout: the format says so, and the weights are there."""
    return config.get("format") == CHECKPOINT_FORMAT and {"network", "ema", "config", "spec"} <= keys


def load(contents: Mapping[str, Any], weights: str) -> tuple[UNet, ModelSpec, dict[str, Any]]:
    """Return the network with its averaged ("ema") or last ("raw") weights, its spec, and the step they are from.

    Raises BadFileError for a configuration, weights or a spec that do not fit one another.
    """
    config, spec, step = contents["config"], contents["spec"], contents.get("step")
    if not isinstance(config, dict) or not isinstance(config.get("network"), dict):
        raise _bad("config.network", type(config).__name__, "an object of UNetConfig's fields")
    if not isinstance(spec, str):
        raise _bad("spec", type(spec).__name__, "JSON text")
    if type(step) is not int or step < 0:
        raise _bad("step", step, "a count of training steps")
    network_config, model_spec = _network_config(config["network"]), spec_from_json(spec)
    if network_config.image_shape != model_spec.image_shape:
        raise _bad("image_shape", network_config.image_shape, f"{model_spec.image_shape}, as the spec says")
    with torch.device("meta"):  # shapes alone: nothing is allocated before they are seen to fit
        network = UNet(network_config)
    _assign(network, contents[STATE_DICTS[weights]], STATE_DICTS[weights])
    return network, model_spec, {"step": step, "weights": weights}


def _network_config(values: dict[str, Any]) -> UNetConfig:
    fields = {f.name: f.default for f in dataclasses.fields(UNetConfig)}
    unknown = sorted(str(name) for name in values if name not in fields)
    if unknown:
        raise _bad("config.network", f"unknown {unknown[:5]!r}", f"some of {', '.join(fields)}")
    known: dict[str, Any] = {}
    for name, value in values.items():
        default = fields[name]
        if isinstance(default, tuple):
            fits = isinstance(value, (list, tuple)) and len(value) <= MAX_LEVELS and all(type(v) is int for v in value)
            fits = fits and all(0 <= v <= MAX_CHANNELS for v in value) and (name != "image_shape" or len(value) == 3)
            fits = fits and (name != "channel_multipliers" or len(value) > 0)
            known[name] = tuple(value) if fits else None
        elif isinstance(default, float):
            fits = type(value) in (int, float) and 0.0 <= value < 1.0
            known[name] = value
        else:
            fits = type(value) is int and 1 <= value <= (MAX_BLOCKS if name == "blocks_per_level" else MAX_CHANNELS)
            known[name] = value
        if not fits:
            raise _bad(f"config.network.{name}", value, f"a value like {default!r}")
    try:
        return UNetConfig(**known)
    except ConfigError as exc:  # in a file it is the file that is wrong, not what the user typed
        raise BadFileError(str(exc)) from exc


def _assign(network: UNet, state: Any, name: str) -> None:
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise _bad(name, type(state).__name__, "a state dict of tensors")
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    got = {key: tuple(value.shape) for key, value in state.items()}
    wrong = sorted(str(key) for key in expected.keys() | got.keys() if expected.get(key) != got.get(key))
    if wrong:
        shapes = f"{wrong[0]} {got.get(wrong[0], 'missing')}"
        raise _bad(
            name, f"{shapes} ({len(wrong)} such)", f"{expected.get(wrong[0], 'nothing of that name')} by its config"
        )
    for key, value in state.items():
        # a few bytes can claim any shape by strides of 0
        if value.untyped_storage().nbytes() < value.numel() * value.element_size() or not value.is_floating_point():
            raise _bad(
                f"{name}.{key}",
                f"{value.dtype} of {value.untyped_storage().nbytes()} bytes",
                "as many float values as its shape says",
            )
    # contiguous: training may have left them channels_last, and the same weights shall give the same files
    plain = {key: value.detach().to(torch.float32).contiguous() for key, value in state.items()}
    network.load_state_dict(plain, assign=True)


def _bad(where: str, got: Any, expected: str) -> BadFileError:
    text = got if isinstance(got, str) else repr(got)
    shown = text if len(text) <= 120 else text[:117] + "..."
    return BadFileError(
        f"checkpoint: {where} does not fit. got {shown}, expected {expected}. Do save it again with python -m train."
    )
