"""denoising-diffusion-pytorch: its options, checkpoints of every kind that it writes, and its own samplers."""

import functools
import importlib
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks.importing import Case, Original

__all__ = ["case", "cases", "diffusion_and_ema", "fed", "trainer_contents"]

STEPS = 20
PACKAGE = "denoising_diffusion_pytorch"
CLASSES = f"{PACKAGE}.classifier_free_guidance"
SMALL = {"dim": 16, "dim_mults": (1, 2), "channels": 1, "attn_heads": 2, "attn_dim_head": 8}
NOISE = {"objective": "pred_noise", "beta_schedule": "linear"}
V = {"objective": "pred_v", "beta_schedule": "cosine"}
# of the classes' own GaussianDiffusion, whose samplers take what its constructor does not
GUIDANCE = ("cond_scale", "rescaled_phi")
# name, kind of checkpoint, Unet's options beside SMALL (with num_classes that of classifier_free_guidance),
# GaussianDiffusion's options
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
    ("self_condition", "trainer", {"self_condition": True}, {}),
    ("self_condition, pred_noise linear", "diffusion", {"self_condition": True, "channels": 3}, NOISE),
    ("classes, pred_x0 cosine", "diffusion", {"num_classes": 10}, {"objective": "pred_x0"}),
    ("classes, pred_noise linear", "trainer", {"num_classes": 3, "channels": 3}, NOISE),
    ("classes, pred_v cosine, bare Unet", "unet", {"num_classes": 10}, V),
    (
        "classes, cond_scale 6, rescaled_phi 0.7",
        "ema",
        {"num_classes": 10},
        {**V, "cond_scale": 6.0, "rescaled_phi": 0.7},
    ),
    (
        "classes, cond_scale 3, rescaled_phi 0",
        "diffusion",
        {"num_classes": 10},
        {"cond_scale": 3.0, "rescaled_phi": 0.0},
    ),
]


def cases() -> list[Case]:
    """Return the configurations of the table."""
    return [case(*configuration) for configuration in CONFIGURATIONS]


def case(name: str, kind: str, unet: dict[str, Any], diffusion: dict[str, Any]) -> Case:
    """Return a case of options for Unet, beside SMALL, and GaussianDiffusion; kind: trainer, diffusion, ema or unet."""
    unet, guidance = {**SMALL, **unet}, {name: diffusion[name] for name in GUIDANCE if name in diffusion}
    is_told_classes = "num_classes" in unet
    usual = {"image_size": 16, **({"ddim_sampling_eta": 0.0} if is_told_classes else {})}
    diffusion = {**usual, **{name: value for name, value in diffusion.items() if name not in guidance}}
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
        options: dict[str, Any] = {"image_size": diffusion["image_size"], **guidance}
        if is_told_classes:
            options["attn_heads"] = unet["attn_heads"]
        if kind == "unet":
            options |= {option: diffusion.get(option, usual) for option, usual in asked.items()}
        if "sinusoidal_pos_emb_theta" in unet:
            options["sinusoidal_pos_emb_theta"] = unet["sinusoidal_pos_emb_theta"]
        return path, options

    original = _original_of_classes if is_told_classes else _original
    return Case("lucidrains", name, write, lambda: original(made()[1].ema_model.eval(), **guidance))


def diffusion_and_ema(unet: dict[str, Any], diffusion: dict[str, Any], *, seed: int) -> tuple[Any, Any]:
    """Return a GaussianDiffusion whose every weight matters, and an EMA that has lagged behind it for three steps."""
    module = CLASSES if "num_classes" in unet else PACKAGE
    package, ema_pytorch = importlib.import_module(module), importlib.import_module("ema_pytorch")
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
def fed(noise: torch.Tensor, module_name: str = f"{PACKAGE}.{PACKAGE}") -> Iterator[None]:
    """Give torch.randn and torch.randn_like the draws of `noise` one after the other, and show no progress."""
    draws = iter(noise)
    module = importlib.import_module(module_name)

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
    # the clean image found before, which a network with self-conditioning is told
    before = torch.rand(x_t.shape, generator=generator) * 2.0 - 1.0 if model.self_condition else None
    with torch.inference_mode():
        out = model.model(x_t, t, before)
    ddpm_times = tuple(reversed(range(STEPS)))
    x, x_start = noise[0], None
    with fed(noise[1:]):
        for time in ddpm_times:  # the package cannot leave times out here
            x, x_start = model.p_sample(x, time, x_start if model.self_condition else None)
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
        {} if before is None else {"x_0_prev": before.numpy()},
    )


def _original_of_classes(model: Any, cond_scale: float = 1.0, rescaled_phi: float | None = None) -> Original:
    """Return one evaluation, the last steps of p_sample and a ddim_sample of a diffusion that is told classes.

    rescaled_phi: None where the file has plain predictions, which the package cannot sample with: its predictions are
    then put in the place of the guided ones.
    """
    T, shape, is_guided = model.num_timesteps, (2, model.channels, *[model.image_size] * 2), rescaled_phi is not None
    none = model.model.classes_emb.num_embeddings
    generator = torch.Generator().manual_seed(1)
    t = torch.tensor([0, 1, T // 3, T // 2, T - 2, T - 1])
    x_t = torch.randn((len(t), *shape[1:]), generator=generator)
    noise = torch.randn((STEPS + 1, *shape), generator=generator)
    y = torch.arange(len(t)) % none if is_guided else torch.arange(len(t)) % (none + 1)
    classes = torch.tensor([1, none - 1])

    def guided(x: Any, t: Any, y: Any) -> Any:
        return model.model.forward_with_cond_scale(x, t, y, cond_scale=cond_scale, rescaled_phi=rescaled_phi)

    def plain(x: Any, t: Any, y: Any, **_: Any) -> Any:
        keep = y < none
        return model.model.forward(x, t, y.clamp(max=none - 1), cond_keep_mask=keep), None

    how = {"cond_scale": cond_scale, "rescaled_phi": rescaled_phi}
    predict = guided if is_guided else plain
    ddpm_times = tuple(reversed(range(STEPS)))
    with torch.inference_mode():
        out = predict(x_t, t, y)[0]
    own = model.model.forward_with_cond_scale
    with torch.inference_mode(), mock.patch.object(model.model, "forward_with_cond_scale", own if is_guided else plain):
        x = noise[0]
        with fed(noise[1:], CLASSES):
            for time in ddpm_times:
                x, _ = model.p_sample(x, time, classes, **how)
        ddim_final, ddim_times = ddim_sample(model, noise, STEPS, classes, **how)
    scale = {"guidance": np.full((len(t), 1), cond_scale, dtype=np.float32)} if is_guided else {}
    return Original(
        x_t.numpy(),
        t.numpy(),
        out.numpy(),
        noise.numpy(),
        ddpm_times,
        x.numpy(),
        ddim_times,
        ddim_final.numpy(),
        {"y": y.numpy(), **scale},
        {"y": classes.numpy()},
        keeps_noise=model.objective == "pred_noise",
    )


def ddim_sample(
    model: Any, noise: torch.Tensor, num_steps: int, *classes: torch.Tensor, **how: Any
) -> tuple[torch.Tensor, tuple[int, ...]]:
    """Return the final of the package's ddim_sample, in [-1, 1], and the times that it steps at.

    classes, how: what its sampler takes besides where the network is told classes.
    """
    times: list[int] = []
    predictions, module = model.model_predictions, importlib.import_module(type(model).__module__)

    def recorded(x: torch.Tensor, t: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        times.append(int(t[0]))
        return predictions(x, t, *args, **kwargs)

    with (
        fed(noise, module.__name__),
        mock.patch.object(model, "model_predictions", recorded),
        mock.patch.object(model, "unnormalize", lambda x: x, create=True),
        mock.patch.object(module, "unnormalize_to_zero_to_one", lambda x: x),
        mock.patch.object(model, "sampling_timesteps", num_steps),
    ):
        final: torch.Tensor = model.ddim_sample(*classes, tuple(noise.shape[1:]), **how)
    return final, tuple(times)
