"""Learning from other networks in place of data: what a teacher predicts, guided by a weaker one."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ddpm_export.errors import BadFileError, ConfigError, UsageError, shown
from ddpm_export.importers.checkpoint import load_own_checkpoint
from ddpm_export.importers.unet import UNet
from ddpm_export.system.files import sha256_of

from .compiled import compiled
from .config import TrainConfig, config_from_dict

SHARED = ("prediction", "schedule", "schedule_parameters", "num_train_timesteps")


def taught(
    config: TrainConfig, teacher: Path | None, weaker: Path | None, autoencoder: Path | None = None
) -> TrainConfig:
    """Return the configuration with the SHA-256 of the checkpoints it learns from: the same ones when it goes on.

    Raises UsageError for a weaker network without a teacher, ConfigError where it has no scale, or a scale no network,
    and where the configuration names other ones.
    """
    if weaker is not None and teacher is None:
        raise UsageError("--weaker guides a --teacher. Say that too.")
    if (weaker is None) != (not config.autoguidance):
        raise ConfigError(
            "--weaker and autoguidance belong together: --weaker CHECKPOINT --set autoguidance.scale=2 --set "
            "autoguidance.until=300 --set autoguidance.gone=400."
        )
    paths = {"teacher": teacher, "weaker": weaker, "autoencoder": autoencoder}
    digests = {name: "" if path is None else sha256_of(path) for name, path in paths.items()}
    for name, digest in digests.items():
        meant = getattr(config, name)
        if meant not in ("", digest):
            raise ConfigError(
                f"{name} of the configuration is the SHA-256 of the checkpoint for --{name}, {shown(meant)}: got "
                f"{digest or 'none'}."
            )
    return dataclasses.replace(config, **digests)


class Teacher:
    """Say what a network in training is to predict: weaker + scale (teacher - weaker), by averaged weights.

    A weaker network errs as its teacher does, and more; scales above 1 lead away from what both get wrong (Karras et
    al. 2024, "Guiding a diffusion model with a bad version of itself", eq. 4). The network in training learns to
    predict in one evaluation what takes two here, as Meng et al. 2023 did with the guidance of classes.

    path, weaker: checkpoints of this trainer with the prediction and the schedule of `config`, whose `autoguidance`
    has the scale at each time; without weaker it is 1. A network without classes is not told any.

    Raises BadFileError for what is no checkpoint, ConfigError for one that does not fit.
    """

    def __init__(self, path: Path, weaker: Path | None, config: TrainConfig, device: str) -> None:
        self._strong = _network(path, config, device)
        self._weak = None if weaker is None else _network(weaker, config, device)
        self._scales = _scales(config).to(device)
        self._bf16 = config.bf16

    @torch.no_grad()
    def __call__(self, x_t: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """Return what to predict for x_t (B, C, H, W), t (B,) and the classes y (B,), in float32."""
        with torch.autocast(x_t.device.type, torch.bfloat16, enabled=self._bf16):
            wanted = self._strong(x_t, t, y).float()
            scales = self._scales[t]
            guided = torch.nonzero(scales != 1.0)[:, 0]
            if self._weak is None or not len(guided):
                return wanted
            weak = self._weak(x_t[guided], t[guided], None if y is None else y[guided]).float()
        wanted[guided] = torch.lerp(weak, wanted[guided], scales[guided, None, None, None])
        return wanted


def _scales(config: TrainConfig) -> Tensor:
    """Return the scale at each time (T,) float32: 1 at 0, `scale` from `since` to `until` and 1 from `gone` on.

    Without `since`, `scale` from 0 on.
    """
    options, t = config.autoguidance, torch.arange(config.num_train_timesteps, dtype=torch.float64)
    if not options:
        return torch.ones(len(t))
    left = torch.clamp((options["gone"] - t) / (options["gone"] - options["until"]), 0.0, 1.0)
    risen = torch.clamp(t / options["since"], max=1.0) if options.get("since") else 1.0
    return (1.0 + (options["scale"] - 1.0) * risen * left).float()


def _network(path: Path, config: TrainConfig, device: str) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """Return a function of x_t, t and y: the network of a checkpoint with its averaged weights."""
    contents = load_own_checkpoint(path)
    try:
        own = config_from_dict(contents["config"])
        network = UNet(own.network)
        network.load_state_dict(contents["ema"])
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, UsageError) as exc:
        raise BadFileError(f"{path} does not fit this trainer: {' '.join(str(exc).split())[:200]}.") from exc
    differing = [name for name in SHARED if getattr(own, name) != getattr(config, name)]
    if own.network.image_shape != config.network.image_shape:
        differing.append("network.image_shape")
    if own.network.num_classes not in (0, config.network.num_classes):
        differing.append("network.num_classes")
    if differing:
        raise ConfigError(f"{path} cannot teach this network, whose {', '.join(differing)} must be the same.")
    network.eval().requires_grad_(False).to(device)
    if config.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    call = compiled(network, config.channels_last) if config.compile else network
    return call if own.network.num_classes else lambda x_t, t, _: call(x_t, t)
