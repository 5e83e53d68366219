"""A step of this training beside a step of lucidrains' and of diffusers' training loops, each around the same network.

The network is that of one configuration in all of them, the images are its data set's, from PNG files where the loop
reads files. Losses and learning rates are each loop's own, and cost the same. Lucidrains' loop decodes in workers, also
between its turns, so that decoding costs it next to nothing here.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib.util
import itertools
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.report import Report, Table, run
from ddpm_export.errors import EnvironmentProblem, UsageError
from ddpm_export.importers.unet import UNet
from ddpm_export.measuring.timing import PAUSE_S, Timings, machine, spread
from ddpm_export.scoring.datasets.readers import open_dataset
from train.config import TrainConfig, load_config
from train.loop import Stepper

__all__ = ["CONTENDERS", "diffusers_loop", "lucidrains_loop", "measure", "our_loop"]

NUM_IMAGES = 2048
WARM_UP_STEPS = 3
Take = Callable[[], Any]


def our_loop(config: TrainConfig, folder: Path, channels_last: bool, compiled: bool) -> Take:
    """Return what takes the next step of `python -m train`."""
    config = dataclasses.replace(config, channels_last=channels_last, compile=compiled)
    stepper = Stepper(config, open_dataset(config.dataset, None, image_shape=config.network.image_shape), "cpu")
    stepper.prepare()
    steps = itertools.count()
    return lambda: stepper.take(next(steps))


class _Network(nn.Module):
    """The network with the face that both packages expect of theirs."""

    self_condition = False

    def __init__(self, config: TrainConfig, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.channels = self.out_dim = config.network.image_shape[0]
        self.network, self.wrap = UNet(config.network), wrap

    def forward(self, x_t: Tensor, t: Tensor, _self_condition: None = None) -> Any:
        return self.wrap(self.network(x_t, t))


def lucidrains_loop(config: TrainConfig, folder: Path) -> Take:
    """Return what lets the Trainer of denoising-diffusion-pytorch take its next step."""
    from denoising_diffusion_pytorch import GaussianDiffusion, Trainer

    trainer = Trainer(
        GaussianDiffusion(
            _Network(config, lambda prediction: prediction),
            image_size=config.network.image_shape[1:],
            timesteps=config.num_train_timesteps,
        ),
        str(folder),
        train_batch_size=config.batch_size,
        augment_horizontal_flip=False,
        results_folder=str(folder.parent / "results"),
        save_and_sample_every=10**9,
        calculate_fid=False,
        amp=config.bf16,
        mixed_precision_type="bf16",
    )

    def take() -> None:
        trainer.train_num_steps = trainer.step + 1
        trainer.train()

    return take


class _Pictures(torch.utils.data.Dataset[Tensor]):
    """Decode, resize, crop and normalise each picture when asked for, as the example does."""

    def __init__(self, folder: Path, size: int) -> None:
        from torchvision import transforms as do

        self.paths = sorted(folder.iterdir())
        self.change = do.Compose([do.Resize(size), do.CenterCrop(size), do.ToTensor(), do.Normalize([0.5], [0.5])])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> Tensor:
        from PIL import Image

        with Image.open(self.paths[place]) as image:
            changed: Tensor = self.change(image.convert("L"))
        return changed


def diffusers_loop(config: TrainConfig, folder: Path) -> Take:
    """Return what takes the next step of diffusers' example of unconditional training, with its defaults and EMA."""
    from accelerate import Accelerator
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel

    accelerator = Accelerator(mixed_precision="bf16" if config.bf16 else "no")
    network: Any = _Network(config, lambda prediction: SimpleNamespace(sample=prediction))
    ema = EMAModel(network.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    noising = DDPMScheduler(config.num_train_timesteps)
    adam = torch.optim.AdamW(network.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    pictures = _Pictures(folder, config.network.image_shape[1])
    loader = torch.utils.data.DataLoader(pictures, batch_size=config.batch_size, shuffle=True)
    rates = get_scheduler("cosine", optimizer=adam, num_warmup_steps=500, num_training_steps=10_000)
    network, adam, loader, rates = accelerator.prepare(network, adam, loader, rates)
    batches = itertools.chain.from_iterable(loader for _ in itertools.count())

    def take() -> float:
        clean = next(batches)
        noise, t = torch.randn(clean.shape), torch.randint(config.num_train_timesteps, (len(clean),))
        noisy = noising.add_noise(clean, noise, t)
        with accelerator.accumulate(network):
            loss = nn.functional.mse_loss(network(noisy, t).sample.float(), noise)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(network.parameters(), 1.0)
            adam.step()
            rates.step()
            adam.zero_grad()
        ema.step(network.parameters())
        return loss.detach().item()

    return take


OURS = "this training"
# what is timed, by name: the loop, and the packages that it needs beside torch
CONTENDERS: dict[str, tuple[Callable[..., Take], tuple[str, ...]]] = {
    OURS: (functools.partial(our_loop, channels_last=False, compiled=False), ()),
    f"{OURS}, channels_last": (functools.partial(our_loop, channels_last=True, compiled=False), ()),
    f"{OURS}, channels_last, compile": (functools.partial(our_loop, channels_last=True, compiled=True), ()),
    "lucidrains' Trainer": (lucidrains_loop, ("denoising_diffusion_pytorch",)),
    "diffusers' example": (diffusers_loop, ("diffusers", "accelerate", "torchvision")),
}
PRECISIONS = ("bf16", "float32", "defaults")


def measure(arguments: argparse.Namespace) -> Report:
    """Let the loops take steps in turn, each in a process of its own; rows of packages that are missing say so.

    Raises UsageError for a precision that is none, EnvironmentProblem where a loop fails.
    """
    precisions, threads = arguments.precisions.split(","), [int(count) for count in arguments.threads.split(",")]
    if unknown := set(precisions) - set(PRECISIONS):
        raise UsageError(f"--precisions must be of {', '.join(PRECISIONS)}, got {sorted(unknown)[0]!r}.")
    config = load_config(arguments.config, {"batch_size": str(arguments.batch)})
    conditions = machine()
    lacks = {name: [p for p in c[1] if importlib.util.find_spec(p) is None] for name, c in CONTENDERS.items()}
    names = [name for name in CONTENDERS if not lacks[name]]
    missing = [[name, f"{' and '.join(lacks[name])} not installed"] for name in CONTENDERS if lacks[name]]
    ours = [name for name in names if name.startswith(OURS)]
    tables, values = [], {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "images"
        _write_images(folder, config)
        for precision, count in itertools.product(precisions, threads):
            loops = {}
            for name in names:
                bf16 = precision == "bf16" or (precision == "defaults" and name in ours)
                loops[name] = functools.partial(CONTENDERS[name][0], dataclasses.replace(config, bf16=bf16), folder)
            timings = _in_turns(loops, count, arguments.rounds)
            rows = [
                [name, f"{1e3 * arguments.batch / timings.median_ms(name):.1f}"]
                + [spread(timings.speed_against(own, name)) for own in ours]
                for name in names
            ]
            rows += [row + ["-"] * len(ours) for row in missing]
            columns = ["loop", "images/s", *(f"{own}: times as fast" for own in ours)]
            title = f"A step of {arguments.batch} images, {precision}, {count} {'thread' if count == 1 else 'threads'}"
            tables.append(Table(title, columns, rows))
            values[f"{precision}, {count}"] = dict(timings.seconds)
    notes = [
        f"{sum(p.numel() for p in UNet(config.network).parameters()):,} parameters in all loops; "
        f"{arguments.rounds} rounds; ratios are medians within a round, quartiles in parentheses.",
        "defaults: each loop in the precision that its project chooses, bf16 here and float32 there.",
    ]
    command = f"python -m benchmarks.training --threads {arguments.threads} --precisions {arguments.precisions}"
    return Report(f"{command} --rounds {arguments.rounds}", conditions, tables, notes, values)


def _write_images(folder: Path, config: TrainConfig) -> None:
    from PIL import Image

    folder.mkdir()
    dataset = open_dataset(config.dataset, None, image_shape=config.network.image_shape)
    for number, image in enumerate(dataset.images[:NUM_IMAGES]):
        Image.fromarray(image[..., 0]).save(folder / f"{number:04}.png")


def _in_turns(loops: dict[str, Callable[[], Take]], threads: int, rounds: int) -> Timings:
    """Time one step a round of each loop; thread pools of one cannot slow another in other processes."""
    context = multiprocessing.get_context("spawn")
    ends, processes = {}, []
    for name, loop in loops.items():
        ends[name], theirs = context.Pipe()
        processes.append(context.Process(target=_serve, args=(theirs, loop, threads)))
        processes[-1].start()
        theirs.close()
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    shuffle = np.random.default_rng(0).permutation
    try:
        for name in loops:
            _answer(ends[name], name)  # it is warm
        for _ in range(rounds):
            for name in shuffle(list(loops)):
                time.sleep(PAUSE_S)
                ends[name].send(None)
                seconds[name].append(_answer(ends[name], name))
    finally:
        for end, process in zip(ends.values(), processes, strict=True):
            end.close()
            process.join()
    return Timings(seconds)


def _answer(end: Connection, name: str) -> float:
    try:
        seconds: float = end.recv()
    except EOFError as exc:
        raise EnvironmentProblem(f"{name} ended before its turn. Its traceback is above.") from exc
    return seconds


def _serve(end: Connection, loop: Callable[[], Take], threads: int) -> None:
    """Warm up, and then take a step and answer with its seconds, as often as asked."""
    torch.set_num_threads(threads)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        take = loop()  # progress bars of one step would fill the report
        for _ in range(WARM_UP_STEPS):
            take()
        end.send(0.0)
        with contextlib.suppress(EOFError):
            while True:
                end.recv()
                since = time.perf_counter()
                take()
                end.send(time.perf_counter() - since)


def _options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description="A step of training beside those of two other projects.")
    options.add_argument("--config", default="fashion-mnist-small", help="of train/configs, or a path [%(default)s]")
    options.add_argument("--batch", type=int, default=64, help="images a step [%(default)s]")
    options.add_argument("--precisions", default=",".join(PRECISIONS), help="each with a table [%(default)s]")
    options.add_argument("--threads", default="1,2", help="numbers of threads, each with a table [%(default)s]")
    options.add_argument("--rounds", type=int, default=7, help="steps of each that count [%(default)s]")
    options.add_argument("--json", action="store_true", help="print the report as JSON")
    return options


if __name__ == "__main__":
    run(measure, _options())
