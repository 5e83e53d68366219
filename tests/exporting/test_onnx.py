import re

import numpy as np
import pytest

from ddpm_export.exporting.export import export
from ddpm_export.importers.load import load_checkpoint
from ddpm_export.runtimes.opening import open_model

from .conftest import CONFIGS, SMALL, network_of

onnx = pytest.importorskip("onnx")
pytestmark = pytest.mark.torch


@pytest.fixture(params=["grey", pytest.param("colour", marks=pytest.mark.long)])
def graph_of(request, exported):
    checkpoint, report = exported(request.param, "onnx")
    return checkpoint, onnx.load(report.path)


def test_version_and_signature_are_those_of_the_contract(graph_of):
    checkpoint, model = graph_of
    assert model.ir_version == 8
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert not model.functions
    shape = list(checkpoint.spec.state_shape)

    def signature(value):
        tensor = value.type.tensor_type
        return value.name, tensor.elem_type, [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]

    assert [signature(value) for value in model.graph.input] == [
        ("x_t", onnx.TensorProto.FLOAT, ["batch", *shape]),
        ("t", onnx.TensorProto.INT64, ["batch"]),
    ]
    assert [signature(value) for value in model.graph.output] == [
        (checkpoint.spec.prediction, onnx.TensorProto.FLOAT, ["batch", *shape])
    ]


def test_nothing_of_the_exporter_is_left(graph_of):
    _, model = graph_of
    assert [entry.key for entry in model.metadata_props] == ["ddpm_export"]
    graph = model.graph
    for carrier in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info):
        assert not carrier.doc_string
        assert carrier is model or not carrier.metadata_props
    text = model.SerializeToString()
    for trace in (b"pkg.torch", b".py", b"pytorch"):
        assert trace not in text


def test_group_norm_is_written_in_operators_that_every_runtime_has(graph_of):
    checkpoint, model = graph_of
    operators = [node.op_type for node in model.graph.node]
    assert not {"GroupNormalization", "Shape", "Identity", "Constant", "Dropout"}.intersection(operators)
    assert operators.count("Cast") == 1  # of t
    norms = [name for name, module in checkpoint.network.named_modules() if type(module).__name__ == "GroupNorm"]
    for name in norms:
        nodes = [node.op_type for node in model.graph.node if node.name.startswith(f"{name}/")]
        assert nodes == ["Reshape", "InstanceNormalization", "Reshape", "BatchNormalization"]
    assert operators.count("InstanceNormalization") == len(norms)


def test_nodes_are_named_by_their_modules(graph_of):
    checkpoint, model = graph_of
    names = [node.name for node in model.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)
    modules = dict(checkpoint.network.named_modules())
    assert {name.rsplit("/", 1)[0] for name in names if "/" in name} <= set(modules)
    assert {"down.0.residual.conv_1/Conv", "stem/Conv", "middle.0.attention.qkv/Conv", "time.0/Gemm"} <= set(names)
    values = [name for node in model.graph.node for name in node.output]
    assert len(set(values)) == len(values)


def test_weights_are_named_and_valued_as_in_the_state_dict(graph_of):
    checkpoint, model = graph_of
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    state = checkpoint.network.state_dict()
    for name in [name for name in state if f"{name}.even_rows" in tensors]:  # passes/upsampled_rows.py
        assert type(checkpoint.network.get_submodule(name.rsplit(".", 2)[0])).__name__ == "Upsample"
        whole = state.pop(name).numpy()
        np.testing.assert_array_equal(tensors[f"{name}.even_rows"][:, :, 0], whole[:, :, 0])
        np.testing.assert_array_equal(tensors[f"{name}.odd_rows"][:, :, 1], whole[:, :, 2])
    assert set(state) <= set(tensors)
    for name, value in state.items():
        np.testing.assert_array_equal(tensors[name].reshape(value.shape), value.numpy())
    read = {name for node in model.graph.node for name in node.input}
    assert set(tensors) <= read


def test_equal_weights_keep_a_name_each(tmp_path):
    """As training begins: norms at 1 and 0, last layers at 0. torch merges equal constants and drops biases of 0."""
    from ddpm_export.importers.checkpoint import Checkpoint
    from ddpm_export.importers.unet import UNet

    from .conftest import spec_of

    network = UNet(SMALL).eval()
    report = export(Checkpoint(network, spec_of(SMALL)), tmp_path / "unet.onnx")
    assert not report.proof.relative
    tensors = {tensor.name for tensor in onnx.load(report.path).graph.initializer}
    state = network.state_dict()
    dropped = {name for name in set(state) - tensors if f"{name}.even_rows" not in tensors}
    assert not any(state[name].any() or "norm" in name or name.endswith("weight") for name in dropped)


def test_shapes_can_be_inferred_for_any_batch(graph_of):
    _, model = graph_of
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    shapes = {value.name: value.type.tensor_type.shape.dim for value in inferred.graph.value_info}
    produced = {name for node in model.graph.node for name in node.output} - {o.name for o in model.graph.output}
    assert produced <= set(shapes)
    # the batch may lose its name (Resize scales it by 1), every other dimension is a number
    assert all(dim[0].dim_param and all(d.dim_value > 0 for d in dim[1:]) for dim in shapes.values())


def test_onnx_runtime_fuses_the_attention_transposes_away(graph_of, tmp_path):
    ort = pytest.importorskip("onnxruntime")
    _, model = graph_of
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 4
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert "FusedMatMul" in operators
    assert "Transpose" not in operators


@pytest.mark.long
def test_weights_too_large_for_one_file_go_beside_it(checkpoint_path, exported, monkeypatch, tmp_path):
    import ddpm_export.exporting.onnx as writer
    import ddpm_export.exporting.onnx_file as file
    from ddpm_export.exporting.program import program_from_checkpoint

    _, inline = exported("grey", "onnx")  # before the limit falls
    monkeypatch.setattr(file, "MAX_INLINE_BYTES", 10_000)
    checkpoint = load_checkpoint(checkpoint_path)
    graph, constants = writer._torch_export(program_from_checkpoint(checkpoint), ["x_t", "t"], ["eps"])
    traced = graph.SerializeToString()
    monkeypatch.setattr(writer, "_torch_export", lambda *_: (onnx.ModelProto.FromString(traced), dict(constants)))
    report = export(checkpoint, tmp_path / "unet.onnx")
    (weights,) = set(tmp_path.iterdir()) - {report.path}
    assert re.fullmatch(r"unet\.onnx\.[0-9a-f]{16}\.data", weights.name)
    assert report.num_bytes < weights.stat().st_size
    x_t, t = np.ones((1, 1, 28, 28), np.float32), np.array([7])
    outputs = [open_model(path)[0](x_t, t)["eps"] for path in (report.path, inline.path)]
    np.testing.assert_array_equal(*outputs)

    def move_wrongly(model, data, weights_in, move=file._move_weights):
        if weights_in is not None:
            file.read_weights(model, weights_in)
        model.graph.initializer[0].raw_data = bytes(len(model.graph.initializer[0].raw_data))
        move(model, data, None)

    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(file, "_move_weights", move_wrongly)
    with pytest.raises(Exception, match="does not reproduce"):
        export(checkpoint, report.path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_fixture_network_has_no_weight_that_does_nothing():
    assert all(value.abs().max() > 0 for value in network_of(CONFIGS["colour"]).state_dict().values())
