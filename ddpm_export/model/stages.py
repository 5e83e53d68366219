"""Stages: graphs that run once before or after the walk, and the scale of its last state, as data. Opens no file.

docs/format.md section 6 is the contract. Whoever evaluates a network with stages (`runtimes.opened.Network`) has them
from here; what only scales is no graph but `Units`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ddpm_export.model.codec import MisfitError, choice, integer, mapping, nullable, number, record, text, tuple_of
from ddpm_export.model.inputs import Input, input_form, json_from_input
from ddpm_export.process.equations import Array

BEFORE, AFTER, ENCODE = "before", "after", "encode"
STAGES = (BEFORE, AFTER, ENCODE)
RESULTS = ("images", "values")  # what `after` may give
MAX_NUMBERS = 2**26  # in what a stage gives of one image


@dataclass(frozen=True)
class Units:
    """Turn states into what they measure: value = scale x + shift, float32, in this order.

    scale, shift: a number, or one for each place along `axis` of the state's shape.
    """

    scale: tuple[float, ...] = (1.0,)
    shift: tuple[float, ...] = (0.0,)
    axis: int = 0

    def of(self, x: Array) -> Array:
        """Return the values of states (B, *shape), float32."""
        scale, shift = self.factors(x.ndim - 1)
        return np.asarray(scale * x.astype(np.float32) + shift)

    def state_of(self, values: Array) -> Array:
        """Return the states that have these values, float32."""
        scale, shift = self.factors(values.ndim - 1)
        return np.asarray((values.astype(np.float32) - shift) / scale)

    def factors(self, num_dims: int) -> tuple[Array, Array]:
        """Return scale and shift, float32, in a shape that meets states of so many dimensions."""
        shape = (-1, *(1,) * (num_dims - 1 - self.axis))
        scale, shift = (np.array(numbers, np.float32).reshape(shape) for numbers in (self.scale, self.shift))
        return scale, shift


@dataclass(frozen=True)
class Stage:
    """Describe a graph that runs once for each image.

    outputs: what it gives, by name: shapes without the batch. before: inputs of the network. after: images, float32
    (C, H, W) in [-1, 1], or values. encode: x, a state. inputs: what `before` takes of the user; after takes `x`, the
    last state in its units, and encode takes `images`. file, sha256: where it is, beside the denoiser; None within a
    one-call file, or before it is written.
    """

    outputs: Mapping[str, tuple[int, ...]]
    inputs: tuple[Input, ...] = ()
    file: str | None = None
    sha256: str | None = None

    @property
    def result(self) -> str:
        """Return the name of what `after` gives."""
        return next(iter(self.outputs))


def json_from_stage(stage: Stage) -> dict[str, Any]:
    """Return a stage as JSON values."""
    values: dict[str, Any] = {"outputs": {name: list(shape) for name, shape in stage.outputs.items()}}
    if stage.inputs:
        values["inputs"] = [json_from_input(entry) for entry in stage.inputs]
    return values | {name: getattr(stage, name) for name in ("file", "sha256") if getattr(stage, name) is not None}


def json_from_units(units: Units) -> dict[str, Any]:
    """Return units as JSON values."""
    return {"scale": list(units.scale), "shift": list(units.shift), "axis": units.axis}


def units_form(state_shape: tuple[int, ...]) -> Any:
    """Return the form of the units of a state."""
    entries = {
        "scale": tuple_of(number(-1e6, 1e6), 1, max(state_shape)),
        "shift": tuple_of(number(-1e6, 1e6), 1, max(state_shape)),
        "axis": integer(0, len(state_shape) - 1),
    }

    def read(value: Any, place: str) -> Units:
        units: Units = record(entries, into=Units)(value, place)
        for name in ("scale", "shift"):
            numbers = getattr(units, name)
            if len(numbers) not in (1, state_shape[units.axis]) or (name == "scale" and 0.0 in numbers):
                expected = f"1 or {state_shape[units.axis]} numbers, of a scale other than 0"
                raise MisfitError(f"{place}.{name}", expected, numbers)
        return units

    return read


def stages_form(state_shape: tuple[int, ...], inputs: Sequence[Input]) -> Any:
    """Return the form of a spec's stages by name."""
    is_file = text(200, r"[\w-][\w .+-]*\.onnx", "the plain name of an .onnx file")
    shape = tuple_of(integer(1, MAX_NUMBERS), 1, 4)
    digest = text(64, "[0-9a-f]{64}", "64 hexadecimal digits")
    where = {"file": nullable(is_file), "sha256": nullable(digest)}
    stage = record({"outputs": mapping(shape, 64)}, {"inputs": tuple_of(input_form((1, 1))), **where}, into=Stage)
    needed = {entry.name: entry.shape for entry in inputs if entry.is_given and entry.kind != "label"}

    def read(value: Any, place: str) -> dict[str, Stage]:
        stages: dict[str, Stage] = mapping(stage, len(STAGES), choice(STAGES))(value, place)
        for name, entry in stages.items():
            outputs = dict(entry.outputs)
            fits = {
                BEFORE: bool(outputs) and all(needed.get(key) == shape for key, shape in outputs.items()),
                AFTER: len(outputs) == 1
                and set(outputs) <= set(RESULTS)
                and len(outputs.get("images", (1, 1, 1))) == 3,
                ENCODE: outputs == {"x": state_shape},
            }[name]
            small = all(math.prod(shape) <= MAX_NUMBERS for shape in outputs.values())
            if not (fits and small):
                expected = {
                    BEFORE: "inputs of the network, in their shapes",
                    AFTER: "images of three sizes, or values",
                    ENCODE: f"x of the state's shape, {list(state_shape)}",
                }[name]
                raise MisfitError(f"{place}.{name}.outputs", expected, {k: list(v) for k, v in outputs.items()})
            if bool(entry.inputs) != (name == BEFORE):
                raise MisfitError(f"{place}.{name}.inputs", "there for before, and for no other", entry.inputs)
        return stages

    return read


def stage_inputs(
    name: str, stage: Stage, state_shape: tuple[int, ...], result_shape: tuple[int, ...]
) -> dict[str, Any]:
    """Return the inputs of a stage's graph by name, in order: dtype, and shape without the batch."""
    if name == BEFORE:
        return {entry.name: (np.dtype(entry.dtype), list(entry.shape)) for entry in stage.inputs}
    shape = state_shape if name == AFTER else result_shape
    return {"x" if name == AFTER else "images": (np.dtype(np.float32), list(shape))}
