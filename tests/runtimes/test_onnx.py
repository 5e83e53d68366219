import contextlib
import os
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from models import (
    COLOUR,
    GREY,
    gaussian_file,
    learned_model,
    mix_model,
    node,
    onnx_file,
    scale_model,
    tiny_spec,
    weights_of,
)
from onnx import TensorProto

from ddpm_export.errors import BadFileError, EnvironmentProblem, UsageError
from ddpm_export.runtimes.opening import MAX_THREADS, open_model


def opened(tmp_path, content, **options):
    (tmp_path / "m.onnx").write_bytes(content)
    return open_model(tmp_path / "m.onnx", **options)


def mix_slowly(x_t, t, weights):
    """What `mix_model` computes, by its definition: (B, C, H, W) float64."""
    height, width = x_t.shape[2:]
    padded = np.pad(x_t.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    mixed = np.zeros(x_t.shape)
    for i in range(3):
        for j in range(3):
            window = padded[:, :, i : i + height, j : j + width]
            mixed += np.einsum("bchw,oc->bohw", window, weights[:, :, i, j].astype(np.float64))
    return np.tanh(mixed) + t.reshape(-1, 1, 1, 1) / 100


@pytest.mark.parametrize("shape", [GREY, COLOUR])
@pytest.mark.parametrize("batch", [1, 2, 3, 5])
def test_a_model_computes_what_its_graph_says(tmp_path, rng, shape, batch):
    spec = tiny_spec(shape)
    model, found = opened(tmp_path, mix_model(spec))
    assert found == spec
    x_t = rng.standard_normal((batch, *shape), dtype=np.float32)
    t = rng.integers(0, 40, batch)
    outputs = model(x_t, t)
    assert list(outputs) == ["eps"]
    assert outputs["eps"].dtype == np.float32
    np.testing.assert_allclose(outputs["eps"], mix_slowly(x_t, t, weights_of(spec)), rtol=0, atol=1e-5)


def test_a_file_that_requires_variance_fraction_has_it(tmp_path, rng):
    model, spec = opened(tmp_path, learned_model())
    x_t = rng.standard_normal((3, *GREY), dtype=np.float32)
    outputs = model(x_t, np.zeros(3, dtype=np.int64))
    assert tuple(outputs) == spec.outputs == ("eps", "variance_fraction")
    np.testing.assert_allclose(outputs["variance_fraction"], 1 / (1 + np.exp(-x_t)), rtol=0, atol=1e-6)
    with pytest.raises(BadFileError, match="graph and spec disagree"):
        opened(tmp_path, mix_model(tiny_spec(variance="learned", requires=("variance_fraction",))))


def test_the_gaussian_file_knows_its_times(tmp_path, rng):
    spec = tiny_spec()
    model, _ = opened(tmp_path, gaussian_file(spec, 0.3, 0.5))
    x_t, t = rng.standard_normal((3, *GREY), dtype=np.float32), np.array([0, 20, 39])
    a = np.asarray(spec.alphas_cumprod)[t].reshape(-1, 1, 1, 1)
    expected = np.sqrt(1 - a) / (a * 0.25 + 1 - a) * (x_t - np.sqrt(a) * 0.3)
    np.testing.assert_allclose(model(x_t, t)["eps"], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("prediction", ["eps", "x_0", "v"])
def test_the_first_output_is_what_the_spec_says_and_others_may_follow(tmp_path, prediction):
    spec = tiny_spec(prediction=prediction)
    shape = ["batch", *GREY]
    outputs = {prediction: (TensorProto.FLOAT, shape), "more": (TensorProto.FLOAT, shape)}
    nodes = [node("Neg", ["x_t"], prediction), node("Abs", ["x_t"], "more")]
    model, _ = opened(tmp_path, onnx_file(nodes, spec=spec, outputs=outputs))
    x_t = np.ones((2, *GREY), np.float32)
    np.testing.assert_array_equal(model(x_t, np.zeros(2, np.int64))[prediction], -x_t)
    swapped = dict(reversed(outputs.items()))
    with pytest.raises(BadFileError, match="graph and spec disagree"):
        opened(tmp_path, onnx_file(nodes, spec=spec, outputs=swapped))


FLOAT, INT64, DOUBLE, INT32 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.DOUBLE, TensorProto.INT32
X_T, TIMES = (FLOAT, ["batch", *GREY]), (INT64, ["batch"])


@pytest.mark.parametrize(
    "inputs",
    [
        {"x": X_T, "t": TIMES},
        {"x_t": X_T, "time": TIMES},
        {"x_t": X_T, "t": (INT32, ["batch"])},
        {"x_t": X_T, "t": (FLOAT, ["batch"])},
        {"x_t": (DOUBLE, ["batch", *GREY]), "t": TIMES},
        {"x_t": (FLOAT, ["batch", 1, 5, 6]), "t": TIMES},
        {"x_t": (FLOAT, ["batch", 1, 6, "width"]), "t": TIMES},
        {"x_t": (FLOAT, ["batch", 1, 6]), "t": TIMES},
        {"x_t": X_T, "t": (INT64, ["batch", 1])},
        {"x_t": X_T, "t": TIMES, "y": (INT64, ["batch"])},
        {"x_t": X_T},
    ],
)
def test_inputs_that_are_not_those_of_the_spec_are_refused(tmp_path, inputs):
    name, (kind, shape) = next(iter(inputs.items()))
    content = onnx_file([node("Neg", [name], "eps")], inputs=inputs, outputs={"eps": (kind, shape)})
    with pytest.raises(BadFileError, match="graph and spec disagree"):
        opened(tmp_path, content)


@pytest.mark.parametrize("outputs", [{"noise": X_T}, {"eps": (DOUBLE, ["batch", *GREY])}])
def test_outputs_that_are_not_those_of_the_spec_are_refused(tmp_path, outputs):
    (name, (kind, _)) = next(iter(outputs.items()))
    content = onnx_file([node("Cast", ["x_t"], name, to=kind)], outputs=outputs)
    with pytest.raises(BadFileError, match="graph and spec disagree"):
        opened(tmp_path, content)


@pytest.mark.parametrize("threads", [None, 1, 3])
@pytest.mark.parametrize("knows_cores", [True, False])
def test_threads_reach_onnx_runtime(tmp_path, monkeypatch, threads, knows_cores):
    seen = []
    real = onnxruntime.InferenceSession

    def session(path, options, **more):
        seen.append(options.intra_op_num_threads)
        return real(path, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    if knows_cores:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3, 4}, raising=False)
    else:
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    opened(tmp_path, scale_model(), threads=threads)
    assert seen == [threads or (5 if knows_cores else 0)]


@pytest.mark.parametrize(("threads", "spinning"), [(None, ""), (2, ""), (1024, "0")])
def test_more_threads_than_cores_do_not_keep_one_another_from_them(tmp_path, monkeypatch, threads, spinning):
    seen = []
    real = onnxruntime.InferenceSession

    def session(path, options, **more):
        with contextlib.suppress(RuntimeError):  # it is not set
            seen.append(options.get_session_config_entry("session.intra_op.allow_spinning"))
        return real(path, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1}, raising=False)
    opened(tmp_path, scale_model(), threads=threads)
    assert seen in ([spinning], [spinning] if spinning else [])


@pytest.mark.parametrize("threads", [0, -1, MAX_THREADS + 1])
def test_threads_out_of_range_are_a_usage_error(tmp_path, threads):
    with pytest.raises(UsageError, match="threads must be between 1 and 1024, got"):
        opened(tmp_path, scale_model(), threads=threads)


def test_without_onnxruntime_the_error_names_both_extras(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EnvironmentProblem, match=r"ddpm-export\[cpu\].*ddpm-export\[cuda\]"):
        opened(tmp_path, scale_model())


@pytest.fixture
def half_installed(monkeypatch):
    """An onnxruntime that says it has CUDA; without its libraries, the session it makes runs on the CPU."""
    asked = []

    class Session(onnxruntime.InferenceSession):
        def __init__(self, path, options, providers, **more):
            asked.append((providers, more))
            super().__init__(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load libcudnn.so.9"), raising=False)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    return asked


def test_a_session_that_fell_back_to_the_cpu_is_refused(tmp_path, half_installed, capfd):
    with pytest.raises(EnvironmentProblem, match=r"provider cuda does not start.*`provider=cpu`"):
        opened(tmp_path, scale_model(), provider="cuda")
    [([(name, options)], more)] = half_installed
    assert name == "CUDAExecutionProvider"
    assert options["use_tf32"] == "0"
    assert more == {"enable_fallback": 0}
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("CUDA failure 35: CUDA driver version is insufficient", EnvironmentProblem),
        ("INVALID_PROTOBUF: parsing failed", BadFileError),
    ],
)
def test_a_session_that_cuda_or_the_file_prevents_is_told_apart(tmp_path, half_installed, monkeypatch, message, error):
    def session(*_arguments, **_options):
        raise RuntimeError(message + "\nand a second line")

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(error, match=message) as caught:
        opened(tmp_path, scale_model(), provider="cuda")
    assert "second" not in str(caught.value)


def test_where_cuda_is_missing_the_error_says_what_to_install(tmp_path):
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(EnvironmentProblem, match=r"this onnxruntime has only .*ddpm-export\[cuda\]"):
        opened(tmp_path, scale_model(), provider="cuda")


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("m.bin", r"must end in \.onnx, \.ts or \.pt2"),
        ("m", r"must end in \.onnx, \.ts or \.pt2"),
        ("none.onnx", "no such file"),
        ("x" * 300 + ".onnx", "no such file"),
        ("circle.onnx", "no such file"),
        ("locked.onnx", "it cannot be read: Permission denied"),
    ],
)
def test_what_is_no_model_by_its_name_is_a_bad_file(tmp_path, name, named, monkeypatch):
    (tmp_path / "m.bin").write_bytes(scale_model())
    (tmp_path / "m").write_bytes(scale_model())
    (tmp_path / "locked.onnx").write_bytes(scale_model())
    (tmp_path / "circle.onnx").symlink_to("circle.onnx")
    real = Path.open

    def denied(path, *arguments):
        if path.name == "locked.onnx":
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments)

    monkeypatch.setattr(Path, "open", denied)  # root may read anything
    with pytest.raises(BadFileError, match=named):
        open_model(tmp_path / name)


def test_a_folder_is_no_model(tmp_path):
    (tmp_path / "m.onnx").mkdir()
    with pytest.raises(BadFileError, match="no such file"):
        open_model(tmp_path / "m.onnx")
