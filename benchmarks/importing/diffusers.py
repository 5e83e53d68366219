"""diffusers: its networks and schedulers, in folders as `save_pretrained` writes them, and its own steps."""

import functools
import importlib
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks.importing import Case, Original

__all__ = ["case", "cases", "network_of", "walk"]

STEPS = 20
BATCH = 2
BATCH_OF_LABELS = 8  # in the one evaluation
SMALL = {
    "sample_size": 16,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "attention_head_dim": 4,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
CIFAR = {  # the options of google/ddpm-cifar10-32, narrower
    "sample_size": 32,
    "block_out_channels": (8, 16, 16, 16),
    "layers_per_block": 2,
    "attention_head_dim": None,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}
SKIP = {  # FIR filters; these blocks count their groups by their channels
    "block_out_channels": (32, 64),
    "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D"),
    "up_block_types": ("AttnSkipUpBlock2D", "SkipUpBlock2D"),
}
K = {
    "block_out_channels": (32, 64),
    "layers_per_block": 2,
    "down_block_types": ("KDownBlock2D", "KDownBlock2D"),
    "up_block_types": ("KUpBlock2D", "KUpBlock2D"),
}
RESNET = {
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
}
ALL_RESNET = {
    "down_block_types": ("ResnetDownsampleBlock2D", "ResnetDownsampleBlock2D"),
    "up_block_types": ("ResnetUpsampleBlock2D", "ResnetUpsampleBlock2D"),
}
COSINE = {"beta_schedule": "squaredcos_cap_v2"}
V = {"prediction_type": "v_prediction"}
X_0 = {"prediction_type": "sample"}
# little noise: what an untrained network makes of much noise is nearly all black and white
GENTLE = {"beta_end": 0.002}
LEARNED = {"variance_type": "learned_range"}
# name, the network's options beside SMALL, the scheduler's class, its options
CONFIGURATIONS: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("google/ddpm-cifar10-32, narrow", CIFAR, "DDPMScheduler", {"variance_type": "fixed_large"}),
    (
        "all blocks with attention",
        {"down_block_types": ("AttnDownBlock2D",) * 2, "up_block_types": ("AttnUpBlock2D",) * 2},
        "DDPMScheduler",
        {**COSINE, **V},
    ),
    (
        "no attention, two layers",
        {
            "down_block_types": ("DownBlock2D",) * 2,
            "up_block_types": ("UpBlock2D",) * 2,
            "layers_per_block": 2,
            "add_attention": False,
        },
        "DDPMScheduler",
        GENTLE,
    ),
    ("mid_block_type null", {"mid_block_type": None}, "DDPMScheduler", X_0),
    ("attention_head_dim null", {"attention_head_dim": None}, "DDPMScheduler", V),
    (
        "attn_norm_num_groups 2, scale_shift",
        {"attn_norm_num_groups": 2, "resnet_time_scale_shift": "scale_shift"},
        "DDPMScheduler",
        COSINE,
    ),
    ("ResnetDownsampleBlock2D beside attention", RESNET, "DDPMScheduler", GENTLE),
    (
        "ResnetDownsampleBlock2D alone, scale_shift",
        {**ALL_RESNET, "resnet_time_scale_shift": "scale_shift"},
        "DDPMScheduler",
        V,
    ),
    (
        "downsample_type, upsample_type resnet",
        {
            "down_block_types": ("AttnDownBlock2D",) * 2,
            "up_block_types": ("AttnUpBlock2D",) * 2,
            "downsample_type": "resnet",
            "upsample_type": "resnet",
        },
        "DDPMScheduler",
        V,
    ),
    ("SkipDownBlock2D, AttnSkipDownBlock2D", SKIP, "DDPMScheduler", {**COSINE, **X_0}),
    ("KDownBlock2D, gelu", {**K, "act_fn": "gelu"}, "DDPMScheduler", V),
    (
        "KCrossAttnDownBlock2D",
        {
            **K,
            "down_block_types": ("KCrossAttnDownBlock2D", "KDownBlock2D"),
        },
        "DDPMScheduler",
        GENTLE,
    ),
    (
        "time_embedding_type learned",
        {"time_embedding_type": "learned", "num_train_timesteps": 1000},
        "DDPMScheduler",
        V,
    ),
    (
        "time_embedding_dim 24, freq_shift 1",
        {"time_embedding_dim": 24, "freq_shift": 1, "flip_sin_to_cos": False},
        "DDPMScheduler",
        X_0,
    ),
    (
        "center_input_sample, grey",
        {"center_input_sample": True, "in_channels": 1, "out_channels": 1},
        "DDPMScheduler",
        V,
    ),
    (
        "mid_block_scale_factor 1.4, mish, dropout",
        {"mid_block_scale_factor": 1.4, "act_fn": "mish", "dropout": 0.2},
        "DDPMScheduler",
        GENTLE,
    ),
    (
        "three levels, 12 x 20 pixels",
        {
            "block_out_channels": (8, 8, 16),
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            "sample_size": (12, 20),
        },
        "DDPMScheduler",
        GENTLE,
    ),
    (
        "one level, four channels",
        {
            "block_out_channels": (8,),
            "down_block_types": ("DownBlock2D",),
            "up_block_types": ("UpBlock2D",),
            "in_channels": 4,
            "out_channels": 4,
        },
        "DDPMScheduler",
        GENTLE,
    ),
    (
        "scaled_linear",
        {},
        "DDPMScheduler",
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    ),
    ("sigmoid, sample", {}, "DDPMScheduler", {"beta_schedule": "sigmoid", **X_0}),
    ("laplace, v_prediction", {}, "DDPMScheduler", {"beta_schedule": "laplace", **V}),
    (
        "trained_betas, T = 40",
        {},
        "DDPMScheduler",
        {"trained_betas": np.geomspace(1e-3, 0.3, 40).tolist(), "num_train_timesteps": 40},
    ),
    (
        "rescale_betas_zero_snr, v_prediction, trailing",
        {},
        "DDPMScheduler",
        {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", **V},
    ),
    ("rescale_betas_zero_snr, sample", {}, "DDPMScheduler", {"rescale_betas_zero_snr": True, **X_0}),
    ("clip_sample_range 2.5", {}, "DDPMScheduler", {"clip_sample_range": 2.5, **GENTLE}),
    ("clip_sample false, epsilon", {}, "DDPMScheduler", {**GENTLE, "clip_sample": False}),
    ("clip_sample false, v_prediction", {}, "DDPMScheduler", {"clip_sample": False, **V}),
    ("fixed_large, cosine", {}, "DDPMScheduler", {"variance_type": "fixed_large", **COSINE}),
    (
        "fixed_small_log, linspace",
        {},
        "DDPMScheduler",
        {"variance_type": "fixed_small_log", "timestep_spacing": "linspace"},
    ),
    (
        "steps_offset 1",
        {},
        "DDPMScheduler",
        {"steps_offset": 1},
    ),
    ("learned_range", {"out_channels": 6}, "DDPMScheduler", LEARNED),
    (
        "learned_range, cosine, v_prediction, grey",
        {"in_channels": 1, "out_channels": 2},
        "DDPMScheduler",
        {**LEARNED, **COSINE, **V},
    ),
    ("T = 4000", {}, "DDPMScheduler", {"num_train_timesteps": 4000, **COSINE}),
    ("T = 100, DDPMParallelScheduler", {}, "DDPMParallelScheduler", {"num_train_timesteps": 100}),
    ("DDIMScheduler", {}, "DDIMScheduler", GENTLE),
    (
        "DDIMScheduler, v_prediction, zero SNR, trailing",
        RESNET,
        "DDIMScheduler",
        {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", **V},
    ),
    ("DDIMScheduler, sample, clip_sample false", {}, "DDIMScheduler", {"clip_sample": False, **X_0}),
    ("DDIMScheduler, steps_offset 1", {}, "DDIMScheduler", {"steps_offset": 1, **COSINE}),
    ("PNDMScheduler", {}, "PNDMScheduler", {"beta_end": 0.002}),
    ("DPMSolverMultistepScheduler", {}, "DPMSolverMultistepScheduler", V),
    ("UniPCMultistepScheduler, sample", {}, "UniPCMultistepScheduler", X_0),
    ("EulerDiscreteScheduler", {}, "EulerDiscreteScheduler", {"beta_end": 0.002, "beta_schedule": "scaled_linear"}),
    ("HeunDiscreteScheduler, clip_sample", {}, "HeunDiscreteScheduler", {"clip_sample": True}),
    ("num_class_embeds 10", {"num_class_embeds": 10}, "DDPMScheduler", V),
    ("num_class_embeds 10, learned_range", {"num_class_embeds": 10, "out_channels": 6}, "DDPMScheduler", LEARNED),
    ("num_class_embeds 1000, DDIMScheduler", {"num_class_embeds": 1000}, "DDIMScheduler", GENTLE),
    ("class_embed_type timestep", {"class_embed_type": "timestep"}, "DDPMScheduler", V),
    (
        "class_embed_type timestep, learned times",
        {"class_embed_type": "timestep", "time_embedding_type": "learned", "num_train_timesteps": 1000},
        "DDPMScheduler",
        X_0,
    ),
    ("class_embed_type identity", {"class_embed_type": "identity"}, "DDPMScheduler", V),
]


def cases() -> list[Case]:
    """Return the configurations of the table."""
    return [case(*configuration) for configuration in CONFIGURATIONS]


def case(name: str, network: dict[str, Any], scheduler: str, options: dict[str, Any]) -> Case:
    """Return a case: a network by its options beside SMALL, in a pipeline with a scheduler of that class."""
    values, seed = {**SMALL, **network}, zlib.crc32(name.encode())

    def write(folder: Path) -> tuple[Path, dict[str, Any]]:
        package = importlib.import_module("diffusers")
        path = folder / "pipeline"
        ready = getattr(package, scheduler)(**options)
        package.DDPMPipeline(network_of(values, seed), ready).save_pretrained(path)
        return path, {}

    def original() -> Original:
        return _original(network_of(values, seed), scheduler, options, seed)

    return Case("diffusers", name, write, original)


def network_of(values: dict[str, Any], seed: int) -> Any:
    """Return a UNet2DModel whose every weight matters: some begin at 0 or 1."""
    torch.manual_seed(seed)
    network = importlib.import_module("diffusers").UNet2DModel(**values).eval().requires_grad_(False)
    for weight in network.parameters():
        if (weight == weight.flatten()[0]).all():
            weight += torch.randn_like(weight) * 0.2
    return network


def _original(network: Any, scheduler: str, options: dict[str, Any], seed: int) -> Original:
    ancestral, implicit = _schedulers(scheduler, options)
    channels, size = network.config.in_channels, network.config.sample_size
    shape = (BATCH, channels, *(size if isinstance(size, tuple) else (size, size)))
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((STEPS + 1, *shape), dtype=np.float32)
    batch = BATCH_OF_LABELS if network.class_embedding is not None else BATCH
    x_t = rng.standard_normal((batch, *shape[1:]), dtype=np.float32)
    t = np.resize(np.array([3, len(ancestral) - 1], dtype=np.int64), batch)
    inputs, told_on_the_way = (_told(network, n, rng) for n in (batch, BATCH))
    out = _telling(network, inputs)(torch.from_numpy(x_t), torch.from_numpy(t)).sample.numpy()
    telling = _telling(network, told_on_the_way)

    def implicit_step(out: Any, t: Any, x: Any) -> Any:
        return implicit.step(out[:, :channels], t, x, eta=0.0, use_clipped_model_output=True)

    return Original(
        x_t,
        t,
        out,
        noise,
        *walk(telling, ancestral, ancestral.step, noise),
        *walk(telling, implicit, implicit_step, noise),
        inputs,
        told_on_the_way,
    )


def _told(network: Any, batch: int, rng: np.random.Generator) -> dict[str, Any]:
    """Return what the network is told besides x_t and t, by the names of the file's inputs."""
    embedding, config = network.class_embedding, network.config
    if embedding is None:
        return {}
    table = embedding if config.class_embed_type is None else network.time_proj
    if config.class_embed_type != "identity" and isinstance(table, torch.nn.Embedding):
        return {"y": rng.integers(0, table.num_embeddings, batch)}
    if config.class_embed_type == "timestep":
        return {"class_labels": rng.uniform(0.0, 100.0, (batch, 1)).astype(np.float32)}
    return {"class_labels": rng.standard_normal((batch, 4 * config.block_out_channels[0]), dtype=np.float32)}


def _telling(network: Any, inputs: dict[str, Any]) -> Any:
    """Return the network as a function of x_t and t only."""
    if not inputs:
        return network
    ((name, value),) = inputs.items()
    labels = torch.from_numpy(value)
    if name == "class_labels" and network.config.class_embed_type == "timestep":
        labels = labels[:, 0]
    return functools.partial(network, class_labels=labels)


def _schedulers(scheduler: str, options: dict[str, Any]) -> tuple[Any, Any]:
    """Return a DDPM and a DDIM scheduler: one is what was saved, another goes by its betas and clips as it does."""
    package = importlib.import_module("diffusers")
    own = getattr(package, scheduler)(**options)
    entries = {
        "num_train_timesteps": len(own),
        "trained_betas": own.betas.tolist(),
        "prediction_type": own.config.prediction_type,
        "clip_sample": own.config.get("clip_sample", False),
        "clip_sample_range": own.config.get("clip_sample_range", 1.0),
    }
    is_implicit = scheduler.startswith("DDIM")
    ancestral = own if scheduler.startswith("DDPM") else package.DDPMScheduler(**entries)
    return ancestral, own if is_implicit else package.DDIMScheduler(**entries)


def walk(
    network: Any, scheduler: Any, step: Callable[..., Any], noise: Any, num_steps: int = STEPS
) -> tuple[tuple[int, ...], Any]:
    """Return the scheduler's own times, and where its steps lead on the given noise."""
    scheduler.set_timesteps(num_steps)
    module = importlib.import_module(type(scheduler).__module__)
    x = torch.from_numpy(noise[0])
    for i, t in enumerate(scheduler.timesteps):
        draw = torch.from_numpy(noise[i + 1])
        with mock.patch.object(module, "randn_tensor", lambda *_, draw=draw, **__: draw):
            x = step(network(x, t).sample, t, x).prev_sample
    return tuple(scheduler.timesteps.tolist()), x.numpy()
