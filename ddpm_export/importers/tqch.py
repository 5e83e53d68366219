"""Checkpoints of tqch's ddpm-torch, and the configs that belong to them. Trusts nothing in either."""

import dataclasses
import inspect
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm_export.importers import choices
from ddpm_export.importers.layout import (
    MAX_BLOCKS,
    MAX_LEVELS,
    Found,
    Imported,
    built,
    misfit,
    shape_of,
    spec_of,
    without_prefix,
)
from ddpm_export.importers.tqch_unet import GROUPS, FromMean, Layout, Shuffled, UNet
from ddpm_export.model.spec import Defaults
from ddpm_export.process.schedules import alphas_cumprod_from_betas

Float64 = NDArray[np.float64]

ENTRIES = {"model", "ema", "optimizer", "scheduler", "epoch"}  # of a training checkpoint
SIGNS = ("in_conv.weight", "embed.2.weight", "middle.1.project_in.weight", "middle.2.fc.weight", "out_conv.2.weight")
SECTIONS = ("denoise", "model", "diffusion")  # of a config; denoise is what older ones call model
DATASETS = {"mnist": (1, 32), "cifar10": (3, 32), "celeba": (3, 64), "celebahq": (3, 256), "celeba_hq": (3, 256)}
PREDICTIONS = {"eps": "eps", "x_0": "x_0", "mean": "x_0"}
VARIANCES = {"fixed-small": "fixed_small", "fixed-large": "fixed_large"}
ABOUT_MEANS = (
    "model_mean_type mean: x_0 is taken from the mean, which magnifies rounding up to {:.0f} times, so the proof of an "
    "export may refuse a well trained network; ancestral steps undo it. ddim steps as Song et al. 2020, where the "
    "project takes the mean of one step for that of a longer one"
)


def _warmup(timesteps: int, beta_start: float, beta_end: float, percent: int) -> Float64:
    count = timesteps * percent // 100
    return np.append(np.linspace(beta_start, beta_end, count), np.full(timesteps - count, beta_end))


# name -> betas, (T,); the parameters are the options that a schedule asks for
SCHEDULES: dict[str, Callable[..., Float64]] = {
    "linear": lambda timesteps, beta_start, beta_end: np.linspace(beta_start, beta_end, timesteps),
    "quad": lambda timesteps, beta_start, beta_end: np.linspace(beta_start**0.5, beta_end**0.5, timesteps) ** 2,
    "warmup10": lambda timesteps, beta_start, beta_end: _warmup(timesteps, beta_start, beta_end, 10),
    "warmup50": lambda timesteps, beta_start, beta_end: _warmup(timesteps, beta_start, beta_end, 50),
    "const": lambda timesteps, beta_end: np.full(timesteps, beta_end),
    "jsd": lambda timesteps: 1.0 / np.arange(timesteps, 0, -1),  # 1 at the end: nothing of the image is left
}
ASKED_FOR = {
    "timesteps": choices.within(1, choices.MAX_TIMESTEPS, example=1000),
    "beta_schedule": choices.one_of(SCHEDULES, "linear"),
    "beta_start": choices.like(1e-4, 1e-4),
    "beta_end": choices.like(0.02, 0.02),
    "model_mean_type": choices.one_of(PREDICTIONS, "eps"),
    "model_var_type": choices.one_of(VARIANCES, "fixed-large"),  # a file holds no other
}
OPTIONS: dict[str, choices.Option] = {
    **dict.fromkeys((field.name for field in dataclasses.fields(Layout)), choices.like(None)),
    "apply_attn": choices.like(None),
    "block_size": choices.like(1),
    "dataset": choices.like("cifar10"),
    "image_size": choices.like(32),
    **ASKED_FOR,
    **{"train": choices.like({}), "loss_type": choices.like("mse"), "drop_rate": choices.like(0.0)},  # only of training
}


def signs(found: Found) -> dict[str, bool]:
    """Return what a state dict of the project is known by, and whether it is there."""
    state, _ = _unwrapped(_model(found))
    return {name: name in state for name in SIGNS}


def load(found: Found, weights: str, options: Mapping[str, Any]) -> Imported:
    """Return the network with its averaged ("ema") or last ("raw") weights, and the spec that follows from its config.

    options: a config's sections, or the names in them without a section, which go before; null is as good as absent.
    Raises BadFileError for a checkpoint that does not fit, UsageError for options that are missing, that contradict
    its tensors, or that ask for what a file cannot hold.
    """
    where, wrapped, source, notes = _chosen(found, weights)
    state, is_shuffled = _unwrapped(wrapped)
    layout = _layout(state, where)
    network = built(lambda: UNet(layout), state, where)

    stated = _without_sections(options)
    choices.read_options(stated, OPTIONS)
    _ask(stated, is_shuffled)
    block_size, T = stated.get("block_size", 1), stated["timesteps"]
    _check_network(layout, block_size, is_shuffled, stated)
    image_shape = _image_shape(layout, block_size, stated)
    if "image_size" not in stated:
        notes = (*notes, f"images are {image_shape[1]} x {image_shape[2]}, the project's size of {stated['dataset']}")
    betas, alphas_cumprod = _schedule(stated)
    network = Shuffled(network, block_size) if is_shuffled else network
    is_mean = stated["model_mean_type"] == "mean"
    if is_mean:
        c_1, c_2 = _posterior(betas)
        network = FromMean(network, c_1, c_2)
        notes = (*notes, ABOUT_MEANS.format(1.0 / c_1.min()))
    spec = spec_of(
        found,
        prediction=PREDICTIONS[stated["model_mean_type"]],
        state_shape=image_shape,
        alphas_cumprod=tuple(alphas_cumprod.tolist()),
        clip_x_0=None if is_mean else 1.0,  # the project goes to a predicted mean as it is
        variance=VARIANCES[stated["model_var_type"]],
        defaults=Defaults("ddpm", T, 0.0),
        source={name: stated[name] for name in ("dataset", *ASKED_FOR) if name in stated},
    )
    return Imported(network, spec, source, notes)


def _model(found: Found) -> Mapping[str, Any]:
    """Return the weights of the last step, of a training checkpoint or of a bare state dict."""
    model = found.contents.get("model")
    return model if isinstance(model, Mapping) else found.contents


def _chosen(found: Found, weights: str) -> tuple[str, Mapping[str, Any], dict[str, Any], tuple[str, ...]]:
    """Return where the weights are, themselves, the source of them, and notes."""
    model, ema, epoch = _model(found), found.contents.get("ema"), found.contents.get("epoch")
    if model is found.contents:
        return "state_dict", model, {}, ("the file has a single state dict: averaged weights or the last step's",)
    stray = sorted({name.split(".")[0] for name in found.keys} - ENTRIES)
    if stray:
        raise misfit(stray[0], "tensors", f"tensors only in {', '.join(sorted(ENTRIES))}")
    source: dict[str, Any] = {"epoch": epoch} if type(epoch) is int else {}
    if weights == "raw" or ema is None:
        notes = () if weights == "raw" else ("the file has no averaged weights: these are the last step's",)
        return "model", model, {**source, "weights": "raw"}, notes
    shadow = ema.get("shadow") if isinstance(ema, Mapping) else None
    if not isinstance(shadow, Mapping):
        raise misfit("ema.shadow", type(shadow).__name__, "a state dict of tensors")
    return "ema.shadow", shadow, {**source, "weights": "ema"}, ()


def _unwrapped(state: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
    """Return a state dict without the names of what the network was wrapped in, and if a PixelUnshuffle was that."""
    wrappers = []
    for prefix in ("module.", "_model."):
        if state and all(isinstance(key, str) and key.startswith(prefix) for key in state):
            state = without_prefix(state, prefix)
            wrappers.append(prefix)
    return state, "_model." in wrappers


def _layout(state: Mapping[str, Any], where: str) -> Layout:
    """Return what follows from the names and shapes of the weights; raises BadFileError where nothing does."""

    def shape(name: str, num_dims: int) -> tuple[int, ...]:
        return shape_of(state, where, name, num_dims)

    def count(within: str, bound: int) -> int:
        number = len({match[1] for key in state if (match := re.match(rf"{within}(\d+)\.", str(key)))})
        if not 1 <= number <= bound:
            raise misfit(within.replace("\\", ""), f"{number} of them", f"1 to {bound}")
        return number

    hid, in_channels = shape("in_conv.weight", 4)[:2]
    if hid % GROUPS:
        raise misfit("in_conv.weight", f"{hid} channels", f"a multiple of the {GROUPS} groups of its norms")
    levels = count(r"downsamples\.level_", MAX_LEVELS)
    blocks = count(rf"downsamples\.level_{levels - 1}\.", MAX_BLOCKS)  # only there no downsampling follows them
    attends = tuple(f"downsamples.level_{level}.0.1.norm.weight" in state for level in range(levels))
    multipliers = []
    for level, attend in enumerate(attends):
        name = f"downsamples.level_{level}.0{'.0' if attend else ''}.conv1.weight"
        width = shape(name, 4)[0]
        if width % hid:
            raise misfit(name, f"{width} channels", f"a multiple of the {hid} of in_conv")
        multipliers.append(width // hid)
    return Layout(
        in_channels=in_channels,
        out_channels=shape("out_conv.2.weight", 4)[0],
        hid_channels=hid,
        time_embedding_dim=shape("embed.2.weight", 2)[0],
        ch_multipliers=tuple(multipliers),
        num_res_blocks=blocks,
        apply_attn=attends,
        resample_with_conv=f"downsamples.level_0.{blocks}.1.weight" in state,
    )


def _without_sections(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options without their sections and without null."""
    stated: dict[str, Any] = {}
    for section in SECTIONS:
        values = options.get(section, {})
        if not isinstance(values, Mapping):
            raise choices.misused(section, "a section of the config, an object", values)
        stated |= values
    stated |= {name: value for name, value in options.items() if name not in SECTIONS}
    return {name: value for name, value in stated.items() if value is not None}


def _ask(stated: Mapping[str, Any], is_shuffled: bool) -> None:
    """Raise a UsageError for everything that is missing, at once."""
    wanted = {name: option.example for name, option in ASKED_FOR.items()}
    if "beta_schedule" in stated:
        parameters = _parameters(stated["beta_schedule"])
        wanted = {
            name: value for name, value in wanted.items() if name in parameters or not name.endswith(("start", "end"))
        }
    if stated.get("dataset") not in DATASETS:
        wanted["image_size"] = 32
    if is_shuffled:
        wanted["block_size"] = 2
    missing = {name: value for name, value in wanted.items() if name not in stated}
    if missing:
        raise choices.ask_for(missing)


def _check_network(layout: Layout, block_size: int, is_shuffled: bool, stated: Mapping[str, Any]) -> None:
    """Raise for a block size that does not fit the channels, for options that the tensors contradict, and outputs."""
    if block_size < 1 or is_shuffled != (block_size > 1) or layout.in_channels % block_size**2:
        kind = "a PixelUnshuffle, by the _model. in its names, that gives" if is_shuffled else "no PixelUnshuffle and"
        raise choices.misused("block_size", f"for {kind} {layout.in_channels} channels", block_size)
    for name, derived in dataclasses.asdict(layout).items():
        got = tuple(stated[name]) if isinstance(stated.get(name), list) else stated.get(name, derived)
        per_image = derived // block_size**2 if name in ("in_channels", "out_channels") else derived
        has_none = name == "resample_with_conv" and len(layout.ch_multipliers) == 1
        if got not in (derived, per_image) and not has_none:
            raise choices.contradiction(name, derived, got)
    if layout.out_channels != layout.in_channels:
        raise misfit("out_conv.2.weight", f"{layout.out_channels} channels", f"the {layout.in_channels} of in_conv")


def _image_shape(layout: Layout, block_size: int, stated: Mapping[str, Any]) -> tuple[int, int, int]:
    channels = layout.in_channels // block_size**2
    expected, size = DATASETS.get(stated.get("dataset", ""), (channels, 0))
    if expected != channels:
        raise choices.misused("dataset", f"of {channels} channels, as the checkpoint says", stated["dataset"])
    size = stated.get("image_size", size)
    choices.check_size("image_size", size, block_size * 2 ** (len(layout.ch_multipliers) - 1))
    return channels, size, size


def _parameters(schedule: str) -> Collection[str]:
    """Return the options that a schedule of betas depends on."""
    return inspect.signature(SCHEDULES[schedule]).parameters


def _schedule(stated: Mapping[str, Any]) -> tuple[Float64, Float64]:
    """Return betas and alphas_cumprod, (T,) each; raises UsageError for numbers that no file can hold."""
    name = stated["beta_schedule"]
    values = {key: stated[key] for key in _parameters(name)}
    for key in values.keys() & {"beta_start", "beta_end"}:
        if not 0 < values[key] < 1:
            raise choices.misused(key, "a number between 0 and 1", values[key])
    betas = SCHEDULES[name](**values)
    alphas_cumprod = alphas_cumprod_from_betas(betas)
    if alphas_cumprod[-1] == 0 and stated["model_mean_type"] == "eps":
        raise choices.misused(
            "beta_schedule", "another with eps: at its end there is no image left to tell from noise", name
        )
    if alphas_cumprod[0] >= 1 or (np.diff(alphas_cumprod) >= 0).any():
        raise choices.misused("beta_schedule", "betas that leave less of the image at every step, in float64 too", name)
    return betas, alphas_cumprod


def _posterior(betas: Float64) -> tuple[Float64, Float64]:
    """Return c_1 and c_2 of the posterior's mean c_1 x_0 + c_2 x_t (Ho et al. 2020, eq. 7), (T,) each."""
    a = alphas_cumprod_from_betas(betas)
    a_prev = np.append(1.0, a[:-1])
    c_1, c_2 = np.sqrt(a_prev) * betas / (1.0 - a), np.sqrt(1.0 - betas) * (1.0 - a_prev) / (1.0 - a)
    if c_1.min() < np.finfo(np.float32).tiny:
        raise choices.misused("model_mean_type", "eps or x_0: this schedule's means hold no x_0 in float32", "mean")
    return c_1, c_2
