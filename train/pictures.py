"""Pictures of a training as it goes: samples of the EMA weights, and the loss. Draws no random number of torch's."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ddpm_export.importers.unet import UNet, UNetConfig
from ddpm_export.model.denoiser import denoiser
from ddpm_export.model.spec import ModelSpec
from ddpm_export.model.steps import plan
from ddpm_export.process.equations import Array, Model
from ddpm_export.process.noise import noise_stream
from ddpm_export.process.walk import walk
from ddpm_export.runtimes.torch_archive import model_from_module
from ddpm_export.system.files import replacing

SEED, NUM_IMAGES = 0, 16


def draw_samples(
    path: Path,
    config: UNetConfig,
    weights: Mapping[str, Tensor],
    spec: ModelSpec,
    device: str,
    step: int,
    decode: Callable[[Array], Array] | None = None,
) -> None:
    """Write a grid of 16 samples, always of the same noise and classes, by the spec's default steps of DDIM.

    decode: from the last states (B, c, h, w) of a latent model to pictures.
    """
    from ddpm_export.images.write import save_images
    from ddpm_export.process.pixels import to_uint8

    denoise = denoiser(model_from_weights(config, weights, spec, device, range(NUM_IMAGES)), spec)
    noise = noise_stream(SEED, range(NUM_IMAGES), spec.state_shape)
    *_, last = walk(denoise, noise, plan(spec, sampler="ddim"))
    save_images(path, to_uint8(last.x if decode is None else decode(last.x)), {"step": str(step), "weights": "ema"})


def model_from_weights(
    config: UNetConfig, weights: Mapping[str, Tensor], spec: ModelSpec, device: str, images: range
) -> Model:
    """Return a network with these weights as a Model of a batch of these images; with K classes, k is of k mod K."""
    with torch.device("meta"):  # no memory, and no random initialisation
        network = UNet(config)
    network.load_state_dict(weights, assign=True)
    network.eval()
    if not config.num_classes:
        return model_from_module(network, spec, device)
    y = torch.tensor(images, device=device) % config.num_classes
    return model_from_module(lambda x_t, t: network(x_t, t, y), spec, device)


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
