"""The UNet of tqch's ddpm-torch in our own words, by the names of its weights. Knows no checkpoint and no schedule."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

GROUPS = 32


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, channels, eps=1e-6)


def _time_embedding(t: Tensor, channels: int) -> Tensor:
    """Embed integer times as sinusoids, the slowest 10000 times the fastest: (B,) int64 -> (B, channels) float32."""
    half = channels // 2
    step = -math.log(10000.0) / (half - 1)
    angles = t.to(torch.float32)[:, None] * torch.exp(torch.arange(half, dtype=torch.float32, device=t.device) * step)
    return torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)


class Residual(nn.Module):
    """Two convolutions with the time added between them (Ho et al. 2020, appendix B)."""

    def __init__(self, channels_in: int, channels_out: int, time_channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(channels_in), _norm(channels_out)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.fc = nn.Linear(time_channels, channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.skip = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map (B, channels_in, H, W) and the activated time (B, time_channels) to (B, channels_out, H, W)."""
        h = self.conv1(F.silu(self.norm1(x))) + self.fc(time)[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        out: Tensor = self.skip(x) + h
        return out


class Attention(nn.Module):
    """Self-attention over pixels with one head; channels stay first, so that no transpose is exported."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.project_in = nn.Conv2d(channels, 3 * channels, 1)
        self.project_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        channels, height, width = x.shape[1:]
        q, k, v = self.project_in(self.norm(x)).reshape(-1, 3 * channels, height * width).split(channels, dim=1)
        scores = q.transpose(1, 2) @ k * channels**-0.5  # (B, HW, HW): query, key
        mixed = v @ F.softmax(scores, dim=-1).transpose(1, 2)  # (B, C, HW)
        out: Tensor = x + self.project_out(mixed.reshape(-1, channels, height, width))
        return out


class Attended(nn.ModuleList):
    """A residual block and the attention behind it."""

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map as the residual block does."""
        out: Tensor = self[1](self[0](x, time))
        return out


@dataclass(frozen=True)
class Layout:
    """Describe the network: all that decides the names and shapes of its weights, by the project's words."""

    in_channels: int
    out_channels: int
    hid_channels: int
    time_embedding_dim: int
    ch_multipliers: tuple[int, ...]
    num_res_blocks: int
    apply_attn: tuple[bool, ...]
    resample_with_conv: bool


class UNet(nn.Module):
    """Predict from a noisy image and its time (Ho et al. 2020, appendix B), with the names that ddpm-torch gives."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        hid, time = layout.hid_channels, layout.time_embedding_dim
        self.embed = nn.Sequential(nn.Linear(hid, time), nn.SiLU(), nn.Linear(time, time))
        self.in_conv = nn.Conv2d(layout.in_channels, hid, 3, padding=1)

        def block(channels_in: int, channels_out: int, attend: bool) -> nn.Module:
            residual = Residual(channels_in, channels_out, time)
            return Attended([residual, Attention(channels_out)]) if attend else residual

        self.downsamples, self.upsamples = nn.ModuleDict(), nn.ModuleDict()
        last = len(layout.ch_multipliers) - 1
        channels, skips = hid, [hid]
        levels = list(zip(layout.ch_multipliers, layout.apply_attn, strict=True))
        for level, (multiplier, attend) in enumerate(levels):
            stages = nn.ModuleList()
            for _ in range(layout.num_res_blocks):
                stages.append(block(channels, hid * multiplier, attend))
                channels = hid * multiplier
                skips.append(channels)
            if level < last:
                # one pixel at the right and the bottom, none at the left and the top
                halve = [nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(channels, channels, 3, stride=2)]
                stages.append(nn.Sequential(*halve) if layout.resample_with_conv else nn.AvgPool2d(2))
                skips.append(channels)
            self.downsamples[f"level_{level}"] = stages
        self.middle = nn.ModuleList(
            [Residual(channels, channels, time), Attention(channels), Residual(channels, channels, time)]
        )
        for level, (multiplier, attend) in reversed(list(enumerate(levels))):
            stages = nn.ModuleList()
            for _ in range(layout.num_res_blocks + 1):
                stages.append(block(channels + skips.pop(), hid * multiplier, attend))
                channels = hid * multiplier
            if level > 0:
                double = [nn.Upsample(scale_factor=2.0), nn.Conv2d(channels, channels, 3, padding=1)]
                stages.append(nn.Sequential(*double) if layout.resample_with_conv else double[0])
            self.upsamples[f"level_{level}"] = stages
        self.out_conv = nn.Sequential(
            _norm(channels), nn.SiLU(), nn.Conv2d(channels, layout.out_channels, 3, padding=1)
        )

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Predict: x_t (B, C, H, W) float32 and t (B,) int64, 0-based -> (B, out_channels, H, W)."""
        time = F.silu(self.embed(_time_embedding(t, self.in_conv.out_channels)))
        x = self.in_conv(x_t)
        skips = [x]
        for stages in self.downsamples.values():
            for stage in stages.children():
                x = stage(x, time) if isinstance(stage, (Residual, Attended)) else stage(x)
                skips.append(x)
        before, attention, after = self.middle
        x = after(attention(before(x, time)), time)
        for stages in self.upsamples.values():
            for stage in stages.children():
                takes_skip = isinstance(stage, (Residual, Attended))
                x = stage(torch.cat([x, skips.pop()], dim=1), time) if takes_skip else stage(x)
        out: Tensor = self.out_conv(x)
        return out


class Shuffled(nn.Module):
    """A network on blocks of pixels: each is one pixel with block_size^2 times the channels."""

    def __init__(self, network: nn.Module, block_size: int) -> None:
        super().__init__()
        self.network, self.block_size = network, block_size

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Map x_t (B, C, H, W) and t (B,) to the shape of x_t."""
        return F.pixel_shuffle(self.network(F.pixel_unshuffle(x_t, self.block_size), t), self.block_size)


class FromMean(nn.Module):
    """Give x_0 where a network gives the posterior's mean c_1[t] x_0 + c_2[t] x_t (Ho et al. 2020, eq. 7)."""

    c_1: Tensor
    c_2: Tensor

    def __init__(self, network: nn.Module, c_1: NDArray[np.float64], c_2: NDArray[np.float64]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("c_1", torch.from_numpy(c_1).float())
        self.register_buffer("c_2", torch.from_numpy(c_2).float())

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Map x_t (B, C, H, W) and t (B,) to x_0, the shape of x_t; at t = 0 the mean is x_0 itself."""
        c_1, c_2 = self.c_1[t][:, None, None, None], self.c_2[t][:, None, None, None]
        out: Tensor = (self.network(x_t, t) - c_2 * x_t) / c_1
        return out
