"""`python -m train.distil`: a student that draws in one to four evaluations, taught by a teacher's trajectories.

SFD (Zhou et al. 2024, "Simple and Fast Distillation of Diffusion Models", arXiv 2409.19681): at a few fixed times an
ordinary DDIM step learns to land where the teacher's many steps do, each from where the student's own last one ended.
Needs noise and an exported file, no data. Guidance is in what the student learns: it takes the class, and evaluates
once a step.
"""

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ddpm_export.cli.console import entry_point, print_json
from ddpm_export.cli.options import Debug
from ddpm_export.errors import BadFileError, ConfigError, NonFiniteError, UsageError
from ddpm_export.importers.checkpoint import load_own_checkpoint, save_checkpoint
from ddpm_export.importers.unet import UNet
from ddpm_export.model.defaults import with_defaults
from ddpm_export.model.spec import INPUTS, ModelSpec
from ddpm_export.model.spec_json import json_from_spec
from ddpm_export.model.steps import plan
from ddpm_export.process.equations import Level, clean_and_noise
from ddpm_export.process.rows import Plan, Row
from ddpm_export.runtimes.opening import open_model
from ddpm_export.system.files import sha256_of, sole_writer

from .compiled import compiled, keep_memory
from .config import config_from_dict
from .matching import Matching, fitting
from .pages import write_text
from .trajectories import CHUNK, Float16, Recipe, Trajectories, classes_of

APART = 15  # how far below the top of one plan the next one starts
BETAS, MAX_NORM, EMA_DECAY, WARMUP = (0.9, 0.99), 1.0, 0.999, 100
COOLDOWN = 0.3  # the share of the rounds or updates, at the end, over which the learning rate falls to zero


def student_times(evaluations: Sequence[int], num_train_timesteps: int) -> tuple[tuple[int, ...], ...]:
    """Return the times of a plan for each number of evaluations, evenly spaced.

    No two plans share a time: the network reads from it how far the step goes. Raises UsageError where there is no
    room.
    """
    apart = max(1, min(APART, num_train_timesteps // 20))
    plans = []
    for k, count in enumerate(evaluations):
        top = num_train_timesteps - 1 - k * apart
        plans.append(tuple(round(top * (count - i) / count) for i in range(count)))
    return _checked(plans, num_train_timesteps)


def _checked(plans: Sequence[Sequence[int]], num_train_timesteps: int) -> tuple[tuple[int, ...], ...]:
    times = [t for plan in plans for t in plan]
    falls = all(later < earlier for plan in plans for earlier, later in pairwise(plan))
    if not (times and falls and len(set(times)) == len(times) and 0 <= min(times) <= max(times) < num_train_timesteps):
        raise UsageError(
            f"Each plan's times must fall within {num_train_timesteps - 1} to 0, and no two plans may share one, got "
            f"{'; '.join(','.join(map(str, plan)) for plan in plans)}."
        )
    return tuple(tuple(plan) for plan in plans)


def land(row: Row, predicted: Tensor, x: Tensor, spec: ModelSpec) -> Tensor:
    """Return the state after a DDIM row, as a sampler computes it.

    Gradients pass the clip: a pixel beyond the bound is still told where it should be.
    """
    at = Level(row.a)
    x_0, eps = clean_and_noise(predicted, x, at, spec.prediction, None)
    if spec.clip_x_0 is not None:
        x_0 = x_0 + (x_0.clip(-spec.clip_x_0, spec.clip_x_0) - x_0).detach()
        eps = (x - at.signal * x_0) * at.one_over_noise
    return row.x_0[0] * x_0 + row.eps[0] * eps if row.eps else row.x_0[0] * x_0


class Student:
    """The network that learns, with its optimiser, averaged weights and plans; `round` is the next to be trained."""

    def __init__(
        self,
        contents: dict[str, Any],
        spec: ModelSpec,
        recipe: Recipe,
        *,
        learning_rate: float = 2e-4,
        bf16: bool = True,
        fused: bool = True,
    ) -> None:
        config = config_from_dict(contents["config"])
        self.recipe, self.learning_rate, self.bf16, self.round, self.updates = recipe, learning_rate, bf16, 0, 0
        self.plans = {f"fast-{len(t)}": plan(spec, sampler="ddim", eta=0.0, times=t) for t in recipe.times}
        source = {**spec.source, "distilled_from_sha256": recipe.model}
        both = dataclasses.replace(spec, plans=spec.plans | self.plans, source=source, golden=None)
        self.spec = dataclasses.replace(
            with_defaults(both, plan=next(iter(self.plans)), guidance=1.0), plans=self.plans
        )
        self._contents = {name: contents[name] for name in ("config", "classes") if name in contents}
        self.network = UNet(dataclasses.replace(config.network, dropout=0.0))
        self.network.load_state_dict(contents["ema"])
        self.ema = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        keep_memory()
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._forward = compiled(self.network, channels_last=True) if fused else self.network
        self.optimizer = self.made_optimizer()

    def made_optimizer(self) -> torch.optim.Adam:
        """Return an optimiser of the weights that remembers nothing."""
        return torch.optim.Adam(self.network.parameters(), self.learning_rate, BETAS, fused=True)

    def save(self, path: Path) -> None:
        """Write a checkpoint that `ddpm-export` reads, plans included, and that the training resumes from."""
        requires = tuple(name for name in self.spec.requires if name != INPUTS)  # which follow from the network
        save_checkpoint(
            path,
            **self._contents,
            **self.state(),
            spec=json_from_spec(dataclasses.replace(self.spec, inputs=(), requires=requires)),
        )

    def state(self) -> dict[str, Any]:
        """Return what training goes on from, for `take`."""
        return {
            "ema": self.ema,
            "step": self.updates,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "round": self.round,
        }

    def resume(self, path: Path) -> None:
        """Go on from what `save` wrote; raises BadFileError for anything else."""
        with fitting(path):
            self.take(load_own_checkpoint(path, " Choose another --out."))

    def take(self, contents: dict[str, Any]) -> None:
        """Go on from a `state`."""
        self.network.load_state_dict(contents["network"])
        self.optimizer.load_state_dict(contents["optimizer"])
        for name, value in self.ema.items():
            value.copy_(contents["ema"][name])
        self.round, self.updates = int(contents["round"]), int(contents["step"])

    def rate(self, done: int, total: int) -> float:
        """Return the learning rate after `done` of `total` rounds or updates."""
        return self.learning_rate * min(1.0, (total - done) / max(1.0, COOLDOWN * total))

    def train(self, data: Float16, rounds: int) -> Iterator[dict[str, list[float]]]:
        """Train up to `rounds`, and yield each round's distances from the teacher, by plan and step.

        In a round every plan takes about as many optimiser steps, each on one step of the plan, and the plans take
        turns: several walks of one plan in a row would undo what the others learned. Each walk has a batch of its own.
        Raises NonFiniteError where numbers become NaN or infinite.
        """
        count, most = data.shape[1], max(map(len, self.recipe.times))
        turns = {name: max(1, most // len(rows.rows)) for name, rows in self.plans.items()}
        order = sorted(((k + 0.5) / n, name) for name, n in turns.items() for k in range(n))
        while self.round < rounds:
            draws = np.random.default_rng([self.recipe.seed, self.round])
            rate = self.rate(self.round, rounds)
            found: dict[str, list[list[float]]] = {name: [] for name in self.plans}
            for _, name in order:
                chosen = draws.choice(count, self.recipe.batch, replace=False)
                found[name].append(self._walk(data, chosen, self.plans[name], rate))
            self.round += 1
            yield {name: np.mean(walks, axis=0).round(5).tolist() for name, walks in found.items()}

    def _walk(self, data: Float16, chosen: NDArray[np.int64], rows: Plan, rate: float) -> list[float]:
        """Take an optimiser step at each step of a plan, from where the student's last one ended."""
        x, losses = torch.from_numpy(data[0, chosen]).float(), []
        y = () if self.spec.label is None else (torch.from_numpy(classes_of(chosen, self.spec)),)
        for row, wanted, signal in self.steps_of(data, chosen, rows):
            landed = self.step(row, x, *y)
            loss = F.l1_loss(landed, wanted) / signal  # in units of the picture, so that all steps count alike
            self.update(loss, rate)
            losses.append(loss.item())
            x = landed.detach()
        return losses

    def steps_of(self, data: Float16, chosen: NDArray[np.int64], rows: Plan) -> list[tuple[Row, Tensor, float]]:
        """Return each row of a plan, the teacher's states (B, C, H, W) where it should land, and their signal."""
        following = [int(row.t) for row in rows.rows[1:]]
        ends = [*(data[1 + self.recipe.stops.index(t)] for t in following), data[-1]]
        signals = [*(self.spec.alphas_cumprod[t] ** 0.5 for t in following), 1.0]
        wanted = [torch.from_numpy(end[chosen]).float() for end in ends]
        return list(zip(rows.rows, wanted, signals, strict=True))

    def step(self, row: Row, x: Tensor, *y: Tensor) -> Tensor:
        """Return the states after a row, from those before and the classes (B,)."""
        return land(row, self.predicted(self._forward, x, torch.full((len(x),), int(row.t)), *y), x, self.spec)

    def predicted(self, network: Callable[..., Tensor], x: Tensor, t: Tensor, *y: Tensor) -> Tensor:
        """Return what a network predicts, float32, computed as the student's own is."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            return network(x.contiguous(memory_format=torch.channels_last), t, *y).float()

    def update(self, loss: Tensor, rate: float) -> None:
        """Take an optimiser step, and average the weights. Raises NonFiniteError."""
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), MAX_NORM)
        if not bool(torch.isfinite(loss) & torch.isfinite(norm)):
            raise NonFiniteError(
                f"At update {self.updates}, numbers became NaN or infinite: loss {loss.item()}, gradient norm "
                f"{norm.item()}. Lower --learning-rate and run the same command."
            )
        for group in self.optimizer.param_groups:
            group["lr"] = rate * min(1.0, (self.updates + 1) / WARMUP)
        self.optimizer.step()
        self.updates += 1
        decay = min(EMA_DECAY, (1 + self.updates) / (10 + self.updates))
        current = [value.detach() for value in self.network.state_dict().values()]
        torch._foreach_lerp_(list(self.ema.values()), current, 1.0 - decay)


def _keep_recipe(out: Path, recipe: Recipe) -> None:
    """Write the recipe into a new folder; raises ConfigError where the folder has another one."""
    path = out / "recipe.json"
    values = json.loads(json.dumps(asdict(recipe)))
    if path.exists():
        try:
            before = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as exc:
            raise BadFileError(f"{path} is not a recipe: {exc}. Choose another --out.") from exc
        differing = [name for name, value in values.items() if before.get(name) != value]
        if differing:
            raise ConfigError(f"{out} was begun with another {', '.join(differing)}. Choose another --out.")
        return
    write_text(path, json.dumps(values, indent=1) + "\n")


def command(
    model: Annotated[Path, typer.Argument(metavar="FILE", help="The teacher: an exported .onnx.")],
    checkpoint: Annotated[Path, typer.Option(help="The teacher's checkpoint, whose weights the student starts with.")],
    out: Annotated[Path, typer.Option(help="The folder of trajectories, log and checkpoint; resumed if it has any.")],
    evaluations: Annotated[str, typer.Option(help="Of the student's plans, with commas.")] = "4,2,1",
    times: Annotated[
        str | None, typer.Option(help="Those plans' times instead, such as '998,725,489,212 985,440 970'.")
    ] = None,
    trajectories: Annotated[int, typer.Option(min=1, help="A folder can be resumed with more.")] = 12_288,
    rounds: Annotated[int, typer.Option(min=1, help="Of one batch or more for each plan; can be raised later.")] = 400,
    teacher_steps: Annotated[int, typer.Option(min=2, max=1000)] = 20,
    sampler: Annotated[str, typer.Option(help="Of the teacher; without noise.")] = "unipc",
    grid: Annotated[str, typer.Option(help="Of the teacher; log_snr is dense near the picture.")] = "log_snr",
    batch: Annotated[int, typer.Option(min=1)] = 128,
    learning_rate: Annotated[float, typer.Option(min=1e-7, max=1.0)] = 2e-4,
    matching: Annotated[
        int, typer.Option(min=0, help="Updates of distribution matching after the rounds, which sharpen.")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise and the batches.")] = 1,
    bf16: Annotated[bool, typer.Option(help="Autocast the network to bfloat16.")] = True,
    fused: Annotated[bool, typer.Option(help="Fused norms, which need a C++ compiler.")] = True,
    debug: Debug = False,
) -> None:
    """Distil an exported network into one that draws in a few evaluations, as plans fast-4, fast-2 and fast-1.

    Uses one thread. The same command resumes; --out's `pid` names the process, which SIGSTOP pauses.
    """
    torch.set_num_threads(1)
    _, spec = open_model(model, threads=1)
    if [given.kind for given in spec.inputs] not in ([], ["label"]):
        raise UsageError(f"{model} must take no inputs but a class, got {', '.join(i.name for i in spec.inputs)}.")
    try:
        counts = sorted({int(count) for count in evaluations.split(",")}, reverse=True)
        chosen = [tuple(map(int, text.split(","))) for text in (times or "").split()]
    except ValueError as exc:
        raise UsageError(f"--evaluations and --times must be numbers with commas between them: {exc}.") from exc
    if counts[-1] < 1 or len({len(t) for t in chosen}) < len(chosen):
        raise UsageError("Each of the student's plans must have another number of evaluations, at least 1.")
    plans = _checked(chosen, spec.num_train_timesteps) if chosen else student_times(counts, spec.num_train_timesteps)
    if trajectories < batch:
        raise UsageError(f"--trajectories must be at least --batch={batch}, got {trajectories}.")
    digests = sha256_of(model), sha256_of(checkpoint)
    recipe = Recipe(*digests, plans, teacher_steps, sampler, grid, seed, batch)
    contents = load_own_checkpoint(checkpoint)
    with sole_writer(out):
        _keep_recipe(out, recipe)
        write_text(out / "pid", f"{os.getpid()}\n")
        kept = Trajectories(out / "trajectories", recipe)

        def made(number: int, rate: float) -> None:
            print(f"trajectories to {(number + 1) * CHUNK}, {rate:.1f} a second", file=sys.stderr, flush=True)

        kept.make(model, trajectories, 64, made)
        student = Student(contents, spec, recipe, learning_rate=learning_rate, bf16=bf16, fused=fused)
        path = out / "checkpoint.pt"
        if path.exists():
            student.resume(path)
        data, since, updates = kept.load(trajectories), time.perf_counter(), student.updates
        for losses in student.train(data, rounds):
            student.save(path)
            rate = (student.updates - updates) * batch / (time.perf_counter() - since)
            since, updates = time.perf_counter(), student.updates
            line = {"round": student.round, "step": updates, **losses, "images_per_s": round(rate, 1)}
            with (out / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(json.dumps(line), file=sys.stderr, flush=True)
        if matching:
            Matching(student, contents, fused=fused).run(data, matching, out)
            student.save(path)
    print_json({"checkpoint": str(path), "round": student.round, "updates": student.updates})


main = entry_point(command)

if __name__ == "__main__":
    main()
