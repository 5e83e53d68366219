"""The autoencoder of a pipeline of latents (diffusers): its decoder and encoder as stages, its factors as units."""

import inspect
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ddpm_export.errors import first_line
from ddpm_export.importers.layout import assign_weights, misfit
from ddpm_export.model.stages import AFTER, ENCODE, Stage, Units
from ddpm_export.process.rows import is_number

CLASSES = ("AutoencoderKL", "AutoencoderTiny", "VQModel")


class Latents(NamedTuple):
    """What an autoencoder adds to a spec and its network."""

    stages: dict[str, Stage]
    networks: dict[str, nn.Module]
    units: Units


class Decoder(nn.Module):
    """From latents (B, c, h, w), in the autoencoder's own scale, to pictures (B, C, H, W) around [-1, 1]."""

    def __init__(self, autoencoder: Any) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, x: Tensor) -> Tensor:
        """Decode."""
        picture: Tensor = self.autoencoder.decode(x, return_dict=False)[0]
        return picture


class Encoder(nn.Module):
    """From pictures (B, C, H, W) in [-1, 1] to latents (B, c, h, w): the mode, where they are a distribution."""

    def __init__(self, autoencoder: Any) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, images: Tensor) -> Tensor:
        """Encode."""
        found = self.autoencoder.encode(images, return_dict=False)[0]
        x: Tensor = found.mode() if hasattr(found, "mode") and not isinstance(found, Tensor) else found
        return x


def latents_of(
    package: Any, config: Mapping[str, Any], state: Mapping[str, Any], state_shape: tuple[int, ...]
) -> Latents:
    """Return the stages and units of an autoencoder, for latents (c, h, w).

    Raises BadFileError for another class, and for options and weights that do not fit.
    """
    name = config.get("_class_name")
    if name not in CLASSES:
        raise misfit("autoencoder", name, f"one of {', '.join(CLASSES)}", "Leave its folder out for the latents alone")
    kind = getattr(package, str(name))
    known = inspect.signature(kind).parameters
    options = {key: value for key, value in config.items() if key in known}
    try:
        with warnings.catch_warnings(), torch.no_grad(), torch.device("meta"):
            warnings.simplefilter("ignore")  # the package's, of its own code
            autoencoder = kind(**options).eval()
            picture = Decoder(autoencoder)(torch.empty(1, *state_shape)).shape[1:]
    except Exception as exc:  # whatever the package makes of options that are not for one another
        raise misfit(f"{name}", first_line(exc), f"an autoencoder of latents {list(state_shape)}") from exc
    assign_weights(autoencoder, dict(state), str(name))
    factor = options.get("scaling_factor", known["scaling_factor"].default if "scaling_factor" in known else 1.0)
    shift = options.get("shift_factor") or 0.0
    if not (is_number(factor) and factor > 0 and is_number(shift)):
        raise misfit("scaling_factor", factor, "a positive number")
    stages = {AFTER: Stage({"images": tuple(picture)}), ENCODE: Stage({"x": tuple(state_shape)})}
    networks = {AFTER: Decoder(autoencoder), ENCODE: Encoder(autoencoder)}
    return Latents(stages, networks, Units((1.0 / float(factor),), (float(shift),)))
