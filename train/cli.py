"""`python -m train`: parse, call, print. Imports torch only when a training is about to start."""

import dataclasses
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ddpm_export.cli.console import entry_point, print_json
from ddpm_export.cli.options import Debug, Json
from ddpm_export.errors import EnvironmentProblem, UsageError, not_installed, pair_of
from ddpm_export.system.files import sha256_of, sole_writer

if TYPE_CHECKING:
    from .loop import Progress
    from .policies.config import PolicyConfig

SHOWN_BROKEN = 10


def command(
    config: Annotated[str, typer.Option(metavar="NAME", help="A file of train/configs, or the path of another.")],
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps in all; else the config's.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="The same in passes over the data.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where to write; else runs/NAME.")] = None,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="The data set's files, or your images.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change any config field; repeatable.")
    ] = None,
    start: Annotated[
        Path | None, typer.Option(metavar="CHECKPOINT", help="Begin with the weights of another training.")
    ] = None,
    teacher: Annotated[
        Path | None, typer.Option(metavar="CHECKPOINT", help="Learn what this network predicts, not the data.")
    ] = None,
    weaker: Annotated[
        Path | None, typer.Option(metavar="CHECKPOINT", help="Guide the teacher away from this one: see autoguidance.")
    ] = None,
    autoencoder: Annotated[
        Path | None, typer.Option(metavar="CHECKPOINT", help="Train on the latents of this one of train.autoencoder.")
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="auto takes CUDA where there is any.")
    ] = "auto",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a diffusion model; where DIR holds a checkpoint, go on from it."""
    changes = _changes_from_options(set_ or [], steps, epochs)
    for package in ("torch", "matplotlib"):
        _require(package)
    # whatever loads torch comes after this line
    from .config import config_from_dict, read_config
    from .distributed import joined_world
    from .latents import Latents, open_data
    from .loop import SAMPLES, check_classes, spec_from_config, steps_per_epoch, train
    from .pictures import draw_loss, draw_samples
    from .policies.config import policy_from_dict
    from .teacher import Teacher, taught

    values = read_config(config, changes)
    policy = policy_from_dict(values)
    if policy is not None:
        others = {"--epochs": epochs, "--start": start, "--teacher": teacher, "--autoencoder": autoencoder}
        _train_policy(policy, data, Path("runs") / policy.name if out is None else out, others, json)
        return
    chosen = taught(config_from_dict(values), teacher, weaker, autoencoder)
    place = _usable_device(device)
    dataset = open_data(chosen, data, autoencoder)
    check_classes(chosen, dataset)
    batches = steps_per_epoch(chosen, dataset)
    if epochs is not None:
        chosen = dataclasses.replace(chosen, steps=epochs * batches)
    out = Path("runs") / chosen.name if out is None else out
    spec = spec_from_config(chosen, dataset)
    rank = int(os.environ.get("RANK", "0"))  # torchrun's
    if rank == 0:
        print(f"device: {place}", file=sys.stderr, flush=True)
    decode = dataset.decoder(place) if isinstance(dataset, Latents) else None
    inputs = 0 if rank == 0 else len(dataset.broken)  # what every rank found when it opened the data, rank 0 tells

    def draw(ema: dict, step: int) -> None:  # type: ignore[type-arg]
        print(f"step {step}: drawing {out / SAMPLES}", file=sys.stderr, flush=True)
        draw_loss(out / "loss.png", out / "log.jsonl")
        draw_samples(out / SAMPLES, chosen.network, ema, spec, place, step, decode)

    teaching = None if teacher is None else Teacher(teacher, weaker, chosen, place)
    reports: list[Progress] = []
    try:
        alone = sole_writer(out) if rank == 0 else nullcontext()
        with alone, _reporter(chosen.batch_size) as show, joined_world(place) as world:

            def report(progress: "Progress") -> None:
                nonlocal inputs
                inputs = _tell_broken(dataset.broken, inputs)
                reports.append(progress)
                if world.rank == 0:
                    show(progress)

            path = train(chosen, dataset, out, place, report, draw, world, start, teaching)
    except KeyboardInterrupt as stop:
        if stop.args and rank == 0:
            print(f"{stop}; the same command goes on from there", file=sys.stderr)
        raise
    if rank > 0:
        return
    result = {
        "checkpoint": str(path),
        "device": place,
        "first_step": reports[0].step,
        "step": reports[-1].step,
        "sha256": sha256_of(path),
    }
    if json:
        print_json(result)
    else:
        print(*(f"{name:10} {result[name]}" for name in ("checkpoint", "step", "sha256")), sep="\n")


main = entry_point(command)


def _train_policy(config: "PolicyConfig", data: Path | None, out: Path, others: dict[str, object], json: bool) -> None:
    """Train a policy, on the CPU: its networks are small."""
    from .policies.demonstrations import open_demonstrations
    from .policies.training import train_policy

    if given := [name for name, value in others.items() if value is not None]:
        raise UsageError(f"{given[0]} does not apply to a policy.")
    with sole_writer(out), _reporter(config.batch_size) as show:
        folder = train_policy(config, open_demonstrations(config, data), out, show)
    result = {"policy": str(folder), "steps": config.steps}
    if json:
        print_json(result)
    else:
        print(*(f"{name:10} {value}" for name, value in result.items()), sep="\n")


def _changes_from_options(settings: list[str], steps: int | None, epochs: int | None) -> dict[str, str]:
    changes = {}
    for setting in settings:
        key, value = pair_of("--set", setting)
        changes[key] = value
    if steps is not None and epochs is not None:
        raise UsageError(f"--epochs and --steps say the same, got {epochs} and {steps}. Leave one out.")
    if steps is not None:
        changes["steps"] = str(steps)
    return changes


def _require(package: str) -> None:
    try:
        importlib.import_module(package)
    except ImportError as exc:
        raise not_installed(str(package), "train") from exc


def _usable_device(device: str) -> str:
    import torch

    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise EnvironmentProblem(
            f"--device cuda needs a CUDA device, and torch {torch.__version__} finds none. Use --device cpu, "
            "or install a torch with CUDA and its driver."
        )
    if not available or device == "cpu":
        return "cpu"
    local = os.environ.get("LOCAL_RANK")  # torchrun's: a GPU for each process
    if local is None:
        return "cuda"
    if int(local) >= torch.cuda.device_count():
        raise EnvironmentProblem(
            f"torchrun needs a GPU for each process of this machine, which has {torch.cuda.device_count()}. "
            "Set --nproc-per-node lower."
        )
    torch.cuda.set_device(int(local))
    return f"cuda:{local}"


def _tell_broken(broken: list[str], inputs: int) -> int:
    """Print the broken images from number `told` on, and return how many there are."""
    for line in broken[inputs:][:SHOWN_BROKEN]:
        print(f"left out: {line}", file=sys.stderr)
    if len(broken) > inputs:
        print(f"broken images so far: {len(broken)}", file=sys.stderr)
    return len(broken)


@contextmanager
def _reporter(batch_size: int) -> Iterator[Callable[["Progress"], None]]:
    """Yield what shows each report on stderr: a bar on a terminal, a line elsewhere."""
    from rich import progress as parts
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    columns = (parts.BarColumn(), parts.MofNCompleteColumn(), parts.TextColumn("{task.description}"))
    with parts.Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("")

        def show(progress: "Progress") -> None:
            if progress.loss is None:
                console.print(_opening(progress), soft_wrap=True)
                note = ""
            else:
                left_s = (progress.steps - progress.step) * batch_size / progress.images_per_s
                note = f"loss {progress.loss:.4f}, {progress.images_per_s:.0f} images/s, {_clock(left_s)} left"
                if bar.disable:
                    print(f"step {progress.step}/{progress.steps}, {note}", file=sys.stderr, flush=True)
            bar.update(task, total=progress.steps, completed=progress.step, description=note)

        yield show


def _opening(progress: "Progress") -> str:
    if progress.step >= progress.steps:
        return f"already at step {progress.step} of {progress.steps}: nothing to do, more with a larger --steps"
    return f"going on from step {progress.step}" if progress.step else "starting at step 0"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
