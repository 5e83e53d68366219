"""The network as it trains fastest: by torch.compile on a GPU, by a fused GroupNorm and SiLU of C++ on a CPU."""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ddpm_export.errors import ConfigError, EnvironmentProblem, first_line
from ddpm_export.importers.unet import ResidualBlock
from ddpm_export.system.files import cache_folder, replacing
from ddpm_export.system.processor import instructions

LANES = 16  # channels that fused.cpp computes at once
SOURCE = Path(__file__).with_name("fused.cpp")
FLAGS = (
    *("-O3", "-march=native", "-std=c++17", "-fno-math-errno", "-ffp-contract=fast", "-shared", "-fPIC"),
    f"-DLANES={LANES}",
)
MALLOC_KEEPS = {-3: 2**30, -1: 2**31 - 1, -2: 2**28}  # glibc's M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD


def compiled(network: nn.Module, channels_last: bool) -> Callable[..., Tensor]:
    """Return a function that computes what a network does, faster. The weights stay the network's, under their names.

    On a GPU it is torch.compile's, made at its first call. On a CPU the network's GroupNorms, with the SiLUs and times
    beside them, become functions of fused.cpp where channels are a multiple of LANES: it sums up in another order then.

    Raises ConfigError on a CPU without channels_last, EnvironmentProblem without a C++ compiler.
    """
    if next(network.parameters()).device.type != "cpu":
        call: Callable[..., Tensor] = torch.compile(network, dynamic=False)
        return call
    if not channels_last:
        raise ConfigError("compile=true on a CPU needs channels_last=true. Set both, or neither.")
    _library()
    for module in network.modules():
        if type(module) is ResidualBlock:
            module.__class__ = FusedResidualBlock
        elif type(module) is nn.GroupNorm:
            module.__class__ = FusedNorm  # the same weights under the same names
    return network


def keep_memory() -> None:
    """Have glibc keep what is freed for the next step, and not give it to the system, which clears each page anew."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    for name, value in MALLOC_KEEPS.items() if mallopt else ():
        mallopt(name, value)


class FusedNorm(nn.GroupNorm):
    """GroupNorm (Wu and He 2018) by fused.cpp where its channels are a multiple of LANES."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, C, H, W), float32 or bfloat16, normalised and of the same dtype; computed in float32."""
        return fused_norm(self, x)


class FusedResidualBlock(ResidualBlock):
    """The block with each GroupNorm, its SiLU and the time before it as one function."""

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map (B, channels_in, H, W) and the activated time (B, time_channels) to (B, channels_out, H, W)."""
        h = self.conv_1(fused_norm(self.norm_1, x, silu=True))
        h = self.conv_2(self.dropout(fused_norm(self.norm_2, h, self.time(time), silu=True)))
        out: Tensor = self.shortcut(x) + h
        return out


def fused_norm(norm: nn.GroupNorm, x: Tensor, added: Tensor | None = None, silu: bool = False) -> Tensor:
    """Return the GroupNorm of x + added, or its SiLU: x (B, C, H, W), added (B, C), each float32 or bfloat16."""
    if norm.num_channels % LANES:
        moved = x.float() if added is None else x.float() + added.float()[:, :, None, None]
        y = nn.functional.group_norm(moved, norm.num_groups, norm.weight, norm.bias, norm.eps)
        return (nn.functional.silu(y) if silu else y).to(x.dtype)
    out: Tensor = _Fused.apply(x, added, norm.weight, norm.bias, norm.num_groups, norm.eps, silu)
    return out


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, added: Any, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool
    ) -> Any:
        x = x.contiguous(memory_format=torch.channels_last)
        ctx.added_dtype = None if added is None else added.dtype
        added = None if added is None else added.float().contiguous()
        y, mean, rstd = torch.empty_like(x), torch.empty(len(x), groups), torch.empty(len(x), groups)
        _over_images("forward", (x, added, weight, bias, y, mean, rstd), groups, ctypes.c_float(eps), silu)
        ctx.save_for_backward(x, added, weight, bias, mean, rstd)
        ctx.silu = silu
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, added, weight, bias, mean, rstd = ctx.saved_tensors
        dy, dx = gradients[0].contiguous(memory_format=torch.channels_last), torch.empty_like(x)
        d_added, d_weight, d_bias = (torch.empty(x.shape[:2]) for _ in range(3))
        tensors = (dy, x, added, weight, bias, mean, rstd, dx, d_added, d_weight, d_bias)
        _over_images("backward", tensors, mean.shape[1], ctx.silu)
        d_added = None if added is None else d_added.to(ctx.added_dtype)
        return dx, d_added, d_weight.sum(0), d_bias.sum(0), None, None, None


def _over_images(name: str, tensors: tuple[Tensor | None, ...], groups: int, *more: object) -> None:
    """Call a function of fused.cpp on a share of the batch for each of torch's threads; shares change no bits."""
    x = tensors[0]
    assert x is not None
    count, channels, height, width = x.shape
    call = getattr(_library(), f"{name}_{str(x.dtype).removeprefix('torch.')}")
    pointers = [ctypes.c_void_p(None if t is None else t.data_ptr()) for t in tensors]
    sizes = [ctypes.c_int64(size) for size in (height * width, channels, groups)]

    def share(first: int, last: int) -> None:
        call(*pointers, ctypes.c_int64(first), ctypes.c_int64(last), *sizes, *more)

    threads = min(torch.get_num_threads(), count)
    if threads == 1:
        share(0, count)
    else:
        bounds = [count * k // threads for k in range(threads + 1)]
        list(_pool(threads).map(share, bounds, bounds[1:]))


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


@functools.cache
def _library() -> ctypes.CDLL:
    """Return fused.cpp's functions, compiled for this processor at the first call, and then from the user's cache."""
    command = [*shlex.split(os.environ.get("CXX", "c++")), *FLAGS]
    # -march=native: a home folder may be shared by machines of other processors
    made_of = "\n".join([SOURCE.read_text(encoding="utf-8"), *command, instructions(), platform.node()])
    path = cache_folder() / "fused" / f"{hashlib.sha256(made_of.encode()).hexdigest()[:32]}.so"
    if not path.exists():
        with replacing(path) as beside:
            try:
                subprocess.run([*command, str(SOURCE), "-o", str(beside)], check=True, capture_output=True, text=True)
            except (OSError, subprocess.CalledProcessError) as exc:
                options = first_line(getattr(exc, "stderr", None) or exc)
                raise EnvironmentProblem(
                    f"compile=true needs a C++ compiler on a CPU, and {command[0]} failed: {options}. "
                    "Install g++, say another in CXX, or --set compile=false."
                ) from exc
    try:
        return ctypes.CDLL(str(path))
    except OSError as exc:
        raise EnvironmentProblem(
            f"{path} cannot be loaded: {first_line(exc)}. Delete it, or --set compile=false."
        ) from exc
