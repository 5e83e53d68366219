"""The network as torch.compile makes it fast: on a CPU, with a GroupNorm whose channels_last kernels are vectorised."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["compiled"]


class ChannelwiseNorm(nn.GroupNorm):
    """GroupNorm (Wu and He 2018) by sums over each channel, with two small matrix products between channels and groups.

    Inductor computes the group of every pixel's channel anew and one number at a time where a reduction is over a group
    of a channels_last tensor; nothing here is larger than a row of channels and indexed by group.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same, computed in float32 also under autocast."""
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
    """Return what computes what a network does, compiled at its first call; its weights stay the network's."""
    if channels_last and next(network.parameters()).device.type == "cpu":
        for module in network.modules():
            if isinstance(module, nn.GroupNorm):
                module.__class__ = ChannelwiseNorm  # the same weights under the same names
    # no probe of the processor: on a busy machine it times out, and the code would be slower and its bits others
    call: Callable[..., Tensor] = torch.compile(network, dynamic=False, options={"cpp.vec_isa_ok": True})
    return call
