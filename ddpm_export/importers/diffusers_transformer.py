"""DiTTransformer2DModel of diffusers in a pipeline of latents (DiTPipeline), built by the user's installed package."""

import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ddpm_export.errors import first_line
from ddpm_export.importers.choices import ask_for
from ddpm_export.importers.diffusers_autoencoder import latents_of
from ddpm_export.importers.diffusers_parts import fill_constants, free_the_batch, import_diffusers
from ddpm_export.importers.diffusers_scheduler import read_schedule, with_stepping
from ddpm_export.importers.folders import INDEX, MODEL, SCHEDULER
from ddpm_export.importers.layout import (
    MAX_BLOCKS,
    MAX_SIZE,
    Found,
    Imported,
    assign_weights,
    label_of,
    misfit,
    spec_of,
)
from ddpm_export.importers.path_network import wrapped
from ddpm_export.model.guidance import Guidance
from ddpm_export.model.spec import ModelSpec

NAME = "DiTTransformer2DModel"
GUIDANCE_SCALE = 4.0  # what DiTPipeline guides with unless told otherwise


def signs(found: Found) -> dict[str, bool]:
    """Return what diffusers' DiTTransformer2DModel is known by, and whether it is there."""
    names = ("pos_embed.proj.weight", "proj_out_2.weight")
    return {
        f"_class_name {NAME} in {MODEL}": found.config.get(MODEL, {}).get("_class_name") == NAME,
        **{name: name in found.keys for name in names},
    }


def load(found: Found, weights: str, options: Mapping[str, Any]) -> Imported:
    """Return the network, its class told beside "none", with the weights of a folder, and its autoencoder's stages.

    options: any entry of the scheduler's file, to replace it; `classes`, the names of the classes. Of a network that
    also learned variances, these are left out, as its pipeline does.
    """
    package = import_diffusers()
    entries = {name: value for name, value in options.items() if name != "classes"}
    scheduler = found.config.get(SCHEDULER, {})
    if "_class_name" not in {*scheduler, *entries}:
        raise ask_for({"_class_name": "DDIMScheduler"})
    config = _config(package, found.config[MODEL])
    channels, outputs, side, count = (
        config[key] for key in ("in_channels", "out_channels", "sample_size", "num_embeds_ada_norm")
    )
    if outputs not in (None, channels, 2 * channels):
        raise misfit("out_channels", outputs, f"in_channels, {channels}, or twice as many")
    schedule = read_schedule(package, scheduler, entries)
    shape = (channels, side, side)
    latents = None if found.autoencoder is None else latents_of(package, *found.autoencoder, shape)
    names = options.get("classes") or _names(found.config.get(INDEX, {}).get("id2label"), count)
    spec = spec_of(
        found,
        prediction=schedule.prediction,
        state_shape=shape,
        alphas_cumprod=schedule.alphas_cumprod,
        clip_x_0=schedule.clip_x_0,
        variance=schedule.variance,
        defaults=replace(schedule.defaults, guidance=Guidance(GUIDANCE_SCALE)),
        inputs=(label_of(count, "num_embeds_ada_norm", names, none=count),),
        stages={} if latents is None else latents.stages,
        units=None if latents is None else latents.units,
    )
    network = _network(package, config, spec, found.contents)
    stages = {} if latents is None else latents.networks
    for stage in stages.values():
        free_the_batch(stage)

    def stepping(spec: ModelSpec, counts: Sequence[int] | None) -> ModelSpec:
        return with_stepping(spec, schedule, counts or (spec.defaults.num_steps,), counts_t=False)

    transformer, spec = wrapped(Transformer(network, channels), spec, schedule.path)
    return Imported(transformer, spec, schedule.source, schedule.notes, stepping, stages)


class Transformer(nn.Module):
    """A DiTTransformer2DModel as a function of x_t, t and a class; learned variances are left out."""

    def __init__(self, network: nn.Module, channels: int) -> None:
        super().__init__()
        self.network = network
        self.channels = channels

    def forward(self, x_t: Tensor, t: Tensor, *, y: Tensor) -> Tensor:
        """Predict: x_t (B, C, H, W) float32, t (B,) and y (B,) int64 -> the shape of x_t."""
        out: Tensor = self.network(x_t, timestep=t, class_labels=y, return_dict=False)[0]
        return out[:, : self.channels]


def _config(package: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    values = {key: p.default for key, p in inspect.signature(package.DiTTransformer2DModel).parameters.items()}
    stated = {key: value for key, value in config.items() if key[:1] != "_"}
    unknown = sorted(stated.keys() - values.keys())
    if unknown:
        raise misfit(MODEL, f"unknown {unknown[:5]!r}", f"options of {NAME} of diffusers {package.__version__}")
    values.update(stated)
    for key, most in (("num_layers", MAX_BLOCKS), ("in_channels", MAX_SIZE), ("sample_size", MAX_SIZE)):
        if type(values[key]) is not int or not 1 <= values[key] <= most:
            raise misfit(key, values[key], f"an integer from 1 to {most}")
    return values


def _names(labels: Any, count: int) -> list[str] | None:
    """Return the names of a pipeline's id2label, each once: of equal ones the later has its number behind it."""
    if not isinstance(labels, Mapping) or set(labels) != {str(k) for k in range(count)}:
        return None
    names: list[str] = []
    for k in range(count):
        name = str(labels[str(k)]).partition(",")[0]
        names.append(f"{name} {k}" if name in names else name)
    return names


def _network(package: Any, config: Mapping[str, Any], spec: ModelSpec, state: Mapping[str, Any]) -> nn.Module:
    try:
        with warnings.catch_warnings(), torch.no_grad(), torch.device("meta"):
            warnings.simplefilter("ignore")  # the package's, of its own code: not for the user
            network: nn.Module = package.DiTTransformer2DModel(**config).eval()
            t = torch.zeros(1, dtype=torch.int64)
            Transformer(network, spec.state_shape[0])(torch.empty(1, *spec.state_shape), t, y=t)
    except Exception as exc:  # whatever the package makes of options that are not for one another
        raise misfit(MODEL, first_line(exc), "options that go together") from exc
    assign_weights(network, dict(state), "weights")
    fill_constants(network, lambda: package.DiTTransformer2DModel(**config))
    return network
