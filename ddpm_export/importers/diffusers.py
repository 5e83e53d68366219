"""Networks of diffusers, alone or in a pipeline, built by the user's installed package; here its UNets of pictures."""

import inspect
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ddpm_export.errors import first_line
from ddpm_export.importers import diffusers_transformer
from ddpm_export.importers.choices import ask_for, misused
from ddpm_export.importers.diffusers_autoencoder import latents_of
from ddpm_export.importers.diffusers_parts import fill_constants, free_the_batch, import_diffusers
from ddpm_export.importers.diffusers_scheduler import read_schedule, with_stepping
from ddpm_export.importers.folders import AUTOENCODERS, CLASSES, INDEX, MODEL, SCHEDULER, read_json
from ddpm_export.importers.layout import (
    MAX_BLOCKS,
    MAX_LEVELS,
    MAX_SIZE,
    Found,
    Imported,
    assign_weights,
    label_of,
    misfit,
    spec_of,
)
from ddpm_export.importers.path_network import wrapped
from ddpm_export.importers.paths import Path as GaussianPath
from ddpm_export.model.inputs import Input
from ddpm_export.model.spec import ModelSpec
from ddpm_export.process.rows import is_number

# what EMAModel.save_pretrained writes among the options of the network
EMA_ENTRIES = (
    *("decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup", "inv_gamma", "power"),
)
# how versions before 0.15 named the layers of an attention
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def signs(found: Found) -> dict[str, bool]:
    """Return what diffusers' UNets are known by, and whether it is there."""
    config = found.config.get(MODEL, {})
    if config.get("_class_name") == diffusers_transformer.NAME:
        return diffusers_transformer.signs(found)
    names = ("conv_in.weight", "time_embedding.linear_1.weight", "conv_out.weight")
    return {
        f"{MODEL} beside the weights (name the folder, not a file in it)": bool(config),
        f"_class_name {' or '.join(CLASSES[:2])} in {MODEL}": config.get("_class_name") in CLASSES[:2],
        **{name: name in found.keys for name in names},
    }


def load(found: Found, weights: str, options: Mapping[str, Any]) -> Imported:
    """Return the network with the weights of a folder, whichever are asked for, and what follows from its scheduler.

    options: `sample_size` where the configuration has none; `scheduler`, the path of a scheduler_config.json or its
    folder; any entry of that file, `_class_name` too, to replace it; `eta` and `use_clipped_model_output`, which a
    pipeline passes to every step of its scheduler; `classes`, the names of a label's values, and `none`, the one of
    them, or the number, that training took for no class; `tokens`, how many vectors a UNet2DConditionModel attends to.
    """
    if found.config[MODEL].get("_class_name") == diffusers_transformer.NAME:
        return diffusers_transformer.load(found, weights, options)
    package = import_diffusers()
    for name, part in found.config.get(INDEX, {}).items():
        parts = ("unet", "scheduler", *(AUTOENCODERS if found.autoencoder is not None else ()))
        if name[:1] != "_" and name not in parts and part not in (None, [None, None]):
            raise misfit(f"{INDEX}.{name}", part, "a pipeline of a unet, a scheduler and perhaps a vae or vqvae")
    config = _network_config(package, found.config[MODEL])
    ours = {
        name: options[name] for name in ("sample_size", "scheduler", "classes", "none", "tokens") if name in options
    }
    entries = {name: value for name, value in options.items() if name not in ours}
    scheduler = _scheduler_config(ours["scheduler"]) if "scheduler" in ours else found.config.get(SCHEDULER, {})
    sample_size = ours.get("sample_size", config["sample_size"])
    asked: dict[str, Any] = {} if sample_size is not None else {"sample_size": 32}
    attends = "cross_attention_dim" in config and any("CrossAttn" in str(name) for name in config["down_block_types"])
    if attends and "tokens" not in ours:
        asked["tokens"] = 1
    if "_class_name" not in {*scheduler, *entries}:
        asked |= {"_class_name": "DDPMScheduler"} if entries else {"scheduler": f"scheduler/{SCHEDULER}"}
    if asked:
        raise ask_for(asked)

    schedule = read_schedule(package, scheduler, entries)
    is_learned = schedule.variance == "learned"
    taken, outputs = config["in_channels"], config["out_channels"]
    channels, rest = divmod(outputs, 1 + is_learned)
    if rest or not 0 < channels <= taken:
        raise misfit(
            "out_channels",
            f"{outputs} with variance_type {schedule.source['scheduler'].get('variance_type', 'none')}",
            f"in_channels, {taken}, or fewer for a picture behind x_t, or twice that with learned_range",
        )
    shape = (channels, *_height_and_width(sample_size, "sample_size" in ours))
    latents = None if found.autoencoder is None else latents_of(package, *found.autoencoder, shape)
    of_latents: dict[str, Any] = {} if latents is None else {"stages": latents.stages, "units": latents.units}
    spec = spec_of(
        found,
        prediction=schedule.prediction,
        state_shape=shape,
        **of_latents,
        alphas_cumprod=schedule.alphas_cumprod,
        clip_x_0=schedule.clip_x_0,
        variance=schedule.variance,
        defaults=schedule.defaults,
        inputs=(
            *_inputs(config, ours.get("classes"), ours.get("none")),
            *_picture(taken - channels, shape),
            *_context(config, ours.get("tokens"), attends),
        ),
    )
    _check_fourier(config, schedule.path)
    network = _network(package, found.config[MODEL]["_class_name"], config, spec, found.contents)
    counts_t = config["time_embedding_type"] == "learned"  # of UNet2DModel alone

    def stepping(spec: ModelSpec, counts: Sequence[int] | None) -> ModelSpec:
        return with_stepping(spec, schedule, counts or (spec.defaults.num_steps,), counts_t=counts_t)

    stages = {} if latents is None else latents.networks
    for stage in stages.values():
        free_the_batch(stage)
    unet, spec = wrapped(UNet2D(network, channels, is_learned), spec, schedule.path)
    return Imported(unet, spec, schedule.source, schedule.notes, stepping, stages)


class UNet2D(nn.Module):
    """A UNet2DModel as a function of x_t, t and a class; learned variances become a fraction."""

    def __init__(self, network: Any, channels: int, is_learned: bool) -> None:
        super().__init__()
        self.network = network
        self.labels_are_times = network.config.class_embed_type == "timestep"
        self.context_size: int = getattr(network.config, "cross_attention_dim", 0)
        self.channels = channels
        self.is_learned = is_learned

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        y: Tensor | None = None,
        class_labels: Tensor | None = None,
        low_res: Tensor | None = None,
        context: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Predict: x_t (B, C, H, W) float32 and t (B,) -> the shape of x_t, twice where variances are learned.

        y: classes (B,) int64; class_labels: (B, 1) numbers to be embedded as times are, or (B, D) embeddings; low_res:
        a picture (B, C', H, W) whose channels the network takes behind those of x_t; context: (B, tokens x D), the
        vectors that a UNet2DConditionModel attends to, one after another.
        """
        attended = (context,) if self.context_size else ()
        if context is not None:
            attended = (context.reshape(context.shape[0], -1, self.context_size),)
        x_t = x_t if low_res is None else torch.cat([x_t, low_res], dim=1)
        if class_labels is not None and self.labels_are_times:
            class_labels = class_labels[:, 0]
        out: Tensor = self.network(x_t, t, *attended, class_labels=class_labels if y is None else y, return_dict=False)[
            0
        ]
        if not self.is_learned:
            return out
        return out[:, : self.channels], (out[:, self.channels :] + 1.0) / 2.0


def _scheduler_config(path: Any) -> dict[str, Any]:
    if not isinstance(path, str):
        raise misused("scheduler", f"the path of a {SCHEDULER}", path)
    place = Path(path)
    return read_json(place / SCHEDULER if place.is_dir() else place)


def _network_config(package: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a network, by their defaults where the file has none.

    What UNet2DModel does not know, what cannot be exported, and immense sizes are refused by name.
    """
    name = str(config["_class_name"])
    values = {key: p.default for key, p in inspect.signature(getattr(package, name)).parameters.items()}
    stated = {key: value for key, value in config.items() if key[:1] != "_" and key not in EMA_ENTRIES}
    unknown = sorted(stated.keys() - values.keys())
    if unknown:
        raise misfit(MODEL, f"unknown {unknown[:5]!r}", f"options of {name} of diffusers {package.__version__}")
    values.update(stated)
    if values["class_embed_type"] not in (None, "timestep", "identity"):  # diffusers would leave it out, silently
        raise misfit("class_embed_type", values["class_embed_type"], "null, timestep or identity")
    for key, value in values.items():
        items = value if isinstance(value, (list, tuple)) else [value]
        limit = MAX_BLOCKS if key == "layers_per_block" else MAX_SIZE
        if len(items) > MAX_LEVELS or any(isinstance(n, (int, float)) and not 0 <= n <= limit for n in items):
            raise misfit(key, value, f"at most {MAX_LEVELS} numbers from 0 to {limit}")
        if key in ("in_channels", "out_channels") and type(value) is not int:
            raise misfit(key, value, "a count of channels")
    return values


def _check_fourier(config: Mapping[str, Any], path: GaussianPath | None) -> None:
    """Raise BadFileError where a network that takes the logarithm of its time is told one of 0 or less."""
    is_positive = path is not None and float(path.tables(path.alphas_cumprod(2))[0].min()) > 0.0
    if config["time_embedding_type"] == "fourier" and not is_positive:
        remedy = "Use a scheduler whose times are above 0, such as FlowMatchEulerDiscreteScheduler"
        raise misfit("time_embedding_type", "fourier", "positional or learned, where a time may be 0 or less", remedy)


def _inputs(config: Mapping[str, Any], classes: Any, none: Any) -> tuple[Input, ...]:
    """Return the input for a class: a label, or the vector class_labels; none for a network without classes."""
    kind, count = config["class_embed_type"], config["num_class_embeds"]
    if kind == "timestep" and config["time_embedding_type"] == "learned":  # the embedding of times, which are indices
        return (_label("num_train_timesteps", config["num_train_timesteps"], classes, none),)
    if kind is None and count is not None:
        return (_label("num_class_embeds", count, classes, none),)
    if classes is not None:
        raise misused("classes", "left out for a network without labels", classes)
    if none is not None and (kind is None or not is_number(none)):
        raise misused("none", "left out for a network without classes" if kind is None else "a number", none)
    if kind is None:
        return ()
    return (Input("class_labels", "vector", (1 if kind == "timestep" else _embedding_size(config),), none=none),)


def _picture(channels: int, shape: tuple[int, ...]) -> tuple[Input, ...]:
    """Return the input for a picture behind x_t, as that of LDMSuperResolutionPipeline."""
    return (Input("low_res", "image", (channels, *shape[1:])),) if channels else ()


def _context(config: Mapping[str, Any], tokens: Any, attends: bool) -> tuple[Input, ...]:
    """Return the input for the vectors that a UNet2DConditionModel attends to; none where it attends to nothing."""
    if not attends:
        if tokens is not None:
            raise misused("tokens", "left out for a network that attends to no vectors", tokens)
        return ()
    size = config["cross_attention_dim"]
    if type(tokens) is not int or type(size) is not int or not 1 <= tokens * size <= MAX_SIZE:
        raise misused("tokens", f"an integer from 1 to {MAX_SIZE} / cross_attention_dim, {size}", tokens)
    return (Input("context", "vector", (tokens * size,)),)


def _embedding_size(config: Mapping[str, Any]) -> int:
    """Return how many numbers the time is embedded in."""
    size, widths = config["time_embedding_dim"], config["block_out_channels"]
    if not size and isinstance(widths, (list, tuple)) and widths and type(widths[0]) is int:
        size = 4 * widths[0]
    if type(size) is not int or not 1 <= size <= 4 * MAX_SIZE:
        raise misfit("time_embedding_dim", size, "a count of channels, or block_out_channels to derive it from")
    return size


def _label(key: str, count: Any, classes: Any, none: Any) -> Input:
    if type(count) is not int:
        raise misfit(key, count, "a count of classes")
    if none is not None and not (type(none) is int and 0 <= none < count):
        raise misused("none", f"an index below {key}, {count}", none)
    return label_of(count - (none == count - 1), key, classes, none=none)  # the last index needs no name of its own


def _height_and_width(sample_size: Any, is_option: bool) -> tuple[int, int]:
    sides = sample_size if isinstance(sample_size, (list, tuple)) else [sample_size] * 2
    if len(sides) == 2 and all(type(side) is int and 1 <= side <= MAX_SIZE for side in sides):
        return sides[0], sides[1]
    if is_option:
        raise misused("sample_size", "a size such as 32 or [32,48]", sample_size)
    raise misfit("sample_size", sample_size, "a size such as 32, or a height and a width")


def _network(
    package: Any, name: str, config: Mapping[str, Any], spec: ModelSpec, state: Mapping[str, Any]
) -> nn.Module:
    """Build the network on no device, try it there on the image's shape, and only then give it its weights."""
    channels, height, width = spec.state_shape
    kind = getattr(package, name)
    try:
        with warnings.catch_warnings(), torch.no_grad(), torch.device("meta"):
            warnings.simplefilter("ignore")  # the package's, of its own code: not for the user
            network: nn.Module = kind(**config).eval()
            x_t, t = torch.empty(1, channels, height, width), torch.zeros(1, dtype=torch.int64)
            given_inputs = {
                entry.name: torch.zeros(1, *entry.shape, dtype=getattr(torch, entry.dtype)) for entry in spec.inputs
            }
            UNet2D(network, channels, is_learned=False)(x_t, t, **given_inputs)
    except Exception as exc:  # whatever the package makes of options that are not for one another
        expected = f"options that go together, and sides, {height} and {width}, that halve at every level"
        raise misfit(MODEL, first_line(exc), expected) from exc
    times = config.get("num_train_timesteps") or 0
    if config["time_embedding_type"] == "learned" and times < spec.num_train_timesteps:
        raise misfit("num_train_timesteps", times, f"{spec.num_train_timesteps}, as the scheduler says")
    assign_weights(network, dict(_renamed(state)), "weights")
    fill_constants(network, lambda: kind(**config))
    free_the_batch(network)
    return network


def _renamed(state: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the weights by their present names; of two with one meaning the old name stays, and is left over."""
    pattern = re.compile(rf"(.+\.attentions\.\d+\.)({'|'.join(OLD_NAMES)})(\.weight|\.bias)")
    for key, value in state.items():
        match = pattern.fullmatch(str(key))
        new = match[1] + OLD_NAMES[match[2]] + match[3] if match else key
        yield (key if new in state else new), value
