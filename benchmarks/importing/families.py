"""Networks of three families, trained at 28x28 for an hour each: images of their project's loop and of the file.

`python -m benchmarks.importing.families torchcfm DIR` trains, goes on from what DIR holds, and then writes both sets
of images there, from the same noise: DIR/theirs.npy and DIR/ours.npy, for `ddpm-eval --samples`. Each project is on the
path: torchcfm with torchdyn, EDM's repository, or diffusers.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.importing.paths import SIGMA_DATA, Case, Field, Options, drawn
from ddpm_export.exporting.export import export
from ddpm_export.importers.load import load_checkpoint
from ddpm_export.model.steps import plan
from ddpm_export.runtimes.opening import open_model
from ddpm_export.scoring.datasets.readers import open_dataset

BATCH, DECAY, KEPT_S = 64, 0.995, 300.0
CFM_STEPS, EDM_STEPS, CM_STEPS = 20, 18, 2


class Family(NamedTuple):
    """Describe a family: its network, its loss of (network, x_0, how much is trained), its file, its own loop.

    saved: (network, DIR) -> what `ddpm-export` reads, its `--set` and its steps. loop: the network from noise, both
    (N, 1, 28, 28); what it draws after is what torch.randn gives it.
    """

    network: Callable[[], nn.Module]
    loss: Callable[[nn.Module, Tensor, float], Tensor]
    saved: Callable[[nn.Module, Path], tuple[Path, Options, int]]
    loop: Callable[[nn.Module, Tensor], Tensor]


# --- torchcfm: the network and the loss of its MNIST example, twenty steps of Euler's method ---


def cfm_network() -> nn.Module:
    """Return torchcfm's UNet for pictures of 28x28."""
    from torchcfm.models.unet import UNetModel

    return UNetModel((1, 28, 28), 32, 1, channel_mult=(1, 2, 2), attention_resolutions="7", num_heads=2)


def cfm_loss(network: nn.Module, x_0: Tensor, trained: float) -> Tensor:
    """Return the loss of conditional flow matching."""
    from torchcfm.conditional_flow_matching import ConditionalFlowMatcher

    del trained
    t, x, velocity = ConditionalFlowMatcher(sigma=0.0).sample_location_and_conditional_flow(torch.randn_like(x_0), x_0)
    return ((network(t, x) - velocity) ** 2).mean()


def cfm_saved(network: nn.Module, folder: Path) -> tuple[Path, Options, int]:
    """Write what its training scripts write."""
    torch.save({"ema_model": network.state_dict()}, folder / "cfm.pt")
    options = {"path": "flow", "reverse": True, "image_size": 28, "solver": "euler", "num_heads": 2}
    return folder / "cfm.pt", options, CFM_STEPS


def cfm_loop(network: nn.Module, x: Tensor) -> Tensor:
    """Return pictures by torchdyn."""
    from torchdyn.numerics.odeint import odeint

    return odeint(Field(network, {}), x, torch.linspace(0, 1, CFM_STEPS + 1), solver="euler")[1][-1]


# --- EDM: DDPM++ under its loss, and its sampler of 35 evaluations ---


def edm_network() -> nn.Module:
    """Return DDPM++ under EDM's preconditioner."""
    from training.networks import EDMPrecond

    sizes: Options = {"model_channels": 32, "channel_mult": [1, 2, 2], "num_blocks": 1, "attn_resolutions": [7]}
    return EDMPrecond(28, 1, model_type="SongUNet", label_dim=0, **sizes)


def edm_loss(network: nn.Module, x_0: Tensor, trained: float) -> Tensor:
    """Return EDM's loss."""
    from training.loss import EDMLoss

    del trained
    return EDMLoss()(network, x_0).mean()


def edm_saved(network: Any, folder: Path) -> tuple[Path, Options, int]:
    """Write what docs/importing-paths.md takes out of a pickle."""
    options = {"class_name": "EDMPrecond", **network.init_kwargs}
    torch.save({"options": options, "state_dict": network.state_dict()}, folder / "edm.pt")
    return folder / "edm.pt", {}, EDM_STEPS


def edm_loop(network: nn.Module, x: Tensor) -> Tensor:
    """Return pictures by EDM's sampler."""
    from generate import edm_sampler

    return edm_sampler(network, x, num_steps=EDM_STEPS)


# --- consistency: diffusers' network, trained from scratch (Song and Dhariwal 2023), its scheduler's two steps ---


def cm_network() -> nn.Module:
    """Return diffusers' UNet for pictures of 28x28."""
    import diffusers

    return diffusers.UNet2DModel(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(32, 64, 64),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        attention_head_dim=16,
    )


def cm_loss(network: nn.Module, x_0: Tensor, trained: float) -> Tensor:
    """Return the loss of improved consistency training, of levels that double from 10 to 160 (section 3 there)."""
    levels = 10 * 2 ** min(4, int(5 * trained))
    high, low = 80.0 ** (1 / 7), 0.002 ** (1 / 7)
    sigmas = (low + torch.arange(levels + 1) / levels * (high - low)) ** 7
    ends = torch.erf((sigmas.log() + 1.1) / (2.0 * 2.0**0.5))
    k = torch.multinomial(ends[1:] - ends[:-1], len(x_0), replacement=True)
    eps = torch.randn_like(x_0)
    found = cm_picture(network, x_0 + sigmas[k + 1].reshape(-1, 1, 1, 1) * eps, sigmas[k + 1])
    with torch.no_grad():
        aim = cm_picture(network, x_0 + sigmas[k].reshape(-1, 1, 1, 1) * eps, sigmas[k])
    huber = 0.00054 * x_0[0].numel() ** 0.5
    far = (((found - aim) ** 2).sum(dim=(1, 2, 3)) + huber**2).sqrt() - huber
    return (far / (sigmas[k + 1] - sigmas[k])).mean()


def cm_picture(network: Any, x: Tensor, sigma: Tensor) -> Tensor:
    """Return the picture of states x_0 + sigma eps; diffusers' network is told a thousand times c_noise."""
    wide = sigma.reshape(-1, 1, 1, 1)
    total = (wide**2 + SIGMA_DATA**2).sqrt()
    said = network(x / total, 250.0 * sigma.log()).sample
    above = wide - 0.002
    return SIGMA_DATA**2 / (above**2 + SIGMA_DATA**2) * x + above * SIGMA_DATA / total * said


def cm_saved(network: Any, folder: Path) -> tuple[Path, Options, int]:
    """Write a pipeline's folder."""
    import diffusers

    diffusers.ConsistencyModelPipeline(network, diffusers.CMStochasticIterativeScheduler()).save_pretrained(
        folder / "cm"
    )
    return folder / "cm", {}, CM_STEPS


def cm_loop(network: Any, x: Tensor) -> Tensor:
    """Return pictures as diffusers' pipeline does, whose check of `latents` wants three channels."""
    import diffusers

    scheduler = diffusers.CMStochasticIterativeScheduler()
    scheduler.set_timesteps(CM_STEPS)
    x = x * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x = scheduler.step(network(scheduler.scale_model_input(x, t), t).sample, t, x).prev_sample
    return x


FAMILIES = {
    "torchcfm": Family(cfm_network, cfm_loss, cfm_saved, cfm_loop),
    "edm": Family(edm_network, edm_loss, edm_saved, edm_loop),
    "consistency": Family(cm_network, cm_loss, cm_saved, cm_loop),
}


def trained_network(family: Family, folder: Path, seconds: float) -> nn.Module:
    """Return the averaged network after so much time of training, kept in `folder` and gone on with from there."""
    torch.manual_seed(0)
    network, averaged = family.network(), family.network()
    averaged.load_state_dict(network.state_dict())
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-4)
    step, spent, kept = 0, 0.0, folder / "training.pt"
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        network.load_state_dict(state["network"])
        averaged.load_state_dict(state["averaged"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent = state["step"], state["spent"]
    images = open_dataset("fashion-mnist", None, image_shape=(1, 28, 28)).images
    data = torch.from_numpy(images.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    last = time.process_time() - spent
    saved = spent
    while spent < seconds:
        torch.manual_seed(step)
        rate = 5e-4 * min(1.0, (step + 1) / 100, 5.0 * (1.0 - spent / seconds) + 0.02)  # falls in the last fifth
        for group in optimizer.param_groups:
            group["lr"] = rate
        value = family.loss(network, data[torch.randint(len(data), (BATCH,))], spent / seconds)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        step += 1
        with torch.no_grad():
            for mean, now in zip(averaged.state_dict().values(), network.state_dict().values(), strict=True):
                mean.lerp_(now, 1.0 - DECAY) if mean.is_floating_point() else mean.copy_(now)
        spent = time.process_time() - last
        if spent - saved > KEPT_S or spent >= seconds:
            saved = spent
            weights = {"network": network.state_dict(), "averaged": averaged.state_dict()}
            torch.save({**weights, "optimizer": optimizer.state_dict(), "step": step, "spent": spent}, kept)
            print(f"{step} steps, {spent:.0f} s, loss {value.item():.4f}", flush=True)
    return averaged.eval().requires_grad_(False)


def main() -> None:
    """Train, export, sample both ways, and print how far the images are apart."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("family", choices=FAMILIES)
    options.add_argument("folder", type=Path, metavar="DIR")
    options.add_argument("--minutes", type=float, default=60.0, help="of training, of processor time")
    options.add_argument("--n", type=int, default=2000, help="images; a multiple of 50")
    arguments = options.parse_args()
    family, folder = FAMILIES[arguments.family], arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    network = trained_network(family, folder, 60.0 * arguments.minutes)
    path, chosen, steps = family.saved(network, folder)
    opened = open_model(export(load_checkpoint(path, options=chosen, steps=(steps,)), folder / "file.onnx").path)
    case = Case(arguments.family, "", opened, lambda x: family.loop(network, x))
    drawings = [drawn(case, range(first, first + 50)) for first in range(0, arguments.n, 50)]
    theirs, ours = map(np.concatenate, zip(*drawings, strict=True))
    for name, images in (("theirs", theirs), ("ours", ours)):
        np.save(folder / f"{name}.npy", images)
    apart = np.abs(theirs.astype(int) - ours)
    evaluations = len(plan(opened[1]).rows)
    print(f"{evaluations} evaluations: {(apart == 0).mean():.3%} of pixels equal, at most {apart.max()} levels apart")


if __name__ == "__main__":
    main()
