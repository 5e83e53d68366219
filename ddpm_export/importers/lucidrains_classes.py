"""denoising-diffusion-pytorch's classifier_free_guidance: its Unet, which is told a class, under its own diffusion.

The class "none" has an embedding of its own. The package guides by a form that is not linear: a file takes it in only
where it is asked for. Trusts nothing in a file.
"""

import functools
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ddpm_export.importers.layout import Found, Imported, ask_for, assign_weights, label_of, misfit, read_options
from ddpm_export.importers.lucidrains_file import (
    MAX_LEVELS,
    ddim_times,
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
from ddpm_export.model.guidance import MAX_SCALE, Guidance
from ddpm_export.model.inputs import OWN_GUIDANCE, Input
from ddpm_export.model.spec import GUIDANCE, INPUTS, PLAN, RAW_EPS, TIMES, ModelSpec
from ddpm_export.model.steps import grid_of as grid
from ddpm_export.process.rows import Plan
from ddpm_export.process.solvers import ddim

NONE = "null_classes_emb"
SIGNS = ("init_conv.weight", "time_mlp.1.weight", "classes_emb.weight", NONE, "final_conv.weight")
DERIVED = ("dim", "num_classes", "init_dim", "out_dim", "dim_mults", "channels")
# how forward_with_cond_scale departs from u + cond_scale (c - u), by its own names; rescaled_phi asks for it
OWN_FORM: dict[str, Any] = {"rescaled_phi": 0.7, "remove_parallel_component": True, "keep_parallel_frac": 0.0}
OPTIONS: dict[str, Any] = {
    **dict.fromkeys(EXAMPLES),
    "schedule_fn_kwargs": None,
    "sampling_timesteps": None,
    "ddim_sampling_eta": 1.0,
    "use_cfg_plus_plus": False,
    **dict.fromkeys(DERIVED),
    "attn_heads": None,
    "attn_dim_head": None,
    "classes": None,  # ours: the names of the classes
    "cond_scale": 1.0,
    **dict.fromkeys(OWN_FORM),
    # only of training; min_snr_gamma helps to tell the objective
    "cond_drop_prob": 0.5,
    "min_snr_loss_weight": False,
    "min_snr_gamma": 5.0,
    "offset_noise_strength": 0.0,
}


NOTES = (
    "the package samples with cond_scale=6 and rescaled_phi=0.7, which is not linear: --set cond_scale=6 --set "
    "rescaled_phi=0.7 takes that into the file.",
)


class Network(nn.Module):
    """Call a Unet by our convention: the class after the last is "none"."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        # one table for both, so that no code has to tell them apart
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
    says (Lin et al. 2024, "Common diffusion noise schedules", eq. 15 and 16).
    """

    def __init__(self, network: nn.Module, none: int, phi: float, kept: float) -> None:
        super().__init__()
        self.network, self.none, self.phi, self.kept = network, none, phi, kept

    def forward(self, x_t: Tensor, t: Tensor, *, y: Tensor, guidance: Tensor) -> Tensor:
        """Predict as `Network` does; guidance: (B, 1) float32, 1 for the class's own prediction."""
        asked: Tensor = self.network(x_t, t, y=y)  # not one batch of twice the length, which torch.export cannot trace
        untold: Tensor = self.network(x_t, t, y=torch.full_like(y, self.none))
        update = asked - untold
        dims = tuple(range(1, x_t.dim()))
        share = (update * asked).sum(dims, keepdim=True) / (asked * asked).sum(dims, keepdim=True)
        update = update - (1.0 - self.kept) * share * asked
        out: Tensor = asked + update * (guidance - 1.0)[:, :, None, None]
        ratio = asked.std(dims, keepdim=True) / out.std(dims, keepdim=True)
        return out * (self.phi * ratio + (1.0 - self.phi))


def signs(found: Found) -> dict[str, bool]:
    """Return what the package's conditional Unet is known by, wherever in the file it lies, and whether it is there."""
    return {name: any(f".{key}".endswith(f".{name}") for key in found.keys) for name in SIGNS}


def load(found: Found, weights: str, options: Mapping[str, Any]) -> Imported:
    """Return the Unet and spec of a checkpoint that holds the state dict of GaussianDiffusion, EMA or Unet.

    Raises BadFileError for what does not fit, UsageError for options that are missing or contradict the file,
    EnvironmentProblem without the package.
    """
    chosen = read_options(options, OPTIONS)
    if chosen["use_cfg_plus_plus"]:
        raise refused("use_cfg_plus_plus", True, "false: a file has one noise for both of its uses")
    state, where, kind = state_from_contents(found.contents, weights)
    unet_state, process = unet_and_process(state, where)
    config = _config(unet_state, where)
    for name in DERIVED:
        value = tuple(chosen[name]) if isinstance(chosen[name], list) else chosen[name]
        if value is not None and value != config[name]:
            raise contradiction(name, value, config[name])
    objective = objective_from_process(process, chosen)
    needed = ["image_size", *([] if objective else ["objective"])]
    needed += [] if process is not None else ["beta_schedule", "timesteps"]
    examples = {**EXAMPLES, "attn_heads": 4}
    missing = {name: examples[name] for name in (*needed, "attn_heads") if chosen[name] is None}
    if missing:
        raise ask_for(missing)
    heads = _heads(unet_state, where, chosen)
    classes = config["num_classes"]
    guided, scale = _own_form(chosen), chosen["cond_scale"]
    if not 0.0 <= scale <= MAX_SCALE:
        raise refused("cond_scale", scale, f"0 to {MAX_SCALE:g}")
    label = label_of(classes, f"{where}.classes_emb.weight", chosen["classes"], none=None if guided else classes)
    own = (Input(OWN_GUIDANCE, "vector", (1,), none=1),) if guided else ()
    guidance = Guidance(float(scale)) if scale != 1 else None
    alphas_cumprod = alphas_cumprod_from_options(process, chosen)
    defaults = defaults_from_options(len(alphas_cumprod), False, chosen)
    spec = ModelSpec(
        name=found.name[:200],
        prediction=OBJECTIVES[str(objective)],
        image_shape=(config["channels"], *height_and_width(chosen["image_size"], len(config["dim_mults"]))),
        alphas_cumprod=tuple(alphas_cumprod.tolist()),
        clip_x_0=1.0,
        defaults=replace(defaults, guidance=guidance),
        requires=(INPUTS, *((TIMES,) if defaults.times is not None else ()), *((GUIDANCE,) if guidance else ())),
        inputs=(label, *own),
    )
    unet = unet_of_package(lambda: _package().Unet(**config, **heads))
    assign_weights(unet, unet_state, where)
    network: Network | Guided = Network(unet)
    if guided:
        network = Guided(network, classes, guided["rescaled_phi"], guided["keep_parallel_frac"])
    # with any other objective, and at all T times, its steps are those of our samplers
    stepping = _with_own_ddim if spec.defaults.sampler == "ddim" and spec.prediction == "eps" else None
    notes = () if guided else NOTES
    return Imported(network, spec, source_from_contents(found.contents, kind), notes, stepping)


def _with_own_ddim(spec: ModelSpec, counts: Sequence[int] | None) -> ModelSpec:
    """Return the spec with the steps of the package's ddim_sample, which clips x_0 but keeps the noise of before."""
    plans = {}
    for count in counts or (spec.defaults.num_steps,):
        if not 1 <= count <= spec.num_train_timesteps:
            raise refused("sampling_timesteps", count, f"1 to {spec.num_train_timesteps}")
        times = grid(spec, times=ddim_times(spec.num_train_timesteps, count))
        rows = ddim(times, eta=spec.defaults.eta)
        plans[f"ddim_sample-{count}"] = Plan(tuple(row._replace(raw_eps=True) for row in rows))
    requires = (*(name for name in spec.requires if name != TIMES), PLAN, RAW_EPS)
    defaults = replace(spec.defaults, times=None, plan=next(iter(plans)))
    return replace(spec, plans=plans, defaults=defaults, requires=requires)


def _package() -> Any:
    return importlib.import_module("denoising_diffusion_pytorch.classifier_free_guidance")


def _config(state: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the arguments of Unet that the shapes of its weights tell."""
    shape = functools.partial(shape_of, state, where)
    init_dim, channels = shape("init_conv.weight", 4)[:2]
    outputs = shape("final_conv.weight", 4)[0]
    num_classes, dim = shape("classes_emb.weight", 2)
    if outputs != channels:
        raise misfit(f"{where}.final_conv.weight", f"out_dim={outputs}", f"{channels}, by init_conv")
    if dim < 4 or dim % 2:
        raise misfit(f"{where}.classes_emb.weight", f"dim={dim}", "an even dim of at least 4")
    if "time_mlp.0.weights" in state:
        raise misfit(f"{where}.time_mlp.0.weights", "a learned time embedding", "none, as in its GaussianDiffusion")
    levels = sum(f"downs.{level}.0.block1.proj.weight" in state for level in range(MAX_LEVELS))
    if levels == 0:
        raise misfit(f"{where}.downs", "nothing", f"1 to {MAX_LEVELS} levels, counted from 0")
    widths = [shape(f"downs.{level}.3.weight", 4)[0] for level in range(levels)]
    for width in widths:
        if width % dim:
            raise misfit(f"{where}.downs", f"{width} channels", f"a multiple of dim={dim}")
    return {
        "dim": dim,
        "num_classes": num_classes,
        "init_dim": init_dim,
        "out_dim": outputs,
        "dim_mults": tuple(width // dim for width in widths),
        "channels": channels,
    }


def _heads(state: Mapping[str, Any], where: str, chosen: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of heads in the middle, which no shape tells, and the width of each, which then follows."""
    width, heads = shape_of(state, where, "mid_attn.fn.fn.to_qkv.weight", 4)[0] // 3, chosen["attn_heads"]
    if type(heads) is not int or heads < 1 or width % heads:
        raise refused("attn_heads", heads, f"a divisor of {width} channels")
    if chosen["attn_dim_head"] not in (None, width // heads):
        raise contradiction("attn_dim_head", chosen["attn_dim_head"], width // heads)
    return {"attn_heads": heads, "attn_dim_head": width // heads}


def _own_form(chosen: Mapping[str, Any]) -> dict[str, float]:
    """Return how the package's own guidance is taken into the file, {} where it is not."""
    stated = {name: chosen[name] for name in OWN_FORM if chosen[name] is not None}
    if not stated:
        return {}
    if "rescaled_phi" not in stated:
        raise ask_for({"rescaled_phi": OWN_FORM["rescaled_phi"]})
    values = read_options(stated, OWN_FORM)
    if not values["remove_parallel_component"]:
        values["keep_parallel_frac"] = 1.0
    for name in ("rescaled_phi", "keep_parallel_frac"):
        if not 0.0 <= values[name] <= 1.0:
            raise refused(name, values[name], "0 to 1")
    return values
