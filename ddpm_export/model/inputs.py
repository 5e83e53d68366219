"""The inputs of a network other than x_t and t, as data: one record an input. NumPy only; knows no runtime and no file.

Whatever feeds a network (denoiser, signature check, tracing, golden vectors, proof) iterates these records.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm_export.errors import UsageError, several
from ddpm_export.model.codec import TEXT, Form, MisfitError, choice, integer, nullable, number, record, rule, tuple_of

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
    """Describe an input of a network's graph other than x_t and t.

    kind: label, an int64 index for each image; vector, (D,) float32; image, (C', H', W') float32; previous, the clean
    image of the evaluation before, zeros at first, in the state's shape. shape: without the batch, () for a label.
    none: the number that fills it where no value is given, for a label the index of "no class"; None where a value is
    required. classes: the names of a label's values, from 0 on. limits: the least and the largest that a user may give,
    each one number or one for each place of the last axis; () for any.
    """

    name: str
    kind: str
    shape: tuple[int, ...] = ()
    none: float | None = None
    classes: tuple[str, ...] = ()
    limits: tuple[tuple[float, ...], ...] = ()

    @property
    def dtype(self) -> str:
        """Return the dtype of its array."""
        return KINDS[self.kind]

    @property
    def is_given(self) -> bool:
        """Return whether the caller gives it; the walk feeds a previous, and guidance its own scale."""
        return self.kind != "previous" and self.name != OWN_GUIDANCE

    @property
    def num_labels(self) -> int:
        """Return how many values a label has, "no class" included."""
        return max(len(self.classes), 0 if self.none is None else int(self.none) + 1)

    def batch_of(self, given: Any, batch: int) -> Array:
        """Return a value for each of `batch` images, (B, *shape), from one for all of them or one for each.

        A label may be given by its class's name, or none; a vector of one number as that number. Raises UsageError for
        values that do not fit.
        """
        return np.ascontiguousarray(np.broadcast_to(self._checked(given, batch), (batch, *self.shape)))

    def cycle_of(self, given: Any) -> Array:
        """Return the values, (K, *shape), that images take in turn, image k value k mod K, from one or several.

        Raises UsageError as `batch_of` does.
        """
        return self._checked(given, None).reshape(-1, *self.shape)

    def check_limits(self, values: Array) -> None:
        """Raise UsageError for values (K, *shape) beyond the limits, which are far outside of what training saw."""
        if not self.limits:
            return
        low, high = (np.broadcast_to(np.array(numbers), values.shape) for numbers in self.limits)
        beyond = np.argwhere((values < low) | (values > high))
        if len(beyond):
            at = tuple(beyond[0])
            raise UsageError(
                f"Input {self.name!r} must be from {low[at]:g} to {high[at]:g} at {list(map(int, at[1:]))}, got "
                f"{values[at]:g}. What the network was trained on lies well within that."
            )

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
        return np.array([self._label(entry) for entry in given] if several else self._label(given), dtype=np.int64)

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
        names, last = several(self.classes, 20), len(self.classes) - 1
        raise UsageError(
            f"Input {self.name!r} must be one of {names} or its index from 0 to {last}, got {str(given)[:40]!r}."
        )


def bound_inputs(
    inputs: Sequence[Input], given: Mapping[str, Any], batch: int, x_0_before: Array | None = None
) -> dict[str, Array]:
    """Return the arrays of a network's inputs for a batch: values given, and `none` for those that are not.

    x_0_before: (B, *state_shape), for an input of kind previous; None before the first evaluation. Raises UsageError
    for an input that is unknown, missing or does not fit.
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
    """Return an input as JSON values; classes and limits only where it has any."""
    values = {"name": entry.name, "kind": entry.kind, "shape": list(entry.shape), "none": entry.none}
    lists = {"classes": list(entry.classes), "limits": [list(numbers) for numbers in entry.limits]}
    return {**values, **{name: value for name, value in lists.items() if value}}


def _can_be_a_name(value: Any) -> bool:
    if not isinstance(value, str) or value in ("x_t", "t"):
        return False
    return value.isascii() and all(part.isidentifier() for part in value.split("."))


INPUT: Form = record(
    {
        "name": rule(_can_be_a_name, "an identifier, or several with dots between, other than x_t and t"),
        "kind": choice(tuple(KINDS)),
        "shape": tuple_of(integer(1, MAX_NUMBERS)),
        "none": nullable(number()),
    },
    {"classes": tuple_of(TEXT), "limits": tuple_of(tuple_of(number(), 1, MAX_NUMBERS), 0, 2)},
    into=Input,
)


def input_form(state_shape: tuple[int, ...]) -> Form:
    """Return the form of an input that can be fed to a network whose states have that shape."""

    def read(value: Any, place: str) -> Input:
        entry: Input = INPUT(value, place)
        kind, shape, classes, none = entry.kind, entry.shape, entry.classes, entry.none

        def require(fits: bool, name: str, expected: str) -> None:
            if not fits:
                raise MisfitError(f"{place}.{name}", expected, getattr(entry, name))

        for owner, name in RESERVED.items():
            require((entry.name == name) == (kind == owner), "name", f"{name} for the kind {owner}, and for no other")
        is_scale = (kind, shape, none) == ("vector", (1,), 1)
        require(is_scale or entry.name != OWN_GUIDANCE, "name", "of a vector of one number, whose none is 1")
        require(math.prod(shape) <= MAX_NUMBERS, "shape", f"of at most {MAX_NUMBERS} numbers")
        dimensions = {"label": 0, "vector": 1, "image": 3}.get(kind, len(state_shape))
        fits = len(shape) == dimensions or (kind == "image" and len(state_shape) != 3 and 1 <= len(shape) <= 4)
        require(fits, "shape", f"a list of {dimensions} entries for a {kind}")
        require(kind != "previous" or shape == state_shape, "shape", f"{list(state_shape)}, as of the state")
        if kind == "label":
            require(1 <= len(classes) <= MAX_CLASSES, "classes", f"1 to {MAX_CLASSES} names")
            require(len(set(classes)) == len(classes), "classes", "different names")
            is_index = type(none) is int and 0 <= none <= len(classes)
            require(none is None or is_index, "none", f"null or an index from 0 to {len(classes)}")
        ends = {len(numbers) for numbers in entry.limits}
        of_last = len(entry.limits) in (0, 2) and ends <= {1, shape[-1] if shape else 1} and len(ends) < 2
        require(of_last and (kind != "label" or not ends), "limits", "two lists, of one number or the last axis's")
        require(kind == "label" or not classes, "classes", f"absent from a {kind}")
        return entry

    return read


def checked_inputs(types: InputTypes, x_t: Array, t: Array, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return all inputs by name, contiguous, in the graph's order; types: `ModelSpec.input_types`.

    Raises UsageError for an input that is missing, unknown, or of another shape or dtype.
    """
    given = {"x_t": x_t, "t": t, **inputs}
    for name in given:
        if name not in types:
            raise UsageError(f"The model has no input {name!r}; it has {', '.join(types)}.")
    feeds = {}
    for name, (dtype, shape) in types.items():
        if name not in given:
            raise UsageError(f"Input {name!r} is missing; the model has {', '.join(types)}.")
        values, expected = np.asarray(given[name]), (len(x_t), *shape)
        if values.shape != expected or values.dtype != dtype:
            raise UsageError(
                f"{name} must be {dtype.name} of shape {expected}, got {values.dtype.name} of shape {values.shape}."
            )
        feeds[name] = np.ascontiguousarray(values)
    return feeds
