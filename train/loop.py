"""The training loop. Every random number follows from (seed, step), so a checkpoint needs no hidden state."""

import dataclasses
import hashlib
import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ddpm_export.datasets import Dataset
from ddpm_export.errors import BadFileError, ConfigError, NonFiniteError
from ddpm_export.exporting.checkpoint import CHECKPOINT_FORMAT, load_torch_file, save_checkpoint
from ddpm_export.exporting.unet import UNet
from ddpm_export.files import replacing
from ddpm_export.schedules import alphas_cumprod_from_betas, betas_from_name
from ddpm_export.spec import ModelSpec, json_from_spec
from train.config import TrainConfig, config_from_dict
from train.losses import LOSSES, noised, target

__all__ = ["Progress", "spec_from_config", "train"]


@dataclasses.dataclass(frozen=True)
class Progress:
    """Tell how far a training is; loss is the mean since the last report."""

    step: int
    steps: int
    loss: float
    images_per_s: float


def spec_from_config(config: TrainConfig, dataset: Dataset) -> ModelSpec:
    """Return the spec of the network that this training makes."""
    betas = betas_from_name(config.schedule, config.num_train_timesteps, **config.schedule_parameters)
    return ModelSpec(
        name=config.name,
        prediction=config.prediction,
        image_shape=config.network.image_shape,
        alphas_cumprod=tuple(alphas_cumprod_from_betas(betas).tolist()),
        variance=config.variance,
        source={
            "dataset": dataset.name,
            "license": dataset.license,
            "schedule": {"name": config.schedule, **config.schedule_parameters},
        },
    )


def train(
    config: TrainConfig, dataset: Dataset, out: Path, device: str, report: Callable[[Progress], None]
) -> Path:
    """Train until `config.steps`, going on from `out/checkpoint.pt` where there is one; return that path.

    Raises NonFiniteError when loss or gradient is no number (the last checkpoint stays), ConfigError when the
    checkpoint was made for other weights, KeyboardInterrupt on SIGINT or SIGTERM after writing a checkpoint.
    """
    path = out / "checkpoint.pt"
    if len(dataset.images) < config.batch_size:
        raise ConfigError(
            f"data: fewer images than a batch. got {len(dataset.images)}, expected at least batch_size={config.batch_size}. Do set batch_size lower."
        )
    torch.manual_seed(config.seed)
    network = UNet(config.network).to(device)
    ema = {name: value.detach().clone() for name, value in network.state_dict().items()}
    # beta2 below 0.999 forgets the large early gradients sooner
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate, betas=(0.9, 0.99))
    step = 0
    if path.exists():
        step = _resume(path, config, network, ema, optimizer)
        _keep_log_until(out / "log.jsonl", step)
    if config.channels_last:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    spec = spec_from_config(config, dataset)

    def save() -> None:
        save_checkpoint(
            path,
            network=network.state_dict(),
            ema=ema,
            optimizer=optimizer.state_dict(),
            step=step,
            config=json.loads(json.dumps(dataclasses.asdict(config))),
            spec=json_from_spec(spec),
        )

    forward = torch.compile(network) if config.compile else network
    # (N, C, H, W) uint8 on the CPU; a batch at a time becomes float
    images = torch.from_numpy(dataset.images.transpose(0, 3, 1, 2).copy())
    alphas = torch.tensor(spec.alphas_cumprod, dtype=torch.float32, device=device)
    order = _Order(config.seed, len(images), config.batch_size)
    losses: list[Tensor] = []
    since = time.perf_counter()
    if step == 0:
        save()
    with _stop_requests() as stop_asked:
        while step < config.steps:
            torch.manual_seed(_mixed(config.seed, step))
            x_0 = images[order.batch(step)].to(device).float() / 127.5 - 1.0
            if config.horizontal_flips:
                x_0 = torch.where((torch.rand(len(x_0), 1, 1, 1) < 0.5).to(device), x_0.flip(3), x_0)
            loss = _update(config, forward, network, optimizer, x_0, alphas, step)
            step += 1
            _update_ema(ema, network, config, step)
            losses.append(loss)
            if step % config.log_every == 0 or step == config.steps:
                mean = float(torch.stack(losses).mean())
                rate = len(losses) * config.batch_size / (time.perf_counter() - since)
                _log(out / "log.jsonl", {"step": step, "loss": mean, "images_per_s": round(rate, 1)})
                report(Progress(step, config.steps, mean, rate))
                losses, since = [], time.perf_counter()
            if step % config.checkpoint_every == 0 or step == config.steps or stop_asked():
                save()
            if stop_asked():
                raise KeyboardInterrupt
    return path


def _update(
    config: TrainConfig,
    forward: Callable[[Tensor, Tensor], Tensor],
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    x_0: Tensor,
    alphas: Tensor,
    step: int,
) -> Tensor:
    """Take one optimiser step (Ho et al. 2020, algorithm 1) and return its loss."""
    t = torch.randint(0, config.num_train_timesteps, (len(x_0),)).to(x_0.device)
    eps = torch.randn(x_0.shape).to(x_0.device)  # drawn on the CPU: the same numbers on every device
    a = alphas[t][:, None, None, None]
    x_t = noised(x_0, eps, a)
    if config.channels_last:
        x_t = x_t.contiguous(memory_format=torch.channels_last)
    with torch.autocast(x_0.device.type, torch.bfloat16, enabled=config.bf16):
        predicted = forward(x_t, t)
    loss = LOSSES[config.loss](predicted.float(), target(config.prediction, x_0, eps, a))
    optimizer.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(network.parameters(), config.gradient_norm_max)
    if not bool(torch.isfinite(loss) & torch.isfinite(norm)):
        raise NonFiniteError(
            f"training step {step}: the loss is no number. got loss {loss.item()}, gradient norm {norm.item()}, "
            "expected finite. Do lower learning_rate and go on from the last checkpoint."
        )
    rise = min(1.0, (step + 1) / max(1, config.warmup_steps))
    fall = max(1.0, step / config.constant_steps) ** -0.5
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * rise * fall
    optimizer.step()
    return loss.detach()


def _update_ema(ema: dict[str, Tensor], network: nn.Module, config: TrainConfig, step: int) -> None:
    # the half-life grows with the images seen, so that the random start is soon forgotten (Karras et al. 2022)
    halflife = min(config.ema_halflife_images, config.ema_rampup_ratio * step * config.batch_size)
    decay = 0.5 ** (config.batch_size / halflife)
    torch._foreach_lerp_(list(ema.values()), [p.detach() for p in network.state_dict().values()], 1.0 - decay)


def _resume(
    path: Path, config: TrainConfig, network: UNet, ema: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> int:
    contents: Any = load_torch_file(path)
    if not isinstance(contents, dict) or contents.get("format") != CHECKPOINT_FORMAT:
        raise BadFileError(
            f"{path}: not a checkpoint of this trainer. got another layout, expected {CHECKPOINT_FORMAT}. Do choose another --out."
        )
    try:
        before = config_from_dict(contents["config"])
        fixed = [f.name for f in dataclasses.fields(config) if f.name not in config.RESUMABLE]
        differing = [name for name in fixed if getattr(before, name) != getattr(config, name)]
        if differing:
            raise ConfigError(
                f"{path}: was made by another configuration. got other {', '.join(differing)}, expected the same. Do choose another --out, or drop the --set."
            )
        network.load_state_dict(contents["network"])
        for name, value in ema.items():
            value.copy_(contents["ema"][name])
        optimizer.load_state_dict(contents["optimizer"])
        return int(contents["step"])
    except (KeyError, TypeError, ValueError, RuntimeError) as exc:
        reason = str(exc).splitlines()[0][:200]
        raise BadFileError(
            f"{path}: does not fit this trainer. got {reason}, expected its own contents. Do choose another --out."
        ) from exc


class _Order:
    """The images of a step: one permutation an epoch, from (seed, epoch); the last short batch is left out."""

    def __init__(self, seed: int, count: int, batch_size: int) -> None:
        self.seed, self.count, self.batch_size = seed, count, batch_size
        self.epoch, self.permutation = -1, np.empty(0, dtype=np.int64)

    def batch(self, step: int) -> Tensor:
        epoch, place = divmod(step, self.count // self.batch_size)
        if epoch != self.epoch:
            self.epoch, self.permutation = epoch, np.random.default_rng([self.seed, epoch]).permutation(self.count)
        return torch.from_numpy(self.permutation[place * self.batch_size : (place + 1) * self.batch_size])


def _mixed(seed: int, step: int) -> int:
    digest = hashlib.sha256(f"{seed} {step}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


@contextmanager
def _stop_requests() -> Iterator[Callable[[], bool]]:
    """Turn SIGINT and SIGTERM into a question that the loop asks once a step."""
    asked: list[int] = []
    before = {number: signal.signal(number, lambda n, _: asked.append(n)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _log(path: Path, line: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _keep_log_until(path: Path, step: int) -> None:
    """Drop the lines that a killed run wrote after its last checkpoint: they will be written again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # the line during which it was killed
            break
        if entry["step"] <= step:
            kept.append(line + "\n")
    with replacing(path) as beside:
        beside.write_text("".join(kept), encoding="utf-8")
