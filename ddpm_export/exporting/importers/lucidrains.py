"""lucidrains' denoising-diffusion-pytorch: its Unet, built by the user's own package, under its GaussianDiffusion.

What the shapes of the weights and the buffers of the diffusion say is derived; the rest is asked for by the names that
the package gives it. Trusts nothing in a file.
"""

import importlib
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ddpm_export.errors import EnvironmentProblem
from ddpm_export.exporting.importers.layout import (
    Found,
    Imported,
    ask_for,
    assign_weights,
    misfit,
    read_options,
    without_prefix,
)
from ddpm_export.exporting.importers.lucidrains_process import (
    EXAMPLES,
    OBJECTIVES,
    Process,
    alphas_cumprod_from_options,
    contradiction,
    objective_from_process,
    process_from_buffers,
    refused,
)
from ddpm_export.schedules import spacing
from ddpm_export.spec import VARIANCE_FRACTION, Defaults, ModelSpec
from ddpm_export.wording import first_line, not_installed

__all__ = ["load", "signs"]

SIGNS = (
    "init_conv.weight",
    "time_mlp.1.weight",
    "mid_attn.mem_kv",
    "final_res_block.block1.norm.g",
    "final_conv.weight",
)
WRAPPERS = frozenset({"module", "_orig_mod"})  # names that DistributedDataParallel and torch.compile put in between
# bounds that no sensible network meets, so that nothing is built of what a few bytes can claim
MAX_LEVELS = 16
MAX_SIZE = 2**16
MAX_IMAGE_SIZE = 4096
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

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Predict: x_t (B, C, H, W) float32 and t (B,) int64, 0-based -> the shape of x_t, once or twice."""
        out: Tensor = self.unet(x_t, t.to(torch.float32))
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
    state, where, kind = _state(found.contents, weights)
    unet_state, process = _unet_and_process(state, where)
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
    spec = ModelSpec(
        name=found.name[:200],
        prediction="eps" if config["learned_variance"] or objective is None else OBJECTIVES[objective],
        image_shape=(config["channels"], *_image_size(chosen["image_size"], len(config["dim_mults"]))),
        alphas_cumprod=tuple(alphas_cumprod.tolist()),
        clip_x_0=1.0,
        variance="learned" if config["learned_variance"] else "fixed_small",
        requires=(VARIANCE_FRACTION,) if config["learned_variance"] else (),
        defaults=_defaults(len(alphas_cumprod), config["learned_variance"], chosen),
    )
    unet = _unet(config, chosen["sinusoidal_pos_emb_theta"])
    assign_weights(unet, unet_state, where)
    source: dict[str, Any] = {"weights": kind}
    step = found.contents.get("step")
    if type(step) is int and 0 <= step < 2**63:
        source["step"] = step
    return Imported(Network(unet, config["learned_variance"]), spec, source, _notes(config, objective, spec))


def _state(contents: Mapping[str, Any], weights: str) -> tuple[dict[str, Any], str, str]:
    """Return the state dict of the weights that are asked for, where it lies and which weights they are."""
    if isinstance(contents.get("model"), Mapping) or isinstance(contents.get("ema"), Mapping):
        if weights == "raw":
            return _plain_names(contents.get("model"), "model"), "model", "raw"
        if contents.get("ema") is None:
            raise misfit("ema", "nothing", "the averaged weights; --weights raw takes those of the last step")
        return _of_ema(_plain_names(contents["ema"], "ema"), "ema", "ema_model"), "ema.ema_model", "ema"
    state = _plain_names(contents, "state_dict")
    if any(key.startswith("ema_model.") for key in state):
        name = {"ema": "ema_model", "raw": "online_model"}[weights]
        return _of_ema(state, "state_dict", name), name, weights
    return state, "state_dict", "the only ones"


def _plain_names(state: Any, where: str) -> dict[str, Any]:
    if not isinstance(state, Mapping):
        raise misfit(where, "nothing" if state is None else type(state).__name__, "a state dict of tensors")
    plain = {".".join(part for part in str(key).split(".") if part not in WRAPPERS): state[key] for key in state}
    if len(plain) != len(state):
        raise misfit(where, "names that differ only in module. or _orig_mod.", "one tensor of each name")
    return plain


def _of_ema(state: dict[str, Any], where: str, name: str) -> dict[str, Any]:
    """Return one model of a state dict of ema_pytorch's EMA, which may hold both and two counters."""
    other = [
        key for key in state if not key.startswith(("ema_model.", "online_model.")) and key not in ("initted", "step")
    ]
    if other:
        raise misfit(where, f"{other[0]} ({len(other)} such)", "ema_model., online_model., initted and step only")
    return without_prefix(state, f"{name}.")


def _unet_and_process(state: dict[str, Any], where: str) -> tuple[dict[str, Any], Process | None]:
    """Divide a state dict into the Unet's and what the diffusion around it says; None where there is none."""
    mark = "init_conv.weight"
    prefixes = [key.removesuffix(mark) for key in state if f".{key}".endswith(f".{mark}")]
    if prefixes == ["net."]:
        raise misfit(where, "ElucidatedDiffusion, by its net.", "GaussianDiffusion or LearnedGaussianDiffusion")
    if prefixes not in ([""], ["model."]):
        raise misfit(where, f"{mark} behind {prefixes[:3]!r}", "one, by that name or behind model.")
    if prefixes == [""]:
        return state, None
    unet_state = without_prefix(state, "model.")
    buffers = {key: value for key, value in state.items() if not key.startswith("model.")}
    if "betas" not in buffers:
        raise misfit(
            where,
            "a diffusion without betas, as ContinuousTimeGaussianDiffusion is",
            "GaussianDiffusion or LearnedGaussianDiffusion",
        )
    return unet_state, process_from_buffers(buffers, where)


def _config(state: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the arguments of Unet that the shapes of its weights tell."""

    def shape(key: str, dims: int) -> tuple[int, ...]:
        value = state.get(key)
        sizes = tuple(value.shape) if isinstance(value, Tensor) else ()
        if len(sizes) != dims or not all(1 <= size <= MAX_SIZE for size in sizes):
            raise misfit(f"{where}.{key}", sizes or "nothing", f"{dims} sizes of 1 to {MAX_SIZE}")
        return sizes

    init_dim, inputs = shape("init_conv.weight", 4)[:2]
    outputs = shape("final_conv.weight", 4)[0]
    if inputs == 2 * outputs:
        raise misfit(
            f"{where}.init_conv.weight",
            f"self_condition=True, by {inputs} channels where {outputs} come out",
            "self_condition=False, as the input x_0_prev is not supported yet",
        )
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
        "learned_sinusoidal_cond": learned_sinusoidal,
        "learned_sinusoidal_dim": 2 * shape("time_mlp.0.weights", 1)[0] if learned_sinusoidal else 16,
        "full_attn": tuple(full_attn),
        "attn_heads": tuple(attn_heads),
        "attn_dim_head": tuple(attn_dim_head),
    }


def _check_derived(config: Mapping[str, Any], chosen: Mapping[str, Any]) -> None:
    """Raise UsageError where an option says something else than the weights; None says nothing."""
    kinds = ("learned_sinusoidal_cond", "random_fourier_features")
    facts = {**config, **dict.fromkeys(kinds, config["learned_sinusoidal_cond"]), "self_condition": False}
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


def _image_size(value: Any, levels: int) -> tuple[int, int]:
    """Return (height, width) from an int, a pair of them or text such as 28,32."""
    if isinstance(value, str):
        value = [int(part) if part.strip().isdecimal() else part for part in value.split(",")]
    sizes = (value, value) if type(value) is int else tuple(value) if isinstance(value, (list, tuple)) else ()
    factor = 2 ** (levels - 1)
    if len(sizes) != 2 or not all(
        type(size) is int and 1 <= size <= MAX_IMAGE_SIZE and size % factor == 0 for size in sizes
    ):
        raise refused(
            "image_size", value, f"one size or height,width: multiples of {factor} up to {MAX_IMAGE_SIZE}, by dim_mults"
        )
    return sizes[0], sizes[1]


def _defaults(T: int, learned_variance: bool, chosen: Mapping[str, Any]) -> Defaults:
    """Return how the package samples: at all T times, or with DDIM at fewer of them."""
    num_steps, eta = chosen["sampling_timesteps"], chosen["ddim_sampling_eta"]
    if num_steps is not None and not (type(num_steps) is int and 1 <= num_steps <= T):
        raise refused("sampling_timesteps", num_steps, f"1 to {T}")
    if not 0.0 <= eta <= 1.0:
        raise refused("ddim_sampling_eta", eta, "0 to 1")
    if num_steps in (None, T):
        return Defaults("ddpm", T, 0.0)
    if learned_variance:
        raise refused("sampling_timesteps", num_steps, f"{T}: LearnedGaussianDiffusion cannot sample fewer steps")
    return Defaults("ddim", num_steps, float(eta))


def _unet(config: Mapping[str, Any], theta: float) -> nn.Module:
    """Build the Unet of the user's own package on the meta device: only shapes, nothing is allocated."""
    if not 0.0 < theta < math.inf:
        raise refused("sinusoidal_pos_emb_theta", theta, "a number above 0")
    try:
        package = importlib.import_module("denoising_diffusion_pytorch")
    except ModuleNotFoundError as exc:
        raise not_installed(str(exc.name), "lucidrains") from exc
    try:
        with torch.device("meta"):
            unet: nn.Module = package.Unet(**config, sinusoidal_pos_emb_theta=theta)
    except (AttributeError, TypeError) as exc:
        raise EnvironmentProblem(
            f"denoising_diffusion_pytorch must be 2.0 or newer: {first_line(exc)}. Run: pip install "
            "'ddpm-export[lucidrains]'."
        ) from exc
    return unet


def _notes(config: Mapping[str, Any], objective: str | None, spec: ModelSpec) -> tuple[str, ...]:
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
    if spec.defaults.sampler == "ddim":
        T, num_steps = spec.num_train_timesteps, spec.defaults.num_steps
        theirs = torch.linspace(-1, T - 1, num_steps + 1).int().flip(0).tolist()[:-1]  # float32, and rounded down
        other = [pair for pair in zip(theirs, spacing(T, num_steps).tolist(), strict=True) if pair[0] != pair[1]]
        if other:
            notes.append(
                f"sampling_timesteps={num_steps}: the package rounds {len(other)} of its times to others, the first "
                f"to {other[0][0]} where this file steps to {other[0][1]}; --times takes them one by one."
            )
    return tuple(notes)
