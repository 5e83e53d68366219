"""What an opened file is: a denoiser, whose network is evaluated step by step, or a one-call sampler."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ddpm_export.model.spec import ModelSpec
from ddpm_export.process.equations import Array, Model

# (seed, image numbers, num_steps, eta, times=None, plan=None, guidance=None, **inputs of the spec) -> where it stops to
# show it: the number of the row, from 1, the state x after it (B, *shape) and what it is worth, pictures uint8
# (B, H, W, C) or values float32; the last is the end
OneCall = Callable[..., Iterator[tuple[int, Array, Array]]]


@dataclass(frozen=True)
class DenoiserFile:
    """Hold the network of a file: model(x_t (B, *shape) float32, t (B,) int64, **inputs) gives outputs by name."""

    model: Model
    spec: ModelSpec


@dataclass(frozen=True)
class OneCallFile:
    """Hold the sampler of a one-call file, whose spec names a graph: the whole trajectory, or slices of one."""

    run: OneCall
    spec: ModelSpec

    def end(self, *settings: Any, **inputs: Any) -> tuple[Array, Array]:
        """Return where a run ends, x (B, *shape) and its pictures or values; arguments as of `run`."""
        _, x, images = deque(self.run(*settings, **inputs), maxlen=1).pop()
        return x, images
