"""One-call files: noise to the bit, pictures as the Python sampler's, what is refused. No torch."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from commands import run_apart
from hypothesis import given, settings
from hypothesis import strategies as st
from models import COLOUR, GREY, T, learned_model, mix_model, sick_model, tiny_spec
from representative import representative

from ddpm_export import denoiser, generate, noise_stream, open_model, plan, walk
from ddpm_export.errors import BadFileError, DdpmExportError, ModelRefusedError, NonFiniteError, UsageError
from ddpm_export.exporting.export import export
from ddpm_export.model.spec_json import json_from_spec, spec_from_json
from ddpm_export.process.noise import normal_table, normals_from_words
from ddpm_export.process.pixels import to_uint8
from ddpm_export.runtimes.opening import open_file

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from ddpm_export.exporting import onnx_file  # noqa: E402
from ddpm_export.exporting.builder import Builder, value  # noqa: E402
from ddpm_export.exporting.onnx_file import graphs_of  # noqa: E402
from ddpm_export.exporting.philox_graph import add_key, add_noise, add_normals  # noqa: E402
from ddpm_export.exporting.sampler import sampler_from_denoiser, spec_of_graph  # noqa: E402

from .sessions import called, session_of  # noqa: E402

GOLDEN = Path(__file__).parent.parent / "golden"
SHIPPED = Path(__file__).parent.parent.parent / "exported" / "unet.onnx"
INT64, FLOAT = TensorProto.INT64, TensorProto.FLOAT
GRAPHS = ("sampler", "slice")
# what a spec can ask for, each a way through the graph
SPECS = {
    "eps": {},
    "eps, no clip": {"clip_x_0": None},
    "v": {"prediction": "v"},
    "v, no clip": {"prediction": "v", "clip_x_0": None},
    "x_0": {"prediction": "x_0"},
    "x_0, no clip": {"prediction": "x_0", "clip_x_0": None},
    "a tight clip": {"prediction": "v", "clip_x_0": 0.4},
    "an end at 0": {"prediction": "v", "alphas_cumprod": tuple(np.linspace(0.999, 0.0, T).tolist())},
    "one step": {"alphas_cumprod": (0.5,), "defaults": dataclasses.replace(tiny_spec().defaults, num_steps=1)},
}


def golden(name):
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="ascii"))


def session_of_graph(g, inputs, output):
    graph = g.graph("test", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return session_of(model)


def run_sampler(session, **values):
    found = called(session, **{"seed": 3, "n": 2, "steps": 4, **values})
    return found["images"], found["x_0"]


def run_slice(session, **values):
    found = called(session, **{"seed": 3, "steps": 4, "end": 4, **values})
    return found["x_after"], found["x_0"], found["images"]


def states_of(path, seed, first, n, steps, eta, times=None):
    """The states of the Python sampler over a denoiser's file."""
    model, spec = open_model(path)
    noise = noise_stream(seed, range(first, first + n), spec.state_shape)
    return list(walk(denoiser(model, spec), noise, plan(spec, sampler="ddim", num_steps=steps, eta=eta, times=times)))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(what SPECS calls it, graph) -> (path of the denoiser, path of the one-call file); each is exported once."""
    folder = tmp_path_factory.mktemp("one-call")

    def get(name, graph):
        source, path = folder / f"{name}.onnx", folder / f"{name}.{graph}.onnx"
        if not source.exists():
            source.write_bytes(mix_model(tiny_spec(COLOUR, **SPECS[name])))
        if not path.exists():
            export(source, path, format=graph, opens="all")
        return source, path

    return get


# --- noise ---


@pytest.mark.parametrize("case", golden("noise")["cases"], ids=lambda case: f"seed {case['seed']}")
def test_noise_is_that_of_the_golden_file_to_the_bit(case):
    g, shape = Builder(), tuple(case["shape"])
    z = add_noise(g, "noise", add_key(g, "seed"), "images", "draw", shape, case["domain"])
    inputs = [value("seed", INT64, []), value("images", INT64, ["n", 1]), value("draw", INT64, [])]
    session = session_of_graph(g, inputs, value(z, FLOAT, ["n", *shape]))
    feeds = {"seed": int(case["seed"]), "images": [[case["image"]]], "draw": case["draw"]}
    (found,) = session.run(None, {name: np.array(v, np.int64) for name, v in feeds.items()})
    assert found.shape == (1, *shape)
    bits = found.reshape(-1).view(np.uint32)
    assert bits[: len(case["first_bits"])].tolist() == case["first_bits"]
    assert bits[-len(case["last_bits"]) :].tolist() == case["last_bits"]
    assert hashlib.sha256(found.tobytes()).hexdigest() == case["sha256"]


@pytest.fixture(scope="module")
def normals():
    g = Builder()
    session = session_of_graph(g, [value("words", INT64, ["k"])], value(add_normals(g, "z", "words"), FLOAT, ["k"]))
    tables = [numpy_helper.to_array(t) for t in g.initializers if t.name == "noise/normal table"]
    return lambda words: session.run(None, {"words": np.asarray(words, np.int64)})[0], tables


def test_normals_are_those_of_the_golden_file_to_the_bit_and_so_is_the_table(normals):
    normal, (table,) = normals
    cases = golden("normals")["cases"]
    found = normal([case["word"] for case in cases])
    assert found.view(np.uint32).tolist() == [case["bits"] for case in cases]
    assert hashlib.sha256(table.astype("<i4").tobytes()).hexdigest() == golden("normals")["table_sha256"]
    np.testing.assert_array_equal(table, normal_table().reshape(-1))


@settings(max_examples=30, deadline=None)
@given(words=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50))
def test_any_word_gives_the_same_normal(normals, words):
    found, expected = normals[0](words), normals_from_words(np.array(words, np.uint32))
    assert found.view(np.uint32).tolist() == expected.view(np.uint32).tolist()


def test_every_octave_and_both_signs_give_the_same_normal(normals):
    near = {2**k + d for k in range(33) for d in (-2, -1, 0, 1, 2)} | {
        2**31 + 2**k + d for k in range(31) for d in (-1, 0)
    }
    words = sorted(word for word in near if 0 <= word < 2**32)
    found, expected = normals[0](words), normals_from_words(np.array(words, np.uint32))
    assert found.view(np.uint32).tolist() == expected.view(np.uint32).tolist()


def test_the_noise_is_the_same_nodes_for_every_model(made):
    def nodes(name):
        graph = onnx.load(made(name, "sampler")[1]).graph
        body = next(node for node in graph.node if node.op_type == "Loop").attribute[0].g
        branch = next(node for node in body.node if node.op_type == "If").attribute
        inner = next(a.g for a in branch if a.name == "then_branch")
        found = [node.SerializeToString() for node in (*graph.node, *inner.node) if node.name.startswith("noise")]
        assert len(found) > 100
        return found

    assert nodes("eps") == nodes("x_0, no clip")


# --- pictures ---

RUNS = [
    (0, 0, 1, 1, 0.0),
    (7, 0, 3, 4, 0.0),
    (2**40 + 1, 5, 2, 7, 1.0),
    (2**63 - 1, 2**32 - 2, 2, T, 0.5),
    (1, 2, 5, T - 1, 1),
]


@pytest.mark.parametrize("name", SPECS)
def test_a_sampler_makes_the_pictures_of_the_python_sampler(made, name):
    source, path = made(name, "sampler")
    session = session_of(path)
    most = open_model(source)[1].num_train_timesteps
    for seed, first, n, steps, eta in RUNS:
        steps = min(steps, most)
        images, x_0 = run_sampler(session, seed=seed, first=first, n=n, steps=steps, eta=eta)
        expected = states_of(source, seed, first, n, steps, eta)[-1].x
        assert (images.dtype, x_0.dtype) == (np.uint8, np.float32)
        assert images.shape == (n, *COLOUR[1:], COLOUR[0])
        np.testing.assert_allclose(x_0, expected, rtol=0, atol=1e-4)
        difference = np.abs(images.astype(int) - to_uint8(expected))
        assert difference.max() <= 1
        assert (difference == 0).mean() >= 0.98  # of 48 numbers an image, not of 10,000
        np.testing.assert_array_equal(images, to_uint8(x_0))


@representative("eta", [0.7, 0.0, 1.0])
@pytest.mark.parametrize("name", ["eps", "v, no clip", "x_0"])
def test_slices_go_through_the_states_of_the_python_sampler(made, name, eta):
    source, path = made(name, "slice")
    session = session_of(path)
    states = states_of(source, 9, 4, 3, 8, eta)
    x = np.full((3, *COLOUR), np.nan, np.float32)  # of no account where begin is 0
    for begin, end in ((0, 1), (1, 5), (5, 6), (6, 8)):
        x, x_0, images = run_slice(session, seed=9, first=4, steps=8, eta=eta, x=x, begin=begin, end=end)
        np.testing.assert_allclose(x, states[end - 1].x, rtol=0, atol=1e-4)
        np.testing.assert_allclose(x_0, states[end - 1].x_0, rtol=0, atol=1e-4)
        np.testing.assert_array_equal(images, to_uint8(x_0))
    np.testing.assert_array_equal(x, x_0)


def test_a_slice_resumes_from_a_state_of_the_python_sampler(made):
    source, path = made("eps", "slice")
    states = states_of(source, 9, 4, 3, 8, 1.0)
    x, _, _ = run_slice(session_of(path), seed=9, first=4, steps=8, eta=1.0, x=states[2].x, begin=3, end=8)
    np.testing.assert_allclose(x, states[-1].x, rtol=0, atol=1e-4)


def test_sampler_and_slices_are_equal_to_the_bit_and_images_do_not_depend_on_their_batch(made):
    sampler, part = (session_of(made("v", graph)[1]) for graph in GRAPHS)
    images, x_0 = run_sampler(sampler, n=4, steps=6, eta=1.0)
    x = np.zeros((4, *COLOUR), np.float32)
    for begin in range(6):
        x, _, _ = run_slice(part, steps=6, eta=1.0, x=x, begin=begin, end=begin + 1)
    np.testing.assert_array_equal(x, x_0)
    alone, _ = run_sampler(sampler, first=2, n=1, steps=6, eta=1.0)
    np.testing.assert_array_equal(alone[0], images[2])


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_second_output_is_left_out_and_fixed_small_is_what_is_left(tmp_path, graph):
    (tmp_path / "m.onnx").write_bytes(learned_model())
    report = export(tmp_path / "m.onnx", tmp_path / f"m.{graph}.onnx", format=graph, opens="all")
    assert "learned has no place in a one-call file" in report.notes[0]
    spec = open_file(report.path).spec
    assert (spec.graph, spec.variance, spec.requires) == (graph, "fixed_small", ("times",))
    assert b"network/variance_fraction" not in report.path.read_bytes()
    settings = {"n": 3, "num_steps": 6, "seed": 1, "sampler": "ddpm"}
    expected = generate(tmp_path / "m.onnx", variance="fixed_small", **settings)
    assert np.abs(generate(report.path, **settings).astype(int) - expected).max() <= 1


def test_defaults_that_no_graph_can_hold_become_what_is_the_same():
    defaults = dataclasses.replace(tiny_spec().defaults, sampler="ddpm")
    spec = spec_of_graph(tiny_spec(variance="fixed_large", defaults=defaults), "sampler")
    assert (spec.defaults.sampler, spec.defaults.eta, spec.defaults.num_steps) == ("ddim", 1.0, defaults.num_steps)
    assert spec_of_graph(tiny_spec(), "slice").defaults == tiny_spec().defaults


def test_no_noise_is_made_where_eta_is_0(made):
    """The branch that makes noise is not run: a table of NaN in it does no harm."""
    _, path = made("eps", "sampler")
    model = onnx.load(path)
    body = next(node for node in model.graph.node if node.op_type == "Loop").attribute[0].g
    branches = {a.name: a.g for a in next(node for node in body.node if node.op_type == "If").attribute}
    assert [node.op_type for node in branches["else_branch"].node] == ["Identity"]
    sick = helper.make_node("Sqrt", ["float32 -1.0"], ["sick"], name="sick")
    noisy = branches["then_branch"]
    noisy.node[-1].input[1] = "sick"
    noisy.node.insert(0, sick)
    model.graph.initializer.append(numpy_helper.from_array(np.array(-1.0, np.float32), "float32 -1.0"))
    session = session_of(model)
    expected = run_sampler(session_of(path), eta=0.0)
    np.testing.assert_array_equal(run_sampler(session, eta=0.0)[0], expected[0])
    with pytest.raises(Exception, match="NaN"):
        run_sampler(session, eta=0.5)


# --- what is refused ---

BAD_SAMPLER = {
    "a negative seed": ({"seed": -1}, "seed must be"),
    "a negative first": ({"first": -1}, "first must be"),
    "first of 33 bits": ({"first": 2**32}, "first must be"),
    "first at the end of int64": ({"first": 2**63 - 1}, "first must be"),
    "no images": ({"n": 0}, "n must be"),
    "fewer": ({"n": -3}, "n must be"),
    "numbers beyond 32 bits": ({"first": 2**32 - 1, "n": 2}, "n must be"),
    "a count that overflows": ({"first": 1, "n": 2**63 - 1}, "n must be"),
    "no steps": ({"steps": 0}, "steps must be"),
    "negative steps": ({"steps": -(2**63)}, "steps must be"),
    "too many steps": ({"steps": T + 1}, f"steps must be 1 to {T}"),
    "eta below": ({"eta": -1e-6}, "eta must be"),
    "eta above": ({"eta": np.nextafter(np.float32(1), np.float32(2))}, "eta must be"),
    "eta NaN": ({"eta": np.nan}, "eta must be"),
    "eta infinite": ({"eta": np.inf}, "eta must be"),
    "more times than steps": ({"times": [9, 7, 5, 3, 1]}, "steps must be the number of times"),
    "fewer times than steps": ({"times": [9]}, "steps must be the number of times"),
    "times that rise": ({"times": [9, 7, 8, 0]}, f"times must be empty, or strictly fall from at most {T - 1} to"),
    "times that stay": ({"times": [9, 7, 7, 0]}, "times must be"),
    "a time too large": ({"times": [T, 7, 3, 0]}, "times must be"),
    "a time below 0": ({"times": [9, 7, 3, -1]}, "times must be"),
    "times whose differences overflow": ({"steps": 2, "times": [-(2**62), 2**62 + 9]}, "times must be"),
}
X = np.zeros((2, *COLOUR), np.float32)
BAD_SLICE = {
    **{name: case for name, case in BAD_SAMPLER.items() if "n" not in case[0]},
    "no rows": ({"x": X[:0]}, "x must have a row"),
    "numbers beyond 32 bits": ({"first": 2**32 - 1}, "x must have a row"),
    "begin below": ({"begin": -1}, "begin must be"),
    "nothing to do": ({"begin": 2, "end": 2}, "end must be"),
    "backwards": ({"begin": 3, "end": 2}, "end must be"),
    "beyond the end": ({"end": 5}, "end must be"),
    "a state of NaN": ({"begin": 1, "x": X * np.nan}, "NaN or infinity"),
    "an infinite state": ({"begin": 1, "x": X + np.inf}, "NaN or infinity"),
}


@pytest.fixture(scope="module")
def sessions(made):
    return {graph: session_of(made("eps", graph)[1]) for graph in GRAPHS}


@pytest.mark.parametrize("case", BAD_SAMPLER)
def test_a_sampler_fails_by_the_name_of_what_is_wrong(sessions, case):
    values, named = BAD_SAMPLER[case]
    with pytest.raises(Exception, match=rf"Name:'[^']*{named}"):
        run_sampler(sessions["sampler"], **values)


@pytest.mark.parametrize("case", BAD_SLICE)
def test_a_slice_fails_by_the_name_of_what_is_wrong(sessions, case):
    values, named = BAD_SLICE[case]
    with pytest.raises(Exception, match=rf"Name:'[^']*{named}"):
        run_slice(sessions["slice"], **{"x": X, **values})


def test_the_last_values_within_are_fine(sessions):
    run_sampler(sessions["sampler"], seed=2**63 - 1, first=2**32 - 2, n=2, steps=T, eta=1.0)
    run_sampler(sessions["sampler"], seed=0, first=0, n=1, steps=1, eta=0.0)
    run_slice(sessions["slice"], x=X, first=2**32 - 2, begin=3, end=4)


@representative("sick", [np.nan, np.inf, -np.inf])
@representative("clip", [1.0, None])
@representative("prediction", ["eps", "v", "x_0"])
def test_a_network_that_goes_bad_in_the_middle_gives_no_picture(tmp_path, prediction, clip, sick):
    """Clipping would hide an infinity, and a later step would look well."""
    spec = tiny_spec(prediction=prediction, clip_x_0=clip)
    bad_t = plan(spec, num_steps=4).rows[1].t
    model = onnx.ModelProto.FromString(sick_model(bad_t, spec=spec, sick=sick))
    session = session_of(sampler_from_denoiser(model, spec_of_graph(spec, "sampler")))
    with pytest.raises(Exception, match="the network gave NaN or infinity"):
        run_sampler(session)
    run_sampler(session, steps=3)  # which does not come by that time
    path = tmp_path / "m.sampler.onnx"
    with onnx_file.writing_model(sampler_from_denoiser(model, spec_of_graph(spec, "sampler")), path):
        pass
    with pytest.raises(NonFiniteError, match="images 0 to 1"):
        generate(path, n=2, num_steps=4, seed=0)


def test_a_file_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    from ddpm_export.exporting import from_denoiser

    (tmp_path / "m.onnx").write_bytes(mix_model())

    def wrong(denoiser, spec, stages):
        for tensor in denoiser.graph.initializer:
            if tensor.name == "w":
                values = numpy_helper.to_array(tensor).copy()
                values[0, 0, 1, 1] += 0.3
                tensor.CopyFrom(numpy_helper.from_array(values, "w"))
        return sampler_from_denoiser(denoiser, spec, stages)

    monkeypatch.setitem(from_denoiser.BUILDERS, "sampler", wrong)
    with pytest.raises(ModelRefusedError, match="images differ"):
        export(tmp_path / "m.onnx", tmp_path / "m.sampler.onnx", format="sampler")
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize(
    ("format", "storage", "named"),
    [
        ("onnx", "float32", "cannot be exported as"),
        ("pt2", "float32", "cannot be exported as"),
        ("torchscript", "float16", "storage float16 does not apply to torchscript"),
        ("sampler", "int4", "storage must be one of"),
        ("tflite", "float32", "format must be one of"),
    ],
)
def test_what_an_exported_file_cannot_become_is_a_usage_error(tmp_path, format, storage, named):  # noqa: A002
    (tmp_path / "m.onnx").write_bytes(mix_model())
    suffix = {"pt2": ".pt2", "torchscript": ".ts"}.get(format, ".onnx")
    with pytest.raises(UsageError, match=named):
        export(tmp_path / "m.onnx", tmp_path / f"n{suffix}", format=format, storage=storage)


def test_a_file_is_not_written_over_its_source(tmp_path):
    (tmp_path / "m.onnx").write_bytes(mix_model())
    with pytest.raises(UsageError, match="is the source itself"):
        export(tmp_path / "m.onnx", tmp_path / ".." / tmp_path.name / "m.onnx", format="sampler")
    assert (tmp_path / "m.onnx").read_bytes() == mix_model()


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_one_call_file_is_no_source_and_no_denoiser(made, tmp_path, graph):
    _, path = made("eps", graph)
    for use in (open_model, lambda path: export(path, tmp_path / "n.onnx", format="sampler")):
        with pytest.raises(ModelRefusedError, match=f"a one-call {graph}"):
            use(path)


# --- the file ---


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_file_is_that_of_the_contract(made, graph):
    _, path = made("v", graph)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 8
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert not model.functions
    assert [entry.key for entry in model.metadata_props] == ["ddpm_export"]
    values = json.loads(model.metadata_props[0].value)
    assert (values["graph"], values["requires"]) == (graph, ["times"])  # which an older reader refuses
    number, real, rows, times = (INT64, []), (FLOAT, []), (FLOAT, ["n", *COLOUR]), (INT64, ["m"])
    pixels = (TensorProto.UINT8, ["n", *COLOUR[1:], COLOUR[0]])
    head = {"seed": number, "first": number}
    inputs, outputs = {
        "sampler": (
            {**head, "n": number, "steps": number, "eta": real, "times": times},
            {"images": pixels, "x_0": rows},
        ),
        "slice": (
            {**head, "steps": number, "eta": real, "times": times, "x": rows, "begin": number, "end": number},
            {"x_after": rows, "x_0": rows, "images": pixels},
        ),
    }[graph]

    def signature(values):
        tensors = {v.name: v.type.tensor_type for v in values}
        dims = {name: [d.dim_param or d.dim_value for d in tensor.shape.dim] for name, tensor in tensors.items()}
        return {name: (tensor.elem_type, dims[name]) for name, tensor in tensors.items()}

    assert signature(model.graph.input) == inputs
    assert signature(model.graph.output) == outputs
    assert list(signature(model.graph.input)) == list(inputs)
    names = [node.name for inner in graphs_of(model.graph) for node in inner.node]
    assert all(names)
    assert len(set(names)) == len(names)
    made_values = [name for inner in graphs_of(model.graph) for node in inner.node for name in node.output]
    assert len(set(made_values)) == len(made_values)


@pytest.mark.parametrize("graph", GRAPHS)
def test_weights_lie_within_the_loop_and_nothing_lies_about_unused(made, graph):
    source, path = made("eps", graph)
    model = onnx.load(path)
    body = next(node for node in model.graph.node if node.op_type == "Loop").attribute[0].g
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in body.initializer}
    for tensor in onnx.load(source).graph.initializer:
        np.testing.assert_array_equal(weights[f"network/{tensor.name}"], numpy_helper.to_array(tensor))
    assert not any(tensor.name.startswith("network/") for tensor in model.graph.initializer)
    graphs = list(graphs_of(model.graph))
    read = {name for inner in graphs for node in inner.node for name in node.input}
    read |= {result.name for inner in graphs for result in inner.output}
    present = {tensor.name for inner in graphs for tensor in inner.initializer}
    present |= {name for inner in graphs for node in inner.node for name in node.output}
    assert present <= read


@representative("graph", GRAPHS)
@representative("storage", ["float16", "float32"])
def test_the_same_file_gives_the_same_bytes(tmp_path, graph, storage):
    (tmp_path / "m.onnx").write_bytes(mix_model())
    paths = [tmp_path / f"{name}.onnx" for name in "ab"]
    for path in paths:
        export(tmp_path / "m.onnx", path, format=graph, storage=storage)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert str(tmp_path).encode() not in paths[0].read_bytes()


def test_names_of_a_network_cannot_meet_ours(tmp_path):
    """A network whose values are called as those of the sampler, and that has a graph within."""
    spec = tiny_spec()
    shape = ["batch", *GREY]
    then = helper.make_graph(
        [helper.make_node("Mul", ["x_t", "noise"], ["steps"], name="steps")], "a", [], [value("steps", FLOAT, shape)]
    )
    otherwise = helper.make_graph(
        [helper.make_node("Neg", ["x_t"], ["images"], name="images")], "b", [], [value("images", FLOAT, shape)]
    )
    nodes = [
        helper.make_node("ReduceMax", ["t"], ["seed"], name="seed", keepdims=0),
        helper.make_node("Greater", ["seed", "first"], ["step/index"], name="step/index"),
        helper.make_node("If", ["step/index"], ["eps"], name="eta", then_branch=then, else_branch=otherwise),
    ]
    weights = [
        numpy_helper.from_array(np.array(v), n) for n, v in (("noise", np.float32(0.5)), ("first", np.int64(20)))
    ]
    inputs = [value("x_t", FLOAT, shape), value("t", INT64, ["batch"])]
    graph = helper.make_graph(nodes, "denoiser", inputs, [value("eps", FLOAT, shape)], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(model, {"ddpm_export": json_from_spec(spec)})
    onnx.save(model, tmp_path / "m.onnx")
    for graph in GRAPHS:
        report = export(tmp_path / "m.onnx", tmp_path / f"m.{graph}.onnx", format=graph)
        assert report.proof.max_level_difference <= 1


def data_of(path):
    """Return the one file of weights beside a model."""
    (data,) = path.parent.glob(f"{path.name}.{'[0-9a-f]' * 16}.data")
    return data


def test_killed_between_two_renames_a_model_has_its_own_weights(tmp_path, monkeypatch):
    path, others = tmp_path / "m.onnx", tmp_path / "m.onnx.notes.data"
    others.write_bytes(b"a user's")
    (tmp_path / "m.onnx.data").write_bytes(b"of an earlier version")

    def write(scale):
        model = onnx.ModelProto.FromString(mix_model(tiny_spec((16, 4, 4))))
        (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == "w")
        weight.CopyFrom(numpy_helper.from_array(scale * numpy_helper.to_array(weight), "w"))
        with onnx_file.writing_model(model, path, max_inline_bytes=0):
            pass

    def killed(place, target, replace=Path.replace):
        if Path(target) == path:
            raise KeyboardInterrupt
        return replace(place, target)

    write(1.0)
    before = generate(path, n=1, seed=0)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write(0.5)
    np.testing.assert_array_equal(generate(path, n=1, seed=0), before)
    write(0.5)
    assert (generate(path, n=1, seed=0) != before).any()
    assert set(tmp_path.iterdir()) == {path, data_of(path), others}


@representative("storage", ["float16", "float32"])
def test_weights_beside_the_source_are_found_and_stay_beside(tmp_path, monkeypatch, storage):
    (tmp_path / "inline.onnx").write_bytes(mix_model(tiny_spec((16, 4, 4))))
    (tmp_path / "deep").mkdir()
    source = tmp_path / "deep" / "m.onnx"
    with onnx_file.writing_model(onnx.load(tmp_path / "inline.onnx"), source, max_inline_bytes=0):
        pass
    assert data_of(source).exists()
    monkeypatch.setattr(onnx_file, "MAX_INLINE_BYTES", 2_000)
    report = export(source, tmp_path / "s.onnx", format="sampler", storage=storage, opens="all")
    weights = 2304 * (4 if storage == "float32" else 2)
    table = 4 * 32 * 257
    assert weights + table <= data_of(report.path).stat().st_size < weights + table + 4 * 4096  # pages
    assert report.num_bytes < 2304 * 4 + table
    expected = export(tmp_path / "inline.onnx", tmp_path / "t.onnx", format="sampler", storage=storage, opens="all")
    pictures = [generate(made.path, n=2, num_steps=5, eta=1.0, seed=0) for made in (report, expected)]
    np.testing.assert_array_equal(*pictures)


# --- the library around it ---


@pytest.mark.parametrize("graph", GRAPHS)
def test_generate_takes_the_file_in_batches_and_gives_the_same_pictures(made, graph):
    source, path = made("v", graph)
    settings = {"n": 5, "num_steps": 6, "seed": 11, "first": 3}
    for knobs in ({}, {"eta": 0.5}, {"sampler": "ddpm"}, {"sampler": "ddpm", "variance": "fixed_small"}):
        expected = generate(source, batch=2, **settings, **knobs)
        difference = np.abs(generate(path, batch=2, **settings, **knobs).astype(int) - expected)
        assert difference.max() <= 1
    assert np.array_equal(generate(path, **settings), generate(open_file(path), batch=1, **settings))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"times": [1, 3]}, "times must strictly fall"),
        ({"plan": "heun"}, "plan must be one of none"),
        ({"sampler": "ddpm", "variance": "fixed_large"}, "variance must be fixed_small in a one-call"),
        ({"sampler": "ddpm", "variance": "learned"}, "variance must be fixed_small"),
        ({"num_steps": T + 1}, "number of steps must be from 1 to 40"),
        ({"eta": 2.0}, "eta must be between 0 and 1"),
        ({"sampler": "euler"}, "sampler must be one of"),
    ],
)
def test_settings_that_have_no_place_are_refused_by_name(made, settings, named):
    for graph in GRAPHS:
        with pytest.raises(UsageError, match=named):
            generate(made("eps", graph)[1], **settings)


def test_a_call_out_of_range_is_a_usage_error(made):
    for graph in GRAPHS:
        one_call = open_file(made("eps", graph)[1]).run
        with pytest.raises(UsageError, match="steps must be 1 to 40"):
            list(one_call(0, range(2), T + 1, 0.0))


def test_cuda_is_refused_with_the_reason_and_without_a_fallback(made):
    for graph in GRAPHS:
        with pytest.raises(
            ModelRefusedError, match=f"a one-call {graph} does not run on cuda.*BitwiseXor.*`format=onnx`"
        ):
            open_file(made("eps", graph)[1], provider="cuda")


def test_a_graph_that_is_not_what_the_spec_says_is_refused(made, tmp_path):
    source, sampler = made("eps", "sampler")
    for path, graph in ((sampler, "slice"), (source, "sampler"), (made("eps", "slice")[1], "sampler")):
        model = onnx.load(path)
        values = json.loads(model.metadata_props[0].value)
        helper.set_model_props(model, {"ddpm_export": json.dumps({**values, "graph": graph})})
        onnx.save(model, tmp_path / "m.onnx")
        with pytest.raises(BadFileError, match="graph and spec disagree"):
            open_file(tmp_path / "m.onnx")


def test_an_older_reader_refuses_the_signature(made, tmp_path):
    model = onnx.load(made("eps", "sampler")[1])
    values = json.loads(model.metadata_props[0].value)
    del values["graph"]  # which an older reader ignores
    helper.set_model_props(model, {"ddpm_export": json.dumps(values)})
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(BadFileError, match="graph and spec disagree"):
        open_model(tmp_path / "m.onnx")


def test_a_specs_graph_is_absent_for_a_denoiser_and_no_stranger_is_taken():
    assert "graph" not in json.loads(json_from_spec(tiny_spec()))
    text = json_from_spec(tiny_spec(graph="slice"))
    assert spec_from_json(text).graph == "slice"
    for stranger in ("tree", 3, ["sampler"]):
        with pytest.raises(ModelRefusedError, match="needs the graph"):
            spec_from_json(json.dumps({**json.loads(text), "graph": stranger}))


def test_a_denoiser_becomes_a_sampler_without_torch(tmp_path):
    (tmp_path / "m.onnx").write_bytes(mix_model())
    code = """
import sys
sys.modules["torch"] = sys.modules["onnxscript"] = None  # any import of them fails
from ddpm_export.cli.export import main
folder = sys.argv[1]
sys.argv[1:] = [folder + "/m.onnx", "--format", "sampler", "--format", "slice", "--storage", "float16"]
main()
"""
    ending = run_apart(tmp_path, code=code)
    assert ending.code == 0, ending
    assert (tmp_path / "m.float16.sampler.onnx").exists()
    assert (tmp_path / "m.float16.slice.onnx").exists()


def test_without_onnx_one_line_says_what_to_install(tmp_path):
    (tmp_path / "m.onnx").write_bytes(mix_model())
    code = """
import sys
sys.modules["onnx"] = None
from ddpm_export.cli.export import main
sys.argv[1:] = [sys.argv[1] + "/m.onnx", "--format", "sampler"]
main()
"""
    ending = run_apart(tmp_path, code=code)
    assert (ending.code, ending.out, ending.err.count("\n")) == (5, "", 1), ending
    assert "pip install 'ddpm-export[onnx]'" in ending.err


def test_the_errors_are_all_ours(made, tmp_path):
    """A file cut short anywhere is told as one of our errors."""
    content = made("eps", "sampler")[1].read_bytes()
    for end in range(0, len(content), len(content) // 15):
        (tmp_path / "m.onnx").write_bytes(content[:end])
        with pytest.raises(DdpmExportError):
            generate(tmp_path / "m.onnx", n=1, num_steps=2)


# --- the shipped model ---


def test_the_full_image_of_the_golden_folder(shipped_exports):
    case = golden("full_image")
    settings = {name: case[name] for name in ("seed", "first", "num_steps", "sampler", "eta")}
    for graph in GRAPHS:
        images = generate(shipped_exports / f"unet.{graph}.onnx", n=1, **settings)
        assert np.abs(images.ravel().astype(int) - case["pixels"]).max() <= 1


@representative(
    ("first", "n", "steps", "how"),
    [
        (0, 3, 7, {"sampler": "ddim", "eta": 1.0}),
        (5, 1, 1, {"sampler": "ddim", "eta": 0.0}),
        (5, 2, 20, {"sampler": "ddim", "eta": 1.0}),
        (0, 1, 1000, {"sampler": "ddpm"}),
    ],
)
def test_the_shipped_model_gives_its_pictures(shipped_exports, first, n, steps, how):
    settings = {"seed": 7, "first": first, "n": n, "num_steps": steps, **how}
    path = shipped_exports / "unet.sampler.onnx"
    difference = np.abs(generate(path, **settings).astype(int) - generate(SHIPPED, **settings))
    assert difference.max() <= 1
    assert (difference == 0).mean() >= 0.995
