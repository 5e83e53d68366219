"""The autoencoder that `python -m train.autoencoder` trains: pictures to latents a few times smaller, and back."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddpm_export.errors import ConfigError


@dataclass(frozen=True)
class AutoencoderConfig:
    """Hold the sizes of an autoencoder: pictures are 2^len(widths) times as wide and high as their latents.

    The first halving is a pixel unshuffle, so that no layer works at full size.
    """

    picture_shape: tuple[int, int, int] = (3, 128, 128)
    widths: tuple[int, ...] = (32, 64, 128)
    latent_channels: int = 4
    encoder_blocks: int = 1
    decoder_blocks: int = 2
    groups: int = 8

    def __post_init__(self) -> None:
        if not self.widths or any(width < 1 or width % self.groups for width in self.widths):
            raise ConfigError(f"widths must be multiples of groups={self.groups}, got {list(self.widths)}.")
        if any(side % self.factor for side in self.picture_shape[1:]):
            raise ConfigError(f"picture_shape must be multiples of {self.factor}, got {list(self.picture_shape)}.")

    @property
    def factor(self) -> int:
        """Return the side of the square of pixels that one place of the latent stands for."""
        return int(2 ** len(self.widths))

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Return the shape (C, H, W) of a picture's latent."""
        _, height, width = self.picture_shape
        return self.latent_channels, height // self.factor, width // self.factor


class Block(nn.Module):
    """A residual block of two convolutions, each after a group norm and SiLU."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.GroupNorm(groups, width), nn.GroupNorm(groups, width)
        self.conv_1, self.conv_2 = nn.Conv2d(width, width, 3, 1, 1), nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        h = self.conv_1(F.silu(self.norm_1(x)))
        return torch.add(x, self.conv_2(F.silu(self.norm_2(h))))


class Encoder(nn.Module):
    """Map pictures (B, C, H, W) in [-1, 1] to mean and log variance of their latents, each (B, c, H/f, W/f)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        first, last = config.widths[0], config.widths[-1]
        self.conv_in = nn.Conv2d(4 * config.picture_shape[0], first, 3, 1, 1)
        layers: list[nn.Module] = []
        for width, wider in zip(config.widths, (*config.widths[1:], None), strict=True):
            layers += [Block(width, config.groups) for _ in range(config.encoder_blocks)]
            if wider is not None:
                layers.append(nn.Conv2d(width, wider, 3, 2, 1))
        self.layers = nn.Sequential(*layers)
        self.norm = nn.GroupNorm(config.groups, last)
        self.conv_out = nn.Conv2d(last, 2 * config.latent_channels, 1)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Map pictures to (mean, log variance)."""
        h = self.layers(self.conv_in(F.pixel_unshuffle(pictures, 2)))
        mean, log_variance = self.conv_out(F.silu(self.norm(h))).chunk(2, dim=1)
        return mean, log_variance


class Decoder(nn.Module):
    """Map latents (B, c, h, w) to pictures (B, C, f h, f w), about [-1, 1]."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        first, last = config.widths[0], config.widths[-1]
        self.conv_in = nn.Conv2d(config.latent_channels, last, 3, 1, 1)
        layers: list[nn.Module] = []
        for width, narrower in zip(config.widths[::-1], (*config.widths[-2::-1], None), strict=True):
            layers += [Block(width, config.groups) for _ in range(config.decoder_blocks)]
            if narrower is not None:
                layers += [nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(width, narrower, 3, 1, 1)]
        self.layers = nn.Sequential(*layers)
        self.norm = nn.GroupNorm(config.groups, first)
        self.conv_out = nn.Conv2d(first, 4 * config.picture_shape[0], 3, 1, 1)

    def forward(self, latents: Tensor) -> Tensor:
        """Map latents to pictures."""
        h = self.layers(self.conv_in(latents))
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm(h))), 2)
