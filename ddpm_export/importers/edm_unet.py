"""DDPM++, NCSN++ and ADM as EDM trains them, built from the shapes of their weights. Knows no checkpoint and no sigma.

Song et al. 2021, appendix H; Dhariwal and Nichol 2021, section 3; Karras et al. 2022, appendix F.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddpm_export.importers.layout import without_prefix
from ddpm_export.importers.unet import Attention

Shapes = Mapping[str, tuple[int, ...]]
# the names that EDM gives -> ours: {level} counts from the finest, {part} from 0
NAMES = {
    r"enc\.{level}_conv\.": "stem.",
    r"enc\.{level}_down\.": "down.{level}.first.",
    r"enc\.{level}_aux_(?:skip|residual)\.": "down.{level}.aux.",
    r"enc\.{level}_block(?P<part>\d+)\.": "down.{level}.blocks.{part}.",
    r"dec\.{level}_in(?P<part>[01])\.": "middle.{part}.",
    r"dec\.{level}_up\.": "up.{level}.first.",
    r"dec\.{level}_block(?P<part>\d+)\.": "up.{level}.blocks.{part}.",
    r"dec\.{level}_aux_norm\.": "up.{level}.head.0.",
    r"dec\.{level}_aux_conv\.": "up.{level}.head.2.",
    r"out_norm\.": "up.0.head.0.",
    r"out_conv\.": "up.0.head.2.",
    r"(?:map_noise|emb_fourier)\.": "",
}
PATTERNS = {re.compile(name.format(level=r"(?P<level>\d+)x\d+")): ours for name, ours in NAMES.items()}


class Kind(NamedTuple):
    """Describe what no shape says: whether it is ADM, and the filter that halves and doubles, along one side."""

    is_adm: bool
    taps: tuple[float, ...]


def name_of(name: str, sizes: list[int]) -> str:
    """Return our name of a weight. sizes: the sides of the levels, the finest first."""
    for pattern, ours in PATTERNS.items():
        if match := pattern.match(name):
            found = match.groupdict()
            level = sizes.index(int(found["level"])) if "level" in found else 0
            return ours.format(level=level, part=found.get("part")) + name[match.end() :]
    return name


def resampled(x: Tensor, taps: tuple[float, ...], *, is_up: bool, padding: int | None = None) -> Tensor:
    """Halve or double height and width by a separable filter. padding: half of the filter, unless it is given."""
    if taps == (0.5, 0.5):
        return F.interpolate(x, scale_factor=2.0) if is_up else F.avg_pool2d(x, 2)
    line = torch.tensor(taps, device=x.device)
    kernel = torch.outer(line, line).expand(x.shape[1], 1, -1, -1)
    padding = (len(taps) - 1) // 2 if padding is None else padding
    if is_up:
        return F.conv_transpose2d(x, 4.0 * kernel, stride=2, padding=padding, groups=x.shape[1])
    return F.conv2d(x, kernel, stride=2, padding=padding, groups=x.shape[1])


def norm(channels: int, kind: Kind) -> nn.GroupNorm:
    """Return the norm of so many channels: at most 32 groups, of 4 channels at least."""
    return nn.GroupNorm(min(32, channels // 4), channels, eps=1e-5 if kind.is_adm else 1e-6)


def convolution(shapes: Shapes, name: str, more: int = 0, *, bias: bool = True) -> nn.Conv2d:
    """Return a convolution that keeps the size, or lets it grow by `more` on each side."""
    out, channels, kernel = shapes[f"{name}.weight"][:3]
    return nn.Conv2d(channels, out, kernel, padding=kernel // 2 + more, bias=bias)


def linear(shapes: Shapes, name: str, *, bias: bool = True) -> nn.Linear:
    """Return a linear layer."""
    out, channels = shapes[f"{name}.weight"]
    return nn.Linear(channels, out, bias=bias)


class Block(nn.Module):
    """Two convolutions with the time added, or scaling and shifting, between them, then attention; it may resample."""

    def __init__(self, shapes: Shapes, kind: Kind, is_up: bool | None = None) -> None:
        super().__init__()
        self.taps, self.is_up, self.gain = kind.taps, is_up, 1.0 if kind.is_adm else math.sqrt(0.5)
        self.conv0, self.conv1 = convolution(shapes, "conv0"), convolution(shapes, "conv1")
        out = self.conv0.out_channels
        self.norm0, self.norm1 = norm(self.conv0.in_channels, kind), norm(out, kind)
        self.affine = linear(shapes, "affine")
        self.skip = convolution(shapes, "skip") if "skip.weight" in shapes else nn.Identity()
        self.attention: nn.Module | None = None
        if "attention.qkv.weight" in shapes:
            self.attention = Attention(out, 64 if kind.is_adm else out, 1)
            self.attention.norm = norm(out, kind)

    def _resampled(self, x: Tensor) -> Tensor:
        return x if self.is_up is None else resampled(x, self.taps, is_up=self.is_up)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map (B, C, H, W) and the activated time to (B, C', H', W')."""
        h = self.conv0(self._resampled(F.silu(self.norm0(x))))
        given = self.affine(time)[:, :, None, None]
        if given.shape[1] == h.shape[1]:
            h = self.norm1(h + given)
        else:
            scale, shift = given.chunk(2, dim=1)
            h = self.norm1(h) * (1.0 + scale) + shift
        x = (self.skip(self._resampled(x)) + self.conv1(F.silu(h))) * self.gain
        return x if self.attention is None else self.attention(x) * self.gain


class Level(nn.Module):
    """Hold what is at one size: how it is come to, its blocks, what sees the picture there or says it."""

    def __init__(self, shapes: Shapes, network: "UNet", *, is_up: bool) -> None:
        super().__init__()
        first, blocks = without_prefix(shapes, "first."), without_prefix(shapes, "blocks.")
        self.first = network.block(first, is_up, decodes=is_up) if first else None
        parts = range(len({name.partition(".")[0] for name in blocks}))
        self.blocks = nn.ModuleList(network.block(without_prefix(blocks, f"{part}."), decodes=is_up) for part in parts)
        self.aux: nn.Conv2d | None = None
        if "aux.weight" in shapes:
            # of a residual picture the filter comes after, and needs what its own padding would have been
            kernel, taps = shapes["aux.weight"][2], network.kind.taps
            self.aux = convolution(shapes, "aux", (len(taps) - 1) // 2 if kernel > 1 else 0)
        self.head = network.head(shapes) if "head.2.weight" in shapes else None


class UNet(nn.Module):
    """Say what the preconditioner expects, from a scaled state, what it is told of the noise, and a class."""

    has_biases = True
    freqs: Tensor | None

    def __init__(self, shapes: Shapes, kind: Kind) -> None:
        super().__init__()
        self.kind = kind
        self.embedding(shapes)
        self.stem = convolution(shapes, "stem", bias=self.has_biases)
        sizes = range(len({name.split(".")[1] for name in shapes if name.startswith("down.")}))
        self.down, self.up = (
            nn.ModuleList(Level(without_prefix(shapes, f"{side}.{k}."), self, is_up=side == "up") for k in sizes)
            for side in ("down", "up")
        )
        self.middle = nn.ModuleList(self.block(without_prefix(shapes, f"middle.{k}."), decodes=True) for k in range(2))

    def embedding(self, shapes: Shapes) -> None:
        """Build what embeds the time and the class."""
        self.map_layer0, self.map_layer1 = linear(shapes, "map_layer0"), linear(shapes, "map_layer1")
        self.map_label: nn.Embedding | None = None
        if "map_label.weight" in shapes:
            count, channels = shapes["map_label.weight"]
            self.map_label = nn.Embedding(count, channels)
        self.register_buffer("freqs", torch.empty(shapes["freqs"]) if "freqs" in shapes else None)

    def block(self, shapes: Shapes, is_up: bool | None = None, *, decodes: bool) -> nn.Module:
        """Return a block; is_up: whether it doubles or halves; decodes: on which side it is, which EDM2 asks for."""
        del decodes
        return Block(shapes, self.kind, is_up)

    def head(self, shapes: Shapes) -> nn.Module:
        """Return what says a picture."""
        last = convolution(shapes, "head.2")
        return nn.Sequential(norm(last.in_channels, self.kind), nn.SiLU(), last)

    def time(self, t: Tensor, y: Tensor | None) -> Tensor:
        """Return what every block sees of the time (B,) and the class (B,)."""
        half = self.map_layer0.in_features // 2
        places = torch.arange(half, dtype=torch.float64, device=t.device)  # runtimes differ in float32's powers
        frequencies = torch.pow(1e-4, places / (half if self.kind.is_adm else half - 1)).to(torch.float32)
        angles = t[:, None] * (frequencies if self.freqs is None else self.freqs)
        waves = torch.cos(angles), torch.sin(angles)
        time = torch.cat(waves if self.kind.is_adm else waves[::-1], dim=1)
        if self.map_label is not None and not self.kind.is_adm:
            time = time + self.map_label(y)
        time = self.map_layer1(F.silu(self.map_layer0(time)))
        if self.map_label is not None and self.kind.is_adm:
            time = time + self.map_label(y)
        return F.silu(time)

    def joined(self, x: Tensor, skip: Tensor) -> Tensor:
        """Return the channels of both."""
        return torch.cat([x, skip], dim=1)

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Predict: x_t (B, C, H, W) and t (B,) float32, y (B,) int64 where there are classes -> the shape of x_t."""
        time, seen, taps = self.time(t, y), x_t, self.kind.taps
        down: list[Any] = list(self.down)
        up: list[Any] = list(self.up)
        x = self.stem(x_t)
        skips = [x]
        for level in down:
            if level.first is not None:
                x = level.first(x, time)
                if level.aux is not None and level.aux.kernel_size == (1, 1):
                    seen = resampled(seen, taps, is_up=False)
                    x = x + level.aux(seen)
                elif level.aux is not None:
                    x = seen = (x + resampled(level.aux(seen), taps, is_up=False, padding=0)) * math.sqrt(0.5)
                skips.append(x)
            for block in level.blocks:
                x = block(x, time)
                skips.append(x)
        for block in self.middle:
            x = block(x, time)
        said: Tensor | None = None
        for level in reversed(up):
            if level.first is not None:
                x = level.first(x, time)
                said = None if said is None else resampled(said, taps, is_up=True)
            for block in level.blocks:
                x = block(self.joined(x, skips.pop()), time)
            if level.head is not None:
                said = level.head(x) if said is None else said + level.head(x)
        if said is None or skips:
            raise ValueError("a network without a picture, or with blocks that nothing joins")
        return said
