"""The training of a policy. Every random number follows from (seed, step); the result is a folder as lerobot saves it.

So the policy is exported, checked and limited as any of lerobot's, and lerobot itself can run it.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from ddpm_export.errors import BadFileError, NonFiniteError
from ddpm_export.importers.checkpoint import save_checkpoint
from ddpm_export.importers.folders import MODEL, POLICY, PROCESSORS
from ddpm_export.importers.lerobot_network import UNet1d
from ddpm_export.process.schedules import alphas_cumprod_from_betas, betas_from_name
from ddpm_export.system.files import replacing

from ..config import resumed_contents
from ..loop import Progress
from ..losses import noised
from .config import PolicyConfig
from .demonstrations import Demonstrations

FOLDER = "policy"  # of the averaged weights, in the folder of the training
ACTION = "action"


def network_of(config: PolicyConfig) -> nn.Module:
    """Return the network, with random weights from the seed."""
    torch.manual_seed(config.seed)
    condition = config.n_obs_steps * sum(config.inputs.values())
    return UNet1d(
        config.actions,
        condition,
        config.down_dims,
        config.diffusion_step_embed_dim,
        config.kernel_size,
        config.n_groups,
        config.use_film_scale_modulation,
    )


def train_policy(config: PolicyConfig, data: Demonstrations, out: Path, report: Callable[[Progress], None]) -> Path:
    """Train until `config.steps`, going on from `out/checkpoint.pt` where there is one; return the policy's folder.

    Raises ConfigError for a checkpoint of another configuration, NonFiniteError where the loss is no number (the last
    checkpoint stays).
    """
    out.mkdir(parents=True, exist_ok=True)
    network, path, step = network_of(config), out / "checkpoint.pt", 0
    ema = {name: value.detach().clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.AdamW(network.parameters(), config.learning_rate, (0.95, 0.999), 1e-8, config.weight_decay)
    if path.exists():
        step = _resume(path, config, network, ema, optimizer)
    condition, plans = (torch.from_numpy(values) for values in _normalised(config, data))
    alphas = torch.tensor(alphas_cumprod_from_betas(betas_from_name("cosine", config.num_train_timesteps)))
    report(Progress(step, config.steps))
    losses, since = [], time.perf_counter()
    while step < config.steps:
        losses.append(_update(config, network, optimizer, condition, plans, alphas.float(), step))
        step += 1
        decay = 0.5 ** (1 / min(config.ema_halflife_steps, max(1.0, 0.1 * step)))
        torch._foreach_lerp_(list(ema.values()), [v.detach() for v in network.state_dict().values()], 1 - decay)
        if step % config.log_every == 0 or step == config.steps:
            rate = len(losses) * config.batch_size / (time.perf_counter() - since)
            line = {"step": step, "loss": float(np.mean(losses)), "images_per_s": round(rate, 1)}
            with (out / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            report(Progress(step, config.steps, line["loss"], rate))
            losses, since = [], time.perf_counter()
        if step % config.checkpoint_every == 0 or step == config.steps:
            state = {"network": network.state_dict(), "ema": ema, "optimizer": optimizer.state_dict()}
            save_checkpoint(path, **state, step=step, config=asdict(config))
            write_policy(config, ema, out / FOLDER)
    return out / FOLDER


def _normalised(config: PolicyConfig, data: Demonstrations) -> tuple[Any, Any]:
    """Return conditions (N, D) and plans (N, horizon, actions), -1 to 1 from `low` to `high`."""
    middle, half = config.units
    rows = np.concatenate(list(data.inputs.values()), axis=2)
    condition = rows.reshape(len(rows), -1)
    return (condition - middle) / half, (data.plans - middle) / half


def _update(
    config: PolicyConfig,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    condition: Tensor,
    plans: Tensor,
    alphas: Tensor,
    step: int,
) -> float:
    """Take one optimiser step and return its loss."""
    draws = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    chosen = torch.randint(len(plans), (config.batch_size,), generator=draws)
    x_0, given = plans[chosen], condition[chosen]
    if config.is_regression:
        t, x_t, wanted = torch.zeros(len(x_0), dtype=torch.long), torch.zeros_like(x_0), x_0
    else:
        t = torch.randint(config.num_train_timesteps, (len(x_0),), generator=draws)
        eps = torch.randn(x_0.shape, generator=draws)
        x_t = noised(x_0, eps, alphas[t][:, None, None])
        wanted = eps if config.prediction_type == "epsilon" else x_0
    loss = F.mse_loss(network(x_t, t, global_cond=given), wanted)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    value = loss.item()
    if not np.isfinite(value):
        raise NonFiniteError(f"At training step {step}, the loss is {value}. Lower learning_rate.")
    left = (config.steps - step) / max(1, config.cooldown_steps)
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup_steps), left)
    optimizer.step()
    return value


def _resume(
    path: Path, config: PolicyConfig, network: nn.Module, ema: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> int:
    contents = resumed_contents(path, config, config.RESUMABLE)
    try:
        network.load_state_dict(contents["network"])
        optimizer.load_state_dict(contents["optimizer"])
        for name, value in ema.items():
            value.copy_(contents["ema"][name])
        return int(contents["step"])
    except (KeyError, TypeError, ValueError, RuntimeError) as exc:
        raise BadFileError(f"{path} does not fit this policy: {' '.join(str(exc).split())[:200]}.") from exc


def write_policy(config: PolicyConfig, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Write a folder as `save_pretrained` of lerobot 0.4 does: configuration, weights, processors, statistics."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {**config.inputs, ACTION: config.actions}
    kinds = {name: "ENV" if name.endswith("environment_state") else "STATE" for name in config.inputs}
    features = {name: {"type": (kinds | {ACTION: "ACTION"})[name], "shape": [size]} for name, size in sizes.items()}
    modes = dict.fromkeys(("STATE", "ENV", "ACTION"), "MIN_MAX")
    shared = (
        *("n_obs_steps", "n_action_steps", "horizon", "down_dims", "kernel_size", "n_groups", "prediction_type"),
        *("diffusion_step_embed_dim", "use_film_scale_modulation", "num_train_timesteps", "num_inference_steps"),
    )
    model = {
        "type": "diffusion",
        "input_features": {name: features[name] for name in config.inputs},
        "output_features": {ACTION: features[ACTION]},
        "normalization_mapping": modes,
        "crop_shape": None,
        "noise_scheduler_type": "DDIM",
        "beta_schedule": "squaredcos_cap_v2",
        "clip_sample": True,
        "clip_sample_range": 1.0,
        **{name: getattr(config, name) for name in shared},
    }
    ends = {"min": config.low, "max": config.high}
    statistics = {f"{name}.{key}": torch.full((n,), end) for name, n in sizes.items() for key, end in ends.items()}
    steps: tuple[list[dict[str, Any]], ...] = (
        [
            {"registry_name": "rename_observations_processor", "config": {"rename_map": {}}},
            {"registry_name": "to_batch_processor", "config": {}},
            {"registry_name": "device_processor", "config": {"device": "cpu", "float_dtype": None}},
        ],
        [],
    )
    files = {
        MODEL: json.dumps(model, indent=2).encode(),
        POLICY: save({f"diffusion.unet.{name}": value.contiguous() for name, value in weights.items()}),
    }
    for name, own, taken in zip(PROCESSORS, steps, (sizes, (ACTION,)), strict=True):
        kind = "normalizer" if own else "unnormalizer"
        state = f"{Path(name).stem}_step_{len(own)}_{kind}_processor.safetensors"
        how = {"eps": 1e-8, "features": {key: features[key] for key in taken}, "norm_map": modes}
        last = {"registry_name": f"{kind}_processor", "config": how, "state_file": state}
        files[name] = json.dumps({"name": Path(name).stem, "steps": [*own, last]}, indent=2).encode()
        files[state] = save(statistics)
    for name, contents in files.items():
        with replacing(folder / name) as beside:
            beside.write_bytes(contents)
