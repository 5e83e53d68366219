"""`ddpm-adopt theirs.onnx`: a network that is an .onnx already, whoever made it. No torch."""

import json

import numpy as np
import pytest
from commands import run_apart
from models import constant, external, mix_model, node
from representative import representative

from ddpm_export import generate, open_model
from ddpm_export.model.golden import replay_golden
from ddpm_export.model.inputs import Input
from ddpm_export.runtimes.onnx import open_graph

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

FLOAT, HALF, INT32, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT32, TensorProto.INT64
SHAPE = (2, 6, 5)
WEIGHTS = np.linspace(-0.3, 0.5, 36, dtype=np.float32).reshape(2, 2, 3, 3)
USUAL = ("--schedule", "linear", "--timesteps", 40, "--set", "x_t=sample")


def theirs(
    path,
    time=(INT64, ["batch"]),
    *,
    batch="batch",
    nhwc=False,
    opset=18,
    extra=False,
    kind=FLOAT,
    asked=(),
    first=False,
    name="timestep",
):
    """Write a network of others, tanh of a 3x3 convolution of its state plus a hundredth of its time.

    time: dtype and shape of the input called `name`. asked: further inputs, (name, dtype, shape), of which a
    tenth of each image's first number is added. first: whether it reads the first time for all images.
    """
    shape = [batch, *SHAPE[1:], SHAPE[0]] if nhwc else [batch, *SHAPE]
    inputs = {"sample": (kind, shape), name: time, **{name: (dtype, size) for name, dtype, size in asked}}
    nodes = [
        node("Transpose", ["sample"], "in NCHW", perm=[0, 3, 1, 2])
        if nhwc
        else node("Identity", ["sample"], "in NCHW"),
        node("Cast", ["in NCHW"], "x", to=FLOAT),
        node("Conv", ["x", "w"], "mixed", pads=[1, 1, 1, 1]),
        node("Tanh", ["mixed"], "bent"),
        node("Cast", [name], "t", to=FLOAT),  # "t" and "x_t" are ours
        node("Mul", ["t", "hundredth"], "scaled"),
        node("Reshape", ["scaled", "column"], "shift"),
        *([node("Gather", ["shift", "zero"], "one shift", axis=0)] if first else []),
        node("Add", ["bent", "one shift" if first else "shift"], "x_t"),
    ]
    stated = "x_t"
    for other, _, _ in asked:
        nodes += [
            node("Cast", [other], f"{other} float", to=FLOAT),
            node("Reshape", [f"{other} float", "rows"], f"{other} rows"),
            node("Gather", [f"{other} rows", "zero"], f"{other} first", axis=1),
            node("Mul", [f"{other} first", "tenth"], f"{other} tenth"),
            node("Reshape", [f"{other} tenth", "column"], f"{other} column"),
            node("Add", [stated, f"{other} column"], f"with {other}"),
        ]
        stated = f"with {other}"
    nodes += [
        node("Cast", [stated], "cast", to=kind),
        node("Transpose", ["cast"], "noise", perm=[0, 2, 3, 1]) if nhwc else node("Identity", ["cast"], "noise"),
    ]
    outputs = {"noise": (kind, shape)}
    if extra:
        nodes.append(node("Neg", ["bent"], "hidden"))
        outputs = {"hidden": (FLOAT, None), **outputs}
    for entry in nodes[::2]:
        entry.name = ""  # as many exporters leave it
    graph = helper.make_graph(
        nodes,
        "main",
        [helper.make_tensor_value_info(name, *what) for name, what in inputs.items()],
        [helper.make_tensor_value_info(name, *what) for name, what in outputs.items()],
        [
            constant("w", WEIGHTS),
            constant("hundredth", 0.01),
            constant("tenth", 0.1),
            constant("column", [-1, 1, 1, 1], np.int64),
            constant("rows", [0, -1], np.int64),
            constant("zero", [0], np.int64),
        ],
    )
    imports = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8 if opset < 21 else 10), path)
    return path


def stated(x, time):
    """What the network of `theirs` says, (B, 2, 6, 5), of a state and a time for each image: the same in NumPy."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.tanh(np.einsum("bchwij,dcij->bdhw", windows, WEIGHTS)) + time[:, None, None, None] / 100


T_IS = ("--set", "t=timestep")
BOTH = (*USUAL, *T_IS)
ONE_BY_ONE = "batches are evaluated image by image"
NETWORKS = {  # how theirs is, what else is said on the command line, and whether it goes image by image
    "usual": ({}, T_IS, False),
    "int32": ({"time": (INT32, ["batch"])}, T_IS, False),
    "float": ({"time": (FLOAT, ["steps"])}, T_IS, False),
    "a time of four dimensions": ({"time": (FLOAT, ["batch", 1, 1, 1])}, T_IS, False),
    "one time": ({"time": (INT64, [])}, T_IS, True),
    "a vector of one time": ({"time": (FLOAT, [1])}, T_IS, True),
    "one image": ({"batch": 1, "time": (INT64, [1])}, T_IS, True),
    "NHWC": ({"nhwc": True}, (*T_IS, "--set", "layout=NHWC"), False),
    "one image, NHWC": ({"nhwc": True, "batch": 1, "time": (FLOAT, [])}, (*T_IS, "--set", "layout=NHWC"), True),
    "two outputs": ({"extra": True}, (*T_IS, "--set", "output=noise"), False),
    "an old opset": ({"opset": 13}, T_IS, False),
    "a new opset": ({"opset": 21}, T_IS, False),
    "sigma": ({"time": (FLOAT, ["batch"])}, ("--set", "sigma=timestep", "--prediction", "eps"), False),
    "c_noise": ({"time": (FLOAT, ["batch"])}, ("--set", "c_noise=timestep", "--set", "sigma_data=0.6"), False),
    "flow": ({"time": (FLOAT, ["batch"])}, (*T_IS, "--set", "path=flow", "--set", "time_scale=10"), False),
    "edm": ({"time": (FLOAT, ["batch"])}, (*T_IS, "--set", "preconditioner=edm", "--set", "sigma_data=0.6"), False),
    "consistency": ({"time": (FLOAT, ["batch"])}, (*T_IS, "--set", "preconditioner=consistency"), False),
    "its first time is for all": ({"first": True}, (*T_IS, "--set", "batch=1"), True),
}


def of_flow(sigma, x_0, eps):
    """What v is where the network says u of (1 - s) x_0 + s eps: x_0 is x - s u, eps x + (1 - s) u."""
    with np.errstate(divide="ignore", invalid="ignore"):
        s = np.where(np.isinf(sigma), 1.0, sigma / (1 + sigma))
    x = (1 - s) * x_0 + s * eps
    u = stated(x, 10 * s[:, 0, 0, 0])
    return ((1 - s) * (x + (1 - s) * u) - s * (x - s * u)) / np.hypot(s, 1 - s)


def of_edm(sigma, x_0, eps, sigma_data=0.6):
    """What v is where EDM's denoiser says D of x_0 + sigma eps."""
    x, root = x_0 + sigma * eps, np.hypot(sigma, sigma_data)
    D = sigma_data**2 / root**2 * x + sigma * sigma_data / root * stated(x / root, np.log(sigma[:, 0, 0, 0]) / 4)
    return ((x - D) / sigma - sigma * D) / np.hypot(1, sigma)


def of_consistency(sigma, x_0, eps):
    x, root = x_0 + sigma * eps, np.hypot(sigma, 0.5)
    said = stated(x / root, np.log(sigma[:, 0, 0, 0]) / 4)
    return 0.25 / ((sigma - 0.002) ** 2 + 0.25) * x + (sigma - 0.002) * 0.5 / root * said


PATHS = {"flow": of_flow, "edm": of_edm, "consistency": of_consistency}
NEEDED = ("usual", "one time", "NHWC", "two outputs", "sigma", "c_noise", *PATHS)


@representative("name", NETWORKS, by=lambda name: name if name in NEEDED else "other")
def test_a_foreign_network_says_in_our_file_what_it_says_itself(tmp_path, command, rng, name):
    how, options, is_one_by_one = NETWORKS[name]
    source, path = theirs(tmp_path / "theirs.onnx", **how), tmp_path / "ours.onnx"
    usual = USUAL if name not in PATHS else USUAL[2:]  # levels of its own take no schedule
    code, out, err = command("adopt", source, *usual, *options, "--out", path, "--json")
    assert code == 0, err
    assert json.loads(out)["importer"] == "onnx"
    assert f"note: golden vectors record what {source} gives in ONNX Runtime" in err
    assert (ONE_BY_ONE in err, "left out: the output hidden" in err) == (is_one_by_one, "extra" in how)
    model, spec = open_model(path)
    assert all(result.passed for result in replay_golden(model, spec))
    if name == "two outputs":
        against = ("--against", source, "--set", "x_t=sample", *options, "--json")
        code, out, err = command("check", path, *against)
        assert (code, json.loads(out)["proof"]["error"] <= 1e-5) == (0, True), err
        assert command("check", path, *against, "--set", "output=hidden")[0] == 4
    x_t, t = rng.standard_normal((3, *SHAPE)).astype(np.float32), np.array([0, 39, 20])
    a = np.array(spec.alphas_cumprod)[t].reshape(-1, 1, 1, 1)
    with np.errstate(divide="ignore"):  # a flow ends without any picture
        sigma = np.sqrt((1 - a) / a)
    if name == "sigma":
        expected = stated(x_t / np.sqrt(a), sigma[:, 0, 0, 0])
    elif name == "c_noise":  # Karras et al. 2022, table 1
        y, root = x_t / np.sqrt(a), np.sqrt(sigma**2 + 0.36)
        expected = 0.36 / root**2 * y + sigma * 0.6 / root * stated(y / root, np.log(sigma[:, 0, 0, 0]) / 4)
    elif name in PATHS:
        x_0, eps = rng.standard_normal((2, *x_t.shape))
        x_t = (np.sqrt(a) * x_0 + np.sqrt(1 - a) * eps).astype(np.float32)
        expected = PATHS[name](sigma, x_0, eps)
    else:
        expected = stated(x_t, t)
    assert spec.prediction == {"c_noise": "x_0", "consistency": "x_0", "flow": "v", "edm": "v"}.get(name, "eps")
    np.testing.assert_allclose(model(x_t, t)[spec.prediction], expected, rtol=0, atol=2e-5 if name in PATHS else 3e-6)
    proto = onnx.load(path)
    assert proto.ir_version == 8
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 18)]
    assert all(entry.name for entry in proto.graph.node)
    assert [entry.name for entry in proto.graph.output] == [spec.prediction]


def of_our_time(path, kind, opset, middle):
    """Write tanh of a convolution, and behind it what opset 18 has not: nodes from `mixed` to `late`."""
    shape, zeros = ["batch", *SHAPE], np.dtype("float16" if kind == HALF else "float32")
    nodes = [
        node("Conv", ["sample", "w"], "mixed", pads=[1, 1, 1, 1]),
        *middle,
        node("Cast", ["timestep"], "t", to=kind),
        node("Mul", ["t", "hundredth"], "scaled"),
        node("Reshape", ["scaled", "column"], "shift"),
        node("Add", ["late", "shift"], "noise"),
    ]
    places = [("sample", kind, shape), ("timestep", INT64, ["batch"])]
    weights = {"w": WEIGHTS.astype(zeros), "hundredth": np.array(0.01, zeros), "column": np.array([-1, 1, 1, 1])}
    weights |= {"scale": np.array([0.5, 2.0], zeros), "bias": np.array([0.1, -0.2], zeros)}
    graph = helper.make_graph(
        nodes,
        "main",
        [helper.make_tensor_value_info(*place) for place in places],
        [helper.make_tensor_value_info("noise", kind, shape)],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    imports = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8 if opset < 21 else 10), path)
    return path


NORM = node("GroupNormalization", ["mixed", "scale", "bias"], "late", num_groups=1)
LATER = {
    "a group norm of opset 21": (FLOAT, 21, [NORM]),
    "a Gelu within one of opset 23": (FLOAT, 23, [node("Gelu", ["mixed"], "bent"), node("Identity", ["bent"], "late")]),
    "half precision": (HALF, 18, [node("Tanh", ["mixed"], "late")]),
    "a group norm in half precision": (HALF, 21, [NORM]),
}


@pytest.mark.parametrize("name", LATER)
def test_later_operators_are_written_out_and_half_precision_computes_in_float32(tmp_path, command, rng, name):
    kind, opset, middle = LATER[name]
    source, path = of_our_time(tmp_path / "theirs.onnx", kind, opset, middle), tmp_path / "ours.onnx"
    code, _, err = command("adopt", source, *USUAL, *T_IS, "--out", path)
    assert code == 0, err
    model, _ = open_model(path)
    x_t, t = rng.standard_normal((3, *SHAPE)).astype(np.float32), np.array([0, 39, 20])
    run = open_graph(source)
    expected = run("noise", {"sample": x_t.astype(np.float16 if kind == HALF else np.float32), "timestep": t})
    tolerance = 5e-3 if kind == HALF else 3e-6
    np.testing.assert_allclose(model(x_t, t)["eps"], expected.astype(np.float32), atol=tolerance)
    proto = onnx.load(path)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 18)]
    assert not {"GroupNormalization", "Gelu"} & {entry.op_type for entry in proto.graph.node}


FURTHER = (("y class", INT32, ["batch"]), ("strength", FLOAT, ["batch"]), ("mask", FLOAT, ["batch", 4, 4, 1]))
DECLARED = (
    *("--input", "y:label:cat,dog:none=2", "--set", "y=y class"),
    *("--input", "power:vector:1", "--set", "power=strength"),
    *("--input", "mask:image:1,4,4:none=0.5"),
)


@representative("is_one_by_one", [False, True])
def test_further_inputs_are_declared_and_one_call_files_sample_them(tmp_path, command, is_one_by_one):
    time = (FLOAT, []) if is_one_by_one else (INT64, ["batch"])
    source = theirs(tmp_path / "theirs.onnx", time, nhwc=True, asked=FURTHER)
    options = (*USUAL, *T_IS, *DECLARED, "--set", "layout=NHWC", "--guidance", 2, "--steps", 3)
    code, _, err = command("adopt", source, *options, "--format", "onnx", "--format", "sampler", "--out", tmp_path)
    assert code == 0, err
    model, spec = open_model(tmp_path / "unet.onnx")
    assert [entry.name for entry in spec.inputs] == ["y", "power", "mask"]
    assert spec.inputs[0] == Input("y", "label", none=2, classes=("cat", "dog"))
    x_t, t = np.zeros((3, *SHAPE), np.float32), np.array([39, 0, 7])
    mask = np.zeros((3, 1, 4, 4), np.float32)
    mask[:, 0, 0, 0] = 4.0
    asked = {"y": np.array([2, 0, 1]), "power": np.array([[5.0], [-1.0], [0.0]], np.float32), "mask": mask}
    more = (asked["y"] + asked["power"][:, 0] + 4.0)[:, None, None, None] / 10
    np.testing.assert_allclose(model(x_t, t, **asked)["eps"], stated(x_t, t) + more, rtol=0, atol=3e-6)
    how = {"n": 2, "seed": 3, "label": "dog", "inputs": {"power": 1.5}}
    images = [generate(tmp_path / f"unet{ending}.onnx", **how) for ending in ("", ".sampler")]
    assert np.abs(images[0].astype(int) - images[1]).max() <= 1
    assert images[0].std() > 10


def test_weights_are_stored_as_float16(tmp_path, command, monkeypatch):
    monkeypatch.setattr("ddpm_export.exporting.storage.MIN_ROUNDED", 36)
    source = theirs(tmp_path / "theirs.onnx")
    code, _, err = command("adopt", source, *USUAL, *T_IS, "--storage", "float16", "--out", tmp_path / "ours.onnx")
    assert code == 0, err
    stored = {entry.name: entry.data_type for entry in onnx.load(tmp_path / "ours.onnx").graph.initializer}
    assert stored["theirs/w.float16"] == HALF


def test_what_begins_at_a_sigma_begins_with_noise_of_it_and_no_image(tmp_path, command):
    source = theirs(tmp_path / "theirs.onnx", (FLOAT, ["batch"]), name="sigma")
    karras = ("--set", "x_t=sample", "--timesteps", 40)
    karras += ("--schedule", "karras,sigma_min=0.01,sigma_max=50")
    how = ("--sampler", "consistency", "--steps", 1, "--plans", "consistency:2")
    code, _, err = command("adopt", source, *karras, *how, "--out", tmp_path / "ours.onnx")
    assert code == 0, err
    _, spec = open_model(tmp_path / "ours.onnx")
    assert (spec.prediction, spec.defaults.plan) == ("x_0", "consistency-1")
    a = np.array(spec.alphas_cumprod)
    np.testing.assert_allclose(np.sqrt((1 - a) / a)[[0, -1]], [0.01, 50], rtol=1e-9)
    for plan in (spec.plans["consistency-1"], spec.plans["consistency-2"]):
        assert plan.start / np.sqrt(plan.rows[0].a) == pytest.approx(50)
    images = {}
    for steps in (1, 2):
        code, _, err = command("run", tmp_path / "ours.onnx", "--n", 1, "--steps", steps, "--out", tmp_path / "a.npy")
        assert code == 0, err
        images[steps] = np.load(tmp_path / "a.npy")
    assert not np.array_equal(images[1], images[2])


def test_it_needs_no_torch_and_no_onnxscript(tmp_path):
    source = theirs(tmp_path / "theirs.onnx")
    arguments = [str(word) for word in ("ddpm-adopt", source, *BOTH, "--out", tmp_path / "ours.onnx")]
    ending = run_apart(
        code="import sys\n"
        "for name in ('torch', 'onnxscript', 'onnx_ir'): sys.modules[name] = None\n"
        f"sys.argv = {arguments!r}\nfrom ddpm_export.cli.adopt import main\nmain()"
    )
    assert ending.code == 0, ending
    assert open_model(tmp_path / "ours.onnx")[1].source["importer"] == "onnx"


CUSTOM = helper.make_node("Gelu", ["sample"], ["noise"], name="gelu", domain="com.microsoft")
SAMPLE = "sample float32 [?, 2, 6, 5]"
C_NOISE = (*USUAL, "--set", "c_noise=timestep")
REFUSED = {  # how theirs is, the command line, exit code, words
    "no names": ({}, (), 2, f"'x_t' must name an input of {{}}, got 'x_t'; it has {SAMPLE}, timestep int64 [?]."),
    "no schedule": ({}, (*USUAL[4:], *T_IS), 2, "theirs.onnx does not contain its schedule"),
    "no time": ({}, USUAL, 2, "One of t, sigma, c_noise must name the input of"),
    "two times": ({}, (*BOTH, "--set", "sigma=timestep"), 2, "must name the input"),
    "another shape": ({}, (*BOTH, "--shape", "2,6,6"), 4, f"{SAMPLE} does not hold [2, 6, 6]"),
    "NHWC of NCHW": ({}, (*BOTH, "--set", "layout=NHWC", "--shape", "2,6,5"), 4, "does not hold [6, 5, 2]"),
    "no layout": ({}, (*BOTH, "--set", "layout=CHW"), 2, "'layout' must be one of NCHW, NHWC"),
    "an unknown word": ({}, (*BOTH, "--set", "x0=sample"), 2, "'x0' names nothing"),
    "a batch of four": ({"batch": 4, "time": (INT64, [4])}, BOTH, 4, "takes only batches of 4"),
    "batch": ({}, (*BOTH, "--set", "batch=2"), 2, "'batch' must be 1"),
    "two outputs": ({"extra": True}, BOTH, 2, "'output' must say which output"),
    "no such output": ({}, (*BOTH, "--set", "output=eps"), 2, "noise float32 [?, 2, 6, 5]"),
    "an input that nothing gives": ({"asked": FURTHER[:1]}, BOTH, 2, "also takes y class int32 [?]"),
    "another size": ({"asked": FURTHER[1:2]}, (*BOTH, "--input", "strength:vector:2"), 4, "does not hold [2]"),
    "one time for all images": ({"first": True}, BOTH, 4, "with 'batch' set to 1."),
    "c_noise without sigma_data": ({}, C_NOISE, 2, "sigma_data"),
    "a schedule beside a path": ({}, (*BOTH, "--set", "path=flow"), 2, "--schedule does not apply beside flow"),
    "another prediction": ({}, (*BOTH[2:], "--set", "preconditioner=edm", "--prediction", "eps"), 2, "predicts v, got"),
    "two paths": (
        {"name": "sigma"},
        (*USUAL[2:], "--set", "path=flow", "--shape", "2,6,5"),
        2,
        "'sigma' is a path of its own",
    ),
    "c_noise of v": ({}, (*C_NOISE, "--set", "sigma_data=1", "--prediction", "v"), 2, "predicts x_0"),
    "pt2": ({}, (*BOTH, "--format", "pt2"), 2, "which needs torch"),
    "weights": ({}, (*BOTH, "--weights", "raw"), 2, "--weights does not apply"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_become_a_network_of_x_t_and_t_is_refused_by_name(tmp_path, command, name):
    how, options, expected, words = REFUSED[name]
    source = theirs(tmp_path / "theirs.onnx", **how)
    out = tmp_path / "ours" if "--format" in options else tmp_path / "ours.onnx"
    code, out, err = command("adopt", source, *options, "--out", out)
    assert (code, out) == (expected, ""), err
    assert words.format(source) in err.splitlines()[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["theirs.onnx"]


def test_graphs_that_are_none_or_not_for_everybody_are_refused(tmp_path, command):
    path = theirs(tmp_path / "theirs.onnx")
    options = (*USUAL, *T_IS, "--out", tmp_path / "ours.onnx")
    sound = onnx.load(path)

    def ending_with(**changes):
        model = onnx.ModelProto()
        model.CopyFrom(sound)
        for name, change in changes.items():
            change(model.graph if name == "graph" else model)
        path.write_bytes(model.SerializeToString())
        code, out, err = command("adopt", path, *options)
        assert out == ""
        return code, err.splitlines()[-1]

    def custom(graph):
        graph.node[-1].CopyFrom(CUSTOM)

    def of_strings(graph):
        graph.input[0].type.tensor_type.elem_type = TensorProto.STRING

    def of_more_channels(graph):
        graph.output[0].type.tensor_type.shape.dim[1].dim_value = 4

    def of_no_operator(graph):
        graph.node[2].op_type = "Convolve"

    domain = helper.make_opsetid("com.microsoft", 1)
    code, line = ending_with(graph=custom, model=lambda model: model.opset_import.append(domain))
    assert (code, "Gelu of com.microsoft" in line) == (4, True), line
    code, line = ending_with(graph=of_strings)
    assert (code, "is not numeric" in line) == (4, True), line
    code, line = ending_with(graph=of_more_channels)
    assert (code, "has the shape of the state" in line) == (4, True), line
    code, line = ending_with(graph=of_no_operator)
    assert (code, "is not a valid graph of opset 18" in line) == (4, True), line
    code, line = ending_with(graph=lambda graph: graph.initializer[0].CopyFrom(external("../w", 144)))
    assert (code, "outside the model's folder" in line) == (3, True), line
    code, line = ending_with(graph=lambda graph: graph.initializer[0].CopyFrom(external("w", 2**62)))
    assert code == 3, line
    path.write_bytes(b"no protobuf")
    assert command("adopt", path, *options)[0] == 3
    path.write_bytes(mix_model())  # one of ours takes none of the options
    assert command("adopt", path, *options)[0] == 2


def test_names_that_are_not_utf_8_are_refused(tmp_path, command):
    path = theirs(tmp_path / "theirs.onnx")
    path.write_bytes(path.read_bytes().replace(b"hundredth", b"hundr\xe5dth"))
    code, _, err = command("adopt", path, *BOTH)
    assert (code, "its names are not UTF-8" in err, err.count("\n")) == (3, True, 1)


def test_it_is_not_written_over_itself(tmp_path, command):
    source = theirs(tmp_path / "theirs.onnx")
    content = source.read_bytes()
    code, _, err = command("adopt", source, *USUAL, *T_IS, "--out", source)
    assert (code, "is the source itself" in err) == (2, True)
    assert source.read_bytes() == content


def test_channels_that_seem_to_come_last_are_pointed_out(tmp_path, command):
    source = of_our_time(tmp_path / "theirs.onnx", FLOAT, 18, [node("Tanh", ["mixed"], "late")])
    model = onnx.load(source)
    for place in (model.graph.input[0], model.graph.output[0]):
        place.type.tensor_type.shape.dim[3].dim_value = 1  # (batch, 2, 6, 1)
    onnx.save(model, source)
    _, _, err = command("adopt", source, *USUAL, *T_IS, "--out", tmp_path / "ours.onnx")
    assert "was read as 2 channels of 6 x 1 pixels" in err
    assert "layout=NHWC" in err
