"""What a network is told besides x_t and t, as data: one record an input. NumPy only; knows no runtime and no file.

Whatever feeds a network (denoiser, signature check, tracing, golden vectors, proof) iterates these records.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm_export.errors import UsageError
from ddpm_export.process.rows import is_number

Array = NDArray[Any]
InputTypes = Mapping[str, tuple[np.dtype[Any], list[int]]]  # by name in the graph's order: dtype, shape without batch

KINDS = {"label": "int64", "vector": "float32", "image": "float32", "previous": "float32"}  # and the dtype of each
RESERVED = {"label": "y", "previous": "x_0_prev"}  # the names that belong to a kind
OWN_GUIDANCE = "guidance"  # of a network that guides itself: the scale, a vector of one number, whose none is 1
NO_CLASS = "none"  # as users call it, unless a class has that name
MAX_CLASSES = 4096
MAX_NUMBERS = 2**26


@dataclass(frozen=True)
class Input:
    """Describe an input of a network's graph, beside x_t and t.

    kind: label, an int64 index for each image; vector, (D,) float32; image, (C', H', W') float32; previous, the clean
    image that the evaluation before found, zeros at first, in the state's shape. shape: without the batch, () of a
    label. none: the number that fills it where nothing is said, the index of "no class" of a label; None where it has
    to be given. classes: the names of a label's values, from 0 on.
    """

    name: str
    kind: str
    shape: tuple[int, ...] = ()
    none: float | None = None
    classes: tuple[str, ...] = ()

    @property
    def dtype(self) -> str:
        """Return the dtype of its array."""
        return KINDS[self.kind]

    @property
    def is_given(self) -> bool:
        """Return whether whoever samples says it; the walk feeds a previous, and guidance its own scale."""
        return self.kind != "previous" and self.name != OWN_GUIDANCE

    @property
    def num_labels(self) -> int:
        """Return how many values a label has, "no class" among them."""
        return max(len(self.classes), 0 if self.none is None else int(self.none) + 1)

    def batch_of(self, given: Any, batch: int) -> Array:
        """Return a value for each of `batch` images, (B, *shape), from one for all of them or one for each.

        A label may be given by the name of its class, or none; a vector of one number as that number. Raises UsageError
        for what does not fit.
        """
        return np.ascontiguousarray(np.broadcast_to(self._checked(given, batch), (batch, *self.shape)))

    def cycle_of(self, given: Any) -> Array:
        """Return the values, (K, *shape), that images take in turn, image k number k mod K, from one or several.

        Raises UsageError as `batch_of` does.
        """
        values = self._checked(given, None)
        return values.reshape(-1, *self.shape)

    def name_of(self, label: int) -> str:
        """Return what a label's value is called."""
        return self.classes[label] if label < len(self.classes) else NO_CLASS

    def _checked(self, given: Any, count: int | None) -> Array:
        """Return one value, (*shape), or `count` of them, (count, *shape), in the input's dtype; None for any count."""
        values = self._labels(given) if self.kind == "label" else np.asarray(given)
        if self.shape == (1,) and values.ndim <= 1 and values.shape != (1,):
            values = values[..., None]  # plain numbers for vectors of one
        several = values.shape[:1] if count is None else (count,)
        fits = values.shape in (self.shape, (*several, *self.shape)) and values.size > 0
        if not fits or not np.issubdtype(values.dtype, np.number):
            wanted = str(("K" if count is None else count, *self.shape)).replace("'", "")
            raise UsageError(
                f"Input {self.name!r} must have shape {self.shape} or {wanted}, got {values.dtype} {values.shape}."
            )
        with np.errstate(over="ignore"):
            values = values.astype(self.dtype)
        if not np.isfinite(values).all():
            raise UsageError(f"Input {self.name!r} must be finite in {self.dtype}, got NaN, infinity or beyond.")
        return values

    def _labels(self, given: Any) -> Array:
        several = isinstance(given, (Sequence, np.ndarray)) and not isinstance(given, str) and np.ndim(given) == 1
        labels = np.array([self._label(entry) for entry in given] if several else self._label(given), dtype=np.int64)
        return labels

    def _label(self, given: Any) -> int:
        if isinstance(given, str):
            if given in self.classes:
                return self.classes.index(given)
            if given == NO_CLASS:
                if self.none is None:
                    raise UsageError(f"Input {self.name!r} cannot be none, since the network was always told a class.")
                return int(self.none)
            given = int(given) if given.isascii() and given.isdecimal() and len(given) < 10 else given
        if isinstance(given, (int, np.integer)) and not isinstance(given, bool):
            label = int(given)
            if 0 <= label < len(self.classes) or label == self.none:
                return label
        names = ", ".join(self.classes[:20]) + (", ..." if len(self.classes) > 20 else "")
        raise UsageError(
            f"Input {self.name!r} must be one of {names} or its index from 0 to {len(self.classes) - 1}, "
            f"got {str(given)[:40]!r}."
        )


def bound_inputs(
    inputs: Sequence[Input], given: Mapping[str, Any], batch: int, x_0_before: Array | None = None
) -> dict[str, Array]:
    """Return the arrays of a network's inputs for a batch: what was given, and what stands for nothing.

    x_0_before: (B, C, H, W), for an input of kind previous; None before the first evaluation. Raises
    UsageError for an input that is unknown, missing or does not fit.
    """
    named = {entry.name: entry for entry in inputs if entry.is_given}
    unknown = sorted(set(given) - set(named))
    if unknown:
        raise UsageError(f"The model has no input {unknown[0]!r}; it has {', '.join(named) or 'none'}.")
    values: dict[str, Array] = {}
    for entry in inputs:
        if entry.kind == "previous":
            values[entry.name] = np.zeros((batch, *entry.shape), entry.dtype) if x_0_before is None else x_0_before
        elif entry.name in given:
            values[entry.name] = entry.batch_of(given[entry.name], batch)
        elif entry.none is not None:
            values[entry.name] = np.full((batch, *entry.shape), entry.none, dtype=entry.dtype)
        else:
            raise UsageError(f"Input {entry.name!r}, of kind {entry.kind} and shape {entry.shape}, must be given.")
    return values


def json_from_input(entry: Input) -> dict[str, Any]:
    """Return an input as JSON values; classes only where it has any."""
    values = {"name": entry.name, "kind": entry.kind, "shape": list(entry.shape), "none": entry.none}
    return {**values, "classes": list(entry.classes)} if entry.classes else values


def input_from_json(values: Any) -> Input:
    """Read an input of a file. Raises ValueError, which says what is wrong; `check_input` has the rules."""
    if not isinstance(values, dict) or not {"name", "kind", "shape", "none"} <= set(values):
        raise ValueError("an input must be an object with name, kind, shape and none")
    shape, classes = values["shape"], values.get("classes", [])
    if not isinstance(shape, list) or not isinstance(classes, list):
        raise ValueError("shape and classes of an input must be lists")
    return Input(values["name"], values["kind"], tuple(shape), values["none"], tuple(classes))


def check_input(entry: Input, state_shape: tuple[int, int, int]) -> None:
    """Raise ValueError, which says what is wrong, unless the input can be fed."""
    if not (isinstance(entry.name, str) and entry.name.isascii() and entry.name.isidentifier()) or entry.name in (
        "x_t",
        "t",
    ):
        raise ValueError(f"an input's name must be an identifier other than x_t and t, not {str(entry.name)[:40]!r}")
    where = f"input {entry.name[:40]!r}"
    if not isinstance(entry.kind, str) or entry.kind not in KINDS:  # what cannot be hashed is none either
        raise ValueError(f"the kind of {where} must be one of {', '.join(KINDS)}, not {str(entry.kind)[:40]!r}")
    for kind, name in RESERVED.items():
        if (entry.name == name) != (entry.kind == kind):
            raise ValueError(f"the name {name} is kept for the kind {kind}, and the only one that it may have")
    if entry.name == OWN_GUIDANCE and (entry.kind, entry.shape, entry.none) != ("vector", (1,), 1):
        raise ValueError(f"{where} must be a vector of one number, whose none is 1")
    if not all(type(size) is int and size > 0 for size in entry.shape) or math.prod(entry.shape) > MAX_NUMBERS:
        raise ValueError(f"the shape of {where} must be positive integers with a product of at most {MAX_NUMBERS}")
    dimensions = {"label": 0, "vector": 1, "image": 3, "previous": 3}[entry.kind]
    if len(entry.shape) != dimensions or (entry.kind == "previous" and entry.shape != state_shape):
        raise ValueError(f"the shape of {where}, a {entry.kind}, does not fit it: {list(entry.shape)}")
    if entry.kind == "label":
        if not 1 <= len(entry.classes) <= MAX_CLASSES or not all(type(name) is str for name in entry.classes):
            raise ValueError(f"the classes of {where} must be 1 to {MAX_CLASSES} names")
        if len(set(entry.classes)) < len(entry.classes):
            raise ValueError(f"the classes of {where} must have different names")
        if entry.none is not None and not (type(entry.none) is int and 0 <= entry.none <= len(entry.classes)):
            raise ValueError(f"none of {where} must be null or an index from 0 to {len(entry.classes)}")
    elif entry.classes:
        raise ValueError(f"only a label has classes, {where} is a {entry.kind}")
    elif entry.none is not None and not is_number(entry.none):
        raise ValueError(f"none of {where} must be null or a finite number")


def checked_inputs(types: InputTypes, x_t: Array, t: Array, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return all inputs by name, contiguous, in the graph's order; types: what `ModelSpec.input_types` says.

    Raises UsageError for one that is missing, that the spec does not have, or that has another shape or dtype.
    """
    given = {"x_t": x_t, "t": t, **inputs}
    for name in given:
        if name not in types:
            raise UsageError(f"{name}: not an input of the network. It takes {', '.join(types)}.")
    feeds = {}
    for name, (dtype, shape) in types.items():
        if name not in given:
            raise UsageError(f"{name}: missing. The network takes {', '.join(types)}.")
        values, expected = np.asarray(given[name]), (len(x_t), *shape)
        if values.shape != expected or values.dtype != dtype:
            raise UsageError(
                f"{name} must be {dtype.name} of shape {expected}, got {values.dtype.name} of shape {values.shape}."
            )
        feeds[name] = np.ascontiguousarray(values)
    return feeds
