"""The profile by operator: what is counted is what the graph computes."""

import math

import onnx
import pytest

from benchmarks import operators


@pytest.mark.parametrize(
    ("operator", "inputs", "output", "flops"),
    [
        ("Conv", [[2, 3, 8, 8], [5, 3, 3, 3], [5]], [2, 5, 8, 8], 2 * (2 * 5 * 8 * 8) * 27),
        ("Conv", [[1, 6, 4, 4], [6, 1, 3, 3]], [1, 6, 2, 2], 2 * (6 * 4) * 9),  # a group a channel, stride 2
        ("MatMul", [[4, 7, 3], [4, 3, 9]], [4, 7, 9], 2 * 4 * 7 * 9 * 3),
        ("Gemm", [[1, 32], [32, 128], [128]], [1, 128], 2 * 32 * 128),
        ("Softmax", [[4, 49, 49]], [4, 49, 49], 0),
    ],
)
def test_arithmetic_follows_from_shapes(operator, inputs, output, flops):
    assert operators.flops_of(operator, inputs, output) == flops


def test_a_profile_counts_every_convolution_of_the_graph_once_a_step(monkeypatch):
    monkeypatch.setattr("ddpm_export.measuring.timing.BUSY_LOOK_S", 0.0)
    monkeypatch.setattr("ddpm_export.measuring.timing.WARM_UP_S", 0.0)
    monkeypatch.setattr(operators, "SIDE", 64)
    options = ["--batches", "2", "--rounds", "2", "--threads", "1"]
    report = operators.measure(operators._options().parse_args(options))
    graph = onnx.load("exported/unet.onnx")
    for value in graph.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 2
    graph = onnx.shape_inference.infer_shapes(graph, data_prop=True).graph
    shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in graph.value_info}
    shapes |= {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in graph.output}
    weights = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    flops = sum(2 * math.prod(shapes[n.output[0]]) * math.prod(weights[n.input[1]][1:]) for n in convolutions)
    found = report.values["2"]["operators"]
    assert found["Conv"]["nodes"] == pytest.approx(len(convolutions))
    # ONNX Runtime computes the one channel of the last one as a block of 8 or 16
    assert found["Conv"]["gflop"] == pytest.approx(1e-9 * flops, rel=0.015)
    assert all(row["ms"] > 0 for row in found.values())
    assert len(report.values["2"]["seconds"]) == 2  # one a round
    (table,) = report.tables
    assert [row[0] for row in table.rows][-2:] == ["a step, without a profile", "a product of 64 x 64"]
    shares = [float(row[3].removesuffix(" %")) for row in table.rows[:-2]]
    assert sum(shares) == pytest.approx(100, abs=len(shares))
