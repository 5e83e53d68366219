"""The UNet that improved- and guided-diffusion share, rebuilt from their papers under the names of their weights.

Nichol and Dhariwal 2021; Dhariwal and Nichol 2021, section 3. Knows nothing of schedules, flags or files.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROUPS = 32


@dataclass(frozen=True)
class UNetConfig:
    """Describe the network. The fields up to is_super_resolution decide the shapes of its weights, the others none.

    widths: channels of each level, the finest first. attention: whether a level attends; the middle always does.
    num_classes: 0 without classes. is_super_resolution: whether it also sees a small image.
    num_head_channels: -1 where the number of heads is given instead; num_heads_upsample: -1 for the same number.
    time_scale: what t is multiplied by.
    """

    image_channels: int
    num_channels: int
    widths: tuple[int, ...]
    num_res_blocks: int
    attention: tuple[bool, ...]
    use_scale_shift_norm: bool
    resblock_updown: bool
    conv_resample: bool
    learn_sigma: bool
    num_classes: int = 0
    is_super_resolution: bool = False
    num_heads: int = 1
    num_heads_upsample: int = -1
    num_head_channels: int = -1
    use_new_attention_order: bool = False
    time_scale: float = 1.0

    def heads(self, channels: int, *, is_up: bool) -> int:
        """Return the number of heads of an attention over so many channels."""
        if self.num_head_channels != -1:
            return channels // self.num_head_channels
        return self.num_heads_upsample if is_up and self.num_heads_upsample != -1 else self.num_heads


class ResidualBlock(nn.Module):
    """Two convolutions with the time added, or scaling and shifting, between them; it may resample on its way."""

    def __init__(self, channels_in: int, channels_out: int, config: UNetConfig, resample: nn.Module) -> None:
        super().__init__()
        self.resample = resample
        self.use_scale_shift_norm = config.use_scale_shift_norm
        self.in_layers = nn.ModuleList(
            [nn.GroupNorm(GROUPS, channels_in), nn.SiLU(), nn.Conv2d(channels_in, channels_out, 3, padding=1)]
        )
        time_channels = channels_out * (2 if config.use_scale_shift_norm else 1)
        # nn.Identity: activated once for all blocks here, and dropout below
        self.emb_layers = nn.Sequential(nn.Identity(), nn.Linear(4 * config.num_channels, time_channels))
        convolution = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.out_layers = nn.ModuleList([nn.GroupNorm(GROUPS, channels_out), nn.SiLU(), nn.Identity(), convolution])
        self.skip_connection = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map (B, channels_in, H, W) and the activated time (B, 4 num_channels) to (B, channels_out, H', W')."""
        norm, activate, convolve = self.in_layers
        h = convolve(self.resample(activate(norm(x))))
        norm, activate, _, convolve = self.out_layers
        time = self.emb_layers(time)[:, :, None, None]
        if self.use_scale_shift_norm:
            scale, shift = time.chunk(2, dim=1)  # (B, channels_out, 1, 1) each
            h = norm(h) * (1.0 + scale) + shift
        else:
            h = norm(h + time)
        out: Tensor = self.skip_connection(self.resample(x)) + convolve(activate(h))
        return out


class Attention(nn.Module):
    """Self-attention over pixels, channels first.

    Its 3C channels are q, k and v of one head after the other; in the new order q of all heads, then k, then v.
    """

    def __init__(self, channels: int, heads: int, use_new_order: bool) -> None:
        super().__init__()
        self.heads, self.use_new_order = heads, use_new_order
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        channels, height, width = x.shape[1:]
        d, pixels = channels // self.heads, height * width
        qkv = self.qkv(self.norm(x).reshape(-1, channels, pixels))  # (B, 3C, HW)
        if self.use_new_order:
            q, k, v = qkv.reshape(-1, 3 * self.heads, d, pixels).split(self.heads, dim=1)  # (B, heads, d, HW) each
        else:
            q, k, v = qkv.reshape(-1, self.heads, 3 * d, pixels).split(d, dim=2)  # (B, heads, d, HW) each
        scores = (q * d**-0.5).transpose(2, 3) @ k  # (B, heads, HW, HW): query, key
        mixed = v @ F.softmax(scores, dim=-1).transpose(2, 3)  # (B, heads, d, HW)
        out: Tensor = x + self.proj_out(mixed.reshape(-1, channels, pixels)).reshape(-1, channels, height, width)
        return out


class Stage(nn.Sequential):
    """Modules one after the other; residual blocks are given the time."""

    def forward(self, x: Tensor, time: Tensor) -> Tensor:  # type: ignore[override]
        """Map (B, C, H, W) and the activated time to what the last module gives."""
        for module in self:
            x = module(x, time) if isinstance(module, ResidualBlock) else module(x)
        return x


def _resampling(channels: int, config: UNetConfig, *, is_up: bool) -> nn.Module:
    """Return what halves or doubles height and width between two levels."""
    resample = nn.Upsample(scale_factor=2.0) if is_up else nn.AvgPool2d(2)
    if config.resblock_updown:
        return ResidualBlock(channels, channels, config, resample)
    if not config.conv_resample:
        return resample
    if is_up:
        return nn.Sequential(OrderedDict(resize=resample, conv=nn.Conv2d(channels, channels, 3, padding=1)))
    return nn.Sequential(OrderedDict(op=nn.Conv2d(channels, channels, 3, stride=2, padding=1)))


class UNet(nn.Module):
    """Predict eps or x_0 from a noisy image and its time, and the fraction of the variance where it is learned.

    It may take a class, embedded and added to the time (Nichol and Dhariwal 2021, section 6), and a small image,
    which it enlarges bilinearly and sees beside the noisy one (section 7).
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        base, widths = config.num_channels, config.widths
        self.time_embed = nn.Sequential(nn.Linear(base, 4 * base), nn.SiLU(), nn.Linear(4 * base, 4 * base))
        if config.num_classes:
            self.label_emb = nn.Embedding(config.num_classes, 4 * base)

        def stage(channels_in: int, channels_out: int, attends: bool, *, is_up: bool = False) -> Stage:
            modules: list[nn.Module] = [ResidualBlock(channels_in, channels_out, config, nn.Identity())]
            if attends:
                heads = config.heads(channels_out, is_up=is_up)
                modules.append(Attention(channels_out, heads, config.use_new_attention_order))
            return Stage(*modules)

        channels, skips = widths[0], [widths[0]]
        channels_in = config.image_channels * (2 if config.is_super_resolution else 1)
        self.input_blocks = nn.ModuleList([Stage(nn.Conv2d(channels_in, channels, 3, padding=1))])
        for level, width in enumerate(widths):
            for _ in range(config.num_res_blocks):
                self.input_blocks.append(stage(channels, width, config.attention[level]))
                channels = width
                skips.append(channels)
            if level < len(widths) - 1:
                self.input_blocks.append(Stage(_resampling(channels, config, is_up=False)))
                skips.append(channels)
        self.middle_block = Stage(*stage(channels, channels, True), *stage(channels, channels, False))
        self.output_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(config.num_res_blocks + 1):
                last = stage(channels + skips.pop(), width, config.attention[level], is_up=True)
                self.output_blocks.append(last)
                channels = width
            if level > 0:
                last.append(_resampling(channels, config, is_up=True))
        channels_out = config.image_channels * (2 if config.learn_sigma else 1)
        self.out = nn.Sequential(
            nn.GroupNorm(GROUPS, channels), nn.SiLU(), nn.Conv2d(channels, channels_out, 3, padding=1)
        )

    def forward(
        self, x_t: Tensor, t: Tensor, *, y: Tensor | None = None, low_res: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Predict: x_t (B, C, H, W) float32 and t (B,) int64, 0-based -> the shape of x_t, twice with learn_sigma.

        y: classes (B,) int64, and low_res: images (B, C, h, w) of any size, where the network takes them.
        """
        half = self.config.num_channels // 2
        # product before quotient, as it was trained: at t = 1000 the last bit of a frequency is 1e-4 in the angle
        frequencies = torch.exp(torch.arange(half, dtype=torch.float32, device=t.device) * -math.log(10000.0) / half)
        scaled = t.to(torch.float32) if self.config.time_scale == 1.0 else t.to(torch.float32) * self.config.time_scale
        angles = scaled[:, None] * frequencies  # (B, half)
        time = self.time_embed(torch.cat([torch.cos(angles), torch.sin(angles)], dim=1))
        if y is not None:
            time = time + self.label_emb(y)
        time = F.silu(time)
        x, skips = x_t, []
        if low_res is not None:
            x = torch.cat([x_t, F.interpolate(low_res, x_t.shape[2:], mode="bilinear")], dim=1)
        for stage in self.input_blocks:
            x = stage(x, time)
            skips.append(x)
        x = self.middle_block(x, time)
        for stage in self.output_blocks:
            x = stage(torch.cat([x, skips.pop()], dim=1), time)
        out: Tensor = self.out(x)
        if not self.config.learn_sigma:
            return out
        predicted, between = out.chunk(2, dim=1)
        return predicted, (between + 1.0) / 2.0  # from [-1, 1]; the network may go beyond
