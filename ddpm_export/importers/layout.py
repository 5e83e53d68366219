"""What every importer shares: what was found, what becomes of it, and weights that have to fit. Knows no layout."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ddpm_export.errors import BadFileError, shown
from ddpm_export.importers.choices import misused
from ddpm_export.model.inputs import MAX_CLASSES, Input
from ddpm_export.model.spec import GUIDANCE, INPUTS, SHAPE, STAGED, TIMES, UNITS, Defaults, ModelSpec
from ddpm_export.process.equations import VARIANCE_FRACTION
from ddpm_export.process.schedules import spacing

# bounds that no sensible network meets: every block is an object to build before a weight can be compared
MAX_BLOCKS = 64
MAX_LEVELS = 16
MAX_SIZE = 2**16


@dataclass(frozen=True)
class Found:
    """Hold what lies at a path, read without running any of it.

    name: of the file or folder, for people. contents: tensors and plain values as they were saved, in nested dicts.
    config: the JSON objects beside the weights in a folder, {} for a file. autoencoder: configuration and weights of
    that of a pipeline of latents.
    """

    name: str
    contents: Mapping[str, Any]
    config: Mapping[str, Any] = field(default_factory=dict)
    autoencoder: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None

    @cached_property
    def keys(self) -> frozenset[str]:
        """Return the dotted name of every tensor, such as `ema.shadow.in_conv.weight`."""
        return frozenset(_tensor_names(self.contents, ""))


@dataclass(frozen=True)
class Imported:
    """Hold a network with its weights and its spec.

    network: an nn.Module from (x_t (B, C, H, W) float32, t (B,) int64, the spec's inputs by name) to the prediction
    that the spec names, or to (prediction, variance_fraction) where the spec requires the latter. source: what the
    importer adds to the spec's. notes: sentences for the user, such as what of the original's sampling is not in the
    file. stepping: (spec, numbers of steps or None for the usual one) -> the spec with the project's own steps; None
    for projects that step as our samplers do. stages: the networks of the spec's stages.
    """

    network: nn.Module
    spec: ModelSpec
    source: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    stepping: Callable[[ModelSpec, Sequence[int] | None], ModelSpec] | None = None
    stages: Mapping[str, nn.Module] = field(default_factory=dict)


def _tensor_names(value: Any, prefix: str) -> list[str]:
    if isinstance(value, Tensor):
        return [prefix]
    if not isinstance(value, Mapping):
        return []
    return [
        name
        for key, item in value.items()
        if isinstance(key, str)
        for name in _tensor_names(item, f"{prefix}.{key}" if prefix else key)
    ]


def spec_of(found: Found, *, inputs: tuple[Input, ...] = (), defaults: Defaults, **fields: Any) -> ModelSpec:
    """Return a spec named for what was found, and that requires what its other fields need of a reader."""
    needed = {
        VARIANCE_FRACTION: fields.get("variance") == "learned",
        INPUTS: bool(inputs),
        TIMES: defaults.times is not None,
        GUIDANCE: defaults.guidance is not None,
        STAGED: bool(fields.get("stages")),
        UNITS: fields.get("units") is not None,
        SHAPE: len(fields["state_shape"]) != 3,
    }
    requires = tuple(name for name, is_needed in needed.items() if is_needed)
    return ModelSpec(name=found.name[:200], inputs=inputs, defaults=defaults, requires=requires, **fields)


def uneven_times(times: Sequence[int], T: int) -> tuple[int, ...] | None:
    """Return the times of a sampler; None where they are those that every reader takes for as many steps."""
    return None if list(times) == spacing(T, len(times)).tolist() else tuple(times)


def label_of(count: int, where: str, names: Any, *, none: int | None = None) -> Input:
    """Return the input y of a network that has `count` classes by the tensor at `where`.

    names: those of the classes, a list or text with commas, as the option `classes` gives them; None for their numbers.
    none: the index of "no class". Raises BadFileError for more classes than a spec may have, UsageError for too few or
    too many names and for two that are equal.
    """
    if not 1 <= count <= MAX_CLASSES:
        raise misfit(where, f"{count} classes", f"1 to {MAX_CLASSES}")
    given = names.split(",") if isinstance(names, str) else names
    classes = [str(k) for k in range(count)] if given is None else given
    fits = isinstance(classes, (list, tuple)) and all(isinstance(name, str) for name in classes)
    if not fits or len(classes) != count or len(set(classes)) != count:
        raise misused("classes", f"{count} different names", names)
    return Input("y", "label", none=none, classes=tuple(classes))


def without_prefix(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the entries whose names begin with a prefix, by the rest of their names."""
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}


def shape_of(state: Mapping[str, Any], where: str, key: str, num_dims: int) -> tuple[int, ...]:
    """Return the shape of a weight; raises BadFileError unless it has so many sizes, each from 1 to MAX_SIZE."""
    value = state.get(key)
    sizes = tuple(value.shape) if isinstance(value, Tensor) else ()
    if len(sizes) != num_dims or not all(1 <= size <= MAX_SIZE for size in sizes):
        raise misfit(f"{where}.{key}", sizes or "no tensor", f"{num_dims} sizes from 1 to {MAX_SIZE}")
    return sizes


def built(build: Callable[[], nn.Module], state: Any, where: str) -> nn.Module:
    """Build a network on the meta device, which allocates nothing, and give it its weights."""
    with torch.device("meta"):
        network = build()
    assign_weights(network, state, where)
    return network


def assign_weights(network: nn.Module, state: Any, where: str) -> None:
    """Give a network, which may be on the meta device, exactly these weights, float32 and contiguous.

    Raises BadFileError, naming the first, for names or shapes that are missing, left over or other than the network's,
    and for tensors that are no floats or claim more than their file holds.
    """
    check_dense(state, where)
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    got = {key: tuple(value.shape) for key, value in state.items()}
    wrong = sorted(str(key) for key in expected.keys() | got.keys() if expected.get(key) != got.get(key))
    if wrong:
        shapes = f"{wrong[0]} {got.get(wrong[0], 'missing')}"
        raise misfit(
            where, f"{shapes} ({len(wrong)} such)", f"{expected.get(wrong[0], 'nothing of that name')} by its config"
        )
    # contiguous: training may have left them channels_last, and the same weights shall give the same files
    plain = {key: value.detach().float().contiguous() for key, value in state.items()}
    network.load_state_dict(plain, assign=True)


def check_dense(state: Any, where: str) -> None:
    """Raise BadFileError, naming the first, for tensors that are no floats or claim more than their file holds."""
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise misfit(where, type(state).__name__, "a state dict of tensors")
    for key, value in state.items():
        if value.layout != torch.strided:
            raise misfit(f"{where}.{key}", f"a tensor {value.layout}", "a dense one")
        # a few bytes can claim any shape by strides of 0
        if value.untyped_storage().nbytes() < value.numel() * value.element_size() or not value.is_floating_point():
            raise misfit(
                f"{where}.{key}",
                f"{value.dtype} of {value.untyped_storage().nbytes()} bytes",
                "as many float values as its shape says",
            )


def misfit(where: str, got: Any, expected: str, remedy: str = "Save it again", *fields: str) -> BadFileError:
    """Return the error for something in a checkpoint that does not fit; `fields` are the arguments the remedy names."""
    text = shown(got, 120)[1:-1] if isinstance(got, str) else shown(got, 120)
    return BadFileError(f"the checkpoint's {where} does not fit: got {text}, expected {expected}. {remedy}.", *fields)
