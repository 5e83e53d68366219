"""Checkpoints of OpenAI's improved- and guided-diffusion: a bare state dict, and the flags of their scripts.

Both projects give their weights the same names. What follows from shapes is read off them. Trusts nothing in a file.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ddpm_export.importers import choices
from ddpm_export.importers.layout import (
    MAX_SIZE,
    Found,
    Imported,
    built,
    label_of,
    misfit,
    shape_of,
    spec_of,
    uneven_times,
    without_prefix,
)
from ddpm_export.importers.loops import TABLEAUS, flow_loop, with_loops
from ddpm_export.importers.openai_unet import GROUPS, UNet, UNetConfig
from ddpm_export.importers.path_network import wrapped
from ddpm_export.importers.paths import Path, path_from_options
from ddpm_export.model.inputs import Input
from ddpm_export.model.spec import Defaults, ModelSpec
from ddpm_export.process.schedules import alphas_cumprod_from_betas, betas_from_name

# the defaults are those of the projects, and hold where both agree
SHAPE_FLAGS = {  # they follow from the weights: a user who gives them has to agree
    "num_channels": choices.like(128),
    "num_res_blocks": choices.like(2),
    "channel_mult": choices.like(""),
    "attention_resolutions": choices.like(""),
    "class_cond": choices.like(False),
    "use_scale_shift_norm": choices.like(True),
    "resblock_updown": choices.like(False),
    "learn_sigma": choices.like(False),
}
FLAGS: dict[str, choices.Option] = {
    "num_heads": choices.like(4),
    "num_head_channels": choices.like(-1),
    "num_heads_upsample": choices.like(-1),
    "use_new_attention_order": choices.like(False),
    "diffusion_steps": choices.within(1, choices.MAX_TIMESTEPS, 1000),
    "noise_schedule": choices.one_of(("linear", "cosine"), default="linear"),
    "timestep_respacing": choices.like(""),
    "predict_xstart": choices.like(False),
    "rescale_timesteps": choices.like(False),
    "sigma_small": choices.like(False),
    "use_ddim": choices.like(False),
    "clip_denoised": choices.like(True),
    "use_fp16": choices.like(False),
    "classes": choices.like(None),  # ours: the names of the classes
}
FLOW_FLAGS = {"solver": choices.one_of(TABLEAUS, default="euler")}  # ours, of a velocity
OF_BETAS = {"noise_schedule": None, "diffusion_steps": 1000}  # what a velocity has none of
SIZES = {"large_size": choices.like(256), "small_size": choices.like(64)}  # of super-resolution, in place of image_size
# what matters only for training, and what names files and batches
IGNORED = (
    *("dropout", "use_checkpoint", "use_kl", "rescale_learned_sigmas", "data_dir", "schedule_sampler", "lr"),
    *("weight_decay", "lr_anneal_steps", "batch_size", "microbatch", "ema_rate", "log_interval", "save_interval"),
    *("resume_checkpoint", "fp16_scale_growth", "model_path", "num_samples"),
)
SIGNS = ("time_embed.0.weight", "input_blocks.0.0.weight", "middle_block.0.in_layers.0.weight", "out.0.weight")
FIRST_WEIGHTS = ("weight", "in_layers.2.weight", "op.weight")  # of what an input block can begin with
WORDS = {
    **dict.fromkeys(("yes", "true", "t", "y", "1"), True),
    **dict.fromkeys(("no", "false", "f", "n", "0"), False),
}


def signs(found: Found) -> dict[str, bool]:
    """Return what the layout is known by, and whether it is there."""
    return {name: name in _state(found.contents, "ema") for name in SIGNS}


def _state(contents: Mapping[str, Any], weights: str) -> Mapping[str, Any]:
    """Return the weights of a file: its own, or those by the name that torchcfm's examples give them."""
    state = contents.get("ema_model" if weights == "ema" else "net_model", contents)
    if not isinstance(state, Mapping):
        return {}
    is_parallel = all(str(key).startswith("module.") for key in state)
    return without_prefix(state, "module.") if is_parallel else state


def load(found: Found, weights: str, options: Mapping[str, Any]) -> Imported:
    """Return the network, its spec, and the flags that made them. weights: the file's own, whichever are asked for.

    Raises BadFileError for weights that are no such network; UsageError for flags that are missing, unknown or
    contradict the weights.
    """
    path, options = path_from_options(options)
    state = _state(found.contents, weights)
    config = config_from_state(state)
    sizes = SIZES if config.is_super_resolution else {"image_size": choices.like(64)}
    known = {**SHAPE_FLAGS, **sizes, **FLAGS, **({} if path is None else FLOW_FLAGS)}
    stated = {name: _typed(value, known[name]) if name in known else value for name, value in options.items()}
    flags = choices.read_options(stated, {**known, **dict.fromkeys(IGNORED, choices.like(None))})
    _ask(stated if path is None else {**OF_BETAS, **stated}, sizes)
    size_flag = next(iter(sizes))
    T, image_size = flags["diffusion_steps"], flags[size_flag]
    choices.check_size(size_flag, image_size, 2 ** (len(config.widths) - 1))
    inputs = _inputs(config, flags)
    flags.update(_shape_flags(config, stated, image_size))
    own = {f.name: flags[f.name] for f in dataclasses.fields(config) if f.name in FLAGS}
    scale = 1000.0 / T if flags["rescale_timesteps"] else 1.0
    config = dataclasses.replace(config, **own, time_scale=scale)
    _check_heads(config)
    if path is not None:
        return _of_flow(found, path, config, state, flags, inputs)
    notes = _notes(flags, stated)
    spec = spec_of(
        found,
        prediction="x_0" if flags["predict_xstart"] else "eps",
        state_shape=(config.image_channels, image_size, image_size),
        alphas_cumprod=_alphas_cumprod(flags["noise_schedule"], T),
        clip_x_0=1.0 if flags["clip_denoised"] else None,
        variance="learned" if config.learn_sigma else "fixed_small" if flags["sigma_small"] else "fixed_large",
        defaults=_defaults(flags, stated, T),
        inputs=inputs,
    )
    network = built(lambda: UNet(config), state, "weights")
    if flags["use_fp16"]:
        notes.append("use_fp16: the original computes in half precision, this network in single precision")
    named = "raw" if re.match(r"model\d", found.name) else "ema" if found.name.startswith("ema_") else weights
    if named != weights:
        notes.append(
            f"{found.name}: {named} weights by its name; averaged ones are saved as ema_*.pt, raw as model*.pt"
        )
    source = {"flags": {name: flags[name] for name in known if name != "classes"}}
    return Imported(network, spec, source, tuple(notes))


def _of_flow(
    found: Found,
    path: Path,
    config: UNetConfig,
    state: Mapping[str, Any],
    flags: Mapping[str, Any],
    inputs: tuple[Input, ...],
) -> Imported:
    """Return such a network as torchcfm trains it: a velocity, with the steps of a solver on an even grid."""
    if path.name != "flow" or config.learn_sigma:
        got = "learn_sigma" if path.name == "flow" else path.name
        raise misfit("weights.out.2.weight", got, "a velocity, of path=flow", "Adopt it as a class of your own")
    size = flags["image_size"]
    spec = spec_of(
        found,
        prediction=path.form.prediction,
        state_shape=(config.image_channels, size, size),
        alphas_cumprod=path.alphas_cumprod(1000),
        clip_x_0=None,
        defaults=Defaults("ddim", 50, 0.0),
        inputs=inputs,
    )

    def stepping(spec: ModelSpec, counts: Sequence[int] | None) -> ModelSpec:
        loops = {count: flow_loop(flags["solver"], count, path) for count in counts or (spec.defaults.num_steps,)}
        return with_loops(spec, path, flags["solver"], loops)

    network, spec = wrapped(built(lambda: UNet(config), state, "weights"), spec, path)
    return Imported(network, spec, {"path": dataclasses.asdict(path), "solver": flags["solver"]}, (), stepping)


def config_from_state(state: Mapping[str, Any]) -> UNetConfig:
    """Return what follows about the network from the names and shapes of its weights.

    Raises BadFileError for weights of another kind of network.
    """

    def shape(key: str, num_dims: int) -> tuple[int, ...]:
        return shape_of(state, "weights", key, num_dims)

    if not any(str(key).startswith("output_blocks.") for key in state):
        raise misfit(
            "output_blocks", "none, as in a classifier", "those of a network that denoises", "Use another file"
        )
    image_channels, channels_out = shape("input_blocks.0.0.weight", 4)[1], shape("out.2.weight", 4)[0]
    is_super_resolution = image_channels == 6 and channels_out in (3, 6)
    if is_super_resolution:
        image_channels = 3
    if channels_out not in (image_channels, 2 * image_channels):
        expected = f"as many as in or twice as many, {image_channels} or {2 * image_channels}"
        raise misfit("weights.out.2.weight", f"{channels_out} channels", expected)
    # a block that halves or doubles is a residual block, or a convolution, or has no weights at all
    num_blocks = sum(f"output_blocks.{k}.0.in_layers.2.weight" in state for k in range(len(state)))
    residual = [key for key in state if re.match(r"output_blocks\.\d+\.[12]\.in_layers\.2\.weight$", str(key))]
    convs = [key for key in state if re.match(r"input_blocks\.\d+\.0\.op\.weight$", str(key))]
    without = [k for k in range(num_blocks) if not {f"input_blocks.{k}.0.{n}" for n in FIRST_WEIGHTS} & state.keys()]
    levels = 1 + len(residual or convs or without)
    if num_blocks % levels:
        raise misfit("weights.output_blocks", f"{num_blocks} blocks on {levels} levels", "as many on each")
    firsts = [f"input_blocks.{1 + level * num_blocks // levels}" for level in range(levels)]
    widths = tuple(shape(f"{first}.0.in_layers.2.weight", 4)[0] for first in firsts)
    num_channels = shape("time_embed.0.weight", 2)[1]
    for channels, factor in ((num_channels, 2), *((width, GROUPS) for width in widths)):
        if channels % factor:
            raise misfit("weights", f"{channels} channels", f"a multiple of {factor} up to {MAX_SIZE}")
    return UNetConfig(
        image_channels=image_channels,
        num_channels=num_channels,
        widths=widths,
        num_res_blocks=num_blocks // levels - 1,
        attention=tuple(f"{first}.1.norm.weight" in state for first in firsts),
        use_scale_shift_norm=shape(f"{firsts[0]}.0.emb_layers.1.weight", 2)[0] == 2 * widths[0],
        resblock_updown=bool(residual),
        conv_resample=bool(convs),
        learn_sigma=channels_out == 2 * image_channels,
        num_classes=shape("label_emb.weight", 2)[0] if "label_emb.weight" in state else 0,
        is_super_resolution=is_super_resolution,
    )


def _inputs(config: UNetConfig, flags: Mapping[str, Any]) -> tuple[Input, ...]:
    """Return the network's inputs: a class, which it always needs, and a small image of the size that it was."""
    inputs = []
    if config.num_classes:
        inputs.append(label_of(config.num_classes, "weights.label_emb.weight", flags["classes"]))
    elif flags["classes"] is not None:
        raise choices.misused("classes", "left out for a network without classes", flags["classes"])
    if config.is_super_resolution:
        size = flags["small_size"]
        choices.check_size("small_size", size, 1)
        inputs.append(Input("low_res", "image", (config.image_channels, size, size)))
    return tuple(inputs)


def _typed(value: Any, option: choices.Option) -> Any:
    """Return a flag's value, by the type of its default, from text as the scripts' command lines take it."""
    kind = type(option.default)
    if kind is bool and isinstance(value, str):
        return WORDS.get(value.lower(), value)
    if kind is int and isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,9}", value):
        return int(value)
    if kind is str and type(value) in (int, list, tuple):
        return ",".join(map(str, value)) if not isinstance(value, int) else str(value)
    return value


def _numbers(name: str, text: str) -> list[float]:
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", part) for part in parts):
        raise choices.misused(name, "numbers with commas between them", text)
    return [float(part) for part in parts]


def _ask(stated: Mapping[str, Any], sizes: Mapping[str, choices.Option]) -> None:
    """Raise a UsageError that asks for what follows from no weight and has no default in both projects."""
    asked = {**sizes, **{name: FLAGS[name] for name in ("num_heads", "noise_schedule", "diffusion_steps")}}
    examples = {name: option.default for name, option in asked.items() if name not in stated}
    if stated.get("num_head_channels", -1) != -1:
        examples.pop("num_heads", None)
    # times are rescaled to 1000: by default in improved-diffusion, not in guided-diffusion
    if stated.get("diffusion_steps", 1000) != 1000 and "rescale_timesteps" not in stated:
        examples["rescale_timesteps"] = True
    if examples:
        raise choices.ask_for(examples)


def _shape_flags(config: UNetConfig, stated: Mapping[str, Any], image_size: int) -> dict[str, Any]:
    """Return the flags that follow from the weights; raises UsageError where the user's contradict them."""
    attended = [image_size >> level for level, attends in enumerate(config.attention) if attends]
    facts = {
        "num_channels": config.num_channels,
        "num_res_blocks": config.num_res_blocks,
        "channel_mult": ",".join(f"{width / config.num_channels:g}" for width in config.widths),
        "attention_resolutions": ",".join(map(str, attended)),
        "class_cond": config.num_classes > 0,
        "use_scale_shift_norm": config.use_scale_shift_norm,
        "resblock_updown": config.resblock_updown,
        "learn_sigma": config.learn_sigma,
    }
    agrees = {name: stated.get(name, value) in ("", value) for name, value in facts.items()}
    if stated.get("channel_mult"):
        widths = [int(number * config.num_channels) for number in _numbers("channel_mult", stated["channel_mult"])]
        agrees["channel_mult"] = widths == list(config.widths)
    if stated.get("attention_resolutions"):
        numbers = _numbers("attention_resolutions", stated["attention_resolutions"])
        factors = {image_size // int(number) for number in numbers if number >= 1}
        agrees["attention_resolutions"] = config.attention == tuple(2**k in factors for k in range(len(config.widths)))
    for name, value in facts.items():
        if not agrees[name]:
            raise choices.contradiction(name, value, stated[name])
    return facts


def _check_heads(config: UNetConfig) -> None:
    """Raise a UsageError for a number of heads that does not divide the channels of an attention."""
    attended = [width for width, attends in zip(config.widths, config.attention, strict=True) if attends]
    if config.num_head_channels != -1:
        numbers = {"num_head_channels": config.num_head_channels}
    else:
        numbers = {"num_heads": config.num_heads, "num_heads_upsample": config.num_heads_upsample}
    for name, number in numbers.items():
        for width in (*attended, config.widths[-1]):
            is_same = name == "num_heads_upsample" and number == -1
            if not is_same and (number < 1 or width % number):
                raise choices.misused(name, f"a divisor of {width} channels", number)


def _alphas_cumprod(schedule: str, T: int) -> tuple[float, ...]:
    # the range of linear is that of 1000 steps, whatever their number (Nichol and Dhariwal 2021, their code)
    scale = 1000.0 / T
    parameters = {"beta_start": scale * 1e-4, "beta_end": scale * 0.02} if schedule == "linear" else {}
    return tuple(alphas_cumprod_from_betas(betas_from_name(schedule, T, **parameters)).tolist())


def _defaults(flags: Mapping[str, Any], stated: Mapping[str, Any], T: int) -> Defaults:
    """Return how the scripts sample: ddpm or ddim, at the times that they keep."""
    text = flags["timestep_respacing"]
    times = _kept_times(text, T) if text else list(range(T - 1, -1, -1))
    use_ddim = flags["use_ddim"] if "use_ddim" in stated else text.startswith("ddim")
    return Defaults("ddim" if use_ddim else "ddpm", len(times), 0.0, uneven_times(times, T))


def _kept_times(text: str, T: int) -> list[int]:
    """Return the times that timestep_respacing keeps, falling.

    ddim50: every k-th from 0, by the k that gives 50. 250, or 10,15,20: so many from each of as many equal parts of
    0..T-1, the first and last time of a part among them, the others evenly between and rounded.
    """
    counts = _numbers("timestep_respacing", text.removeprefix("ddim"))
    if text.startswith("ddim"):
        strides = [range(0, T, stride) for stride in range(1, T + 1)]
        kept = [list(times) for times in strides if [len(times)] == counts]
        if not kept:
            raise choices.misused(
                "timestep_respacing", f"such as ddim50, with a count that some stride of {T} has", text
            )
        return kept[0][::-1]
    parts = [T // len(counts) + (part < T % len(counts)) for part in range(len(counts))]
    if not all(count.is_integer() and 1 <= count <= size for count, size in zip(counts, parts, strict=True)):
        raise choices.misused("timestep_respacing", f"such as 250 or 10,15,20, parts of {T} steps", text)
    times, start = [], 0
    for count, size in zip(map(int, counts), parts, strict=True):
        stride, position = (size - 1) / max(count - 1, 1), 0.0
        for _ in range(count):
            times.append(start + round(position))
            position += stride  # summed, not multiplied: where it rounds matters
        start += size
    return times[::-1]


def _notes(flags: Mapping[str, Any], stated: Mapping[str, Any]) -> list[str]:
    """Return notes on the defaults that were taken."""
    by_default = [name for name in ("use_new_attention_order", "predict_xstart") if name not in stated]
    by_default += [] if flags["learn_sigma"] or "sigma_small" in stated else ["sigma_small"]
    return [f"by default, as in both projects: {name}={FLAGS[name].default}" for name in by_default]
