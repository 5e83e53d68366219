"""`python -m train.speed`: images a thread trains on in a second of its own time, by how a step is computed.

Contenders take turns, and the thread's time is counted, not the clock's: others may be working on the machine.
"""

import itertools
import time
from collections.abc import Callable
from typing import Annotated

import numpy as np
import torch
import typer

from ddpm_export.cli.console import Debug, entry_point, print_json
from ddpm_export.exporting.unet import UNet
from train.config import TrainConfig, load_config
from train.loop import _Draws, _update

__all__ = ["main", "stepper"]


def stepper(config: TrainConfig) -> Callable[[int], None]:
    """Return what takes step number k of a training on noise instead of images: (k) -> None."""
    torch.manual_seed(config.seed)
    network = UNet(config.network)
    if config.channels_last:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    forward = torch.compile(network) if config.compile else network
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate, betas=(0.9, 0.99))
    alphas = torch.linspace(0.999, 0.001, config.num_train_timesteps)
    x_0 = torch.rand(config.batch_size, *config.network.image_shape) * 2.0 - 1.0
    classes = config.network.num_classes
    y = torch.arange(config.batch_size) % classes if classes else None

    def step(k: int) -> None:
        draws = _Draws(config, k, slice(None), 0)
        _update(config, forward, network, optimizer, x_0, y, draws, alphas, k)

    return step


def speed(
    configs: Annotated[list[str], typer.Argument(help="Files of train/configs, or paths.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE,VALUE", help="Try each of these; repeatable.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Steps of each, after one that does not count.")] = 3,
    debug: Debug = False,
) -> None:
    """Print a JSON line a combination: parameters, and images a second of one thread: median, least and most."""
    torch.set_num_threads(1)
    choices = [
        [(key, value) for value in values.split(",")] for key, _, values in (s.partition("=") for s in set_ or [])
    ]
    contenders = []
    for name, changes in itertools.product(configs, itertools.product(*choices)):
        config = load_config(name, dict(changes))
        contenders.append((config, dict(changes), stepper(config)))
    rates = np.zeros((len(contenders), rounds))
    for k in range(-1, rounds):
        for place, (config, _, step) in enumerate(contenders):
            began = time.thread_time()
            step(k + 1)
            if k >= 0:
                rates[place, k] = config.batch_size / (time.thread_time() - began)
    for (config, changes, _), row in zip(contenders, rates, strict=True):
        with torch.device("meta"):
            parameters = sum(p.numel() for p in UNet(config.network).parameters())
        found = {"median": np.median(row), "least": row.min(), "most": row.max()}
        print_json(
            {
                "config": config.name,
                **changes,
                "parameters": parameters,
                **{name: round(float(value), 1) for name, value in found.items()},
            }
        )


main = entry_point(speed)

if __name__ == "__main__":
    main()
