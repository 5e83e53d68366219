"""A 3x3 convolution of an image doubled by nearest neighbours, one third cheaper: even and odd rows by themselves.

Of three rows of a doubled image two are equal, so a row of the result is a convolution of two rows with kernels whose
two weights are added beforehand: (w0, w1 + w2) above, (w0 + w1, w2) below. Doing so in columns, too, would save five
ninths, but nothing in ONNX Runtime interleaves columns cheaply: DepthToSpace took what was won.
"""

import numpy as np
import onnx_ir as ir


class UpsampledRows(ir.passes.InPlacePass):
    """Replace Resize by 2 and 2 with Conv by Resize by 1 and 2, two Conv, and a Concat that interleaves rows."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every such pair of nodes in the graph."""
        pairs = [(node, conv) for node in model.graph if (conv := _convolution_of(node)) is not None]
        for resize, conv in pairs:
            _replace(model.graph, resize, conv)
        return ir.passes.PassResult(model, modified=bool(pairs))


def _convolution_of(resize: ir.Node) -> ir.Node | None:
    """Return the plain 3x3 convolution behind a node that doubles an image of known size, if that is what it does."""
    if resize.op_type != "Resize" or len(resize.inputs) != 3 or len(uses := resize.outputs[0].uses()) != 1:
        return None
    (use,) = uses
    scales, conv = ir.convenience.get_const_tensor(resize.inputs[2]), use.node  # type: ignore[arg-type]
    how = {name: attribute.value for name, attribute in resize.attributes.items()}
    nearest = ("nearest", "asymmetric", "floor")
    if tuple(how.get(k) for k in ("mode", "coordinate_transformation_mode", "nearest_mode")) != nearest:
        return None
    if scales is None or scales.numpy().tolist() != [1, 1, 2, 2] or conv.op_type != "Conv" or len(conv.inputs) != 3:
        return None
    weight, size = conv.inputs[1], resize.inputs[0].shape  # type: ignore[union-attr]
    plain = {"group": 1, "strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1), "auto_pad": "NOTSET"}
    if any(
        tuple(value) != plain[name] if isinstance(value := attribute.value, (list, tuple)) else value != plain[name]
        for name, attribute in conv.attributes.items()
        if name != "kernel_shape"
    ):
        return None
    is_known = size is not None and len(size) == 4 and all(isinstance(entry, int) for entry in size[1:])
    is_own = weight.is_initializer() and len(weight.uses()) == 1 and weight.shape[2:] == (3, 3)  # type: ignore[union-attr,index]
    return conv if is_known and is_own and "pads" in conv.attributes else None


def _replace(graph: ir.Graph, resize: ir.Node, conv: ir.Node) -> None:
    scope, size = str(conv.name).rpartition("/")[0], resize.inputs[0].shape  # type: ignore[union-attr]
    assert size is not None  # _convolution_of has looked
    taken, odd = {node.name for node in graph}, "_1"
    if {f"{scope}/Reshape", f"{conv.name}{odd}"} & taken:  # names without scopes, as graphs of others have
        scope, odd = str(conv.name), "/odd_rows"
    height, width = int(size[2]), int(size[3])  # type: ignore[arg-type]
    whole, bias = conv.inputs[1], conv.inputs[2]
    weights = whole.const_value.numpy().astype(np.float64)  # type: ignore[union-attr]
    out = weights.shape[0]
    wide = _node("Resize", [*resize.inputs[:2], _constant(graph, [1.0, 1.0, 1.0, 2.0], "scales")], resize)
    rows = []
    for k, (upper, lower) in enumerate(((slice(0, 1), slice(1, 3)), (slice(0, 2), slice(2, 3)))):
        kernel = np.stack([weights[:, :, part].sum(axis=2) for part in (upper, lower)], axis=2).astype(np.float32)
        name = f"{whole.name}.{('even', 'odd')[k]}_rows"  # type: ignore[union-attr]
        value = ir.val(name, const_value=ir.tensor(kernel, name=name))
        graph.register_initializer(value)
        made = _node("Conv", [wide.outputs[0], value, bias], conv, odd if k else "", pads=[1 - k, 1, k, 1])
        apart = _constant(graph, [0, out, height, 1, 2 * width], "shape")
        rows += [made, _named(ir.node("Reshape", [made.outputs[0], apart]), f"{scope}/Reshape{f'_{k}' if k else ''}")]
    both = _named(ir.node("Concat", [row.outputs[0] for row in rows[1::2]], {"axis": 3}), f"{scope}/Concat")
    shape = _constant(graph, [0, out, 2 * height, 2 * width], "shape")
    joined = _named(ir.node("Reshape", [both.outputs[0], shape]), f"{scope}/Reshape_2")
    new = [wide, *rows, both, joined]
    ir.convenience.replace_nodes_and_values(graph, conv, [resize, conv], new, conv.outputs, joined.outputs)
    if not joined.outputs[0].is_graph_output():
        joined.outputs[0].name = joined.name  # not what the convolution was called


def _node(
    operator: str, inputs: list[ir.Value | None], like: ir.Node, ending: str = "", **changes: list[int]
) -> ir.Node:
    """Return a node with the attributes of another and some changed, called as that one is."""
    attributes = {k: v for k, v in like.attributes.items() if k not in ("kernel_shape", *changes)}
    return _named(ir.node(operator, inputs, {**attributes, **changes}), f"{like.name}{ending}")


def _named(node: ir.Node, name: str) -> ir.Node:
    node.name = node.outputs[0].name = name
    return node


def _constant(graph: ir.Graph, numbers: list[float] | list[int], what: str) -> ir.Value:
    """Return the constant of such numbers, called by what it is and says as those of other nodes are."""
    name = "_".join([what, *(f"{number:g}" for number in numbers)])
    if name not in graph.initializers:
        dtype = np.float32 if what == "scales" else np.int64
        graph.register_initializer(ir.val(name, const_value=ir.tensor(np.array(numbers, dtype), name=name)))
    return graph.initializers[name]
