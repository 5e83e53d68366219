"""denoising-diffusion-pytorch's ElucidatedDiffusion: its Unet, told log(sigma) / 4, with the steps of `sample`."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ddpm_export.importers import choices
from ddpm_export.importers.layout import Found, Imported, misfit, spec_of
from ddpm_export.importers.loops import Loop, with_loops
from ddpm_export.importers.lucidrains_file import Parts, height_and_width
from ddpm_export.importers.path_network import wrapped
from ddpm_export.importers.paths import OPTIONS as PATH_OPTIONS
from ddpm_export.importers.paths import Path
from ddpm_export.model.spec import Defaults, ModelSpec

LEVELS = ("sigma_data", "sigma_min", "sigma_max", "rho")
CHURN: dict[str, choices.Option] = {
    "S_churn": choices.within(0.0, 1e9, 80.0),
    "S_tmin": choices.within(0.0, 1e9, 0.05),
    "S_tmax": choices.within(0.0, 1e9, 50.0),
    "S_noise": choices.within(0.0, 1e9, 1.003),
}
OPTIONS: dict[str, choices.Option] = {
    "image_size": choices.like(None, 64),
    "num_sample_steps": choices.within(2, 1000, 32),
    **{name: PATH_OPTIONS[name] for name in LEVELS},
    **CHURN,
    **dict.fromkeys(("P_mean", "P_std"), choices.like(None)),  # only of training
}


class Net(nn.Module):
    """Stand for a network in a package's loop."""

    random_or_learned_sinusoidal_cond, self_condition = True, False

    def __init__(self, network: Callable[..., Tensor]) -> None:
        super().__init__()
        self.network, self.anything = network, nn.Linear(1, 1)  # whose device the package asks for

    def forward(self, x: Tensor, *given: Any, times: Tensor | None = None) -> Tensor:
        """Return what the network says; times: how rectified-flow-pytorch tells it."""
        return self.network(x, *(given if times is None else (times,)))


def sample(
    network: Callable[..., Tensor],
    x: Tensor,
    num_steps: int = 32,
    *,
    path: Path,
    S_churn: float = 80.0,
    S_tmin: float = 0.05,
    S_tmax: float = 50.0,
    S_noise: float = 1.003,
) -> Tensor:
    """Return the picture of `sample`, which clips."""
    package = importlib.import_module("denoising_diffusion_pytorch.elucidated_diffusion")
    values = {**{name: getattr(path, name) for name in LEVELS}, "S_churn": S_churn, "S_tmin": S_tmin, "S_tmax": S_tmax}
    made = package.ElucidatedDiffusion(Net(network), image_size=1, channels=1, S_noise=S_noise, **values)
    pictures: Tensor = made.sample(batch_size=len(x), num_sample_steps=num_steps)
    return pictures * 2.0 - 1.0


def imported(
    found: Found, parts: Parts, unet: nn.Module, config: Mapping[str, Any], chosen: Mapping[str, Any]
) -> Imported:
    """Return a Unet of ElucidatedDiffusion, wrapped, with the steps of `sample`. config: the Unet's arguments."""
    if config["self_condition"] or config["learned_variance"]:
        raise misfit(f"{parts.where}.init_conv.weight", "self-conditioning or learned variances", "neither, here")
    choices.require(["image_size"], chosen, OPTIONS)
    levels: dict[str, Any] = {name: float(chosen[name]) for name in LEVELS}
    path = Path("edm", **levels)
    spec = spec_of(
        found,
        prediction=path.form.prediction,
        state_shape=(config["channels"], *height_and_width(chosen["image_size"], len(config["dim_mults"]))),
        alphas_cumprod=path.alphas_cumprod(1000),
        clip_x_0=1.0,
        defaults=Defaults("ddim", chosen["num_sample_steps"], 0.0),
    )
    churn = {name: chosen[name] for name in CHURN}

    def loop_of(num_steps: int) -> Loop:
        return lambda network, size: sample(network, torch.empty(size), num_steps, path=path, **churn)

    def stepping(spec: ModelSpec, counts: Sequence[int] | None) -> ModelSpec:
        numbers = counts or (chosen["num_sample_steps"],)
        return with_loops(spec, path, "sample", {num_steps: loop_of(num_steps) for num_steps in numbers})

    network, spec = wrapped(unet, spec, path)
    return Imported(network, spec, {**parts.source, "elucidated": levels | churn}, (), stepping)
