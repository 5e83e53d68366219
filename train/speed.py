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

from ddpm_export.cli.console import entry_point, print_json
from ddpm_export.cli.options import Debug
from ddpm_export.importers.unet import UNet
from ddpm_export.scoring.datasets.dataset import Dataset

from .config import TrainConfig, load_config
from .loop import Stepper


def stepper(config: TrainConfig) -> Callable[[int], object]:
    """Return what takes step number k of a training on noise instead of images: (k) -> its loss."""
    channels, height, width = config.network.image_shape
    shape, classes = (config.batch_size, height, width, channels), config.network.num_classes
    noise = np.random.default_rng(config.seed).integers(0, 256, shape, dtype=np.uint8)
    labels = np.arange(config.batch_size) % max(1, classes)
    made = Stepper(config, Dataset("noise", noise, labels, None, classes=tuple(map(str, range(classes)))), "cpu")
    made.prepare()
    return made.take


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
