"""Convolutions in 8-bit integers: what is quantised, by which ranges, and what keeps a bad file from its name."""

import numpy as np
import pytest
from models import deep_model, mix_model, tiny_spec

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, numpy_helper  # noqa: E402

from ddpm_export.errors import ModelRefusedError, UsageError  # noqa: E402
from ddpm_export.exporting import proof  # noqa: E402
from ddpm_export.exporting.export import export_all  # noqa: E402
from ddpm_export.exporting.int8 import Range  # noqa: E402
from ddpm_export.model.golden import replay_golden  # noqa: E402
from ddpm_export.runtimes.opening import open_model  # noqa: E402

SPEC = tiny_spec((1, 8, 8))


@pytest.fixture
def source(tmp_path):
    (tmp_path / "float.onnx").write_bytes(deep_model(SPEC))
    return tmp_path / "float.onnx"


def written(source, calibrate=16):
    out = source.with_name("int8.onnx")
    (report,) = export_all(source, {"onnx": out}, calibrate=calibrate)
    return out, report


def test_all_convolutions_but_the_first_and_the_last_are_quantised(source):
    out, report = written(source)
    graph = onnx.load(out).graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    before = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(source).graph.initializer}
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    read_by = {name: node.op_type for node in graph.node for name in node.input}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert [{made_by.get(name) for name in node.input} for node in convolutions] == [
        {None},
        {"DequantizeLinear"},
        {"DequantizeLinear"},
        {"Tanh", None},
    ]
    assert [read_by[node.output[0]] for node in convolutions] == ["Tanh", "QuantizeLinear", "QuantizeLinear", "Tanh"]
    for name in ("conv_1", "conv_2"):
        assert kinds[f"{name}.w.int8"] == TensorProto.INT8
        scales = tensors[f"{name}.w.scales"].reshape(-1, 1, 1, 1)
        assert scales.size == 8
        difference = np.abs(tensors[f"{name}.w.int8"] * scales - before[f"{name}.w"])
        assert (difference <= 0.501 * scales).all()
        bias = tensors[f"{name}/Conv.bias.int32"] * tensors[f"{name}/Conv.bias.scales"]
        np.testing.assert_allclose(bias, before[f"{name}.b"], atol=1e-4)
    onnx.checker.check_model(onnx.load(out), full_check=True)
    assert 1e-5 < report.proof.error < 0.05  # it is quantised, and near
    assert report.proof.rms_levels < 2


def test_the_file_says_what_it_is_and_keeps_its_own_promise(source):
    out, _ = written(source)
    model, spec = open_model(out)
    assert spec.source["precision"] == "int8"
    assert spec.golden["tolerance"] == {"int8": 0.25}
    assert all(result.passed for result in replay_golden(model, spec))
    wrong, _ = open_model(source)
    results = replay_golden(lambda x_t, t: {"eps": -wrong(x_t, t)["eps"]}, spec)
    assert not any(result.passed for result in results)


def test_the_same_source_gives_the_same_bytes(source):
    out, report = written(source)
    first = out.read_bytes()
    assert written(source)[1].sha256 == report.sha256
    assert out.read_bytes() == first


def test_pictures_too_far_from_the_networks_keep_a_file_from_its_name(source, monkeypatch):
    monkeypatch.setattr(proof, "MAX_INT8_RMS_LEVELS", 0.0)
    with pytest.raises(ModelRefusedError, match=r"too coarse for this network: .* Raise `calibrate`"):
        written(source)
    assert not source.with_name("int8.onnx").exists()


def test_zero_is_a_level_of_every_range():
    for low, high in ((-0.278, 5.5), (0.0, 1.0), (-3.0, 0.0), (-17.5, 12.1)):
        seen = Range(low, high)
        levels = np.round(np.array([low, 0.0, high]) / seen.scale) + seen.zero_point
        assert levels[1] == seen.zero_point
        assert levels.min() >= -1
        assert levels.max() <= 256


@pytest.mark.parametrize(
    ("paths", "how", "message"),
    [
        ({"sampler": "a.onnx"}, {}, "applies to format onnx with storage float32, got sampler with float32"),
        ({"onnx": "a.onnx"}, {"storage": "float16"}, "got onnx with float16"),
        ({"onnx": "a.onnx"}, {"calibrate": 0}, "calibrate must be from 1 to 100000, got 0"),
    ],
)
def test_what_cannot_be_int8_is_told(paths, how, message, source):
    targets = {kind: source.with_name(name) for kind, name in paths.items()}
    with pytest.raises(UsageError, match=message):
        list(export_all(source, targets, **{"calibrate": 8, **how}))


def test_a_network_without_inner_convolutions_is_told(tmp_path):
    (tmp_path / "mix.onnx").write_bytes(mix_model(SPEC))
    with pytest.raises(ModelRefusedError, match="no convolution between the first and the last"):
        written(tmp_path / "mix.onnx")
