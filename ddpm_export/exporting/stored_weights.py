"""The large weights of a graph in fewer bits: rounded, then stored so, and how a file that has them is told."""

from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ddpm_export.exporting.onnx_file import graphs_of, tensors_of
from ddpm_export.exporting.storage import is_rounded, levels_and_scales, rounded_values
from ddpm_export.process.equations import Array

FLOAT16 = ".float16"  # these come after the name of a weight that is stored so
LEVELS, SCALES = ".levels", ".scales"


def round_weights(model: ModelProto, storage: str) -> None:
    """Round the large float32 weights of a model to what a storage can hold; they stay float32."""
    axes = _channel_axes(model.graph)
    for tensor in tensors_of(model.graph):
        values = numpy_helper.to_array(tensor)
        if storage == "float16" and is_rounded(values):
            rounded = rounded_values(tensor.name, values)
        elif storage == "int8" and _is_in_levels(tensor.name, values, axes):
            levels, scales = levels_and_scales(values, axes[tensor.name])
            rounded = levels * scales
        else:
            continue
        tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))


def store_weights(graph: GraphProto, storage: str) -> None:
    """Store in fewer bits every large weight of a graph that loses nothing by it, with nodes that make it float32.

    So are those of the graphs within it. A runtime runs these nodes once, as it loads the file: all is computed in
    float32. For int8 they are Cast and Mul: ONNX Runtime keeps a DequantizeLinear and runs it at every step.
    """
    axes = _channel_axes(graph)
    for entry in list(graphs_of(graph)):
        nodes = []
        for tensor in list(entry.initializer):
            values, name = numpy_helper.to_array(tensor), tensor.name
            if storage == "float16" and is_rounded(values):
                with np.errstate(over="ignore"):
                    halves = values.astype(np.float16)
                if np.array_equal(halves.astype(np.float32), values):
                    tensor.CopyFrom(numpy_helper.from_array(halves, name + FLOAT16))
                    nodes.append(_cast(tensor.name, name, f"{name}/Cast"))
            elif storage == "int8" and _is_in_levels(name, values, axes):
                levels, scales = levels_and_scales(values, axes[name])
                if np.array_equal(levels * scales, values):
                    tensor.CopyFrom(numpy_helper.from_array(levels, name + LEVELS))
                    entry.initializer.append(numpy_helper.from_array(scales, name + SCALES))
                    nodes.append(_cast(tensor.name, f"{tensor.name}.float", f"{name}/Cast"))
                    factors = [f"{tensor.name}.float", name + SCALES]
                    nodes.append(helper.make_node("Mul", factors, [name], name=f"{name}/Mul"))
        for node in reversed(nodes):
            entry.node.insert(0, node)


def storage_of(path: Path) -> str:
    """Return how a file of ours stores its weights, by its initializers: float32, float16 or int8."""
    stored = {"float16": (TensorProto.FLOAT16, FLOAT16), "int8": (TensorProto.INT8, LEVELS)}
    for tensor in tensors_of(onnx.load(path, load_external_data=False).graph):
        for storage, (kind, ending) in stored.items():
            if tensor.data_type == kind and tensor.name.endswith(ending):
                return storage
    return "float32"


def _cast(source: str, result: str, name: str) -> NodeProto:
    return helper.make_node("Cast", [source], [result], name=name, to=TensorProto.FLOAT)


def _is_in_levels(name: str, values: Array, axes: dict[str, int]) -> bool:
    return name in axes and is_rounded(values) and bool(np.isfinite(values).all())


def _channel_axes(graph: GraphProto) -> dict[str, int]:
    """Return, by name, the axis of output channels of what convolutions and products multiply by, and nothing else."""
    found: dict[str, set[int | None]] = {}
    ranks = {tensor.name: len(tensor.dims) for tensor in tensors_of(graph)}
    for node in (node for entry in graphs_of(graph) for node in entry.node):
        for place, name in enumerate(node.input):
            if name in ranks:
                found.setdefault(name, set()).add(_axis(node, ranks[name]) if place == 1 else None)
    return {name: axis for name, (axis, *others) in found.items() if axis is not None and not others}


def _axis(node: NodeProto, rank: int) -> int | None:
    if node.op_type == "MatMul":
        return rank - 1 if rank > 1 else None
    if node.op_type == "Gemm":
        return 0 if any(entry.name == "transB" and entry.i for entry in node.attribute) else 1
    return {"Conv": 0, "ConvTranspose": 1}.get(node.op_type)
