"""Providers are records: what one more needs, that nothing runs elsewhere unseen, and one contract for bound arrays."""

import dataclasses
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from models import (
    COLOUR,
    GREY,
    constant,
    extractor_file,
    learned_model,
    mix_model,
    node,
    onnx_file,
    scale_model,
    tiny_spec,
)
from onnx import TensorProto

from ddpm_export.errors import BadFileError, EnvironmentProblem, ModelRefusedError, UsageError
from ddpm_export.model.golden import golden_from_model
from ddpm_export.model.inputs import Input
from ddpm_export.model.spec_json import spec_from_json
from ddpm_export.runtimes import external_data, onnx
from ddpm_export.runtimes.opening import open_file, open_model
from ddpm_export.runtimes.providers import PROVIDERS, Provider

CPU = "CPUExecutionProvider"
SHIPPED = Path(__file__).parents[2] / "exported" / "unet.onnx"
T0 = np.zeros(1, np.int64)


@pytest.fixture(params=["copied", "bound"])
def provider(request, monkeypatch):
    """The CPU, and the CPU as a device to which inputs and outputs are bound, as CUDA's are."""
    if request.param == "copied":
        return "cpu"
    monkeypatch.setitem(PROVIDERS, "toy", Provider("toy", CPU, extra="cpu", needs="nothing", bound_to="cpu"))
    return "toy"


def opened(tmp_path, content, provider="cpu"):
    (tmp_path / "m.onnx").write_bytes(content)
    return open_model(tmp_path / "m.onnx", provider)


# --- one contract ---


@pytest.mark.parametrize("content", [mix_model(tiny_spec(COLOUR)), learned_model()])
def test_a_model_computes_the_same_however_its_arrays_reach_it(tmp_path, rng, provider, content):
    model, spec = opened(tmp_path, content, provider)
    reference, _ = opened(tmp_path, content)
    for batch in (1, 3, 3, 2):
        x_t = rng.standard_normal((batch, *spec.state_shape), dtype=np.float32)
        t = rng.integers(0, 40, batch)
        turned = np.asfortranarray(x_t)  # the same numbers in another order in memory
        found, expected = model(turned, t), reference(x_t, t)
        assert list(found) == list(spec.outputs)
        for name in spec.outputs:
            np.testing.assert_array_equal(found[name], expected[name])


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"x_t": np.zeros((1, *GREY))}, "x_t must be float32 of shape (1, 1, 6, 5), got float64"),
        ({"x_t": np.zeros((1, 1, 6, 6), np.float32)}, "got float32 of shape (1, 1, 6, 6)"),
        ({"t": np.zeros(2, np.int64)}, "t must be int64 of shape (1,), got int64 of shape (2,)"),
        ({"t": np.zeros(1, np.float32)}, "t must be int64 of shape (1,), got float32"),
        ({"y": np.zeros(1, np.int64)}, "The model has no input 'y'; it has x_t, t."),
    ],
)
def test_inputs_that_are_not_the_specs_are_refused_by_name(tmp_path, provider, given, named):
    model, _ = opened(tmp_path, scale_model(), provider)
    with pytest.raises(UsageError, match=re.escape(named)):
        model(**{"x_t": np.zeros((1, *GREY), np.float32), "t": T0, **given})


def test_a_graph_that_loads_and_does_not_run_is_a_bad_file_in_one_line(tmp_path, provider):
    nodes = [node("Reshape", ["x_t", "odd"], "eps")]
    content = onnx_file(nodes, [constant("odd", [-1, 1, 6, 7], np.int64)], outputs={"eps": (TensorProto.FLOAT, None)})
    model, _ = opened(tmp_path, content, provider)
    with pytest.raises(BadFileError, match=r"m\.onnx: the graph does not run") as caught:
        model(np.zeros((1, *GREY), np.float32), T0)
    assert "\n" not in str(caught.value)


def test_an_output_of_another_shape_is_a_bad_file(tmp_path, provider):
    nodes = [node("ReduceMean", ["x_t"], "eps", keepdims=1)]
    model, _ = opened(tmp_path, onnx_file(nodes, outputs={"eps": (TensorProto.FLOAT, None)}), provider)
    words = r"must have the shape of x_t, \(2, 1, 6, 5\), got \(1, 1, 1, 1\)" if provider == "cpu" else r"m\.onnx"
    with pytest.raises(BadFileError, match=words):
        model(np.zeros((2, *GREY), np.float32), np.zeros(2, np.int64))


# --- what runs where ---


@pytest.fixture
def pretended(monkeypatch):
    """An onnxruntime whose CUDA provider is there, and leaves every node to the CPU; gives the sessions' options."""
    options = []

    class Session(onnxruntime.InferenceSession):
        def __init__(self, path, given, **_):
            options.append(given)
            super().__init__(path, given, providers=[CPU])

        def get_providers(self):
            return ["CUDAExecutionProvider", CPU]

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    return options


def test_nodes_that_would_compute_elsewhere_are_refused_by_name(tmp_path, pretended):
    with pytest.raises(ModelRefusedError, match=r"cuda cannot run all of it: .*bent \(Tanh\).* `provider=cpu`"):
        opened(tmp_path, mix_model(), "cuda")
    many = [node("Tanh", ["x_t"], "v0"), *(node("Tanh", [f"v{k}"], f"v{k + 1}") for k in range(7))]
    with pytest.raises(ModelRefusedError, match=r"v4 \(Tanh\) and 4 more would run"):
        opened(tmp_path, onnx_file([*many, node("Tanh", ["v7"], "eps")]), "cuda")


def test_nodes_that_only_move_numbers_may_lie_on_the_cpu(tmp_path, pretended):
    opened(tmp_path, onnx_file([node("Identity", ["x_t"], "eps")]), "cuda")


def test_an_onnx_runtime_that_cannot_tell_is_forbidden_the_cpu(tmp_path, pretended, monkeypatch):
    tells = "get_provider_graph_assignment_info"
    (owner,) = [kind for kind in onnxruntime.InferenceSession.__mro__ if tells in vars(kind)]
    monkeypatch.delattr(owner, tells)
    with pytest.raises(ModelRefusedError, match=r"cuda cannot run all of it.*fallback to the CPU EP.*`provider=cpu`"):
        opened(tmp_path, mix_model(), "cuda")
    assert len(pretended) == 2
    assert pretended[1].get_session_config_entry("session.disable_cpu_ep_fallback") == "1"


def test_metadata_is_read_once_whatever_the_provider(tmp_path, provider, monkeypatch):
    seen = []
    monkeypatch.setattr(onnx, "metadata_of", lambda path: seen.append(path) or external_data.metadata_of(path))
    monkeypatch.setattr(onnx, "spec_from_json", lambda text: seen.append("spec") or spec_from_json(text))
    monkeypatch.setattr(onnxruntime.InferenceSession, "get_modelmeta", None)
    opened(tmp_path, mix_model(), provider)
    assert seen == [tmp_path / "m.onnx", "spec"]


# --- one record is all that one more needs ---


def test_a_provider_is_known_everywhere_once_it_has_a_record(tmp_path, monkeypatch):
    toy = Provider("toy", "ToyExecutionProvider", extra="toy", needs="a toy with its driver", options={"a": "1"})
    assert list(PROVIDERS) == ["cpu", "cuda", "openvino", "openvino-bf16", "webgpu"]
    monkeypatch.setitem(PROVIDERS, "toy", toy)
    with pytest.raises(UsageError, match=r"provider must be one of cpu, cuda, .*, toy, got 'abacus'"):
        opened(tmp_path, mix_model(), "abacus")
    with pytest.raises(EnvironmentProblem, match=r"provider toy: this onnxruntime has only .*ddpm-export\[toy\]"):
        opened(tmp_path, mix_model(), "toy")
    asked = []

    class Session(onnxruntime.InferenceSession):
        def __init__(self, *_, providers, **__):
            asked.append(providers)
            raise RuntimeError("the toy does not turn")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["ToyExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    with pytest.raises(EnvironmentProblem, match=r"provider toy does not start.*a toy with its driver"):
        opened(tmp_path, mix_model(), "toy")
    assert asked == [[("ToyExecutionProvider", {"a": "1"})]]


# --- plugins ---


@pytest.fixture
def plugged(monkeypatch):
    """A plugin of a package of its own that offers the CPU as its device; gives what was registered and asked for."""
    seen = SimpleNamespace(
        registered=[], offered=[device for device in onnxruntime.get_ep_devices() if device.ep_name == CPU]
    )
    package = ModuleType("onnxruntime_ep_toy")
    package.get_library_path = lambda: "/toy.so"
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_toy", package)
    monkeypatch.setitem(
        PROVIDERS, "toy", Provider("toy", CPU, extra="toy", needs="a toy", plugin="onnxruntime_ep_toy", lacks="a wheel")
    )
    monkeypatch.setattr(onnx, "_registered", set())
    monkeypatch.setattr(
        onnxruntime, "register_execution_provider_library", lambda *what: seen.registered.append(what), raising=False
    )
    monkeypatch.setattr(onnxruntime, "get_ep_devices", lambda: seen.offered)
    return seen


def with_golden(tmp_path, **changed):
    """Return the content of a file whose golden vectors are its own; `changed` replaces parts of the first case."""
    model, spec = opened(tmp_path, mix_model())
    golden = golden_from_model(model, spec)
    golden["cases"][0].update(changed)
    return mix_model(dataclasses.replace(spec, golden=golden))


def test_a_plugin_is_registered_once_and_runs_what_its_golden_vectors_vouch_for(tmp_path, plugged):
    content = with_golden(tmp_path)
    found, spec = opened(tmp_path, content, "toy")
    again, _ = opened(tmp_path, content, "toy")
    assert plugged.registered == [("onnxruntime_ep_toy", "/toy.so")]
    x_t = np.ones((2, *spec.state_shape), np.float32)
    expected = opened(tmp_path, content)[0](x_t, np.zeros(2, np.int64))["eps"]
    for model in (found, again):
        np.testing.assert_array_equal(model(x_t, np.zeros(2, np.int64))["eps"], expected)


def test_a_plugin_that_computes_otherwise_is_refused_and_the_cpu_is_not(tmp_path, plugged):
    content = with_golden(tmp_path, mean=0.4)
    with pytest.raises(
        ModelRefusedError, match=r"m\.onnx: toy does not compute what the file promises: the error is .*at t=0"
    ):
        opened(tmp_path, content, "toy")
    opened(tmp_path, content)
    with pytest.raises(
        ModelRefusedError, match=r"m\.onnx: has no golden vectors that could tell whether toy computes it"
    ):
        opened(tmp_path, mix_model(), "toy")


def test_a_plugin_without_device_library_or_package_is_an_environment_problem(tmp_path, plugged, monkeypatch):
    plugged.offered.clear()
    with pytest.raises(
        EnvironmentProblem, match=r"provider toy does not start: .* offers no device on this machine\. .* a toy"
    ):
        opened(tmp_path, mix_model(), "toy")
    monkeypatch.setattr(onnx, "_registered", set())

    def fails(*_):
        raise RuntimeError("libtoy.so.1: cannot open shared object file")

    monkeypatch.setattr(onnxruntime, "register_execution_provider_library", fails)
    with pytest.raises(EnvironmentProblem, match=r"provider toy does not start: libtoy\.so\.1: cannot open"):
        opened(tmp_path, mix_model(), "toy")
    monkeypatch.delattr(onnxruntime, "register_execution_provider_library")
    with pytest.raises(EnvironmentProblem, match=r"does not start: onnxruntime .* takes no plugins"):
        opened(tmp_path, mix_model(), "toy")
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_toy", None)
    with pytest.raises(EnvironmentProblem, match=r"^onnxruntime-ep-toy is not installed.*ddpm-export\[toy\]"):
        opened(tmp_path, mix_model(), "toy")


def test_a_plugin_scores_nothing_since_an_extractor_has_no_golden_vectors(tmp_path, plugged):
    (tmp_path / "e.onnx").write_bytes(extractor_file())
    with pytest.raises(ModelRefusedError, match="an extractor has no golden vectors that could tell whether toy"):
        onnx.open_extractor(tmp_path / "e.onnx", GREY, "toy", None)


@pytest.mark.parametrize("name", [name for name, provider in PROVIDERS.items() if provider.plugin])
def test_a_plugin_that_is_installed_runs_the_shipped_model_or_offers_no_device(name, monkeypatch):
    pytest.importorskip(PROVIDERS[name].plugin)
    monkeypatch.setenv("ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER", "1")  # Mesa's, where there is no GPU
    reason = None
    try:
        open_model(SHIPPED, name)
    except EnvironmentProblem as exc:
        reason = str(exc)
    assert reason is None or "offers no device" in reason  # as OpenVINO on AMD


@pytest.mark.parametrize("ending", ["ts", "pt2"])
def test_a_provider_without_a_torch_device_runs_no_torch_file(tmp_path, monkeypatch, ending):
    pytest.importorskip("torch")
    from ddpm_export.runtimes.torch_archive import torch_device

    with pytest.raises(EnvironmentProblem, match=r"provider toy does not run \.ts and \.pt2 files"):
        torch_device(Provider("toy", CPU, extra="cpu", needs="nothing"), None)


def test_open_file_tells_a_denoiser_by_its_class(tmp_path):
    (tmp_path / "m.onnx").write_bytes(mix_model())
    file = open_file(tmp_path / "m.onnx")
    assert (type(file).__name__, file.spec) == ("DenoiserFile", tiny_spec())


# --- inputs of a spec ---


LABEL = tiny_spec(requires=("inputs",), inputs=(Input("y", "label", none=2, classes=("a", "b")),))
VECTOR = tiny_spec(requires=("inputs",), inputs=(Input("v", "vector", (4,)),))
X_T, TIMES = (TensorProto.FLOAT, ["batch", *GREY]), (TensorProto.INT64, ["batch"])


@pytest.mark.parametrize(
    ("spec", "inputs"),
    [
        (LABEL, {}),
        (LABEL, {"label": TIMES}),
        (LABEL, {"y": (TensorProto.INT32, ["batch"])}),
        (LABEL, {"y": (TensorProto.INT64, ["batch", 1])}),
        (LABEL, {"y": TIMES, "v": (TensorProto.FLOAT, ["batch", 4])}),
        (VECTOR, {"v": (TensorProto.FLOAT, ["batch", 5])}),
        (VECTOR, {"v": (TensorProto.FLOAT, ["batch", "D"])}),
        (VECTOR, {"v": (TensorProto.DOUBLE, ["batch", 4])}),
        (tiny_spec(), {"y": TIMES}),
        (tiny_spec(requires=("fractional_t",)), {}),
    ],
)
def test_a_graph_whose_inputs_are_not_those_of_its_spec_is_refused(tmp_path, provider, spec, inputs):
    content = onnx_file([node("Neg", ["x_t"], "eps")], spec=spec, inputs={"x_t": X_T, "t": TIMES, **inputs})
    with pytest.raises(BadFileError, match="graph and spec disagree"):
        opened(tmp_path, content, provider)


def test_every_input_reaches_the_graph_however_its_arrays_do(tmp_path, provider):
    spec = dataclasses.replace(VECTOR, inputs=(*LABEL.inputs, *VECTOR.inputs), requires=("inputs", "fractional_t"))
    inputs = {"x_t": X_T, "t": (TensorProto.FLOAT, ["batch"]), "y": TIMES, "v": (TensorProto.FLOAT, ["batch", 4])}
    nodes = [
        node("ReduceSum", ["v"], "sum", keepdims=0, noop_with_empty_axes=0),
        node("Cast", ["y"], "label", to=TensorProto.FLOAT),
        node("Add", ["t", "label"], "shift"),
        node("Reshape", ["shift", "column"], "shift of each"),
        node("Add", ["x_t", "shift of each"], "shifted"),
        node("Mul", ["shifted", "sum"], "eps"),
    ]
    model, _ = opened(
        tmp_path, onnx_file(nodes, [constant("column", [-1, 1, 1, 1], np.int64)], spec, inputs=inputs), provider
    )
    for k in (1, 2):  # the second time with the buffers of the first
        x_t, t, y = np.full((2, *GREY), k, np.float32), np.array([0.5, 3.25], np.float32), np.array([2, k - 1])
        found = model(x_t, t, y=y, v=np.full((2, 4), k, np.float32))["eps"]
        expected = (x_t + (t + y)[:, None, None, None]) * 8 * k
        np.testing.assert_array_equal(found, expected)
