"""What the networks of diffusers share: the package, buffers that no file has, and code that fixes the batch."""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddpm_export.errors import not_installed


def import_diffusers() -> Any:
    """Return the package, or raise EnvironmentProblem with what to install."""
    try:
        return importlib.import_module("diffusers")
    except ModuleNotFoundError as exc:
        raise not_installed("diffusers", "diffusers") from exc


class Upsample(nn.Module):
    """Double height and width by nearest neighbours, and convolve, by the same code at every batch size."""

    def __init__(self, conv: nn.Module | None) -> None:
        super().__init__()
        self.conv = conv or nn.Identity()

    def forward(self, x: Tensor, output_size: Any = None) -> Tensor:
        """Map (B, C, H, W) to (B, C, 2H, 2W), or to the given height and width."""
        size = {"scale_factor": 2.0} if output_size is None else {"size": output_size}
        out: Tensor = self.conv(F.interpolate(x, mode="nearest", **size))
        return out


def fill_constants(network: nn.Module, build: Callable[[], nn.Module]) -> None:
    """Give the buffers that are in no state dict, such as the kernels of a KDownBlock2D, the values they start with."""
    if not any(buffer.is_meta for buffer in network.buffers()):
        return
    with torch.random.fork_rng(devices=[]):  # weights are drawn, and thrown away
        twin = build()
    for module, other in zip(network.modules(), twin.modules(), strict=True):
        for name, buffer in other.named_buffers(recurse=False):
            if module.get_buffer(name).is_meta:
                setattr(module, name, buffer)


def free_the_batch(network: nn.Module) -> None:
    """Take out the branches on the batch size, which torch.export would make a bound on it.

    diffusers copies to contiguous memory before it doubles the sides of 64 images or more, which changes no number.
    """
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child).__name__ == "Upsample2D" and child.name == "conv" and child.norm is None:
                setattr(module, name, Upsample(child.conv))
        resize = getattr(module, "upsample", None)
        if resize is not None:  # a residual block resizes both its ways: by `downsample` it does so without that branch
            module.downsample = resize
            module.upsample = None  # type: ignore[assignment]
