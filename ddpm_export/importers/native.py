"""Our own checkpoints, as `python -m train` writes them. Trusts nothing in them: a file may come from anywhere."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ddpm_export.errors import BadFileError, ConfigError, UsageError
from ddpm_export.importers.autoencoder import AutoencoderConfig, Decoder, Encoder
from ddpm_export.importers.checkpoint import CHECKPOINT_FORMAT
from ddpm_export.importers.choices import read_options
from ddpm_export.importers.layout import (
    MAX_BLOCKS,
    MAX_LEVELS,
    MAX_SIZE,
    Found,
    Imported,
    built,
    misfit,
    without_prefix,
)
from ddpm_export.importers.unet import UNet, UNetConfig
from ddpm_export.model.codec import bad_file, integer, record, tuple_of
from ddpm_export.model.inputs import Input
from ddpm_export.model.spec import INPUTS, ModelSpec
from ddpm_export.model.spec_json import spec_from_json
from ddpm_export.model.stages import AFTER, ENCODE

SIDE = integer(1, MAX_SIZE)
AUTOENCODER = record(
    {
        "picture_shape": tuple_of(SIDE, 3, 3),
        "widths": tuple_of(SIDE, 1, MAX_LEVELS),
        "latent_channels": SIDE,
        "encoder_blocks": integer(1, MAX_BLOCKS),
        "decoder_blocks": integer(1, MAX_BLOCKS),
        "groups": SIDE,
    },
    into=AutoencoderConfig,
)
STATE_DICTS = {"ema": "ema", "raw": "network"}


def signs(found: Found) -> dict[str, bool]:
    """Return what our layout is known by, and whether it is there."""
    names = {name: name in found.contents for name in ("ema", "config", "spec")}
    return {f"format {CHECKPOINT_FORMAT}": found.contents.get("format") == CHECKPOINT_FORMAT, **names}


def load(found: Found, weights: str, options: Mapping[str, Any]) -> Imported:
    """Return the network with its averaged ("ema") or last ("raw") weights, its spec, and the step they are from.

    Raises BadFileError for a configuration, weights or a spec that do not fit one another, UsageError for the last
    weights of a checkpoint that has only averaged ones.
    """
    read_options(options, {})  # the file has everything
    contents = found.contents
    config, spec, step = contents["config"], contents["spec"], contents.get("step")
    if not isinstance(config, dict) or not isinstance(config.get("network"), dict):
        raise misfit("config.network", type(config).__name__, "an object of UNetConfig's fields")
    if not isinstance(spec, str):
        raise misfit("spec", type(spec).__name__, "JSON text")
    if type(step) is not int or step < 0:
        raise misfit("step", step, "a count of training steps")
    network_config, model_spec = _network_config(config["network"]), spec_from_json(spec)
    if network_config.num_classes:
        label = _label(network_config.num_classes, contents.get("classes"), config.get("label_dropout"))
        requires = (*model_spec.requires, INPUTS)
        model_spec = dataclasses.replace(model_spec, inputs=(label,), requires=requires)
    if network_config.image_shape != model_spec.state_shape:
        raise misfit("image_shape", network_config.image_shape, f"{model_spec.state_shape}, as the spec says")
    if STATE_DICTS[weights] not in contents:
        raise UsageError("weights must be 'ema', got 'raw': the checkpoint has only averaged ones.", "weights")
    network = built(lambda: UNet(network_config), contents[STATE_DICTS[weights]], STATE_DICTS[weights])
    stages = _stages(contents["autoencoder"], model_spec) if "autoencoder" in contents else {}
    if stages.keys() != model_spec.stages.keys():
        raise misfit("autoencoder", sorted(stages), f"what the spec has, {sorted(model_spec.stages)}")
    return Imported(network, model_spec, {"step": step, "weights": weights}, stages=stages)


class Means(nn.Module):
    """An encoder's latents (B, c, h, w) of pictures (B, C, H, W) in [-1, 1]: the means of their distributions."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        """Encode."""
        mean: Tensor = self.encoder(images)[0]
        return mean


def _stages(autoencoder: Any, spec: ModelSpec) -> dict[str, nn.Module]:
    """Return the decoder and the encoder of a latent model."""
    if not isinstance(autoencoder, dict) or not isinstance(autoencoder.get("weights"), dict):
        raise misfit("autoencoder", type(autoencoder).__name__, "an autoencoder's configuration and weights")
    try:
        with bad_file("the checkpoint"):
            config: AutoencoderConfig = AUTOENCODER(autoencoder.get("config"), "autoencoder.config")
    except ConfigError as exc:
        raise BadFileError(str(exc)) from exc
    if (config.latent_shape, config.picture_shape) != (spec.state_shape, spec.result_shape):
        raise misfit("autoencoder", config, f"one from {spec.result_shape} to {spec.state_shape}, as the spec says")
    weights = autoencoder["weights"]
    decoder = built(lambda: Decoder(config), without_prefix(weights, "decoder."), "autoencoder.weights.decoder")
    encoder = built(lambda: Encoder(config), without_prefix(weights, "encoder."), "autoencoder.weights.encoder")
    assert isinstance(encoder, Encoder)
    return {AFTER: decoder, ENCODE: Means(encoder)}


def _label(count: int, names: Any, dropout: Any) -> Input:
    """Return the input for the class; without label dropout "no class" was never trained, and there is none."""
    if not isinstance(names, list) or len(names) != count or not all(isinstance(name, str) for name in names):
        raise misfit("classes", names, f"{count} names")
    none = count if isinstance(dropout, float) and dropout > 0.0 else None
    return Input("y", "label", none=none, classes=tuple(names))


def _network_config(values: dict[str, Any]) -> UNetConfig:
    fields = {f.name: f.default for f in dataclasses.fields(UNetConfig)}
    unknown = sorted(str(name) for name in values if name not in fields)
    if unknown:
        raise misfit("config.network", f"unknown {unknown[:5]!r}", f"some of {', '.join(fields)}")
    known: dict[str, Any] = {}
    for name, value in values.items():
        default = fields[name]
        if isinstance(default, tuple):
            fits = isinstance(value, (list, tuple)) and len(value) <= MAX_LEVELS and all(type(v) is int for v in value)
            fits = fits and all(0 <= v <= MAX_SIZE for v in value) and (name != "image_shape" or len(value) == 3)
            fits = fits and (name != "channel_multipliers" or len(value) > 0)
            known[name] = tuple(value) if fits else None
        elif isinstance(default, float):
            fits = type(value) in (int, float) and 0.0 <= value < 1.0
            known[name] = value
        else:
            least = 0 if name == "num_classes" else 1
            most = MAX_BLOCKS if name == "blocks_per_level" else MAX_SIZE
            fits = type(value) is int and least <= value <= most
            known[name] = value
        if not fits:
            raise misfit(f"config.network.{name}", value, f"a value like {default!r}")
    try:
        return UNetConfig(**known)
    except ConfigError as exc:  # in a file it is the file that is wrong, not what the user typed
        raise BadFileError(str(exc)) from exc
