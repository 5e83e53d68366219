"""Policies of diffusion_policy (real-stanford), whose weights and configuration were taken out of its checkpoint.

The checkpoint itself is a pickle that runs code; docs/policies.md has the line that takes them out.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ddpm_export.errors import BadFileError, several
from ddpm_export.importers import choices
from ddpm_export.importers.diffusers_parts import import_diffusers
from ddpm_export.importers.diffusers_scheduler import read_schedule
from ddpm_export.importers.folders import MODEL, POLICY, TARGET
from ddpm_export.importers.layout import MAX_SIZE, Found, Imported, assign_weights, misfit, without_prefix
from ddpm_export.importers.lerobot import ENTRIES, PAIR, imported_policy, read_entries, statistic
from ddpm_export.importers.lerobot_network import After, Camera, Known, Scaling, UNet1d
from ddpm_export.importers.policy_transformer import Transformer1d
from ddpm_export.model.inputs import Input

KNOWN = "known"  # the network's input where observations are a part of its state
CAMERAS, NORMALIZER = "obs_encoder.key_model_map.", "normalizer.params_dict."
FLAG, SIZE = choices.like(False), choices.within(1, MAX_SIZE)
# sizes that a configuration lacks are seen by the weights, which then do not fit
UNET = {key: ENTRIES[key] for key in ("down_dims", "diffusion_step_embed_dim", "kernel_size", "n_groups")}
UNET["cond_predict_scale"] = FLAG
TIMES = {key: ENTRIES[key] for key in ("horizon", "n_obs_steps", "n_action_steps", "num_inference_steps")}
LOWDIM = {**TIMES, "obs_dim": SIZE, "action_dim": SIZE, "pred_action_steps_only": FLAG}
CONDITIONS = {"obs_as_local_cond": "local_cond", "obs_as_global_cond": "global_cond", "obs_as_cond": "cond"}
# the entries of each policy that there is an importer for, beside its parts
POLICIES = {
    "DiffusionUnetLowdimPolicy": LOWDIM
    | dict.fromkeys(("obs_as_local_cond", "obs_as_global_cond", "oa_step_convention"), FLAG),
    "DiffusionTransformerLowdimPolicy": {**LOWDIM, "obs_as_cond": FLAG},
    "DiffusionUnetImagePolicy": {**TIMES, **UNET, "obs_as_global_cond": choices.like(True)},
}
PARTS = (TARGET, "model", "noise_scheduler", "shape_meta", "obs_encoder")
OF_STEPS = ("eta", "use_clipped_model_output")
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RESNET = {"conv1": "0", "bn1": "1", **{f"layer{k}": f"{k + 3}" for k in range(1, 5)}}  # the places of its parts
ENCODER = {"resize_shape": PAIR, "crop_shape": PAIR, "random_crop": choices.like(True)}
ENCODER |= dict.fromkeys(("share_rgb_model", "imagenet_norm"), FLAG)


def signs(found: Found) -> dict[str, bool]:
    """Return what a policy of diffusion_policy is known by, and whether it is there."""
    target = found.config.get(MODEL, {}).get(TARGET)
    return {
        f"a _target_ of diffusion_policy in {MODEL}": isinstance(target, str) and "diffusion_policy.policy." in target,
        f"{NORMALIZER}action.scale": f"{POLICY}.{NORMALIZER}action.scale" in found.keys,
    }


def load(found: Found, weights: str, options: Mapping[str, Any]) -> Imported:
    """Return the network with the weights of a folder, whichever are asked for; observations before it, actions after.

    options: any entry of diffusers' scheduler, `_class_name` too, to replace what the configuration says. Raises
    BadFileError for a policy without an importer, and for a normaliser that is missing.
    """
    given = found.config[MODEL]
    kind = str(given[TARGET]).rpartition(".")[2]
    if kind not in POLICIES:
        raise misfit(TARGET, kind, several(POLICIES), "The others of diffusion_policy have no importer")
    unknown = sorted({*given} - {*POLICIES[kind], *PARTS, *OF_STEPS})
    if unknown:
        raise misfit(MODEL, several(unknown), f"entries of {kind}")
    config = read_entries(given, POLICIES[kind])
    state = {
        key: value
        for key, value in found.contents[POLICY].items()
        if not key.endswith(("_dummy_variable", ".num_batches_tracked")) and not key.startswith("mask_generator.")
    }
    scheduler = _mapping(given, "noise_scheduler")
    entries = {key: value for key, value in scheduler.items() if key != TARGET}
    entries["_class_name"] = str(scheduler.get(TARGET)).rpartition(".")[2]
    steps_options = {key: given[key] for key in OF_STEPS if key in given}
    schedule = read_schedule(import_diffusers(), entries, {**steps_options, **options})

    shapes, actions = _shapes(given, config)
    cameras, imagenet = _cameras(given, {name: shape for name, shape in shapes.items() if len(shape) == 3}, state)
    width = sum(shape[0] if len(shape) == 1 else cameras[0].size for shape in shapes.values())
    steps, taken = config["n_obs_steps"], config["n_action_steps"]
    only = config.get("pred_action_steps_only", False)
    first = 0 if only else steps - int(config.get("oa_step_convention", True))
    horizon = taken if only else config["horizon"]
    if horizon < max(first + taken, steps * (not only)):
        raise misfit("n_action_steps", taken, f"at most {horizon - first}, so that they end with the horizon")
    modes = [name for flag, name in CONDITIONS.items() if config.get(flag)] or [KNOWN]
    if len(modes) > 1:
        raise misfit("obs_as_local_cond", True, "False beside obs_as_global_cond")
    condition = Input(modes[0], "image", (horizon if modes == ["local_cond"] else steps, width))
    if modes == ["global_cond"]:
        condition = Input(modes[0], "vector", (steps * width,))
    state_shape = (horizon, actions + (width if modes == [KNOWN] else 0))
    return imported_policy(
        found,
        schedule,
        condition,
        state_shape,
        *_network(given, config, condition, state_shape[1], state),
        observed={name: (steps, *shape) for name, shape in shapes.items()},
        scalings={name: _scaling(state, name, shape, imagenet) for name, shape in shapes.items()},
        cameras=cameras,
        after=After(_scaling(state, "action", (actions,))[0], first, taken, actions),
        num_steps=config["num_inference_steps"],
        source={"class": kind, **config},
    )


def _mapping(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = config.get(key)
    if not isinstance(value, Mapping):
        raise misfit(key, value, "entries by name")
    return value


def _shapes(given: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[dict[str, tuple[int, ...]], int]:
    """Return the shapes of the observations, in the network's order, and how many numbers an action has."""
    if "obs_dim" in config:
        return {"obs": (config["obs_dim"],)}, config["action_dim"]
    meta = _mapping(given, "shape_meta")
    ordered: dict[int, dict[str, tuple[int, ...]]] = {1: {}, 3: {}}
    for name, entry in sorted({**_mapping(meta, "obs"), "action": meta.get("action")}.items()):
        shape, sizes = _mapping({name: entry}, name).get("shape"), 3 if entry.get("type") == "rgb" else 1
        if not isinstance(shape, list) or len(shape) != sizes or not all(SIZE.fits(size) for size in shape):
            raise misfit(f"shape_meta.{name}", shape, f"{sizes} sizes from 1 to {MAX_SIZE}")
        ordered[sizes][name] = tuple(shape)
    (actions,) = ordered[1].pop("action")
    return {**ordered[3], **ordered[1]}, actions


def _scaling(
    state: Mapping[str, Any], name: str, shape: tuple[int, ...], imagenet: bool = False
) -> tuple[Scaling, float]:
    """Return how numbers are normalised, and how far from the middle of what training saw an observation may be."""
    keys = ("scale", "offset", "input_stats.min", "input_stats.max")
    sizes = shape if len(shape) == 1 else (1, 1, 1)  # a camera has one number
    scale, offset, *ends = (statistic(state, POLICY, f"{NORMALIZER}{name}.{key}", sizes).double() for key in keys)
    if not bool((scale > 0).all()):
        raise misfit(f"{NORMALIZER}{name}.scale", "0 or less", "numbers above 0")
    seen = max(float((end * scale + offset).abs().max()) for end in ends)
    if imagenet and len(shape) == 3:  # normalised once more
        mean, deviation = (torch.tensor(values).double()[:, None, None] for values in IMAGENET)
        scale, offset = scale / deviation, (offset - mean) / deviation
    width, low = (1 / scale).float(), (-offset / scale).float()
    return Scaling(low, width, 0.0, width), 3.0 * max(1.0, seen)


def _cameras(
    given: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor]
) -> tuple[list[Camera], bool]:
    """Return what sees each camera's pictures, one for all where it is shared, and whether they are as ImageNet's."""
    if not shapes:
        return [], False
    encoder = _mapping(given, "obs_encoder")
    network = read_entries(_mapping(encoder, "rgb_model"), {"name": ENTRIES["vision_backbone"]})["name"]
    config = read_entries(encoder, ENCODER)
    shared, crop = (
        config["share_rgb_model"],
        config["crop_shape"] if config["random_crop"] else None,
    )  # else none at all
    cameras = []
    for name, shape in shapes.items():
        if config["resize_shape"] not in (None, list(shape[1:])):
            raise misfit("resize_shape", config["resize_shape"], "null, since versions of torchvision differ in it")
        if shared and shape != next(iter(shapes.values())):
            raise misfit(f"shape_meta.{name}", list(shape), "the shape of the other cameras, which share their network")
        if crop is not None and any(size > side for size, side in zip(crop, shape[1:], strict=True)):
            raise misfit("crop_shape", crop, f"at most the picture's, {list(shape[1:])}")
        weights = without_prefix(state, f"{CAMERAS}{'rgb' if shared else name}.")
        in_groups = "bn1.running_mean" not in weights
        with torch.device("meta"):
            cameras.append(Camera(shape, None, crop, network, in_groups, 0))
        renamed = {re.sub(r"^[^.]+", lambda part: RESNET.get(part[0], part[0]), key): v for key, v in weights.items()}
        assign_weights(cameras[-1].backbone, renamed, POLICY)
    return cameras[:1] if shared else cameras, config["imagenet_norm"]


def _network(
    given: Mapping[str, Any], config: Mapping[str, Any], condition: Input, width: int, state: Mapping[str, Tensor]
) -> tuple[Callable[[], nn.Module], dict[str, Tensor]]:
    """Return what builds the network, and its weights under our names."""
    strays = sorted(key for key in state if not key.startswith(("model.", NORMALIZER, CAMERAS)))
    if strays:
        raise BadFileError(f"{POLICY} has {several(strays, 3)}, which no such policy has. Save it again.")
    weights = without_prefix(state, "model.")
    if "obs_as_cond" in config:
        heads = read_entries(_mapping(given, "model"), {"n_head": choices.within(1, MAX_SIZE, 12)})["n_head"]
        shapes = {key: tuple(value.shape) for key, value in weights.items()}
        build: Callable[[], nn.Module] = partial(Transformer1d, shapes, heads)
    else:
        unet = config if "down_dims" in config else read_entries(_mapping(given, "model"), UNET)
        weights = {
            re.sub(r"(\.\d\.2)\.conv\.", r"\1.", key)
            .replace(".blocks.0.", ".conv1.")
            .replace(".blocks.1.", ".conv2."): value
            for key, value in weights.items()
            if not key.startswith("local_cond_encoder.1.")  # which diffusion_policy makes and never calls
        }
        sizes = {condition.name: condition.shape[-1]}
        widths = sizes.get("global_cond", 0), *(unet[key] for key in UNET), sizes.get("local_cond", 0)
        build = partial(UNet1d, width, *widths)
    if condition.name != KNOWN:
        return build, weights
    return lambda: Known(build()), {f"network.{key}": value for key, value in weights.items()}
