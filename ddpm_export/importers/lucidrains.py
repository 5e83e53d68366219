"""lucidrains' denoising-diffusion-pytorch: its Unet, built by the user's own package, under its GaussianDiffusion.

What the shapes of the weights and the buffers of the diffusion say is derived; the rest is asked for by the names that
the package gives it. Trusts nothing in a file.
"""

import functools
import importlib
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ddpm_export.importers.layout import Found, Imported, ask_for, assign_weights, misfit, read_options
from ddpm_export.importers.lucidrains_file import (
    MAX_LEVELS,
    defaults_from_options,
    height_and_width,
    shape_of,
    source_from_contents,
    state_from_contents,
    unet_and_process,
    unet_of_package,
)
from ddpm_export.importers.lucidrains_process import (
    EXAMPLES,
    OBJECTIVES,
    alphas_cumprod_from_options,
    contradiction,
    objective_from_process,
    refused,
)
from ddpm_export.model.inputs import Input
from ddpm_export.model.spec import INPUTS, TIMES, ModelSpec
from ddpm_export.process.equations import VARIANCE_FRACTION

SIGNS = (
    "init_conv.weight",
    "time_mlp.1.weight",
    "mid_attn.mem_kv",
    "final_res_block.block1.norm.g",
    "final_conv.weight",
)
DERIVED = (
    "dim",
    "init_dim",
    "out_dim",
    "dim_mults",
    "channels",
    "learned_variance",
    "learned_sinusoidal_cond",
    "learned_sinusoidal_dim",
    "random_fourier_features",
    "self_condition",
    "full_attn",
    "attn_heads",
    "attn_dim_head",
)
OPTIONS: dict[str, Any] = {
    **dict.fromkeys(EXAMPLES),
    "schedule_fn_kwargs": None,
    "sinusoidal_pos_emb_theta": 10000.0,
    "sampling_timesteps": None,
    "ddim_sampling_eta": 0.0,
    "auto_normalize": True,
    **dict.fromkeys(DERIVED),
    # only of training, or of its speed; min_snr_gamma helps to tell the objective
    "min_snr_loss_weight": False,
    "min_snr_gamma": 5.0,
    "offset_noise_strength": 0.0,
    "immiscible": False,
    "vb_loss_weight": 0.001,
    "dropout": 0.0,
    "flash_attn": False,
}


class Network(nn.Module):
    """Call a Unet by our convention; where it learned variances, split them off and bring them to [0, 1]."""

    def __init__(self, unet: nn.Module, learned_variance: bool) -> None:
        super().__init__()
        self.unet = unet
        self.learned_variance = learned_variance

    def forward(self, x_t: Tensor, t: Tensor, *, x_0_prev: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Predict: x_t (B, C, H, W) float32 and t (B,) int64, 0-based -> the shape of x_t, once or twice.

        x_0_prev: the clean image found before, in the shape of x_t, of a network with self-conditioning.
        """
        out: Tensor = self.unet(x_t, t.to(torch.float32), x_0_prev)
        if not self.learned_variance:
            return out
        prediction, variance = out.chunk(2, dim=1)
        return prediction, (variance + 1.0) * 0.5


def signs(found: Found) -> dict[str, bool]:
    """Return what the package's Unet is known by, wherever in the file it lies, and whether it is there."""
    return {name: any(f".{key}".endswith(f".{name}") for key in found.keys) for name in SIGNS}


def load(found: Found, weights: str, options: Mapping[str, Any]) -> Imported:
    """Return the Unet and spec of a Trainer's checkpoint or of the state dict of GaussianDiffusion, EMA or Unet.

    Raises BadFileError for what does not fit or belongs to another diffusion of the package, UsageError for options
    that are missing or contradict the file, EnvironmentProblem without the package.
    """
    chosen = read_options(options, OPTIONS)
    if not chosen["auto_normalize"]:
        raise refused("auto_normalize", False, "true: a file is of a network for data in [-1, 1]")
    state, where, kind = state_from_contents(found.contents, weights)
    unet_state, process = unet_and_process(state, where)
    config = _config(unet_state, where)
    _check_derived(config, chosen)
    objective = objective_from_process(process, chosen)
    needed = ["image_size"]
    if objective is None and not config["learned_variance"]:
        needed.append("objective")
    if process is None:
        needed += ["beta_schedule", "timesteps"]
    missing = {name: EXAMPLES[name] for name in needed if chosen[name] is None}
    if missing:
        raise ask_for(missing)

    alphas_cumprod = alphas_cumprod_from_options(process, chosen)
    image_shape = (config["channels"], *height_and_width(chosen["image_size"], len(config["dim_mults"])))
    inputs = (Input("x_0_prev", "previous", image_shape),) if config["self_condition"] else ()
    defaults = defaults_from_options(len(alphas_cumprod), config["learned_variance"], chosen)
    spec = ModelSpec(
        name=found.name[:200],
        prediction="eps" if config["learned_variance"] or objective is None else OBJECTIVES[objective],
        image_shape=image_shape,
        alphas_cumprod=tuple(alphas_cumprod.tolist()),
        clip_x_0=1.0,
        variance="learned" if config["learned_variance"] else "fixed_small",
        requires=(
            *((INPUTS,) if inputs else (VARIANCE_FRACTION,) if config["learned_variance"] else ()),
            *((TIMES,) if defaults.times is not None else ()),
        ),
        inputs=inputs,
        defaults=defaults,
    )
    theta = chosen["sinusoidal_pos_emb_theta"]
    if not 0.0 < theta < math.inf:
        raise refused("sinusoidal_pos_emb_theta", theta, "a number above 0")
    unet = unet_of_package(lambda: _package().Unet(**config, sinusoidal_pos_emb_theta=theta))
    assign_weights(unet, unet_state, where)
    network, source = Network(unet, config["learned_variance"]), source_from_contents(found.contents, kind)
    return Imported(network, spec, source, _notes(config, objective))


def _package() -> Any:
    return importlib.import_module("denoising_diffusion_pytorch")


def _config(state: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the arguments of Unet that the shapes of its weights tell."""
    shape = functools.partial(shape_of, state, where)
    init_dim, inputs = shape("init_conv.weight", 4)[:2]
    outputs = shape("final_conv.weight", 4)[0]
    self_condition = inputs == 2 * outputs  # the clean image found before, and the noisy one
    if self_condition:
        inputs = outputs
    if outputs == 2 * inputs + 2:
        raise misfit(
            f"{where}.final_conv.weight",
            f"{outputs} channels for {inputs}, as WeightedObjectiveGaussianDiffusion has",
            "GaussianDiffusion or LearnedGaussianDiffusion",
        )
    if outputs not in (inputs, 2 * inputs):
        raise misfit(f"{where}.final_conv.weight", f"out_dim={outputs}", f"{inputs} or {2 * inputs}, by init_conv")
    dim = shape("time_mlp.1.weight", 2)[0] // 4
    learned_sinusoidal = "time_mlp.0.weights" in state
    if dim < 1 or (not learned_sinusoidal and (dim < 4 or dim % 2)):
        raise misfit(f"{where}.time_mlp.1.weight", f"dim={dim}", "an even dim of at least 4")

    levels = sum(f"downs.{level}.0.block1.proj.weight" in state for level in range(MAX_LEVELS))
    if levels == 0:
        raise misfit(f"{where}.downs", "nothing", f"1 to {MAX_LEVELS} levels, counted from 0")
    dim_mults, full_attn, attn_heads, attn_dim_head = [], [], [], []
    for level in range(levels):
        key = f"downs.{level}.3.weight" if level == levels - 1 else f"downs.{level}.3.1.weight"
        width = shape(key, 4)[0]
        if width % dim:
            raise misfit(f"{where}.{key}", f"{width} channels", f"a multiple of dim={dim}")
        dim_mults.append(width // dim)
        full_attn.append(f"downs.{level}.2.to_out.weight" in state)  # the linear one has a norm behind it: to_out.0
        _, heads, *rest = shape(f"downs.{level}.2.mem_kv", 4)
        attn_heads.append(heads)
        attn_dim_head.append(rest[1] if full_attn[level] else rest[0])
    return {
        "dim": dim,
        "init_dim": init_dim,
        "out_dim": outputs,
        "dim_mults": tuple(dim_mults),
        "channels": inputs,
        "learned_variance": outputs == 2 * inputs,
        "self_condition": self_condition,
        "learned_sinusoidal_cond": learned_sinusoidal,
        "learned_sinusoidal_dim": 2 * shape("time_mlp.0.weights", 1)[0] if learned_sinusoidal else 16,
        "full_attn": tuple(full_attn),
        "attn_heads": tuple(attn_heads),
        "attn_dim_head": tuple(attn_dim_head),
    }


def _check_derived(config: Mapping[str, Any], chosen: Mapping[str, Any]) -> None:
    """Raise UsageError where an option says something else than the weights; None says nothing."""
    kinds = ("learned_sinusoidal_cond", "random_fourier_features")
    facts = {**config, **dict.fromkeys(kinds, config["learned_sinusoidal_cond"])}
    if not config["learned_sinusoidal_cond"]:
        del facts["learned_sinusoidal_dim"]  # then it says nothing
    elif any(chosen[name] is not False for name in kinds):
        facts = {name: fact for name, fact in facts.items() if name not in kinds}  # either one gives such weights
    for name, fact in facts.items():
        value = chosen[name]
        if value is not None and _spread(name, value, len(config["dim_mults"])) != fact:
            raise contradiction(name, value, fact)


def _spread(name: str, value: Any, levels: int) -> Any:
    """Return an option as a tuple over the levels where the package lets one value stand for all of them."""
    if isinstance(value, (list, tuple)):
        return tuple(value)
    if name == "full_attn" and not value:
        return (*(False,) * (levels - 1), True)
    return (value,) * levels if name in ("full_attn", "attn_heads", "attn_dim_head") else value


def _notes(config: Mapping[str, Any], objective: str | None) -> tuple[str, ...]:
    notes = []
    if config["learned_variance"] and objective not in (None, "pred_noise"):
        notes.append(
            f"objective={objective}: LearnedGaussianDiffusion trains and samples its network as pred_noise whatever "
            "that says, and so does this file."
        )
    if config["learned_sinusoidal_cond"]:
        notes.append(
            "learned_sinusoidal_cond: the network is given t from 0 to T - 1; GaussianDiffusion itself takes no such "
            "network, and one of ContinuousTimeGaussianDiffusion or ElucidatedDiffusion needs other times."
        )
    return tuple(notes)
