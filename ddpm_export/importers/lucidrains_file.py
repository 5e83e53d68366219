"""What all importers of denoising-diffusion-pytorch share: where in a file the Unet lies, and its package."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ddpm_export.errors import EnvironmentProblem, first_line, not_installed
from ddpm_export.importers.layout import misfit, without_prefix
from ddpm_export.importers.lucidrains_process import Process, process_from_buffers, refused
from ddpm_export.model.spec import Defaults
from ddpm_export.process.schedules import spacing

WRAPPERS = frozenset({"module", "_orig_mod"})  # names that DistributedDataParallel and torch.compile put in between
# bounds that no sensible network meets, so that nothing is built of what a few bytes can claim
MAX_LEVELS = 16
MAX_SIZE = 2**16
MAX_IMAGE_SIZE = 4096


def state_from_contents(contents: Mapping[str, Any], weights: str) -> tuple[dict[str, Any], str, str]:
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


def unet_and_process(state: dict[str, Any], where: str) -> tuple[dict[str, Any], Process | None]:
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


def source_from_contents(contents: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return what the spec's source shall say: which weights these are, and the step where the file counts one."""
    step = contents.get("step")
    return {"weights": kind, **({"step": step} if type(step) is int and 0 <= step < 2**63 else {})}


def shape_of(state: Mapping[str, Any], where: str, key: str, dims: int) -> tuple[int, ...]:
    """Return the shape of a weight; raises BadFileError unless it has so many sizes within bounds."""
    value = state.get(key)
    sizes = tuple(value.shape) if isinstance(value, torch.Tensor) else ()
    if len(sizes) != dims or not all(1 <= size <= MAX_SIZE for size in sizes):
        raise misfit(f"{where}.{key}", sizes or "nothing", f"{dims} sizes of 1 to {MAX_SIZE}")
    return sizes


def height_and_width(value: Any, levels: int) -> tuple[int, int]:
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


def defaults_from_options(T: int, learned_variance: bool, chosen: Mapping[str, Any]) -> Defaults:
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
    times = ddim_times(T, num_steps)
    is_even = list(times) == spacing(T, num_steps).tolist()
    return Defaults("ddim", num_steps, float(eta), None if is_even else times)


def ddim_times(T: int, num_steps: int) -> tuple[int, ...]:
    """Return the times of the package's ddim_sample."""
    return tuple(torch.linspace(-1, T - 1, num_steps + 1).int().flip(0).tolist()[:-1])  # float32, and rounded down


def unet_of_package(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a Unet of the user's own package on the meta device: only shapes, nothing is allocated."""
    try:
        with torch.device("meta"):
            return build()
    except ModuleNotFoundError as exc:
        raise not_installed(str(exc.name), "lucidrains") from exc
    except (AttributeError, TypeError) as exc:
        raise EnvironmentProblem(
            f"denoising_diffusion_pytorch must be 2.0 or newer: {first_line(exc)}. Run: pip install "
            "'ddpm-export[lucidrains]'."
        ) from exc
