"""denoising-diffusion-pytorch's ElucidatedDiffusion: its Unet, told log(sigma) / 4, with the steps of `sample`."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

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


class _Net(nn.Module):
    """Stand for the Unet in the package's loop."""

    random_or_learned_sinusoidal_cond, self_condition = True, False

    def __init__(self, network: Callable[..., Tensor]) -> None:
        super().__init__()
        self.network, self.anything = network, nn.Linear(1, 1)  # whose device the package asks for

    def forward(self, *given: Any) -> Tensor:
        """Return what the network says."""
        return self.network(*given)


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
    values = {name: chosen[name] for name in (*LEVELS, *CHURN)}
    package = importlib.import_module("denoising_diffusion_pytorch.elucidated_diffusion")

    def loop_of(num_steps: int) -> Loop:
        def loop(network: Callable[..., Tensor], size: int) -> Tensor:
            made = package.ElucidatedDiffusion(_Net(network), image_size=1, channels=1, **values)
            pictures: Tensor = made.sample(batch_size=size, num_sample_steps=num_steps)
            return pictures * 2.0 - 1.0

        return loop

    def stepping(spec: ModelSpec, counts: Sequence[int] | None) -> ModelSpec:
        numbers = counts or (chosen["num_sample_steps"],)
        return with_loops(spec, path, "sample", {num_steps: loop_of(num_steps) for num_steps in numbers})

    network, spec = wrapped(unet, spec, path)
    return Imported(network, spec, {**parts.source, "elucidated": values}, (), stepping)
