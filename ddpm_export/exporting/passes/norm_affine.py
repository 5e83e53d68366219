"""The scale and shift of a group norm as one BatchNormalization, where torch gives Mul and Add.

One pass over memory and one node in place of two. ONNX Runtime walks a constant of (C, 1, 1) against an image a channel
at a time, twice; with the mean 0 and the variance 1, BatchNormalization is that walk, once.
"""

import numpy as np
import onnx_ir as ir

EPSILON = 1e-5  # not 0, which kernels of some devices raise to this


class NormAffine(ir.passes.InPlacePass):
    """Replace Mul and Add by constants of one number a channel, behind an InstanceNormalization."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every group norm of the graph."""
        norms = [(node, shift) for node in model.graph if (shift := _shift_of(node)) is not None]
        for scale, shift in norms:
            _replace(model.graph, scale, shift)
        return ir.passes.PassResult(model, modified=bool(norms))


def _shift_of(scale: ir.Node) -> ir.Node | None:
    """Return the Add behind a Mul where the two are the scale and shift of a group norm, each constant its own."""
    if scale.op_type != "Mul" or len(uses := scale.outputs[0].uses()) != 1:
        return None
    (use,) = uses
    shift: ir.Node = use.node
    back = scale.inputs[0].producer()  # type: ignore[union-attr]
    if shift.op_type != "Add" or use.idx != 0 or back is None or back.op_type != "Reshape":
        return None
    norm, shape = back.inputs[0].producer(), ir.convenience.get_const_tensor(back.inputs[1])  # type: ignore[union-attr,arg-type]
    if norm is None or norm.op_type != "InstanceNormalization" or shape is None:
        return None
    _, channels, *rest = shape.numpy().tolist()
    for constant in (scale.inputs[1], shift.inputs[1]):
        is_one_a_channel = constant.is_initializer() and constant.shape == (channels, *[1] * len(rest))  # type: ignore[union-attr]
        if not is_one_a_channel or len(constant.uses()) != 1:  # type: ignore[union-attr]
            return None
    return shift


def _replace(graph: ir.Graph, scale: ir.Node, shift: ir.Node) -> None:
    for constant in (scale.inputs[1], shift.inputs[1]):
        flat = constant.const_value.numpy().reshape(-1)  # type: ignore[union-attr]
        constant.const_value = ir.tensor(flat, name=constant.name)  # type: ignore[union-attr]
        constant.shape = ir.Shape(flat.shape)  # type: ignore[union-attr]
    numbers = (np.zeros_like(flat), np.full_like(flat, 1 - EPSILON))
    mean, variance = (
        graph.initializers.get(name) or _initializer(graph, name, values)
        for name, values in zip((f"zeros_{flat.size}", f"variances_{flat.size}"), numbers, strict=True)
    )
    made = ir.node(
        "BatchNormalization",
        [scale.inputs[0], scale.inputs[1], shift.inputs[1], mean, variance],
        {"epsilon": EPSILON},
        name=str(scale.name).replace("/Mul", "/BatchNormalization"),
    )
    ir.convenience.replace_nodes_and_values(graph, shift, [scale, shift], [made], shift.outputs, made.outputs)
    if not made.outputs[0].is_graph_output():
        made.outputs[0].name = made.name


def _initializer(graph: ir.Graph, name: str, values: np.ndarray) -> ir.Value:
    value = ir.val(name, const_value=ir.tensor(values, name=name))
    graph.register_initializer(value)
    return value
