"""The network as torch.compile makes it fast: on a CPU, with a GroupNorm whose channels_last kernels are vectorised."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ddpm_export.cores import instructions

__all__ = ["compiled"]


class ChannelwiseNorm(nn.GroupNorm):
    """GroupNorm (Wu and He 2018) by sums over each channel, with two small matrix products between channels and groups.

    Where a reduction is over a group of a channels_last tensor, Inductor looks up the group of every pixel's channel
    and does not vectorise. Here only rows of channels are indexed by group. The variance is the mean square less the
    squared mean, which in float32 costs digits where a mean is many deviations from 0: tested up to some thirty.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, C, H, W), of any float dtype, normalised and of the same dtype; computed in float32."""
        channels = x.shape[1]
        group = torch.arange(channels, device=x.device) // (channels // self.num_groups)
        with torch.autocast(x.device.type, enabled=False):
            values = x.float()
            mean_of_group = (group[:, None] == group).float() * (self.num_groups / x[0].numel())  # (C, C)
            mean = values.sum((2, 3)) @ mean_of_group  # (B, C), equal within a group
            variance = (values * values).sum((2, 3)) @ mean_of_group - mean * mean
            scale = torch.rsqrt(variance.clamp(min=0) + self.eps) * self.weight
            shift = self.bias - mean * scale
            return (values * scale[:, :, None, None] + shift[:, :, None, None]).to(x.dtype)


def compiled(network: nn.Module, channels_last: bool) -> Callable[..., Tensor]:
    """Return a function that computes what a network does, compiled at its first call for that shape of input.

    The weights stay the network's, under their names. On a CPU its GroupNorms become ChannelwiseNorms where
    channels_last, so that from then on it sums up in another order, uncompiled too.
    """
    if channels_last and next(network.parameters()).device.type == "cpu":
        for module in network.modules():
            if isinstance(module, nn.GroupNorm):
                module.__class__ = ChannelwiseNorm  # the same weights under the same names
    call: Callable[..., Tensor] = torch.compile(network, dynamic=False, options=_options())
    return call


def _options() -> dict[str, Any]:
    # no probe of the processor: on a busy machine it times out, and the code would be slower and its bits others
    options: dict[str, Any] = {"cpp.vec_isa_ok": True}
    if "amx_tile" in instructions():
        # GCC 12 makes NaN of attention's gradients in bfloat16 where it tunes 512-bit code for such a processor
        options["cpp.simdlen"] = 256
    return options
