"""Training in several processes, started by torchrun: who this one is, and what all of them agree on."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from ddpm_export.errors import ConfigError, EnvironmentProblem

PICTURES_TIMEOUT = timedelta(hours=1)  # rank 0 draws while the others wait at the next step
# what gloo and NCCL say, in a plain RuntimeError, when another process has died or hangs
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "timed out", "Timed out", "NCCL error")


@dataclass(frozen=True)
class World:
    """The processes that train one network: this one's rank, from 0, and how many there are."""

    rank: int = 0
    size: int = 1

    def share(self, batch_size: int) -> slice:
        """Return which images of a batch are this rank's; raises ConfigError where ranks would get different numbers.

        With equal shares the mean of the ranks' gradients is the gradient of the whole batch's mean loss.
        """
        if batch_size % self.size:
            raise ConfigError(
                f"batch_size must be a multiple of the {self.size} processes, got {batch_size}. Use "
                f"{-(-batch_size // self.size) * self.size}."
            )
        each = batch_size // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def wrapped(self, network: nn.Module) -> nn.Module:
        """Return what to call instead of the network, so that gradients become the mean over ranks (Li et al. 2020)."""
        if self.size == 1:
            return network
        return nn.parallel.DistributedDataParallel(network)

    def any(self, flag: bool) -> bool:
        """Say whether the flag is set on any rank: the same answer on all of them."""
        if self.size == 1:
            return flag
        value = torch.tensor(int(flag))
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return bool(value)

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Return the mean over ranks of a number."""
        if self.size == 1:
            return value
        value = value.cpu()
        dist.all_reduce(value)
        return value / self.size

    def check_same(self, what: str, value: Any) -> None:
        """Raise ConfigError on every rank where they differ in a value: two machines may see different files."""
        if self.size == 1:
            return
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        if any(other != values[0] for other in values):
            raise ConfigError(
                f"{what} must be the same in all processes, got {values}. Give all machines the same data and --out."
            )


ALONE = World()


@contextmanager
def joined_world(device: str) -> Iterator[World]:
    """Join the processes that torchrun started, as its environment says; alone without it.

    Raises EnvironmentProblem where the others cannot be reached, or are gone: then nothing can go on.
    """
    rank, size = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    if size == 1:
        yield ALONE
        return
    world = World(rank, size)
    try:
        # flags and numbers are agreed on over gloo also where gradients go over NCCL
        backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
        dist.init_process_group(backend, timeout=PICTURES_TIMEOUT)
        yield world
    except RuntimeError as exc:
        signs = [sign for sign in LOST if sign in str(exc)] or [type(exc).__name__] * isinstance(exc, dist.DistError)
        if not signs:
            raise
        raise EnvironmentProblem(
            f"Rank {world.rank} of {size} lost another process: {signs[0]}. See why that ended; the same "
            "command goes on from the last checkpoint."
        ) from exc
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
