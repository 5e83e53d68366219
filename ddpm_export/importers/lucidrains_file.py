"""What the importers of denoising-diffusion-pytorch share: where in a file the Unet lies, its sizes, its package."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from ddpm_export.errors import EnvironmentProblem, first_line, not_installed
from ddpm_export.importers import choices
from ddpm_export.importers.layout import MAX_LEVELS, Found, built, misfit, shape_of, uneven_times, without_prefix
from ddpm_export.importers.lucidrains_process import (
    OBJECTIVES,
    Process,
    alphas_cumprod_from_options,
    objective_from_process,
    process_from_buffers,
)
from ddpm_export.model.spec import Defaults

WRAPPERS = frozenset({"module", "_orig_mod"})  # names that DistributedDataParallel and torch.compile put in between
IMPORTED = "GaussianDiffusion or LearnedGaussianDiffusion"


class Parts(NamedTuple):
    """Hold the Unet's state dict, where it lies, the diffusion around it if any, and what the spec's source records."""

    unet: Mapping[str, Any]
    where: str
    process: Process | None
    is_elucidated: bool
    source: dict[str, Any]


def signs_of(found: Found, names: tuple[str, ...]) -> dict[str, bool]:
    """Return these names of weights, wherever in the file the Unet lies, and whether they are there."""
    return {name: any(f".{key}".endswith(f".{name}") for key in found.keys) for name in names}


def parts_from_contents(contents: Mapping[str, Any], weights: str) -> Parts:
    """Return what a file holds for the weights that are asked for; raises BadFileError for another diffusion's."""
    state, where, kind = _state_from_contents(contents, weights)
    step = contents.get("step")
    counted = {"step": step} if type(step) is int and 0 <= step < 2**63 else {}
    unet, where, process = _unet_and_process(state, where)
    return Parts(unet, where, process, any(key.startswith("net.") for key in state), {"weights": kind, **counted})


def _state_from_contents(contents: Mapping[str, Any], weights: str) -> tuple[dict[str, Any], str, str]:
    """Return the state dict of the weights that are asked for, where it lies and which weights they are."""
    if isinstance(contents.get("model"), Mapping) or isinstance(contents.get("ema"), Mapping):
        if weights == "raw":
            return _plain_names(contents.get("model"), "model"), "model", "raw"
        if contents.get("ema") is None:
            raise misfit("ema", "nothing", "a state dict", "Use weights raw for those of the last step", "weights")
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


def _unet_and_process(state: dict[str, Any], where: str) -> tuple[dict[str, Any], str, Process | None]:
    mark = "init_conv.weight"
    prefixes = [key.removesuffix(mark) for key in state if f".{key}".endswith(f".{mark}")]
    if prefixes == ["net."]:  # ElucidatedDiffusion, which has no buffers
        return without_prefix(state, "net."), where, None
    if prefixes not in ([""], ["model."]):
        raise misfit(where, f"{mark} behind {prefixes[:3]!r}", "one, by that name or behind model.")
    if prefixes == [""]:
        return state, where, None
    buffers = {key: value for key, value in state.items() if not key.startswith("model.")}
    if "betas" not in buffers:
        raise misfit(where, "a diffusion without betas, as ContinuousTimeGaussianDiffusion is", IMPORTED)
    return without_prefix(state, "model."), where, process_from_buffers(buffers, where)


def dim_mults_of(state: Mapping[str, Any], where: str, dim: int) -> tuple[int, ...]:
    """Return the multiple of dim that each level is wide; raises BadFileError where there is none."""
    levels = sum(f"downs.{level}.0.block1.proj.weight" in state for level in range(MAX_LEVELS))
    if levels == 0:
        raise misfit(f"{where}.downs", "nothing", f"1 to {MAX_LEVELS} levels, counted from 0")
    keys = [f"downs.{level}.3.weight" for level in range(levels)]
    keys = [key if key in state else key.replace("3.weight", "3.1.weight") for key in keys]
    widths = [shape_of(state, where, key, 4)[0] for key in keys]
    for key, width in zip(keys, widths, strict=True):
        if width % dim:
            raise misfit(f"{where}.{key}", f"{width} channels", f"a multiple of dim={dim}")
    return tuple(width // dim for width in widths)


def fields_of_spec(
    parts: Parts, config: Mapping[str, Any], chosen: Mapping[str, Any], table: Mapping[str, choices.Option], *also: str
) -> tuple[dict[str, Any], str | None]:
    """Return the fields of a spec that the diffusion around a Unet decides, and its objective, None if unknown.

    config: the Unet's arguments. Raises UsageError for options that contradict the file and for missing ones, those
    named in `also` among them.
    """
    is_learned = config.get("learned_variance", False)
    if parts.is_elucidated:
        raise misfit(parts.where, "ElucidatedDiffusion, by its net., around a Unet with classes", IMPORTED)
    objective = objective_from_process(parts.process, chosen)
    needed = ["image_size", *([] if objective or is_learned else ["objective"])]
    needed += ["beta_schedule", "timesteps"] if parts.process is None else []
    choices.require([*needed, *also], chosen, table)
    alphas_cumprod = alphas_cumprod_from_options(parts.process, chosen)
    fields = {
        "prediction": "eps" if is_learned or objective is None else OBJECTIVES[objective],
        "state_shape": (config["channels"], *height_and_width(chosen["image_size"], len(config["dim_mults"]))),
        "alphas_cumprod": tuple(alphas_cumprod.tolist()),
        "clip_x_0": 1.0,
        "variance": "learned" if is_learned else "fixed_small",
        "defaults": _defaults(len(alphas_cumprod), is_learned, chosen),
    }
    return fields, objective


def height_and_width(value: Any, levels: int) -> tuple[int, int]:
    """Return (height, width) from the option image_size: an int, a pair of them or text such as 28,32."""
    if isinstance(value, str):
        value = [int(part) if part.strip().isdecimal() else part for part in value.split(",")]
    sizes = (value, value) if type(value) is int else tuple(value) if isinstance(value, (list, tuple)) else ()
    if len(sizes) != 2:
        raise choices.misused("image_size", "one size or height,width", value)
    for size in sizes:
        choices.check_size("image_size", size, 2 ** (levels - 1))
    return sizes[0], sizes[1]


def _defaults(T: int, is_learned: bool, chosen: Mapping[str, Any]) -> Defaults:
    """Return how the package samples: at all T times, or with DDIM at fewer of them."""
    num_steps = chosen["sampling_timesteps"]
    if num_steps in (None, T):
        return Defaults("ddpm", T, 0.0)
    if num_steps > T:
        raise choices.misused("sampling_timesteps", f"from 1 to {T}", num_steps)
    if is_learned:
        expected = f"{T}: LearnedGaussianDiffusion cannot sample fewer steps"
        raise choices.misused("sampling_timesteps", expected, num_steps)
    eta = float(chosen["ddim_sampling_eta"])
    return Defaults("ddim", num_steps, eta, uneven_times(ddim_times(T, num_steps), T))


def ddim_times(T: int, num_steps: int) -> tuple[int, ...]:
    """Return the times of the package's ddim_sample."""
    return tuple(torch.linspace(-1, T - 1, num_steps + 1).int().flip(0).tolist()[:-1])  # float32, and rounded down


def unet_from_parts(build: Callable[[], nn.Module], parts: Parts) -> nn.Module:
    """Return a Unet of the user's own package with its weights."""
    try:
        return built(build, parts.unet, parts.where)
    except ModuleNotFoundError as exc:
        raise not_installed(str(exc.name), "lucidrains") from exc
    except (AttributeError, TypeError) as exc:
        raise EnvironmentProblem(
            f"denoising_diffusion_pytorch must be 2.0 or newer: {first_line(exc)}. Run: pip install "
            "'ddpm-export[lucidrains]'."
        ) from exc
