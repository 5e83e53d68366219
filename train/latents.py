"""A data set as the latents of its pictures: what a latent model trains on, and what turns states into pictures again.

Latents are standardised by channel over the data set (Rombach et al. 2022, section D.1, scale by one number). The spec
stores that as units and the checkpoint stores the autoencoder, so an export reads one file.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ddpm_export.errors import BadFileError, ConfigError, UsageError
from ddpm_export.importers.autoencoder import AutoencoderConfig, Decoder, Encoder
from ddpm_export.importers.checkpoint import load_own_checkpoint
from ddpm_export.model.spec import STAGED, UNITS, ModelSpec
from ddpm_export.model.stages import AFTER, ENCODE, Stage, Units
from ddpm_export.process.equations import Array
from ddpm_export.scoring.datasets.dataset import Dataset
from ddpm_export.scoring.datasets.readers import open_dataset

from .config import TrainConfig, dataclass_from_dict

ENCODED_TOGETHER = 16


@dataclass(frozen=True, kw_only=True)
class Latents(Dataset):
    """Hold a data set with the latents of its pictures.

    states: (2, N, c, h, w) float32, of the pictures and of their mirror images, each channel of the first standardised.
    network: the autoencoder's configuration and averaged weights, as the checkpoint keeps them.
    """

    states: Tensor
    units: Units
    network: dict[str, Any]

    def spec_with_stages(self, spec: ModelSpec) -> ModelSpec:
        """Return the spec of a network of these states with decoder, encoder and units."""
        channels, height, width = self.images.shape[3], *self.images.shape[1:3]
        stages = {
            AFTER: Stage({"images": (channels, height, width)}),
            ENCODE: Stage({"x": tuple(self.states.shape[2:])}),
        }
        requires = (*spec.requires, STAGED, UNITS)
        return replace(spec, clip_x_0=None, stages=stages, units=self.units, requires=requires)

    def decoder(self, device: str) -> Callable[[Array], Array]:
        """Return the map from states (B, c, h, w) to pictures (B, C, H, W), about [-1, 1]."""
        decoder, units = _networks(self.network)[0].to(device), self.units

        @torch.inference_mode()
        def decode(x: Array) -> Array:
            pictures: Array = decoder(torch.from_numpy(units.of(x)).to(device)).cpu().numpy()
            return pictures

        return decode


def open_data(config: TrainConfig, data: Path | None, autoencoder: Path | None) -> Dataset:
    """Open the data set of a configuration, as latents where it names an autoencoder (`train.teacher.taught`).

    Raises BadFileError for what is no autoencoder, ConfigError for latents of another shape than the network's.
    """
    if autoencoder is None:
        return open_dataset(config.dataset, data, image_shape=config.network.image_shape)
    contents = load_own_checkpoint(autoencoder)
    try:
        network = {
            "config": contents["config"]["network"],
            "weights": {name: value.contiguous() for name, value in contents["ema"].items()},
        }
        chosen: AutoencoderConfig = dataclass_from_dict(AutoencoderConfig, network["config"], "")
        encoder = _networks(network)[1]
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, UsageError) as exc:
        raise BadFileError(f"{autoencoder} is no autoencoder: {' '.join(str(exc).split())[:200]}.") from exc
    if chosen.latent_shape != config.network.image_shape:
        raise ConfigError(
            f"network.image_shape must be {list(chosen.latent_shape)}, the shape of this autoencoder's latents, got "
            f"{list(config.network.image_shape)}."
        )
    dataset = open_dataset(config.dataset, data, image_shape=chosen.picture_shape)
    images = np.asarray(dataset.images)
    latents = torch.stack([_encoded(encoder, images), _encoded(encoder, images[:, :, ::-1])])
    shift, scale = latents[0].mean(dim=(0, 2, 3)), latents[0].std(dim=(0, 2, 3))
    units = Units(tuple(scale.tolist()), tuple(shift.tolist()))
    states = (latents - shift[:, None, None]) / scale[:, None, None]
    shared = {name: getattr(dataset, name) for name in ("name", "images", "labels", "license", "broken", "classes")}
    return Latents(**shared, states=states, units=units, network=network | {"config": asdict(chosen)})


@torch.inference_mode()
def _encoded(encoder: nn.Module, images: Array) -> Tensor:
    """Return the means of the latents of pictures uint8 (N, H, W, C)."""
    found = []
    for first in range(0, len(images), ENCODED_TOGETHER):
        part = torch.from_numpy(images[first : first + ENCODED_TOGETHER].transpose(0, 3, 1, 2).copy())
        found.append(encoder(part.float() / 127.5 - 1.0)[0])
    return torch.cat(found).clone()


def _networks(network: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    """Return decoder and encoder with the weights that a checkpoint keeps."""
    config = dataclass_from_dict(AutoencoderConfig, network["config"], "")
    both = nn.ModuleDict({"decoder": Decoder(config), "encoder": Encoder(config)})
    both.load_state_dict(network["weights"])
    both.eval().requires_grad_(False)
    return both["decoder"], both["encoder"]
