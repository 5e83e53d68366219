"""Convolutions in 8-bit integers: ranges found along the sampler's own trajectories, and QuantizeLinear pairs by them.

What a denoiser sees changes with t, so ranges are taken over whole trajectories (Shang et al. 2023, section 3). Only
convolutions are quantised, but the first and the last: norms, attention's products and the time's path stay float32.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ddpm_export.model.denoiser import denoiser
from ddpm_export.model.examples import example_of_inputs
from ddpm_export.model.spec import ModelSpec
from ddpm_export.model.steps import plan
from ddpm_export.process.equations import Array
from ddpm_export.process.noise import noise_stream
from ddpm_export.process.walk import walk

BATCH = 8
SEED = 2**40  # pictures that no user asks for by accident
LOW_HIGH = ("low", "high")


@dataclass(frozen=True)
class Range:
    """Hold what values a tensor was seen to take; 0, which pads it, is among them."""

    low: float
    high: float

    @property
    def scale(self) -> float:
        """Return the step between two levels of 256."""
        return max(self.high - self.low, 1e-8) / 255

    @property
    def zero_point(self) -> int:
        """Return the level, 0 to 255, that stands for 0."""
        return round(-self.low / self.scale)


def observed(model: ModelProto) -> ModelProto:
    """Return a graph with two more outputs, the least and the largest value of each quantised tensor: (N,) each."""
    other = ModelProto()
    other.CopyFrom(model)
    graph = other.graph
    graph.initializer.append(numpy_helper.from_array(np.array([1]), "one number"))
    for name, operator in zip(LOW_HIGH, ("ReduceMin", "ReduceMax"), strict=True):
        parts = []
        for tensor in quantised_tensors(graph):
            reduced, part = f"{tensor}.{name}", f"{tensor}.{name}.1"
            graph.node.append(helper.make_node(operator, [tensor], [reduced], name=reduced, keepdims=0))
            graph.node.append(helper.make_node("Reshape", [reduced, "one number"], [part], name=part))
            parts.append(part)
        graph.node.append(helper.make_node("Concat", parts, [name], name=name, axis=0))
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [len(parts)]))
    return other


def calibrated(
    model: ModelProto, evaluate: Callable[[dict[str, Array]], list[Array]], spec: ModelSpec, count: int
) -> dict[str, Range]:
    """Return the range of each tensor to be quantised over `count` evaluations of an image, along trajectories of ddim.

    evaluate: runs `observed(model)`: inputs by name -> the spec's outputs and then the ranges. Steps are spread over
    all times, for 8 images of every kind that the spec's inputs allow.
    """
    batch = min(BATCH, count)
    numbers = range(batch)
    seen: list[tuple[Array, Array]] = []

    def watched(x_t: Array, t: Array, **inputs: Array) -> dict[str, Array]:
        *outputs, low, high = evaluate({"x_t": x_t, "t": t, **inputs})
        seen.append((low, high))
        return dict(zip(spec.outputs, outputs, strict=True))

    asked: dict[str, Any] = example_of_inputs(spec.inputs, 0, numbers)
    given = {entry.name: asked[entry.name] for entry in spec.inputs if entry.is_given}
    rows = plan(spec, sampler="ddim", num_steps=max(1, min(spec.num_train_timesteps, count // batch)), eta=0.0)
    for _ in walk(denoiser(watched, spec, **given), noise_stream(SEED, numbers, spec.state_shape), rows):
        pass
    low = np.minimum(0, np.min([entry for entry, _ in seen], axis=0))
    high = np.maximum(0, np.max([entry for _, entry in seen], axis=0))
    return {
        name: Range(float(a), float(b)) for name, a, b in zip(quantised_tensors(model.graph), low, high, strict=True)
    }


def quantised(model: ModelProto, ranges: dict[str, Range]) -> ModelProto:
    """Return a graph whose convolutions stand between QuantizeLinear and DequantizeLinear, which runtimes fuse.

    Weights are int8, one scale an output channel; activations uint8 with a zero point, one scale a tensor; biases are
    int32.
    """
    other = ModelProto()
    other.CopyFrom(model)
    graph = other.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    chosen = {node.name for node in _convolutions(graph)}
    nodes: list[NodeProto] = []
    made: dict[str, str] = {}
    for node in graph.node:
        if node.name not in chosen:
            nodes.append(node)
            continue
        source, result = node.input[0], node.output[0]
        if source not in made:
            made[source] = _pair(graph, nodes, source, f"{source}.int8", ranges[source])
        scales = _quantise_weight(graph, nodes, tensors[node.input[1]])
        inner = NodeProto()
        inner.CopyFrom(node)
        inner.input[0], inner.input[1] = made[source], f"{node.input[1]}.dequantised"
        if len(node.input) == 3:
            inner.input[2] = _quantised_bias(graph, nodes, node, tensors, ranges[source].scale * scales)
        inner.output[0] = f"{result}.float"
        nodes.append(inner)
        made[result] = _pair(graph, nodes, inner.output[0], result, ranges[result], result)
    del graph.node[:]
    graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return other


def _convolutions(graph: GraphProto) -> list[NodeProto]:
    """Return the convolutions of images by constants, but the first and the last, in the graph's order."""
    constants = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    every = [node for node in graph.node if node.op_type == "Conv"]
    return [
        entry for entry in every[1:-1] if constants.get(entry.input[1]) == 4 and {*entry.input[2:]} <= constants.keys()
    ]


def quantised_tensors(graph: GraphProto) -> list[str]:
    """Return the names of what goes into the convolutions that are quantised, and of what comes out."""
    return list(dict.fromkeys(name for node in _convolutions(graph) for name in (node.input[0], node.output[0])))


def _add(graph: GraphProto, name: str, values: Any, dtype: type) -> str:
    if name not in {tensor.name for tensor in graph.initializer}:
        graph.initializer.append(numpy_helper.from_array(np.asarray(values, dtype), name))
    return name


def _pair(
    graph: GraphProto, nodes: list[NodeProto], source: str, stem: str, seen: Range, result: str | None = None
) -> str:
    """Append QuantizeLinear and DequantizeLinear of a tensor and return what comes out, called `result` if given."""
    numbers = [
        _add(graph, f"{stem}.scale", seen.scale, np.float32),
        _add(graph, f"{stem}.zero", seen.zero_point, np.uint8),
    ]
    result = result or f"{stem}.dequantised"
    levels = f"{stem}.levels"
    nodes.append(helper.make_node("QuantizeLinear", [source, *numbers], [levels], name=f"{stem}/QuantizeLinear"))
    nodes.append(helper.make_node("DequantizeLinear", [levels, *numbers], [result], name=f"{stem}/DequantizeLinear"))
    return result


def _quantise_weight(graph: GraphProto, nodes: list[NodeProto], tensor: TensorProto) -> Array:
    """Store a weight as int8 with one scale an output channel, and return the scales (C,)."""
    values, name = numpy_helper.to_array(tensor), tensor.name
    scales: Array = np.maximum(np.abs(values).reshape(len(values), -1).max(axis=1), 1e-8).astype(np.float32) / 127
    if f"{name}.int8" not in {entry.name for entry in graph.initializer}:
        levels = np.round(values / scales.reshape(-1, 1, 1, 1)).clip(-127, 127)
        _add(graph, f"{name}.int8", levels, np.int8)
        _dequantise(graph, nodes, name, f"{name}.int8", scales, np.int8)
    return scales


def _quantised_bias(
    graph: GraphProto, nodes: list[NodeProto], node: NodeProto, tensors: dict[str, TensorProto], scales: Array
) -> str:
    name = f"{node.name}.bias"
    levels = np.round(numpy_helper.to_array(tensors[node.input[2]]) / scales.astype(np.float32))
    return _dequantise(graph, nodes, name, _add(graph, f"{name}.int32", levels, np.int32), scales, np.int32)


def _dequantise(graph: GraphProto, nodes: list[NodeProto], name: str, levels: str, scales: Array, dtype: type) -> str:
    """Append what brings levels with one scale an output channel back to float32; return its result."""
    numbers = [
        _add(graph, f"{name}.scales", scales, np.float32),
        _add(graph, f"{name}.zeros", np.zeros(len(scales)), dtype),
    ]
    result = f"{name}.dequantised"
    made = helper.make_node("DequantizeLinear", [levels, *numbers], [result], name=f"{name}/DequantizeLinear", axis=0)
    nodes.append(made)
    return result
