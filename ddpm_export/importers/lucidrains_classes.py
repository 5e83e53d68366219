"""denoising-diffusion-pytorch's classifier_free_guidance: its Unet, which takes a class, under its own diffusion.

The class "none" has an embedding of its own. The package guides by a form that is not linear: a file takes it in only
where it is asked for. Trusts nothing in a file.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ddpm_export.importers import choices, lucidrains_process
from ddpm_export.importers.layout import Found, Imported, label_of, misfit, shape_of, spec_of
from ddpm_export.importers.lucidrains_file import (
    Parts,
    ddim_times,
    dim_mults_of,
    fields_of_spec,
    parts_from_contents,
    signs_of,
    unet_from_parts,
)
from ddpm_export.model.guidance import MAX_SCALE, Guidance
from ddpm_export.model.inputs import OWN_GUIDANCE, Input
from ddpm_export.model.spec import PLAN, RAW_EPS, TIMES, ModelSpec
from ddpm_export.model.steps import grid_of as grid
from ddpm_export.process.rows import Plan
from ddpm_export.process.solvers import ddim

SIGNS = ("init_conv.weight", "time_mlp.1.weight", "classes_emb.weight", "null_classes_emb", "final_conv.weight")
DERIVED = ("dim", "num_classes", "init_dim", "out_dim", "dim_mults", "channels", "attn_dim_head")
OPTIONS: dict[str, choices.Option] = {
    **lucidrains_process.OPTIONS,
    "attn_heads": choices.like(None, 4),
    "ddim_sampling_eta": choices.within(0.0, 1.0, 1.0),
    "use_cfg_plus_plus": choices.Option(
        "false: a file has one noise for both of its uses", lambda value: value is False, False
    ),
    **dict.fromkeys(DERIVED, choices.like(None)),
    "classes": choices.like(None),  # ours: the names of the classes
    "cond_scale": choices.within(0.0, MAX_SCALE, 1.0),
    # how forward_with_cond_scale departs from u + cond_scale (c - u), in its own words; rescaled_phi asks for it
    "rescaled_phi": choices.within(0.0, 1.0, example=0.7),
    "remove_parallel_component": choices.Option("true or false", lambda value: type(value) is bool),
    "keep_parallel_frac": choices.within(0.0, 1.0),
    "cond_drop_prob": choices.like(0.5),  # only of training
}
NOTES = (
    "the package samples with cond_scale=6 and rescaled_phi=0.7, which is not linear. Those two options take that into "
    "the file.",
)


class Network(nn.Module):
    """Call a Unet by our convention: the class after the last is "none"."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        # one table for both, so that no code distinguishes them
        table = torch.cat([unet.classes_emb.weight, unet.null_classes_emb[None]])
        unet.classes_emb = nn.Embedding(table.shape[0], table.shape[1], _weight=table)
        del unet.null_classes_emb
        self.unet = unet

    def forward(self, x_t: Tensor, t: Tensor, *, y: Tensor) -> Tensor:
        """Predict: x_t (B, C, H, W) float32, t (B,) int64, 0-based, and y (B,) int64 -> the shape of x_t."""
        out: Tensor = self.unet(x_t, t.to(torch.float32), y, cond_drop_prob=0.0)
        return out


class Guided(nn.Module):
    """Guide a network as the package does, which evaluates it twice.

    The direction from "none" to the class loses the share of it that is parallel to the prediction (Sadat et al. 2024,
    "Eliminating oversaturation", section 4), and the result gets back the deviation of the prediction, as far as phi
    asks (Lin et al. 2024, "Common diffusion noise schedules", eq. 15 and 16).
    """

    def __init__(self, network: nn.Module, none: int, phi: float, kept: float) -> None:
        super().__init__()
        self.network, self.none, self.phi, self.kept = network, none, phi, kept

    def forward(self, x_t: Tensor, t: Tensor, *, y: Tensor, guidance: Tensor) -> Tensor:
        """Predict as `Network` does; guidance: (B, 1) float32, 1 for the class's own prediction."""
        # not one batch of twice the length, which torch.export cannot trace
        conditional: Tensor = self.network(x_t, t, y=y)
        unconditional: Tensor = self.network(x_t, t, y=torch.full_like(y, self.none))
        update = conditional - unconditional
        dims = tuple(range(1, x_t.dim()))
        share = (update * conditional).sum(dims, keepdim=True) / (conditional * conditional).sum(dims, keepdim=True)
        update = update - (1.0 - self.kept) * share * conditional
        out: Tensor = conditional + update * (guidance - 1.0)[:, :, None, None]
        ratio = conditional.std(dims, keepdim=True) / out.std(dims, keepdim=True)
        return out * (self.phi * ratio + (1.0 - self.phi))


def signs(found: Found) -> dict[str, bool]:
    """Return what the package's conditional Unet is known by, wherever in the file it lies, and whether it is there."""
    return signs_of(found, SIGNS)


def load(found: Found, weights: str, options: Mapping[str, Any]) -> Imported:
    """Return the Unet and spec of a checkpoint that holds the state dict of GaussianDiffusion, EMA or Unet.

    Raises BadFileError for what does not fit, UsageError for options that are missing or contradict the file,
    EnvironmentProblem without the package.
    """
    chosen = choices.read_options(options, OPTIONS)
    parts = parts_from_contents(found.contents, weights)
    config = _config(parts.unet, parts.where)
    choices.check_agrees(chosen, config)
    fields, _ = fields_of_spec(parts, config, chosen, OPTIONS, "attn_heads")
    heads = _heads(parts, chosen)
    none, scale, form = config["num_classes"], chosen["cond_scale"], _own_form(chosen)
    label = label_of(none, f"{parts.where}.classes_emb.weight", chosen["classes"], none=None if form else none)
    own = (Input(OWN_GUIDANCE, "vector", (1,), none=1),) if form else ()
    defaults = replace(fields["defaults"], guidance=Guidance(float(scale)) if scale != 1 else None)
    spec = spec_of(found, **{**fields, "defaults": defaults}, inputs=(label, *own))
    network: nn.Module = Network(unet_from_parts(lambda: _package().Unet(**config, **heads), parts))
    if form:
        network = Guided(network, none, *form)
    # with any other objective, and at all T times, its steps are those of our samplers
    stepping = _with_own_ddim if defaults.sampler == "ddim" and spec.prediction == "eps" else None
    return Imported(network, spec, parts.source, () if form else NOTES, stepping)


def _with_own_ddim(spec: ModelSpec, counts: Sequence[int] | None) -> ModelSpec:
    """Return the spec with the steps of the package's ddim_sample, which clips x_0 but keeps the noise of before."""
    plans = {}
    for count in counts or (spec.defaults.num_steps,):
        if not 1 <= count <= spec.num_train_timesteps:
            raise choices.misused("sampling_timesteps", f"from 1 to {spec.num_train_timesteps}", count)
        times = grid(spec, times=ddim_times(spec.num_train_timesteps, count))
        rows = ddim(times, eta=spec.defaults.eta)
        plans[f"ddim_sample-{count}"] = Plan(tuple(row._replace(raw_eps=True) for row in rows))
    requires = (*(name for name in spec.requires if name != TIMES), PLAN, RAW_EPS)
    defaults = replace(spec.defaults, times=None, plan=next(iter(plans)))
    return replace(spec, plans=plans, defaults=defaults, requires=requires)


def _package() -> Any:
    return importlib.import_module("denoising_diffusion_pytorch.classifier_free_guidance")


def _config(state: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the arguments of Unet that follow from the shapes of its weights."""
    init_dim, channels = shape_of(state, where, "init_conv.weight", 4)[:2]
    outputs = shape_of(state, where, "final_conv.weight", 4)[0]
    num_classes, dim = shape_of(state, where, "classes_emb.weight", 2)
    if outputs != channels:
        raise misfit(f"{where}.final_conv.weight", f"out_dim={outputs}", f"{channels}, by init_conv")
    if dim < 4 or dim % 2:
        raise misfit(f"{where}.classes_emb.weight", f"dim={dim}", "an even dim of at least 4")
    if "time_mlp.0.weights" in state:
        raise misfit(f"{where}.time_mlp.0.weights", "a learned time embedding", "none, as in its GaussianDiffusion")
    return {
        "dim": dim,
        "num_classes": num_classes,
        "init_dim": init_dim,
        "out_dim": outputs,
        "dim_mults": dim_mults_of(state, where, dim),
        "channels": channels,
    }


def _heads(parts: Parts, chosen: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of heads in the middle, which follows from no shape, and then the width of each."""
    width, heads = shape_of(parts.unet, parts.where, "mid_attn.fn.fn.to_qkv.weight", 4)[0] // 3, chosen["attn_heads"]
    if type(heads) is not int or heads < 1 or width % heads:
        raise choices.misused("attn_heads", f"a divisor of {width} channels", heads)
    choices.check_agrees(chosen, {"attn_dim_head": width // heads})
    return {"attn_heads": heads, "attn_dim_head": width // heads}


def _own_form(chosen: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return phi and the share kept of the package's own guidance; None where the file does without it."""
    phi, kept = chosen["rescaled_phi"], chosen["keep_parallel_frac"]
    if phi is None:
        if kept is not None or chosen["remove_parallel_component"] is not None:
            raise choices.ask_for({"rescaled_phi": OPTIONS["rescaled_phi"].example})
        return None
    return phi, 1.0 if chosen["remove_parallel_component"] is False else kept or 0.0
