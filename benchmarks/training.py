"""A step of this training beside a step of lucidrains' and of diffusers' training loops, each around the same network.

The network is `fashion-mnist-small`'s in all of them, the images are Fashion-MNIST, from PNG files where the loop reads
files; losses and learning rates are each loop's own, and cost the same.
"""

import argparse
import functools
import importlib.util
import multiprocessing
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
from ddpm_export.datasets import open_dataset
from ddpm_export.exporting.unet import UNet
from ddpm_export.measuring.timing import PAUSE_S, Timings, machine, spread
from train.config import load_config
from train.loop import Stepper

__all__ = ["CONTENDERS", "diffusers_loop", "lucidrains_loop", "measure", "our_loop"]

NUM_IMAGES = 2048
WARM_UP_STEPS = 3
CONFIG = "fashion-mnist-small"
Take = Callable[[], Any]


def our_loop(batch: int, bf16: bool, folder: Path, channels_last: bool, compiled: bool) -> Take:
    """Return what takes the next step of `python -m train`."""
    fields = {"batch_size": batch, "bf16": bf16, "channels_last": channels_last, "compile": compiled}
    config = load_config(CONFIG, {name: str(value).lower() for name, value in fields.items()})
    stepper = Stepper(config, open_dataset(config.dataset, None, image_shape=config.network.image_shape), "cpu")
    stepper.prepare()
    steps = iter(range(config.steps))
    return lambda: stepper.take(next(steps))


class _Network(nn.Module):
    """The network with the face that both packages expect of theirs."""

    channels = out_dim = 1
    self_condition = False

    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.network, self.wrap = UNet(load_config(CONFIG).network), wrap

    def forward(self, x_t: Tensor, t: Tensor, _self_condition: None = None) -> Any:
        return self.wrap(self.network(x_t, t))


def lucidrains_loop(batch: int, bf16: bool, folder: Path) -> Take:
    """Return what lets the Trainer of denoising-diffusion-pytorch take its next step."""
    from denoising_diffusion_pytorch import GaussianDiffusion, Trainer

    trainer = Trainer(
        GaussianDiffusion(_Network(_itself), image_size=28, timesteps=1000),
        str(folder),
        train_batch_size=batch,
        augment_horizontal_flip=False,
        results_folder=str(folder.parent / "results"),
        save_and_sample_every=10**9,
        calculate_fid=False,
        amp=bf16,
        mixed_precision_type="bf16",
    )

    def take() -> None:
        trainer.train_num_steps = trainer.step + 1
        trainer.train()

    return take


def _itself(prediction: Tensor) -> Tensor:
    return prediction


class _Pictures(torch.utils.data.Dataset[Tensor]):
    """Decode, resize, crop and normalise each picture when asked for, as the example does."""

    def __init__(self, folder: Path) -> None:
        from torchvision import transforms as do

        self.paths = sorted(folder.iterdir())
        self.change = do.Compose([do.Resize(28), do.CenterCrop(28), do.ToTensor(), do.Normalize([0.5], [0.5])])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> Tensor:
        from PIL import Image

        with Image.open(self.paths[place]) as image:
            changed: Tensor = self.change(image.convert("L"))
        return changed


def diffusers_loop(batch: int, bf16: bool, folder: Path) -> Take:
    """Return what takes the next step of diffusers' example of unconditional training, with its defaults and EMA."""
    from accelerate import Accelerator
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel

    accelerator = Accelerator(mixed_precision="bf16" if bf16 else "no")
    network: Any = _Network(lambda prediction: SimpleNamespace(sample=prediction))
    ema = EMAModel(network.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    noising = DDPMScheduler(num_train_timesteps=1000)
    adam = torch.optim.AdamW(network.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    loader = torch.utils.data.DataLoader(_Pictures(folder), batch_size=batch, shuffle=True)
    rates = get_scheduler("cosine", optimizer=adam, num_warmup_steps=500, num_training_steps=10_000)
    network, adam, loader, rates = accelerator.prepare(network, adam, loader, rates)
    batches = iter(image for _ in iter(int, 1) for image in loader)

    def take() -> float:
        clean = next(batches)
        noise, t = torch.randn(clean.shape), torch.randint(1000, (len(clean),))
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


# what is timed, by name: the loop, whether in bf16, and the package that it needs
CONTENDERS: dict[str, tuple[Callable[..., Take], bool, str]] = {
    "this training, compile": (functools.partial(our_loop, channels_last=True, compiled=True), True, "torch"),
    "this training": (functools.partial(our_loop, channels_last=False, compiled=False), True, "torch"),
    "lucidrains' Trainer": (lucidrains_loop, False, "denoising_diffusion_pytorch"),
    "lucidrains' Trainer, bf16": (lucidrains_loop, True, "denoising_diffusion_pytorch"),
    "diffusers' example": (diffusers_loop, False, "diffusers"),
    "diffusers' example, bf16": (diffusers_loop, True, "diffusers"),
}


def measure(arguments: argparse.Namespace) -> Report:
    """Let the loops take steps in turn, each in a process of its own; rows of packages that are missing say so."""
    conditions = machine()
    found = {name: c for name, c in CONTENDERS.items() if importlib.util.find_spec(c[2])}
    tables, values = [], {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "images"
        _write_images(folder)
        for threads in (int(count) for count in arguments.threads.split(",")):
            timings = _in_turns(list(found), arguments.batch, folder, threads, arguments.rounds)
            ours = list(found)[:2]
            rows = [
                [name, f"{1e3 * arguments.batch / timings.median_ms(name):.0f}"]
                + [spread(timings.speed_against(own, name)) for own in ours]
                for name in found
            ]
            rows += [
                [name, f"{c[2]} is not installed", "-", "-"] for name, c in CONTENDERS.items() if name not in found
            ]
            columns = ["loop", "images/s", *(f"{own} is faster by" for own in ours)]
            tables.append(Table(f"A step of {arguments.batch} images, {threads} threads", columns, rows))
            values[str(threads)] = dict(timings.seconds)
    notes = [
        f"{sum(p.numel() for p in UNet(load_config(CONFIG).network).parameters()):,} parameters in all loops; "
        f"{arguments.rounds} rounds; ratios are medians within a round, quartiles in parentheses."
    ]
    return Report(f"python -m benchmarks.training --threads {arguments.threads}", conditions, tables, notes, values)


def _write_images(folder: Path) -> None:
    from PIL import Image

    folder.mkdir()
    for number, image in enumerate(open_dataset("fashion-mnist", None, image_shape=(1, 28, 28)).images[:NUM_IMAGES]):
        Image.fromarray(image[..., 0]).save(folder / f"{number:04}.png")


def _in_turns(names: list[str], batch: int, folder: Path, threads: int, rounds: int) -> Timings:
    """Time one step a round of each contender; thread pools of one cannot slow another in other processes."""
    context = multiprocessing.get_context("spawn")
    ends, processes = {}, []
    for name in names:
        ends[name], theirs = context.Pipe()
        processes.append(context.Process(target=_serve, args=(theirs, name, batch, folder, threads)))
        processes[-1].start()
        theirs.close()
        ends[name].recv()  # it is warm
    seconds: dict[str, list[float]] = {name: [] for name in names}
    shuffle = np.random.default_rng(0).permutation
    for _ in range(rounds):
        for name in shuffle(names):
            time.sleep(PAUSE_S)
            ends[name].send(None)
            seconds[name].append(ends[name].recv())
    for name, process in zip(names, processes, strict=True):
        ends[name].close()
        process.join()
    return Timings(seconds)


def _serve(end: Connection, name: str, batch: int, folder: Path, threads: int) -> None:
    """Warm up, and then take a step and answer with its seconds, as often as asked."""
    torch.set_num_threads(threads)
    loop, bf16, _ = CONTENDERS[name]
    take = loop(batch, bf16, folder)
    for _ in range(WARM_UP_STEPS):
        take()
    end.send(0.0)
    while True:
        try:
            end.recv()
        except EOFError:
            return
        since = time.perf_counter()
        take()
        end.send(time.perf_counter() - since)


def _options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description="A step of training beside those of two other projects.")
    options.add_argument("--batch", type=int, default=64, help="images a step [%(default)s]")
    options.add_argument("--threads", default="1,2", help="numbers of threads, each with a table [%(default)s]")
    options.add_argument("--rounds", type=int, default=7, help="steps of each that count [%(default)s]")
    options.add_argument("--json", action="store_true", help="print the report as JSON")
    return options


if __name__ == "__main__":
    run(measure, _options())
