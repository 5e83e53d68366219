"""denoising-diffusion-pytorch: its options, checkpoints of every kind that it writes, and its own samplers."""

import functools
import importlib
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks.importing import Case, Original

__all__ = ["case", "cases", "diffusion_and_ema", "fed", "trainer_contents"]

STEPS = 20
PACKAGE = "denoising_diffusion_pytorch"
SMALL = {"dim": 16, "dim_mults": (1, 2), "channels": 1, "attn_heads": 2, "attn_dim_head": 8}
# name, kind of checkpoint, Unet's options beside SMALL, GaussianDiffusion's options
CONFIGURATIONS: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("the package's defaults", "trainer", {"dim_mults": (1, 2, 4), "channels": 3, "attn_heads": 4}, {}),
    ("pred_noise linear", "trainer", {}, {"objective": "pred_noise", "beta_schedule": "linear"}),
    ("pred_noise cosine", "diffusion", {}, {"objective": "pred_noise", "beta_schedule": "cosine"}),
    ("pred_noise sigmoid", "trainer", {"channels": 3}, {"objective": "pred_noise"}),
    ("pred_x0 linear", "diffusion", {}, {"objective": "pred_x0", "beta_schedule": "linear"}),
    ("pred_x0 cosine", "trainer", {"channels": 3}, {"objective": "pred_x0", "beta_schedule": "cosine"}),
    ("pred_x0 sigmoid", "trainer", {}, {"objective": "pred_x0"}),
    ("pred_v linear, T = 100", "trainer", {}, {"beta_schedule": "linear", "timesteps": 100}),
    ("pred_v cosine", "ema", {}, {"beta_schedule": "cosine"}),
    (
        "pred_noise linear, min-SNR",
        "trainer",
        {},
        {"objective": "pred_noise", "beta_schedule": "linear", "min_snr_loss_weight": True},
    ),
    ("pred_x0 sigmoid, min-SNR", "trainer", {}, {"objective": "pred_x0", "min_snr_loss_weight": True}),
    ("pred_v cosine, min-SNR", "diffusion", {}, {"beta_schedule": "cosine", "min_snr_loss_weight": True}),
    ("dim 24, dim_mults 1 2 2", "trainer", {"dim": 24, "dim_mults": (1, 2, 2)}, {}),
    ("full_attn at all levels", "trainer", {"full_attn": (True, True)}, {}),
    ("full_attn at the top alone", "trainer", {"full_attn": (True, False)}, {"objective": "pred_x0"}),
    (
        "heads and dim_head of each level",
        "trainer",
        {
            "dim_mults": (1, 2, 4),
            "full_attn": (False, True, True),
            "attn_heads": (1, 2, 4),
            "attn_dim_head": (4, 8, 12),
        },
        {},
    ),
    ("init_dim 24", "diffusion", {"init_dim": 24}, {}),
    ("flash_attn, dropout", "trainer", {"flash_attn": True, "dropout": 0.1}, {}),
    ("sinusoidal_pos_emb_theta 500", "trainer", {"sinusoidal_pos_emb_theta": 500}, {}),
    ("learned_sinusoidal_cond", "unet", {"learned_sinusoidal_cond": True}, {"timesteps": 100}),
    (
        "random_fourier_features, dim 8",
        "unet",
        {"random_fourier_features": True, "learned_sinusoidal_dim": 8},
        {"timesteps": 100, "objective": "pred_x0"},
    ),
    ("bare Unet, cosine s = 0.02", "unet", {}, {"beta_schedule": "cosine", "schedule_fn_kwargs": {"s": 0.02}}),
    (
        "bare Unet, sigmoid -2 to 4, tau 0.9",
        "unet",
        {},
        {"objective": "pred_noise", "schedule_fn_kwargs": {"start": -2, "end": 4, "tau": 0.9}},
    ),
    ("learned_variance linear", "trainer", {"learned_variance": True}, {"beta_schedule": "linear"}),
    (
        "learned_variance cosine",
        "diffusion",
        {"learned_variance": True, "channels": 3},
        {"objective": "pred_noise", "beta_schedule": "cosine"},
    ),
    ("16 x 24 pixels", "trainer", {}, {"image_size": (16, 24), "timesteps": 250}),
]


def cases() -> list[Case]:
    """Return the configurations of the table."""
    return [case(*configuration) for configuration in CONFIGURATIONS]


def case(name: str, kind: str, unet: dict[str, Any], diffusion: dict[str, Any]) -> Case:
    """Return a case of options for Unet, beside SMALL, and GaussianDiffusion; kind: trainer, diffusion, ema or unet."""
    unet, diffusion = {**SMALL, **unet}, {"image_size": 16, **diffusion}
    made: Callable[[], tuple[Any, Any]] = functools.cache(
        lambda: diffusion_and_ema(unet, diffusion, seed=zlib.crc32(name.encode()))
    )

    def write(folder: Path) -> tuple[Path, dict[str, Any]]:
        diffusion_model, ema = made()
        path = folder / "model-1.pt"
        contents = {
            "trainer": lambda: trainer_contents(diffusion_model, ema),
            "ema": ema.state_dict,
            "diffusion": ema.ema_model.state_dict,
            "unet": ema.ema_model.model.state_dict,
        }[kind]()
        torch.save(contents, path)
        asked = {"objective": "pred_v", "beta_schedule": "sigmoid", "timesteps": 1000, "schedule_fn_kwargs": {}}
        options: dict[str, Any] = {"image_size": diffusion["image_size"]}
        if kind == "unet":
            options |= {option: diffusion.get(option, usual) for option, usual in asked.items()}
        if "sinusoidal_pos_emb_theta" in unet:
            options["sinusoidal_pos_emb_theta"] = unet["sinusoidal_pos_emb_theta"]
        return path, options

    return Case("lucidrains", name, write, lambda: _original(made()[1].ema_model.eval()))


def diffusion_and_ema(unet: dict[str, Any], diffusion: dict[str, Any], *, seed: int) -> tuple[Any, Any]:
    """Return a GaussianDiffusion whose every weight matters, and an EMA that has lagged behind it for three steps."""
    package, ema_pytorch = importlib.import_module(PACKAGE), importlib.import_module("ema_pytorch")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = package.Unet(**unet)
        network.random_or_learned_sinusoidal_cond = False  # the diffusion asks for that, though it could do with it
        kind = package.LearnedGaussianDiffusion if unet.get("learned_variance") else package.GaussianDiffusion
        model = kind(network, **diffusion)
        ema = ema_pytorch.EMA(model, beta=0.9, update_after_step=0, update_every=1)
        for _ in range(3):
            with torch.no_grad():
                for weight in network.parameters():
                    weight.add_(torch.randn_like(weight), alpha=0.2 if weight.unique().numel() == 1 else 0.02)
            ema.update()
    return model, ema


def trainer_contents(model: Any, ema: Any) -> dict[str, Any]:
    """Return what Trainer.save writes."""
    return {
        "step": 3,
        "model": model.state_dict(),
        "opt": torch.optim.Adam(model.parameters(), lr=1e-4, betas=(0.9, 0.99)).state_dict(),
        "ema": ema.state_dict(),
        "scaler": None,
        "version": importlib.import_module(f"{PACKAGE}.version").__version__,
    }


@contextmanager
def fed(noise: torch.Tensor) -> Iterator[None]:
    """Give torch.randn and torch.randn_like the draws of `noise` one after the other, and show no progress."""
    draws = iter(noise)
    module = importlib.import_module(f"{PACKAGE}.{PACKAGE}")

    def draw(*_: Any, **__: Any) -> torch.Tensor:
        return next(draws).clone()

    def silent(items: Any, **_: Any) -> Any:
        return items

    with (
        mock.patch.object(torch, "randn", draw),
        mock.patch.object(torch, "randn_like", draw),
        mock.patch.object(module, "tqdm", silent),
    ):
        yield


def _original(model: Any) -> Original:
    """Return one evaluation, the last steps of p_sample and a ddim_sample of the package's own, before [0, 1]."""
    T, shape = model.num_timesteps, (2, model.channels, *model.image_size)
    generator = torch.Generator().manual_seed(1)
    t = torch.tensor([0, 1, T // 3, T // 2, T - 2, T - 1])
    x_t = torch.randn((len(t), *shape[1:]), generator=generator)
    noise = torch.randn((STEPS + 1, *shape), generator=generator)
    with torch.inference_mode():
        out = model.model(x_t, t)
    ddpm_times = tuple(reversed(range(STEPS)))
    x = noise[0]
    with fed(noise[1:]):
        for time in ddpm_times:  # the package cannot leave times out here
            x, _ = model.p_sample(x, time)
    is_learned = model.model.out_dim != model.channels  # whose predictions DDIM fails to make in 2.3.4
    ddim_final, ddim_times = (None, ddpm_times) if is_learned else ddim_sample(model, noise, STEPS)
    return Original(
        x_t.numpy(),
        t.numpy(),
        out.numpy(),
        noise.numpy(),
        ddpm_times,
        x.numpy(),
        ddim_times,
        None if ddim_final is None else ddim_final.numpy(),
    )


def ddim_sample(model: Any, noise: torch.Tensor, num_steps: int) -> tuple[torch.Tensor, tuple[int, ...]]:
    """Return the final of the package's ddim_sample, in [-1, 1], and the times that it steps at."""
    times: list[int] = []
    predictions = model.model_predictions

    def recorded(x: torch.Tensor, t: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        times.append(int(t[0]))
        return predictions(x, t, *args, **kwargs)

    with (
        fed(noise),
        mock.patch.object(model, "model_predictions", recorded),
        mock.patch.object(model, "unnormalize", lambda x: x),
        mock.patch.object(model, "sampling_timesteps", num_steps),
    ):
        final: torch.Tensor = model.ddim_sample(tuple(noise.shape[1:]))
    return final, tuple(times)
