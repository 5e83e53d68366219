"""Diffusion policies of lerobot, as its `save_pretrained` writes them: from observations to a chunk of actions."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ddpm_export.errors import BadFileError, first_line, several
from ddpm_export.importers import choices
from ddpm_export.importers.diffusers_parts import import_diffusers
from ddpm_export.importers.diffusers_scheduler import Schedule, read_schedule, with_stepping
from ddpm_export.importers.folders import MODEL, POLICY, PROCESSORS
from ddpm_export.importers.layout import (
    MAX_BLOCKS,
    MAX_SIZE,
    Found,
    Imported,
    assign_weights,
    misfit,
    spec_of,
    without_prefix,
)
from ddpm_export.importers.lerobot_network import After, Before, Camera, Scaling, UNet1d, parts_of
from ddpm_export.model.inputs import Input
from ddpm_export.model.spec import ModelSpec
from ddpm_export.model.stages import AFTER, BEFORE, Stage

STATE, ENVIRONMENT, ACTION = "observation.state", "observation.environment_state", "action"
CONDITION = "global_cond"  # the network's input
# the statistics of a mode: what is subtracted; its other end, or the width; how far from the middle of what training
# saw an observation may be, in units of the normalised number, which training sees within about 1 (MEAN_STD: 3)
MODES = {
    "MIN_MAX": ("min", "max", 3.0),
    "MEAN_STD": ("mean", "std", 10.0),
    "QUANTILES": ("q01", "q99", 5.0),
    "QUANTILE10": ("q10", "q90", 10.0),
}
SCHEDULER = ("num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "prediction_type", "clip_sample")
PAIR = choices.Option(
    "null or a height and a width",
    lambda v: v is None or (isinstance(v, list) and len(v) == 2 and all(type(n) is int and 1 <= n < 2**13 for n in v)),
)
WIDTHS = choices.Option(
    f"2 to {MAX_BLOCKS} counts of channels",
    lambda v: (
        isinstance(v, list) and 2 <= len(v) <= MAX_BLOCKS and all(type(n) is int and 1 <= n < MAX_SIZE for n in v)
    ),
)
# what the network follows from, by lerobot's defaults
ENTRIES: dict[str, choices.Option] = {
    "n_obs_steps": choices.within(1, 1024, 2),
    "horizon": choices.within(1, 4096, 16),
    "n_action_steps": choices.within(1, 4096, 8),
    "vision_backbone": choices.one_of((f"resnet{depth}" for depth in (18, 34, 50, 101, 152)), default="resnet18"),
    "resize_shape": PAIR,
    "crop_shape": PAIR,
    "use_group_norm": choices.like(True),
    "spatial_softmax_num_keypoints": choices.within(1, MAX_SIZE, 32),
    "use_separate_rgb_encoder_per_camera": choices.like(False),
    "down_dims": WIDTHS,
    "kernel_size": choices.within(1, 255, 5),
    "n_groups": choices.within(1, MAX_SIZE, 8),
    "diffusion_step_embed_dim": choices.within(4, MAX_SIZE, 128),
    "use_film_scale_modulation": choices.like(True),
    "noise_scheduler_type": choices.one_of(("DDPM", "DDIM"), default="DDPM"),
    "prediction_type": choices.one_of(("epsilon", "sample"), default="epsilon"),
    "num_inference_steps": choices.Option("null or a whole number", lambda v: v is None or (type(v) is int and v >= 1)),
}
STEPS = {  # of the processors, that change no number or are carried over
    *("rename_observations_processor", "to_batch_processor", "device_processor"),
    *("normalizer_processor", "unnormalizer_processor"),
}


def signs(found: Found) -> dict[str, bool]:
    """Return what a diffusion policy of lerobot is known by, and whether it is there."""
    config = found.config.get(MODEL, {})
    return {
        f"input_features in {MODEL} (name the folder that save_pretrained wrote)": "input_features" in config,
        f"the type diffusion in {MODEL}": config.get("type", "diffusion") == "diffusion" and "down_dims" in config,
        "diffusion.unet.final_conv.1.weight": f"{POLICY}.diffusion.unet.final_conv.1.weight" in found.keys,
    }


def load(found: Found, weights: str, options: Mapping[str, Any]) -> Imported:
    """Return the network with the weights of a folder, whichever are asked for; observations before it, actions after.

    options: any entry of diffusers' scheduler, `_class_name` too, to replace what the configuration says. Raises
    BadFileError for statistics that are missing, for steps of its processors that are not known, and for real-time
    chunking, which tells the network a time for each action.
    """
    package = import_diffusers()
    config = _config(found.config[MODEL])
    scheduler = {key: found.config[MODEL][key] for key in SCHEDULER if key in found.config[MODEL]}
    scheduler |= {"_class_name": f"{config['noise_scheduler_type']}Scheduler"}
    scheduler["clip_sample_range"] = found.config[MODEL].get("clip_sample_range", 1.0)
    schedule = read_schedule(package, scheduler, options)
    shapes, action = _features(found.config[MODEL])
    before, after = (_normalised(found, name) for name in PROCESSORS)
    scalings = {name: before(name, shape) for name, shape in shapes.items()}
    cameras = _cameras(config, [shape for shape in shapes.values() if len(shape) == 3], found.contents[POLICY])
    steps, taken = config["n_obs_steps"], config["n_action_steps"]
    size = sum(shape[0] for shape in shapes.values() if len(shape) == 1)
    size += sum(len(shape) == 3 for shape in shapes.values()) * 2 * config["spatial_softmax_num_keypoints"]
    if config["horizon"] < steps - 1 + taken:
        raise misfit("n_action_steps", taken, f"at most horizon - n_obs_steps + 1, {config['horizon'] - steps + 1}")
    state = parts_of(found.contents[POLICY])[0]
    strays = sorted(key for key in state if not key.startswith("diffusion.unet."))
    if strays:
        raise BadFileError(f"{POLICY} has {several(strays, 3)}, which no diffusion policy has. Save it again.")
    others = ("down_dims", "diffusion_step_embed_dim", "kernel_size", "n_groups", "use_film_scale_modulation")
    sizes: list[Any] = [*action, steps * size, *(config[key] for key in others)]
    kept = ("n_obs_steps", "n_action_steps", "horizon", "down_dims", "use_film_scale_modulation", "vision_backbone")
    return imported_policy(
        found,
        schedule,
        Input(CONDITION, "vector", (steps * size,)),
        (config["horizon"], *action),
        partial(UNet1d, *sizes),
        without_prefix(state, "diffusion.unet."),
        observed={name: (steps, *shape) for name, shape in shapes.items()},
        scalings=scalings,
        cameras=cameras,
        after=After(after(ACTION, action)[0], steps - 1, taken, *action),
        num_steps=config["num_inference_steps"],
        source={key: config[key] for key in kept},
    )


def imported_policy(
    found: Found,
    schedule: Schedule,
    condition: Input,
    state_shape: tuple[int, ...],
    build: Callable[[], nn.Module],
    weights: Mapping[str, Any],
    *,
    observed: Mapping[str, tuple[int, ...]],
    scalings: Mapping[str, tuple[Scaling, float]],
    cameras: Sequence[nn.Module],
    after: After,
    num_steps: int | None,
    source: Mapping[str, Any],
) -> Imported:
    """Put a policy together: its network, with the condition made of what is observed, and the actions of a plan."""
    inputs = tuple(
        Input(name, "image", shape, limits=_limits(*scalings[name], shape[1:])) for name, shape in observed.items()
    )
    taken = {"values": (after.end - after.first, after.actions)}
    spec = spec_of(
        found,
        prediction=schedule.prediction,
        state_shape=state_shape,
        alphas_cumprod=schedule.alphas_cumprod,
        clip_x_0=schedule.clip_x_0,
        variance=schedule.variance,
        defaults=schedule.defaults,
        inputs=(condition,),
        stages={BEFORE: Stage({condition.name: condition.shape}, inputs), AFTER: Stage(taken)},
    )
    rows = condition.shape[0] if len(condition.shape) > 1 else 0
    before = Before({name: scaling for name, (scaling, _) in scalings.items()}, cameras, rows)

    def stepping(spec: ModelSpec, counts: Sequence[int] | None) -> ModelSpec:
        return with_stepping(spec, schedule, counts or (num_steps or spec.num_train_timesteps,), counts_t=False)

    source = {"policy": dict(source), **schedule.source}
    network = _network(build, spec, weights)
    return Imported(network, spec, source, schedule.notes, stepping, {BEFORE: before, AFTER: after})


def _config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries that the network follows from, by their defaults where the file has none."""
    chunking = sorted(key for key, value in config.items() if "rtc" in key.split("_") and value not in (None, False))
    if chunking:
        remedy = "Train or save it without real-time chunking"
        raise misfit(chunking[0], "real-time chunking, which has a time for each action", "one t for a plan", remedy)
    return read_entries(config, ENTRIES)


def read_entries(config: Mapping[str, Any], table: Mapping[str, choices.Option]) -> dict[str, Any]:
    """Return the entries of a table, by its defaults where a configuration has none. Raises BadFileError for others."""
    values = {key: config.get(key, entry.default) for key, entry in table.items()}
    for key, entry in table.items():
        if not entry.fits(values[key]):
            raise misfit(key, values[key], entry.expected)
    return values


def _features(config: Mapping[str, Any]) -> tuple[dict[str, tuple[int, ...]], tuple[int, ...]]:
    """Return the shapes of the observations that the network sees, in its order, and that of an action."""

    def shapes(entry: str, *types: str) -> dict[str, tuple[int, ...]]:
        found = {}
        features = config.get(entry)
        for name, feature in features.items() if isinstance(features, Mapping) else ():
            if isinstance(feature, Mapping) and feature.get("type") in types:
                shape, sizes = feature.get("shape"), 3 if feature["type"] == "VISUAL" else 1
                if not (isinstance(shape, list) and len(shape) == sizes and all(type(n) is int for n in shape)):
                    raise misfit(f"{entry}.{name}", shape, f"{sizes} sizes")
                if not all(1 <= n <= MAX_SIZE for n in shape):
                    raise misfit(f"{entry}.{name}", shape, f"sizes from 1 to {MAX_SIZE}")
                found[name] = tuple(shape)
        return found

    numbers, cameras = shapes("input_features", "STATE", "ENV"), shapes("input_features", "VISUAL")
    actions = shapes("output_features", "ACTION")
    if STATE not in numbers or list(actions) != [ACTION] or len(set(cameras.values())) > 1:
        got = f"{several(numbers)}, cameras {several(map(str, cameras.values()))}, {several(actions)}"
        raise misfit("features", got, f"{STATE}, cameras of one shape, and {ACTION}")
    around = {name: shape for name, shape in numbers.items() if name == ENVIRONMENT}
    return {STATE: numbers[STATE], **cameras, **around}, actions[ACTION]


def _normalised(found: Found, processor: str) -> Any:
    """Return what gives, of a name and a shape, how a processor normalises it: a Scaling, and how far it may be off."""
    steps = found.config[processor]["steps"]
    unknown = [str(step.get("registry_name")) for step in steps if step.get("registry_name") not in STEPS]
    if unknown:
        raise misfit(f"{processor}.steps", several(unknown), f"some of {several(sorted(STEPS), 9)}")
    if any(step.get("config", {}).get("rename_map") for step in steps):
        raise misfit(f"{processor}.rename_map", "other names", "none", "Rename the observations before the policy")
    configs = [step.get("config", {}) for step in steps if step["registry_name"].endswith("normalizer_processor")]
    if len(configs) != 1:
        raise misfit(processor, f"{len(configs)} steps that normalise", "one")
    config, statistics = configs[0], found.contents[processor]

    def of(name: str, shape: tuple[int, ...]) -> tuple[Scaling, float]:
        feature = config.get("features", {}).get(name)
        if not isinstance(feature, Mapping):
            raise misfit(f"{processor}.features", "nothing", f"an entry {name}")
        mode = config.get("norm_map", {}).get(feature.get("type"), "IDENTITY")
        only = config.get("normalize_observation_keys")
        if mode == "IDENTITY" or (only is not None and name not in only and name != ACTION):
            return Scaling(torch.zeros(1), torch.ones(1), 0.0, torch.ones(1)), float("inf")
        if mode not in MODES:
            raise misfit(f"{processor}.norm_map", mode, f"IDENTITY, {', '.join(MODES)}")
        first, second, furthest = MODES[mode]
        low, other = (statistic(statistics, processor, f"{name}.{key}", shape) for key in (first, second))
        eps = float(config.get("eps", 1e-8))
        if mode == "MEAN_STD":
            return Scaling(low, other + eps, 0.0, other), furthest
        width = other - low
        half = torch.where(width == 0, torch.full_like(width, eps), width) / 2.0
        return Scaling(low, half, -1.0, half), furthest

    return of


def statistic(statistics: Mapping[str, Any], processor: str, key: str, shape: tuple[int, ...]) -> Tensor:
    """Return a statistic for each number of a shape's first axis, float32 (*shape[:1], 1, ...), finite."""
    value = statistics.get(key)
    expected = f"{shape[0]} finite numbers"
    remedy = "Save the policy again with the statistics of its data set"
    if not isinstance(value, Tensor):
        raise misfit(f"{processor}: {key}", "nothing", expected, remedy)
    broadcasts = len(value.shape) <= len(shape) and value.numel() in (1, shape[0])
    if not broadcasts or not bool(torch.isfinite(value).all()):
        raise misfit(f"{processor}: {key}", f"{list(value.shape)} numbers, or NaN or infinity", expected, remedy)
    return value.float().reshape(-1, *(1,) * (len(shape) - 1)).expand(shape[0], *(1,) * (len(shape) - 1)).clone()


def _limits(scaling: Scaling, furthest: float, shape: tuple[int, ...]) -> tuple[tuple[float, ...], ...]:
    """Return the least and the largest that an observation may be; of a camera 0 and 1.

    furthest: how far from the middle of what training saw, in units of the normalised number.
    """
    if len(shape) == 3:
        return (0.0,), (1.0,)
    if furthest == float("inf"):
        return ()
    low, width = scaling.low.double(), scaling.width.double()
    ends = ((low + (sign * furthest - scaling.base) * width).tolist() for sign in (-1.0, 1.0))
    return tuple(map(tuple, ends))


def _cameras(config: Mapping[str, Any], shapes: Sequence[tuple[int, ...]], state: Mapping[str, Any]) -> list[nn.Module]:
    """Return what sees the pictures, one for all cameras or one for each, with its weights."""
    weights = without_prefix(parts_of(state)[1], "diffusion.rgb_encoder.")
    if not shapes:
        return []
    resize, crop = (None if config[key] is None else tuple(config[key]) for key in ("resize_shape", "crop_shape"))
    shape, separate = shapes[0], config["use_separate_rgb_encoder_per_camera"]
    sides = resize or shape[1:]
    if crop is not None and any(size > side for size, side in zip(crop, sides, strict=True)):
        raise misfit("crop_shape", list(crop), f"at most the picture's, {list(sides)}")

    def build() -> nn.Module:
        count = config["spatial_softmax_num_keypoints"]
        camera = Camera(shape, resize, crop, config["vision_backbone"], config["use_group_norm"], count)
        return camera

    with torch.device("meta"):
        cameras = nn.ModuleList([build() for _ in range(len(shapes) if separate else 1)])
    assign_weights(cameras if separate else cameras[0], weights, POLICY)
    return list(cameras)


def _network(build: Callable[[], nn.Module], spec: ModelSpec, weights: Mapping[str, Any]) -> nn.Module:
    """Build a network on no device, try it there on a plan's shape, and only then give it its weights.

    Raises BadFileError for sizes that do not go together, and for weights that are not the network's.
    """
    try:
        with torch.no_grad(), torch.device("meta"):
            network = build().eval()
            x_t, t = torch.empty(1, *spec.state_shape), torch.zeros(1, dtype=torch.int64)
            out = network(x_t, t, **{entry.name: torch.empty(1, *entry.shape) for entry in spec.inputs})
    except Exception as exc:  # whatever torch makes of sizes that are not for one another
        raise misfit(
            MODEL, first_line(exc), "sizes that go together, and a horizon that halves at every level"
        ) from exc
    if out.shape != x_t.shape:
        raise misfit("horizon", spec.state_shape[0], "a number that halves evenly at every level")
    assign_weights(network, weights, POLICY)
    return network
