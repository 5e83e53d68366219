"""Pictures of a training as it goes: samples of the EMA weights, and the loss. Draws no random number of torch's."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ddpm_export.diffusion import denoiser
from ddpm_export.exporting.unet import UNet, UNetConfig
from ddpm_export.files import replacing
from ddpm_export.noise import noise_stream
from ddpm_export.runtimes.torch_archive import model_from_module
from ddpm_export.samplers import plan, walk
from ddpm_export.spec import ModelSpec

__all__ = ["draw_loss", "draw_samples"]

SEED, NUM_IMAGES = 0, 16


def draw_samples(
    path: Path, config: UNetConfig, weights: Mapping[str, Tensor], spec: ModelSpec, device: str, step: int
) -> None:
    """Write a grid of 16 samples, always of the same noise, by the spec's default steps of DDIM.

    Of a network with K classes sample k is of class k mod K.
    """
    from ddpm_export.images import save_images, to_uint8

    with torch.device("meta"):  # no memory, and no random initialisation
        network = UNet(config)
    network.load_state_dict(weights, assign=True)
    network.eval()
    if config.num_classes:
        y = (torch.arange(NUM_IMAGES) % config.num_classes).to(device)
        denoise = denoiser(model_from_module(lambda x_t, t: network(x_t, t, y), spec, device), spec)
    else:
        denoise = denoiser(model_from_module(network, spec, device), spec)
    noise = noise_stream(SEED, range(NUM_IMAGES), spec.image_shape)
    *_, last = walk(denoise, noise, plan(spec, sampler="ddim"))
    save_images(path, to_uint8(last.x), {"step": str(step), "weights": "ema"})


def draw_loss(path: Path, log: Path) -> None:
    """Write the loss over the steps of a `log.jsonl`, on a logarithmic scale; an empty log makes no picture."""
    from matplotlib.figure import Figure  # not pyplot: no window, no global state

    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    if not lines:
        return
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    axes.semilogy([line["step"] for line in lines], [line["loss"] for line in lines], linewidth=1.0)
    axes.set(xlabel="step", ylabel="loss")
    axes.grid(visible=True, which="both", alpha=0.3)
    with replacing(path) as beside:
        figure.savefig(beside, dpi=120)
