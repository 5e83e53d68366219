"""Weights stored as int8: which, to what they are rounded, and that a runtime makes them float32 once."""

import numpy as np
import pytest
from models import constant, mix_model, node, onnx_file, scale_model, tiny_spec, weights_of
from representative import representative

from ddpm_export import denoiser, noise_stream, open_model, plan, walk
from ddpm_export.process.pixels import to_uint8

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from onnx import TensorProto, numpy_helper  # noqa: E402

from ddpm_export.errors import ModelRefusedError, UsageError  # noqa: E402
from ddpm_export.exporting import proof, storage  # noqa: E402
from ddpm_export.exporting.export import export  # noqa: E402
from ddpm_export.exporting.onnx_file import tensors_of  # noqa: E402
from ddpm_export.exporting.storage import levels_and_scales  # noqa: E402
from ddpm_export.exporting.stored_weights import round_weights, storage_of, store_weights  # noqa: E402
from ddpm_export.runtimes.opening import open_file  # noqa: E402
from ddpm_export.sampling.generate import generate  # noqa: E402

SPEC = tiny_spec((16, 4, 4))  # its convolution has 2,304 numbers


@pytest.fixture
def source(tmp_path):
    (tmp_path / "m.onnx").write_bytes(mix_model(SPEC))
    return tmp_path / "m.onnx"


def tensors(model):
    return {entry.name: numpy_helper.to_array(entry) for entry in tensors_of(model.graph)}


@pytest.mark.parametrize("axis", [0, 1, 3])
def test_rounding_is_near_exact_and_rounds_what_is_rounded_to_itself(axis):
    values = np.random.default_rng(axis).standard_normal((6, 5, 3, 4)).astype(np.float32) ** 5
    values[0], values[:, 1] = 0.0, values[:, 1] * 1e-20
    levels, scales = levels_and_scales(values, axis)
    assert (levels.dtype, scales.dtype) == (np.int8, np.float32)
    assert scales.shape == tuple(size if k == axis else 1 for k, size in enumerate(values.shape))
    rounded = levels * scales
    assert rounded.dtype == np.float32
    np.testing.assert_array_equal(rounded, levels.astype(np.float64) * scales)  # in any language
    assert (np.abs(rounded - values) <= 0.500001 * scales).all()
    again = levels_and_scales(rounded, axis)
    np.testing.assert_array_equal(again[0], levels)
    np.testing.assert_array_equal(again[1], scales)


@pytest.mark.parametrize("storage", ["float16", "int8"])
@representative("format", ["onnx", "sampler", "slice", "edit"], by=lambda kind: kind == "onnx")
def test_a_file_has_fewer_bits_a_weight_and_computes_in_float32(source, storage, format, tmp_path):  # noqa: A002
    opens = () if format == "onnx" else "all"
    report = export(source, tmp_path / "small.onnx", format=format, storage=storage, opens=opens)
    assert (report.storage, open_file(report.path).spec.source["storage"]) == (storage, storage)
    assert storage_of(report.path) == storage
    assert 0 < report.rounding.rms_levels < 3
    own = tensors(onnx.load(report.path))
    prefix = "" if format == "onnx" else "network/"
    if storage == "int8":
        levels, scales = levels_and_scales(weights_of(SPEC), 0)
        np.testing.assert_array_equal(own[f"{prefix}w.levels"], levels)
        np.testing.assert_array_equal(own[f"{prefix}w.scales"], scales)
    else:
        np.testing.assert_array_equal(own[f"{prefix}w.float16"], weights_of(SPEC).astype(np.float16))
    assert f"{prefix}w" not in own
    assert own[f"{prefix}hundredth"].dtype == np.float32  # too small to be worth it
    # as a network whose weights were rounded, and not as the unrounded one
    rounded = onnx.load(source)
    round_weights(rounded, storage)
    onnx.save(rounded, tmp_path / "rounded.onnx")
    settings = {"n": 2, "num_steps": 5, "eta": 1.0, "seed": 0}
    images = [generate(path, **settings).astype(int) for path in (report.path, tmp_path / "rounded.onnx", source)]
    assert np.abs(images[0] - images[1]).max() <= (format != "onnx")
    assert (images[0] != images[2]).any()


@pytest.mark.parametrize("storage", ["float16", "int8"])
@representative("format", ["sampler", "onnx"])
def test_onnx_runtime_makes_the_weights_float32_as_it_loads_a_file(source, storage, format, tmp_path):  # noqa: A002
    path = export(source, tmp_path / "small.onnx", format=format, storage=storage).path
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 4
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    found = list(tensors_of(onnx.load(tmp_path / "optimized.onnx").graph))
    assert not {TensorProto.INT8, TensorProto.FLOAT16} & {entry.data_type for entry in found}
    assert [int(np.prod(entry.dims)) for entry in found if entry.data_type == TensorProto.FLOAT].count(2304) == 1


def test_the_report_tells_what_rounding_costs(source, tmp_path):
    report = export(source, tmp_path / "half.onnx", format="onnx", storage="float16")
    cost = report.to_json()["rounding"]
    models = [open_model(path) for path in (report.path, source)]
    ends = []
    for model, spec in models:
        noise = noise_stream(0, range(4), spec.state_shape)
        *_, state = walk(denoiser(model, spec), noise, plan(spec, sampler="ddim", num_steps=cost["num_steps"]))
        ends.append(to_uint8(state.x).astype(int))
    difference = np.abs(ends[0] - ends[1])
    assert cost["max_level_difference"] == difference.max()
    assert cost["equal_share"] == pytest.approx((difference == 0).mean(), abs=1e-12)
    assert 0 < cost["equal_share"] < 1  # rounding is not for nothing here
    assert export(source, tmp_path / "s.onnx", format="sampler").to_json()["rounding"] is None


def test_what_float16_cannot_hold_is_refused(tmp_path):
    weight = numpy_helper.from_array(np.full((1, *(1, 40, 40)), 7e4, np.float32), "w")
    spec = tiny_spec((1, 40, 40))
    (tmp_path / "m.onnx").write_bytes(scale_model(spec, weight))
    with pytest.raises(ModelRefusedError, match="w: cannot be stored as float16"):
        export(tmp_path / "m.onnx", tmp_path / "n.onnx", format="onnx", storage="float16")


def test_channels_are_found_by_what_reads_a_weight(monkeypatch):
    monkeypatch.setattr(storage, "MIN_ROUNDED", 6)
    spread = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    shapes = {"rows": (2, 3), "columns": (2, 3), "product": (2, 3), "up": (2, 3, 1, 1), "looked_up": (2, 3)}
    values = [
        constant(name, spread.reshape(shape)) for name, shape in {**shapes, "both": (3, 3)}.items() if name != "both"
    ]
    values += [constant("both", np.arange(9).reshape(3, 3)), constant("infinite", [[np.inf] * 3] * 2)]
    nodes = [
        node("Gemm", ["a", "rows"], "1", transB=1),
        node("Gemm", ["a", "columns"], "2"),
        node("MatMul", ["a", "product"], "3"),
        node("ConvTranspose", ["a", "up"], "4"),
        node("Gather", ["looked_up", "a"], "5"),
        node("MatMul", ["a", "both"], "6"),
        node("Gemm", ["a", "both"], "7", transB=1),
        node("MatMul", ["a", "infinite"], "8"),
    ]
    model = onnx.ModelProto.FromString(onnx_file(nodes, values))
    round_weights(model, "int8")
    rounded = tensors(model)
    store_weights(model.graph, "int8")
    stored = tensors(model)
    expected = {"rows": (2, 1), "columns": (1, 3), "product": (1, 3), "up": (1, 3, 1, 1)}
    assert {name.removesuffix(".scales"): entry.shape for name, entry in stored.items() if "scales" in name} == expected
    for name in expected:
        np.testing.assert_array_equal(stored[f"{name}.levels"] * stored[f"{name}.scales"], rounded[name])
    np.testing.assert_array_equal(rounded["looked_up"], spread)
    assert {"looked_up", "both", "infinite"} < stored.keys()


def test_weights_that_lose_too_much_keep_a_file_from_its_name(source, tmp_path, monkeypatch):
    monkeypatch.setattr(proof, "MAX_INT8_RMS_LEVELS", 0.0)
    with pytest.raises(ModelRefusedError, match=r"m\.onnx: 8-bit .* too coarse for this network: .* `storage=float16`"):
        export(source, tmp_path / "small.onnx", format="onnx", storage="int8")
    assert not (tmp_path / "small.onnx").exists()


def test_weights_that_are_stored_otherwise_already_are_told(source, tmp_path):
    export(source, tmp_path / "half.onnx", format="onnx", storage="float16")
    with pytest.raises(UsageError, match=r"half\.onnx: has its weights stored as float16 already"):
        export(tmp_path / "half.onnx", tmp_path / "small.onnx", format="onnx", storage="int8")
    whole = export(tmp_path / "half.onnx", tmp_path / "again.onnx", format="sampler", storage="float16")
    assert storage_of(whole.path) == "float16"


@pytest.mark.torch
def test_a_checkpoint_and_its_file_give_the_same_weights(tmp_path):
    torch = pytest.importorskip("torch")

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.mix = torch.nn.Conv2d(1, 40, 3, padding=1)
            self.wide = torch.nn.Conv2d(40, 40, 1)
            self.last = torch.nn.Conv2d(40, 1, 1)
            self.shift = torch.nn.Linear(40, 40)

        def forward(self, x_t, t):
            hidden = torch.tanh(self.wide(torch.tanh(self.mix(x_t))))  # (B, 40, H, W)
            return self.last(self.shift(hidden.movedim(1, 3)).movedim(3, 1)) + t[:, None, None, None] / 50

    spec = tiny_spec((1, 6, 5))
    export(Network(), spec, tmp_path / "m.onnx")
    of_checkpoint = export(Network(), spec, tmp_path / "a.onnx", storage="int8").path
    of_file = export(tmp_path / "m.onnx", tmp_path / "b.onnx", format="onnx", storage="int8").path
    weights = [tensors(onnx.load(path)) for path in (of_checkpoint, of_file)]
    assert sum(name.endswith(".levels") for name in weights[0]) == 2
    assert weights[0].keys() == weights[1].keys()
    for name, values in weights[0].items():
        np.testing.assert_array_equal(weights[1][name], values)
