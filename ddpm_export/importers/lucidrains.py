"""lucidrains' denoising-diffusion-pytorch: its Unet, built by the user's own package, under its GaussianDiffusion.

What follows from the weights' shapes and the diffusion's buffers is derived; the rest is asked for under the package's
own names. Trusts nothing in a file.
"""

import functools
import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ddpm_export.importers import choices, lucidrains_elucidated, lucidrains_process
from ddpm_export.importers.layout import Found, Imported, misfit, shape_of, spec_of
from ddpm_export.importers.lucidrains_file import (
    dim_mults_of,
    fields_of_spec,
    parts_from_contents,
    signs_of,
    unet_from_parts,
)
from ddpm_export.model.inputs import Input

SIGNS = (
    *("init_conv.weight", "time_mlp.1.weight", "mid_attn.mem_kv", "final_res_block.block1.norm.g", "final_conv.weight"),
)
PER_LEVEL = ("full_attn", "attn_heads", "attn_dim_head")
DERIVED = (
    *("dim", "init_dim", "out_dim", "dim_mults", "channels", "learned_variance", "learned_sinusoidal_cond"),
    *("learned_sinusoidal_dim", "random_fourier_features", "self_condition", *PER_LEVEL),
)
OPTIONS: dict[str, choices.Option] = {
    **lucidrains_process.OPTIONS,
    "sinusoidal_pos_emb_theta": choices.above_0(10000.0),
    "ddim_sampling_eta": choices.within(0.0, 1.0, 0.0),
    "auto_normalize": choices.Option(
        "true: a file is of a network for data in [-1, 1]", lambda value: value is True, True
    ),
    **dict.fromkeys(DERIVED, choices.like(None)),
    # only of training, or of its speed
    "immiscible": choices.like(False),
    "vb_loss_weight": choices.like(0.001),
    "dropout": choices.like(0.0),
    "flash_attn": choices.like(False),
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
    return signs_of(found, SIGNS)


def load(found: Found, weights: str, options: Mapping[str, Any]) -> Imported:
    """Return the Unet and spec of a Trainer's checkpoint or of the state dict of GaussianDiffusion, EMA or Unet.

    Raises BadFileError for what does not fit or belongs to another diffusion of the package, UsageError for options
    that are missing or contradict the file, EnvironmentProblem without the package.
    """
    parts = parts_from_contents(found.contents, weights)
    of_unet = {name: OPTIONS[name] for name in (*DERIVED, "sinusoidal_pos_emb_theta")}
    table = {**lucidrains_elucidated.OPTIONS, **of_unet} if parts.is_elucidated else OPTIONS
    chosen = choices.read_options(options, table)
    config = _config(parts.unet, parts.where)
    _check_derived(config, chosen)
    theta = chosen["sinusoidal_pos_emb_theta"]
    if parts.is_elucidated:
        unet = unet_from_parts(lambda: _package().Unet(**config, sinusoidal_pos_emb_theta=theta), parts)
        return lucidrains_elucidated.imported(found, parts, Network(unet, False), config, chosen)
    fields, objective = fields_of_spec(parts, config, chosen, OPTIONS)
    inputs = (Input("x_0_prev", "previous", fields["state_shape"]),) if config["self_condition"] else ()
    unet = unet_from_parts(lambda: _package().Unet(**config, sinusoidal_pos_emb_theta=theta), parts)
    network = Network(unet, config["learned_variance"])
    return Imported(network, spec_of(found, **fields, inputs=inputs), parts.source, _notes(config, objective))


def _package() -> Any:
    return importlib.import_module("denoising_diffusion_pytorch")


def _config(state: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the arguments of Unet that follow from the shapes of its weights."""
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

    dim_mults = dim_mults_of(state, where, dim)
    full_attn, attn_heads, attn_dim_head = [], [], []
    for level in range(len(dim_mults)):
        full_attn.append(f"downs.{level}.2.to_out.weight" in state)  # the linear one has a norm behind it: to_out.0
        _, heads, *rest = shape(f"downs.{level}.2.mem_kv", 4)
        attn_heads.append(heads)
        attn_dim_head.append(rest[1] if full_attn[level] else rest[0])
    return {
        "dim": dim,
        "init_dim": init_dim,
        "out_dim": outputs,
        "dim_mults": dim_mults,
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
    """Raise UsageError where an option contradicts the weights; None agrees with everything."""
    kinds = ("learned_sinusoidal_cond", "random_fourier_features")
    facts = {**config, **dict.fromkeys(kinds, config["learned_sinusoidal_cond"])}
    if not config["learned_sinusoidal_cond"]:
        del facts["learned_sinusoidal_dim"]  # then it has no effect
    elif any(chosen[name] is not False for name in kinds):
        facts = {name: fact for name, fact in facts.items() if name not in kinds}  # either one gives such weights
    levels = len(config["dim_mults"])
    choices.check_agrees({name: _spread(name, chosen[name], levels) for name in facts}, facts)


def _spread(name: str, value: Any, levels: int) -> Any:
    """Return an option as a tuple over the levels where the package lets one value stand for all of them."""
    if name not in PER_LEVEL or value is None or isinstance(value, tuple):
        return value
    if name == "full_attn" and not value:
        return (*(False,) * (levels - 1), True)
    return (value,) * levels


def _notes(config: Mapping[str, Any], objective: str | None) -> tuple[str, ...]:
    notes = []
    if config["learned_variance"] and objective not in (None, "pred_noise"):
        notes.append(
            f"objective={objective}: LearnedGaussianDiffusion ignores it, and trains and samples its network as "
            "pred_noise. So does this file."
        )
    if config["learned_sinusoidal_cond"]:
        notes.append(
            "learned_sinusoidal_cond: the network is given t from 0 to T - 1; GaussianDiffusion itself takes no such "
            "network, and one of ContinuousTimeGaussianDiffusion or ElucidatedDiffusion needs other times."
        )
    return tuple(notes)
