"""Networks of EDM or EDM2, whichever repository is on PYTHONPATH, trained by its losses and sampled by its sampler.

Run by `benchmarks.importing.loops`. The repositories are for non-commercial use; nothing of them is here.
"""

import importlib
import importlib.util
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.importing.paths import IMAGES, STEPS, Case, Options, train
from ddpm_export.exporting.export import export
from ddpm_export.importers.load import load_checkpoint
from ddpm_export.runtimes.opening import open_model

CLASSES = {"label_dim": 10, "label_dropout": 0.1}
DDPMPP = {"model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [7]}
NCSNPP = {**DDPMPP, "embedding_type": "fourier", "encoder_type": "residual", "channel_mult_noise": 2}
NCSNPP |= {"resample_filter": [1, 3, 3, 1], "augment_dim": 9}
SKIPS = {**DDPMPP, "encoder_type": "skip", "decoder_type": "skip", "resample_filter": [1, 3, 3, 1]}
ADM = {**DDPMPP, "model_type": "DhariwalUNet", "model_channels": 32}
CHURN = {"S_churn": 40.0, "S_min": 0.05, "S_max": 50.0, "S_noise": 1.003}
# name, preconditioner, arguments of the network, of the sampler
EDM: list[tuple[str, str, Options, Options]] = [
    ("DDPM++", "EDM", DDPMPP, {}),
    ("DDPM++", "EDM", DDPMPP, CHURN),
    ("DDPM++", "EDM", {**DDPMPP, **CLASSES}, {"S_churn": 10.0}),
    ("DDPM++", "VP", DDPMPP, {}),
    ("DDPM++", "EDM", {**SKIPS, **CLASSES}, {}),
    ("NCSN++", "EDM", NCSNPP, {}),
    ("NCSN++", "EDM", {**NCSNPP, **CLASSES}, CHURN),
    ("NCSN++", "VE", NCSNPP, {"rho": 5.0}),
    ("ADM", "EDM", ADM, {}),
    ("ADM", "EDM", {**ADM, **CLASSES}, {"sigma_min": 0.01, "sigma_max": 60.0}),
    ("ADM", "EDM", {**ADM, **CLASSES}, CHURN),
]


EDM2_UNET = {"model_channels": 32, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [7]}
EDM2: list[tuple[str, str, Options, Options]] = [
    ("UNet", "", EDM2_UNET, {}),
    ("UNet", "", {**EDM2_UNET, "label_dim": 10, "concat_balance": 0.3}, {"rho": 5.0}),
    ("UNet", "", {**EDM2_UNET, "label_dim": 10, "concat_balance": 0.3}, CHURN),
]


def edm_cases(folder: Path, steps: int) -> Iterator[Case]:
    """Yield a case for each network and way of sampling; a network is trained once."""
    is_edm2 = importlib.util.find_spec("training.networks_edm2") is not None
    networks = importlib.import_module("training.networks_edm2" if is_edm2 else "training.networks")
    losses = importlib.import_module("training.training_loop" if is_edm2 else "training.loss")
    edm_sampler = importlib.import_module("generate_images" if is_edm2 else "generate").edm_sampler

    trained: dict[str, Any] = {}
    for name, kind, way, asked in EDM2 if is_edm2 else EDM:
        key = str((kind, way))
        if key not in trained:
            torch.manual_seed(4)
            given = {"label_dim": 0, **way} if is_edm2 else {"model_type": "SongUNet", **way}
            made = getattr(networks, f"{kind}Precond")(img_resolution=14, img_channels=1, **given)
            own = getattr(losses, "EDM2Loss" if is_edm2 else f"{kind}Loss")()
            train(made, made, lambda net, x_0, _, own=own: own(net, x_0, classes_of(net, x_0)).mean(), steps)
            trained[key] = made
        made = trained[key]
        options = {"class_name": f"{kind}Precond", **made.init_kwargs}
        torch.save({"options": options, "state_dict": made.state_dict()}, folder / "edm.pt")
        checkpoint = load_checkpoint(folder / "edm.pt", options=asked, steps=(STEPS,))
        opened = open_model(export(checkpoint, folder / "edm.onnx").path)

        def loop(x: Tensor, made: Any = made, asked: Options = asked) -> Tensor:
            y = torch.eye(10)[[3] * IMAGES] if made.label_dim else None
            noises = draws_of(x, made, asked)
            draw = {"randn_like": lambda _: next(z for z in noises if not is_edm2 or z.any())}  # only where it churns
            return edm_sampler(made, next(noises), y, num_steps=STEPS, **draw, **asked)

        yield Case("EDM2" if is_edm2 else "EDM", f"{name} {kind} {asked}", opened, loop)


def classes_of(net: Any, x_0: Tensor) -> Tensor | None:
    """Return a class for each picture, how bright it is, (B, 10), where the network takes one."""
    bright = ((x_0.mean(dim=(1, 2, 3)) + 1.0) * 7.0).long().clamp(0, 9)
    return torch.eye(10)[bright] if net.label_dim else None


def draws_of(x: Tensor, made: Any, asked: Options) -> Iterator[Tensor]:
    """Yield the noise it begins with, and one for every step: a fresh one where the step churns, else zeros.

    Where the first step churns, the sum of both is as long as x at the sigma after.
    """
    way = {"sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0, "S_churn": 0.0, "S_min": 0.0, "S_max": math.inf, **asked}
    ends = (
        min(way["sigma_max"], getattr(made, "sigma_max", math.inf)),
        max(way["sigma_min"], getattr(made, "sigma_min", 0.0)),
    )
    high, low = (end ** (1 / way["rho"]) for end in ends)
    more = math.sqrt((1.0 + min(way["S_churn"] / STEPS, math.sqrt(2.0) - 1.0)) ** 2 - 1.0) * way.get("S_noise", 1.0)
    for k in range(STEPS):
        sigma = (high + k / (STEPS - 1) * (low - high)) ** way["rho"]
        churns = way["S_churn"] > 0 and way["S_min"] <= sigma <= way["S_max"]
        first = x * (math.sqrt(1.0 + more**2) / (1.0 + more)) if churns else x
        if k == 0:
            yield first
        yield torch.zeros_like(x) if not churns else first if k == 0 else torch.randn(x.shape)
