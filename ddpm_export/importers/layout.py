"""What every importer shares: what was found, what is made of it, options, weights that must fit. Knows no layout."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ddpm_export.errors import BadFileError, UsageError, several, shown
from ddpm_export.model.inputs import MAX_CLASSES, Input
from ddpm_export.model.spec import ModelSpec


@dataclass(frozen=True)
class Found:
    """Hold what lies at a path, read without running any of it.

    name: of the file or folder, for people. contents: tensors and plain values as they were saved, in nested dicts.
    config: the JSON objects beside the weights in a folder, {} for a file.
    """

    name: str
    contents: Mapping[str, Any]
    config: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def keys(self) -> frozenset[str]:
        """Return the dotted name of every tensor, such as `ema.shadow.in_conv.weight`."""
        return frozenset(_tensor_names(self.contents, ""))


@dataclass(frozen=True)
class Imported:
    """Hold a network with its weights and its spec.

    network: an nn.Module from (x_t (B, C, H, W) float32, t (B,) int64, the spec's inputs by name) to the prediction
    that the spec names, or to (prediction, variance_fraction) where the spec requires the latter. source: what the
    importer adds to the spec's. notes: sentences that the user should read, such as what of the original's sampling is
    not in the file. stepping: (spec, numbers of steps or None for the usual one) -> the spec with the steps that the
    project itself makes of them; None for projects whose steps are those of our samplers.
    """

    network: nn.Module
    spec: ModelSpec
    source: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    stepping: Callable[[ModelSpec, Sequence[int] | None], ModelSpec] | None = None


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


def read_options(options: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the known options, by their defaults where the user gave none.

    The type of a default says what fits: a bool, an int, a number, text, a tuple for a list of ints; None for anything.
    Raises UsageError for an option that is not known here and for a value of another type.
    """
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UsageError(
            f"--set has no {several(unknown)} for this checkpoint, which knows "
            f"{several(known, len(known)) or 'none at all'}."
        )
    chosen = dict(known)
    for name, value in options.items():
        default = known[name]
        if isinstance(default, tuple):
            fits = isinstance(value, (list, tuple)) and all(type(item) is int for item in value)
            value = tuple(value) if fits else value
        elif type(default) is float:
            fits = type(value) in (int, float)
        else:
            fits = default is None or type(value) is type(default)
        if not fits:
            raise UsageError(f"--set {name} must be a value like {default!r}, got {shown(value)}.")
        chosen[name] = value
    return chosen


def ask_for(examples: Mapping[str, Any]) -> UsageError:
    """Return the error that asks for what a checkpoint does not say: option name -> an example of its value."""
    wanted = " ".join(f"--set {name}={value}" for name, value in examples.items())
    return UsageError(f"The checkpoint does not say its {several(examples, len(examples))}. Add, for example, {wanted}")


def label_of(count: int, where: str, names: Any, *, none: int | None = None) -> Input:
    """Return the input y of a network that has `count` classes by the tensor at `where`.

    names: those of the classes, a list or text with commas, as the option `classes` says them; None for their numbers.
    none: the index of "no class". Raises BadFileError for more classes than a spec may have, UsageError for names of
    another number and for two that are equal.
    """
    if not 1 <= count <= MAX_CLASSES:
        raise misfit(where, f"{count} classes", f"1 to {MAX_CLASSES}")
    given = names.split(",") if isinstance(names, str) else names
    classes = [str(k) for k in range(count)] if given is None else given
    fits = isinstance(classes, (list, tuple)) and all(isinstance(name, str) for name in classes)
    if not fits or len(classes) != count or len(set(classes)) != count:
        raise UsageError(f"--set classes must be {count} different names, got {shown(names)}.")
    return Input("y", "label", none=none, classes=tuple(classes))


def without_prefix(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the entries whose names begin with a prefix, by the rest of their names."""
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}


def assign_weights(network: nn.Module, state: Any, where: str) -> None:
    """Give a network, which may be on the meta device, exactly these weights, float32 and contiguous.

    Raises BadFileError, naming the first, for names or shapes that are missing, left over or other than the network's,
    and for tensors that are no floats or claim more than their file holds.
    """
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise misfit(where, type(state).__name__, "a state dict of tensors")
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    got = {key: tuple(value.shape) for key, value in state.items()}
    wrong = sorted(str(key) for key in expected.keys() | got.keys() if expected.get(key) != got.get(key))
    if wrong:
        shapes = f"{wrong[0]} {got.get(wrong[0], 'missing')}"
        raise misfit(
            where, f"{shapes} ({len(wrong)} such)", f"{expected.get(wrong[0], 'nothing of that name')} by its config"
        )
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
    # contiguous: training may have left them channels_last, and the same weights shall give the same files
    plain = {key: value.detach().float().contiguous() for key, value in state.items()}
    network.load_state_dict(plain, assign=True)


def misfit(where: str, got: Any, expected: str, do: str = "save it again") -> BadFileError:
    """Return the error for something in a checkpoint that does not fit, and what to do about it."""
    text = shown(got, 120)[1:-1] if isinstance(got, str) else shown(got, 120)
    return BadFileError(
        f"the checkpoint's {where} does not fit: got {text}, expected {expected}. {do[:1].upper()}{do[1:]}."
    )
