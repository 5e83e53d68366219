"""EDM2's UNet, whose layers preserve magnitudes (Karras et al. 2023, appendix B), on the levels of EDM's."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddpm_export.importers.edm_unet import Kind, Shapes, UNet, convolution, linear, resampled

EPS = 1e-4  # of every norm


class Balance(NamedTuple):
    """Say how much a sum or a joining has of its second part (eq. 88 and 103), and how wide a head is."""

    label_balance: float = 0.5
    concat_balance: float = 0.5
    res_balance: float = 0.3
    attn_balance: float = 0.3
    channels_per_head: int = 64
    clip_act: float = 256.0


def preserving(weight: Tensor, gain: float | Tensor = 1.0) -> Tensor:
    """Return what a layer multiplies by: each output's weights at a length of 1, times a gain (eq. 47)."""
    root = math.sqrt(weight[0].numel())
    length: Tensor = torch.linalg.vector_norm(weight.flatten(1), dim=1).reshape(-1, *(1,) * (weight.dim() - 1))
    scaled: Tensor = gain / root * weight / (EPS + length / root)
    return scaled


def _pixel_norm(x: Tensor, dim: int) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(x, dim=dim, keepdim=True) / math.sqrt(x.shape[dim])
    return x / (EPS + length)


def _silu(x: Tensor) -> Tensor:
    return F.silu(x) / 0.596  # eq. 81


def _sum(a: Tensor, b: Tensor, share: float) -> Tensor:
    return ((1.0 - share) * a + share * b) / math.hypot(1.0 - share, share)


class MPBlock(nn.Module):
    """Two convolutions scaled by the time between them, then attention; the decoder's does not norm its pixels."""

    def __init__(self, shapes: Shapes, kind: Kind, balance: Balance, is_up: bool | None, decodes: bool) -> None:
        super().__init__()
        self.taps, self.balance, self.is_up, self.decodes = kind.taps, balance, is_up, decodes
        self.conv_res0, self.conv_res1 = (
            convolution(shapes, "conv_res0", bias=False),
            convolution(shapes, "conv_res1", bias=False),
        )
        self.emb_linear = linear(shapes, "emb_linear", bias=False)
        self.conv_skip = convolution(shapes, "conv_skip", bias=False) if "conv_skip.weight" in shapes else nn.Identity()
        self.attn_qkv: nn.Module | None = None
        if "attn_qkv.weight" in shapes:
            self.attn_qkv, self.attn_proj = (
                convolution(shapes, "attn_qkv", bias=False),
                convolution(shapes, "attn_proj", bias=False),
            )

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map (B, C, H, W) and the activated time to (B, C', H', W')."""
        if self.is_up is not None:
            x = resampled(x, self.taps, is_up=self.is_up)
        if not self.decodes:
            x = _pixel_norm(self.conv_skip(x), 1)
        h = self.conv_res0(_silu(x)) * (1.0 + self.emb_linear(time)[:, :, None, None])
        h = self.conv_res1(_silu(h))
        x = _sum(self.conv_skip(x) if self.decodes else x, h, self.balance.res_balance)
        if self.attn_qkv is not None:
            channels, height, width = x.shape[1:]
            heads = channels // self.balance.channels_per_head
            parts = self.attn_qkv(x).reshape(-1, 3 * heads, channels // heads, height * width)
            q, k, v = _pixel_norm(parts, 2).chunk(3, dim=1)  # (B, heads, d, HW) each
            scores = q.transpose(2, 3) @ k / math.sqrt(channels // heads)
            mixed = v @ F.softmax(scores, dim=-1).transpose(2, 3)
            h = self.attn_proj(mixed.reshape(-1, channels, height, width))
            x = _sum(x, h, self.balance.attn_balance)
        return x.clamp(-self.balance.clip_act, self.balance.clip_act)


class MPUNet(UNet):
    """Say what the preconditioner expects; the state has a channel of ones more."""

    has_biases = False
    phases: Tensor

    def __init__(self, shapes: Shapes, kind: Kind, balance: Balance) -> None:
        self._balance = balance
        super().__init__(shapes, kind)

    def embedding(self, shapes: Shapes) -> None:
        """Build what embeds the time and the class."""
        self.emb_noise = linear(shapes, "emb_noise", bias=False)
        self.emb_label: nn.Embedding | None = None
        if "emb_label.weight" in shapes:
            count, channels = shapes["emb_label.weight"]
            self.emb_label = nn.Embedding(count, channels)
        for name in ("freqs", "phases"):
            self.register_buffer(name, torch.empty(shapes[name]))

    def block(self, shapes: Shapes, is_up: bool | None = None, *, decodes: bool) -> nn.Module:
        """Return a block."""
        return MPBlock(shapes, self.kind, self._balance, is_up, decodes)

    def head(self, shapes: Shapes) -> nn.Module:
        """Return what says a picture."""
        return nn.Sequential(nn.Identity(), nn.Identity(), convolution(shapes, "head.2", bias=False))

    def time(self, t: Tensor, y: Tensor | None) -> Tensor:
        """Return what every block sees of the time (B,) and the class (B,)."""
        assert self.freqs is not None  # by its shapes
        time = self.emb_noise(math.sqrt(2.0) * torch.cos(t[:, None] * self.freqs + self.phases))
        if self.emb_label is not None:
            time = _sum(time, self.emb_label(y), self._balance.label_balance)
        return _silu(time)

    def joined(self, x: Tensor, skip: Tensor) -> Tensor:
        """Return the channels of both, whose magnitudes count as the balance says."""
        share, both = self._balance.concat_balance, x.shape[1] + skip.shape[1]
        root = math.sqrt(both) / math.hypot(1.0 - share, share)
        first, second = (1.0 - share) * root / math.sqrt(x.shape[1]), share * root / math.sqrt(skip.shape[1])
        return torch.cat([first * x, second * skip], dim=1)

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Predict as `UNet` does."""
        return super().forward(torch.cat([x_t, torch.ones_like(x_t[:, :1])], dim=1), t, y)
