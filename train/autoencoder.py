"""`python -m train.autoencoder --config emoji-128`: the encoder and decoder between pictures and latents.

A KL autoencoder (Rombach et al. 2022, section 3.1): L1 and its like between neighbouring pixels, a slight pull of the
latents towards a standard normal, and, from a given step on, a discriminator of patches (hinge loss) against blur.
"""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import chain, pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F

from ddpm_export.cli.console import entry_point, print_json
from ddpm_export.cli.options import Debug
from ddpm_export.errors import BadFileError, NonFiniteError
from ddpm_export.images.write import save_images
from ddpm_export.importers.autoencoder import AutoencoderConfig, Decoder, Encoder
from ddpm_export.importers.checkpoint import save_checkpoint
from ddpm_export.scoring.datasets.dataset import Dataset
from ddpm_export.scoring.datasets.readers import open_dataset
from ddpm_export.system.files import sole_writer

from .config import dataclass_from_dict, resumed_contents

CONFIGS = Path(__file__).parent / "autoencoders"
RESUMABLE = ("steps", "adversarial_from", "log_every", "checkpoint_every")


@dataclass(frozen=True)
class Config:
    """Hold everything an autoencoder follows from, besides the data. Lengths are in steps."""

    dataset: str = "noto-font"
    network: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    steps: int = 30_000
    batch_size: int = 16
    learning_rate: float = 4e-4
    warmup_steps: int = 200
    kl_weight: float = 1e-6
    edge_weight: float = 1.0
    adversarial_from: int = 12_000
    adversarial_weight: float = 0.05
    shift: int = 8
    ema_decay: float = 0.999
    seed: int = 0
    log_every: int = 50
    checkpoint_every: int = 500


class Critic(nn.Module):
    """Give a number to each patch of pictures (B, C, H, W), high for real ones (Isola et al. 2017)."""

    def __init__(self, channels: int, width: int = 32) -> None:
        super().__init__()
        widths = (channels, width, 2 * width, 4 * width)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.utils.parametrizations.spectral_norm(nn.Conv2d(before, after, 4, 2, 1)), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, 1, 1))

    def forward(self, pictures: Tensor) -> Tensor:
        """Map pictures to numbers (B, 1, H/8, W/8)."""
        found: Tensor = self.layers(pictures)
        return found


class Training:
    """The networks that learn, their optimisers and averaged weights; `step` is the next to be taken."""

    def __init__(self, config: Config) -> None:
        torch.manual_seed(config.seed)
        self.config, self.step = config, 0
        channels = config.network.picture_shape[0]
        self.networks = nn.ModuleDict({"encoder": Encoder(config.network), "decoder": Decoder(config.network)})
        self.critic = Critic(channels)
        for network in (self.networks, self.critic):
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = {name: value.detach().clone() for name, value in self.networks.state_dict().items()}
        self.optimizer = torch.optim.Adam(self.networks.parameters(), config.learning_rate, (0.9, 0.99))
        self.critics = torch.optim.Adam(self.critic.parameters(), config.learning_rate, (0.5, 0.9))

    def state(self) -> dict[str, Any]:
        """Return what `resume` needs, and the averaged weights."""
        return {
            "config": asdict(self.config),
            "ema": self.ema,
            "step": self.step,
            "networks": self.networks.state_dict(),
            "critic": self.critic.state_dict(),
            "optimizers": [self.optimizer.state_dict(), self.critics.state_dict()],
        }

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint; raises ConfigError for another configuration, BadFileError for another file."""
        contents = resumed_contents(path, self.config, RESUMABLE)
        try:
            self.networks.load_state_dict(contents["networks"])
            self.critic.load_state_dict(contents["critic"])
            for optimizer, state in zip((self.optimizer, self.critics), contents["optimizers"], strict=True):
                optimizer.load_state_dict(state)
            for name, value in self.ema.items():
                value.copy_(contents["ema"][name])
            self.step = int(contents["step"])
        except (KeyError, TypeError, ValueError, RuntimeError) as exc:
            raise BadFileError(f"{path} does not fit this autoencoder: {' '.join(str(exc).split())[:200]}.") from exc

    def train(self, data: Dataset) -> Iterator[dict[str, float]]:
        """Take the steps that are left and yield each one's losses. All random numbers follow from (seed, step)."""
        while self.step < self.config.steps:
            pictures, noise = self._batch(data)
            left = (self.config.steps - self.step) / (0.3 * self.config.steps)
            rate = self.config.learning_rate * min(1.0, (self.step + 1) / self.config.warmup_steps, left)
            for group in chain(self.optimizer.param_groups, self.critics.param_groups):
                group["lr"] = rate
            losses = self._update(pictures, noise)
            if not all(np.isfinite(list(losses.values()))):
                raise NonFiniteError(f"At step {self.step}, a loss is not finite: {losses}. Lower the learning rate.")
            self.step += 1
            decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
            current = [value.detach() for value in self.networks.state_dict().values()]
            torch._foreach_lerp_(list(self.ema.values()), current, 1.0 - decay)
            yield losses

    def _update(self, pictures: Tensor, noise: Tensor) -> dict[str, float]:
        config, is_adversarial = self.config, self.step >= self.config.adversarial_from
        with torch.autocast("cpu", torch.bfloat16):
            mean, log_variance = self.networks["encoder"](pictures)
            mean, log_variance = mean.float(), log_variance.float().clamp(-30, 20)
            drawn = self.networks["decoder"](mean + (0.5 * log_variance).exp() * noise).float()
            judged = self.critic(drawn).float() if is_adversarial else None
        difference = drawn - pictures
        edges = difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum() / len(pictures)
        losses = {"l1": difference.abs().mean(), "edges": edges, "kl": kl}
        total = losses["l1"] + config.edge_weight * edges + config.kl_weight * kl
        if judged is not None:
            total = total - config.adversarial_weight * judged.mean()
        self.optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(self.networks.parameters(), 1.0)
        self.optimizer.step()
        if is_adversarial:
            self.critics.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                real, made = self.critic(torch.cat([pictures, drawn.detach()])).float().chunk(2)
            losses["critic"] = F.relu(1 - real).mean() + F.relu(1 + made).mean()
            losses["critic"].backward()
            self.critics.step()
        return {name: loss.item() for name, loss in losses.items()}

    def _batch(self, data: Dataset) -> tuple[Tensor, Tensor]:
        """Return a batch of moved, and half of the time mirrored, pictures in [-1, 1] and noise for their latents."""
        config = self.config
        draws = np.random.default_rng([config.seed, self.step])
        images, _ = data.batch(draws.integers(0, len(data.images), config.batch_size))
        moves = draws.integers(-config.shift, config.shift + 1, (config.batch_size, 2))
        moved = [np.roll(image, move, (0, 1)) for image, move in zip(images, moves, strict=True)]  # white all around
        mirrored = draws.random(config.batch_size) < 0.5
        chosen = [image[:, ::-1] if is_mirrored else image for image, is_mirrored in zip(moved, mirrored, strict=True)]
        pictures = torch.from_numpy(np.stack(chosen).transpose(0, 3, 1, 2).copy()).float() / 127.5 - 1.0
        noise = torch.from_numpy(draws.standard_normal((config.batch_size, *config.network.latent_shape), np.float32))
        return pictures.contiguous(memory_format=torch.channels_last), noise


@torch.no_grad()
def psnr(training: Training, data: Dataset, count: int = 128) -> tuple[float, np.ndarray[Any, Any]]:
    """Return the reconstructions' mean PSNR in dB by the averaged weights, and the first as uint8 (N, H, W, C)."""
    networks = {"encoder": Encoder(training.config.network), "decoder": Decoder(training.config.network)}
    modules = nn.ModuleDict(networks)
    modules.load_state_dict(training.ema)
    images = np.asarray(data.images[:count])
    drawn, errors = [], []
    for first in range(0, len(images), 16):
        part = torch.from_numpy(images[first : first + 16].transpose(0, 3, 1, 2).copy()).float()
        found = modules["decoder"](modules["encoder"](part / 127.5 - 1.0)[0]).clamp(-1, 1) * 127.5 + 127.5
        errors.append((found - part).square().mean(dim=(1, 2, 3)))
        drawn.append(found.round().to(torch.uint8).permute(0, 2, 3, 1).numpy())
    return float((10 * (255.0**2 / torch.cat(errors)).log10()).mean()), np.concatenate(drawn)


def command(
    out: Annotated[Path, typer.Option(help="The folder of log, checkpoint and pictures; resumed if it has any.")],
    config: Annotated[
        str, typer.Option(help="A file of train/autoencoders by name, or any by its path.")
    ] = "emoji-128",
    data: Annotated[Path | None, typer.Option(help="The folder of the data set's files.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="In place of the configuration's.")] = None,
    debug: Debug = False,
) -> None:
    """Train the encoder and decoder of a latent model; the same command resumes."""
    path = CONFIGS / f"{config}.json"
    try:
        values = json.loads((path if path.exists() else Path(config)).read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise BadFileError(f"{config} is not a configuration of an autoencoder: {exc}.") from exc
    chosen: Config = dataclass_from_dict(Config, values | ({} if steps is None else {"steps": steps}), "")
    shape = chosen.network.picture_shape
    train_set, test_set = (
        open_dataset(chosen.dataset, data, image_shape=shape, train=train) for train in (True, False)
    )
    with sole_writer(out):
        training = Training(chosen)
        checkpoint = out / "checkpoint.pt"
        if checkpoint.exists():
            training.resume(checkpoint)
        since, seen = time.perf_counter(), training.step
        for losses in training.train(train_set):
            if training.step % chosen.checkpoint_every == 0 or training.step == chosen.steps:
                save_checkpoint(checkpoint, **training.state())
                losses["psnr"], drawn = psnr(training, test_set)
                pairs = np.stack([np.asarray(test_set.images[:20]), drawn[:20]], axis=1)
                save_images(out / "reconstructions.png", pairs.reshape(-1, *pairs.shape[2:]))
            if training.step % chosen.log_every == 0 or "psnr" in losses:
                rate = (training.step - seen) * chosen.batch_size / (time.perf_counter() - since)
                since, seen = time.perf_counter(), training.step
                line = {"step": training.step, **{name: round(value, 5) for name, value in losses.items()}}
                line["images_per_s"] = round(rate, 1)
                with (out / "log.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                print(json.dumps(line), file=sys.stderr, flush=True)
    print_json({"checkpoint": str(checkpoint), "step": training.step})


main = entry_point(command)

if __name__ == "__main__":
    main()
