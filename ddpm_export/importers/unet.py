"""The UNet of Ho et al. 2020, as the study trained it, and its classes. Knows nothing of schedules, data or files."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddpm_export.errors import ConfigError


@dataclass(frozen=True)
class UNetConfig:
    """Describe the network: everything that decides the shapes of its weights.

    Level 0 works at full resolution and each further level at half the one above. `attention_levels`
    counts from 0; `groups` must divide every level's channel count. With `num_classes` above 0 the network takes a
    class beside the time; the index `num_classes` means "none".
    """

    image_shape: tuple[int, int, int] = (1, 28, 28)
    base_channels: int = 32
    channel_multipliers: tuple[int, ...] = (1, 2, 2)
    blocks_per_level: int = 2
    attention_levels: tuple[int, ...] = (2,)
    head_channels: int = 64
    groups: int = 8
    dropout: float = 0.1
    num_classes: int = 0

    def __post_init__(self) -> None:
        for name in (
            "image_shape",
            "base_channels",
            "channel_multipliers",
            "blocks_per_level",
            "head_channels",
            "groups",
        ):
            value = getattr(self, name)
            if min(value if isinstance(value, tuple) else (value,), default=0) < 1:
                raise ConfigError(f"network.{name} must be at least 1, got {value!r}.")
        if self.base_channels % 2:  # half of the time embedding are sines, half cosines
            raise ConfigError(f"network.base_channels must be even, got {self.base_channels}.")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"network.dropout must be at least 0 and below 1, got {self.dropout}.")
        if self.num_classes < 0:
            raise ConfigError(f"network.num_classes must be at least 0, got {self.num_classes}.")
        factor = 2 ** (len(self.channel_multipliers) - 1)
        _, height, width = self.image_shape
        for name, size in (("height", height), ("width", width)):
            if size < factor or size % factor:
                near = max(1, round(size / factor)) * factor
                raise ConfigError(
                    f"The image's {name} must be a multiple of {factor}, to halve "
                    f"{len(self.channel_multipliers) - 1} times, got {size}. Use {near}, or fewer channel_multipliers."
                )
        for level, multiplier in enumerate(self.channel_multipliers):
            if self.base_channels * multiplier % self.groups:
                raise ConfigError(
                    f"The channels of level {level} must be a multiple of groups={self.groups}, got "
                    f"{self.base_channels * multiplier}."
                )
        for level in self.attention_levels:
            if not 0 <= level < len(self.channel_multipliers):
                raise ConfigError(
                    f"network.attention_levels must be from 0 to {len(self.channel_multipliers) - 1}, got {level}."
                )
        for level in {*self.attention_levels, len(self.channel_multipliers) - 1}:  # the middle attends too
            channels = self.base_channels * self.channel_multipliers[level]
            if channels % max(1, channels // self.head_channels):
                raise ConfigError(
                    f"network.head_channels must divide the {channels} channels of level {level}, got "
                    f"{self.head_channels}."
                )


def time_embedding(t: Tensor, channels: int) -> Tensor:
    """Embed integer times as sinusoids (Vaswani et al. 2017, section 3.5): (B,) int64 -> (B, channels) float32."""
    half = channels // 2
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32, device=t.device) * (-math.log(10000.0) / half))
    angles = t.to(torch.float32)[:, None] * frequencies  # (B, half)
    return torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)


class ResidualBlock(nn.Module):
    """Two convolutions with the time added between them (Ho et al. 2020, appendix B)."""

    def __init__(self, channels_in: int, channels_out: int, time_channels: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.norm_1 = nn.GroupNorm(groups, channels_in)
        self.conv_1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.time = nn.Linear(time_channels, channels_out)
        self.norm_2 = nn.GroupNorm(groups, channels_out)
        self.dropout = nn.Dropout(dropout)
        self.conv_2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()
        nn.init.zeros_(self.conv_2.weight)
        nn.init.zeros_(self.conv_2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map (B, channels_in, H, W) and the activated time (B, time_channels) to (B, channels_out, H, W)."""
        h = self.conv_1(F.silu(self.norm_1(x)))
        h = h + self.time(time)[:, :, None, None]
        h = self.conv_2(self.dropout(F.silu(self.norm_2(h))))
        out: Tensor = self.shortcut(x) + h
        return out


class Attention(nn.Module):
    """Self-attention over pixels, GroupNorm before it; channels stay first, so that no transpose is exported."""

    def __init__(self, channels: int, head_channels: int, groups: int) -> None:
        super().__init__()
        self.heads = max(1, channels // head_channels)
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        channels, height, width = x.shape[1:]
        head_channels = channels // self.heads
        qkv = self.qkv(self.norm(x)).reshape(-1, 3 * self.heads, head_channels, height * width)
        q, k, v = qkv.split(self.heads, dim=1)  # (B, heads, d, HW) each
        scores = q.transpose(2, 3) @ k * head_channels**-0.5  # (B, heads, HW, HW): query, key
        mixed = v @ F.softmax(scores, dim=-1).transpose(2, 3)  # (B, heads, d, HW)
        out: Tensor = x + self.out(mixed.reshape(-1, channels, height, width))
        return out


class Downsample(nn.Module):
    """Halve height and width by a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H/2, W/2)."""
        out: Tensor = self.conv(x)
        return out


class Upsample(nn.Module):
    """Double height and width by nearest neighbours and a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, 2H, 2W)."""
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class Stage(nn.Module):
    """One residual block, and attention behind it where the level has any."""

    def __init__(self, channels_in: int, channels_out: int, config: UNetConfig, attend: bool) -> None:
        super().__init__()
        self.residual = ResidualBlock(
            channels_in, channels_out, 4 * config.base_channels, config.groups, config.dropout
        )
        self.attention = Attention(channels_out, config.head_channels, config.groups) if attend else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map (B, channels_in, H, W) and the activated time to (B, channels_out, H, W)."""
        out: Tensor = self.attention(self.residual(x, time))
        return out


class UNet(nn.Module):
    """Predict eps, x_0 or v from a noisy image, its time and, where there are classes, its class.

    Ho et al. 2020, appendix B; the class is embedded and added to the time (Nichol and Dhariwal 2021, section 6), and
    "none" is a class of its own (Ho and Salimans 2022, section 3.2).
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        base, image_channels = config.base_channels, config.image_shape[0]
        widths = [base * m for m in config.channel_multipliers]
        self.time = nn.Sequential(nn.Linear(base, 4 * base), nn.SiLU(), nn.Linear(4 * base, 4 * base), nn.SiLU())
        self.stem = nn.Conv2d(image_channels, base, 3, padding=1)

        channels, skips = base, [base]
        self.down = nn.ModuleList()
        for level, width in enumerate(widths):
            for _ in range(config.blocks_per_level):
                self.down.append(Stage(channels, width, config, level in config.attention_levels))
                channels = width
                skips.append(channels)
            if level < len(widths) - 1:
                self.down.append(Downsample(channels))
                skips.append(channels)
        self.middle = nn.ModuleList([Stage(channels, channels, config, True), Stage(channels, channels, config, False)])
        self.up = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(config.blocks_per_level + 1):
                self.up.append(Stage(channels + skips.pop(), width, config, level in config.attention_levels))
                channels = width
            if level > 0:
                self.up.append(Upsample(channels))
        self.norm = nn.GroupNorm(config.groups, channels)
        self.head = nn.Conv2d(channels, image_channels, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        if config.num_classes:  # last, so that all other weights begin as they do without classes
            self.label = nn.Embedding(config.num_classes + 1, 4 * base)

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Predict: x_t (B, C, H, W) float32 and t (B,) int64, 0-based -> the shape of x_t.

        y: classes (B,) int64 from 0 to `num_classes`, the last of which means "none", as does leaving y out. A network
        without classes takes none: ValueError.
        """
        time = self._activated_time(time_embedding(t, self.config.base_channels), y)
        x = self.stem(x_t)
        skips = [x]
        for stage in self.down:
            x = stage(x, time) if isinstance(stage, Stage) else stage(x)
            skips.append(x)
        for stage in self.middle:
            x = stage(x, time)
        for stage in self.up:
            x = stage(torch.cat([x, skips.pop()], dim=1), time) if isinstance(stage, Stage) else stage(x)
        out: Tensor = self.head(F.silu(self.norm(x)))
        return out

    def _activated_time(self, embedded: Tensor, y: Tensor | None) -> Tensor:
        """Return what every block sees of time and class: (B, base_channels) -> (B, 4 base_channels)."""
        if not self.config.num_classes:
            if y is not None:
                raise ValueError("this network has no classes, but y was given")
            out: Tensor = self.time(embedded)
            return out
        if y is None:
            y = torch.full((len(embedded),), self.config.num_classes, device=embedded.device)
        *mapping, activation = self.time
        for layer in mapping:
            embedded = layer(embedded)
        out = activation(embedded + self.label(y))
        return out
