"""One-call files whose denoiser carries plans, or is told more than x_t and t: as the Python walk. No torch."""

import copy
import dataclasses
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from models import COLOUR, classes_file, gaussian_file, mix_model, tiny_spec, told_model
from representative import representative

from ddpm_export import Guidance, denoiser, export, generate, noise_stream, plan, walk
from ddpm_export.errors import BadFileError, ModelRefusedError, UsageError
from ddpm_export.model.guidance import json_from_guidance
from ddpm_export.model.inputs import Input
from ddpm_export.model.plans import plan_from_json
from ddpm_export.model.spec import Defaults
from ddpm_export.model.steps import grid_of as grid
from ddpm_export.process.pixels import to_uint8
from ddpm_export.process.rows import Plan, Row
from ddpm_export.process.solvers import FORMULAS, SAMPLERS, ddim_weights
from ddpm_export.runtimes.opening import open_file

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from ddpm_export.exporting.builder import Builder, value  # noqa: E402
from ddpm_export.exporting.proof import pictures_of, prove_pictures  # noqa: E402
from ddpm_export.exporting.sampler import sampler_from_denoiser, slice_from_denoiser, spec_of_graph  # noqa: E402
from ddpm_export.model.golden_pictures import golden_from_pictures, inputs_in, replay_golden_pictures  # noqa: E402

from .sessions import called, session_of  # noqa: E402

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "plans.json").read_text(encoding="ascii"))
WRITERS = {"sampler": sampler_from_denoiser, "slice": slice_from_denoiser}
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def one_call_model(content, spec, graph):
    return WRITERS[graph](onnx.ModelProto.FromString(content), spec_of_graph(spec, graph))


def in_slices(session, cuts, shape, **values):
    """Run a slice from cut to cut, and return what each gave; before the first all that is carried is of no account."""
    sizes = {entry.name: entry.shape for entry in session.get_inputs()}
    kept = {"x": np.full(shape, np.nan), "x_0_prev": np.full(shape, np.nan)}
    if "history" in sizes:
        kept["history"] = np.full((sizes["history"][0], *shape), np.nan)
    given = []
    for begin, end in pairwise(cuts):
        given.append(called(session, begin=begin, end=end, **kept, **values))
        kept = {"x": given[-1]["x_after"], "x_0_prev": given[-1]["x_0"], "history": given[-1].get("history_after")}
    return given


def model_of(content, spec):
    """A Model over a denoiser's bytes: what open_model gives of a file."""
    session = session_of(content)
    return lambda x_t, t, **inputs: dict(
        zip(spec.outputs, session.run(list(spec.outputs), {"x_t": x_t, "t": t, **inputs}), strict=True)
    )


# --- plans ---


def golden_case(number):
    """A case of plans.json: (spec that carries its plan and another one, bytes of its denoiser, the case)."""
    case = GOLDEN["cases"][number]
    alphas_cumprod = tuple(GOLDEN["alphas_cumprod"])
    own = plan_from_json(case["name"], case["plan"], len(alphas_cumprod), fractional_t=False)
    spec = tiny_spec(
        tuple(GOLDEN["shape"]),
        prediction=case["prediction"],
        clip_x_0=case["clip_x_0"],
        alphas_cumprod=alphas_cumprod,
        requires=("raw_eps",) if own.raw_eps else (),
        plans={case["name"]: own, "a-first": Plan((Row(1, 20, alphas_cumprod[20], (0.5,), (0.25,), (2.0,)),), 0.5)},
    )
    return spec, gaussian_file(spec, GOLDEN["mean"], GOLDEN["std"]), case


NUMBERS = [k for k, case in enumerate(GOLDEN["cases"]) if case["name"] != "learned"]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_plan_goes_through_the_states_of_the_golden_file(number):
    spec, content, case = golden_case(number)
    rows = len(case["states"])
    settings = {"steps": rows, "plan": sorted(spec.plans).index(case["name"]) + 1}
    shape = (2, *GOLDEN["shape"])
    for image, first in enumerate(GOLDEN["images"]):
        given = in_slices(
            session_of(one_call_model(content, spec, "slice")),
            range(rows + 1),
            (1, *shape[1:]),
            first=first,
            **settings,
        )
        for state, found in zip(case["states"], given, strict=True):
            for name, own in (("x", "x_after"), ("x_0", "x_0")):
                expected = np.reshape(state[name], shape)[image : image + 1]
                np.testing.assert_allclose(found[own], expected, rtol=0, atol=GOLDEN["tolerance"])
        whole = called(session_of(one_call_model(content, spec, "sampler")), first=first, n=1, **settings)
        x = np.reshape(case["states"][-1]["x"], shape)[image : image + 1]
        np.testing.assert_allclose(whole["x_0"], x, rtol=0, atol=GOLDEN["tolerance"])
        assert np.abs(whole["images"].astype(int) - to_uint8(x.astype(np.float32))).max() <= 1


@pytest.mark.parametrize("number", NUMBERS)
def test_slices_cut_anywhere_are_the_whole_to_the_bit(number):
    spec, content, case = golden_case(number)
    rows, shape = len(case["states"]), (3, *GOLDEN["shape"])
    settings = {"seed": 9, "first": 4, "steps": rows, "plan": sorted(spec.plans).index(case["name"]) + 1}
    whole = called(session_of(one_call_model(content, spec, "sampler")), n=3, **settings)
    session = session_of(one_call_model(content, spec, "slice"))
    for cuts in ([0, rows], [0, 1, rows], [0, 2, 3, rows], range(rows + 1)):
        last = in_slices(session, cuts, shape, **settings)[-1]
        np.testing.assert_array_equal(last["x_after"], whole["x_0"])
        np.testing.assert_array_equal(last["images"], whole["images"])


def test_the_picture_is_the_state_after_the_last_row_and_a_preview_the_clean_image():
    spec, content, case = golden_case(0)  # its last row weighs 1.125 and -0.125
    settings = {"steps": 5, "plan": sorted(spec.plans).index(case["name"]) + 1}
    *before, last = in_slices(session_of(one_call_model(content, spec, "slice")), range(6), (2, 1, 2, 3), **settings)
    for found in before:
        np.testing.assert_array_equal(found["images"], to_uint8(found["x_0"]))
    np.testing.assert_array_equal(last["images"], to_uint8(last["x_after"]))
    assert not np.array_equal(last["x_after"], last["x_0"])


@pytest.mark.parametrize("graph", WRITERS)
def test_the_history_is_as_deep_as_the_deepest_row_reads_and_absent_where_all_are_first_order(graph):
    def sizes(spec, content):
        session = session_of(one_call_model(content, spec, graph))
        return {
            entry.name: entry.shape[0]
            for entry in session.get_inputs() + session.get_outputs()
            if "history" in entry.name
        }

    def expected(size):
        return {"history": size, "history_after": size} if graph == "slice" else {}

    assert sizes(*golden_case(0)[:2]) == expected(4)
    assert sizes(*golden_case(4)[:2]) == expected(30)
    spec, content, _ = golden_case(0)
    first_order = dataclasses.replace(spec, plans={"one": spec.plans["a-first"]})
    assert sizes(first_order, content) == {}
    body = next(n for n in one_call_model(content, first_order, graph).graph.node if n.op_type == "Loop").attribute[0].g
    assert not any("history" in entry.name for entry in body.input)


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_plan_0_is_as_if_there_were_none_to_the_bit(eta):
    content, alphas_cumprod = mix_model(tiny_spec(COLOUR)), tuple(GOLDEN["alphas_cumprod"])
    plain, rich = (
        tiny_spec(COLOUR, alphas_cumprod=alphas_cumprod, plans=plans) for plans in ({}, golden_case(4)[0].plans)
    )
    settings = {"n": 2, "steps": 7, "eta": eta}
    for times in ((), (38, 30, 21, 20, 9, 4, 1)):
        pair = [
            called(session_of(one_call_model(content, spec, "sampler")), times=times, **settings)
            for spec in (plain, rich)
        ]
        np.testing.assert_array_equal(pair[0]["x_0"], pair[1]["x_0"])


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_as_a_plan_is_the_sampler_and_to_the_bit_where_the_graph_knows_its_formula(name):
    bare = tiny_spec(COLOUR, prediction="v")
    own = plan(bare, sampler=name, num_steps=6)
    spec, content = dataclasses.replace(bare, plans={"own": own}), mix_model(bare)
    session = session_of(one_call_model(content, spec, "sampler"))
    by_plan = called(session, n=2, steps=len(own.rows), plan=1, eta=0.3, times=[7, 3])  # neither counts beside a plan
    *_, last = walk(denoiser(model_of(content, bare), bare), noise_stream(1, range(2), COLOUR), own)
    np.testing.assert_allclose(by_plan["x_0"], last.x, rtol=0, atol=1e-5)
    if name in FORMULAS:
        by_name = called(session, n=2, steps=6, eta=1.0 if name == "ddpm" else 0.0)
        np.testing.assert_array_equal(by_plan["x_0"], by_name["x_0"])


BAD = {
    "a plan below": ({"plan": -1}, "plan must be 0 to 2"),
    "a plan too many": ({"plan": 3}, "plan must be 0 to 2"),
    "the steps of no plan": ({"plan": 2, "steps": 4}, "steps must be the number of the plan's rows"),
    "the steps of another plan": ({"plan": 1, "steps": 5}, "steps must be the number of the plan's rows"),
    "steps beside plan 0": ({"steps": 51}, "steps must be 1 to 50"),
    "eta beside a plan": ({"plan": 2, "eta": 1.5}, "eta must be 0 to 1"),
}


@representative("graph", WRITERS)
@pytest.mark.parametrize("case", BAD)
def test_what_no_plan_allows_fails_by_its_name(graph, case):
    values, named = BAD[case]
    spec, content, _ = golden_case(0)
    session = session_of(one_call_model(content, spec, graph))
    x, history = np.zeros((2, 1, 2, 3)), np.zeros((4, 2, 1, 2, 3))
    with pytest.raises(Exception, match=rf"Name:'[^']*{named}"):
        called(session, **{"n": 2, "steps": 5, "x": x, "history": history, "end": 1, **values})


@pytest.mark.parametrize("sick", [np.nan, np.inf])
def test_a_row_that_does_not_read_what_went_bad_hides_nothing(sick):
    """The state is the noise found before, so that the clean image of the last row, NaN or infinite, is never read."""
    spec, content, _ = golden_case(0)
    rows = (Row(1, 30, spec.alphas_cumprod[30], (0.5,), (0.5,)), Row(2, 7, spec.alphas_cumprod[7], (0.0, 1.0)))
    spec = dataclasses.replace(spec, plans={"own": Plan(rows)})
    denoiser = onnx.ModelProto.FromString(content)
    for tensor in denoiser.graph.initializer:
        if tensor.name == "offsets":
            offsets = numpy_helper.to_array(tensor).copy()
            offsets[7] = sick
            tensor.CopyFrom(numpy_helper.from_array(offsets, "offsets"))
    for graph in WRITERS:
        session = session_of(WRITERS[graph](denoiser, spec_of_graph(spec, graph)))
        x, history = np.zeros((1, 1, 2, 3)), np.zeros((2, 1, 1, 2, 3))
        with pytest.raises(Exception, match="the network gave NaN or infinity"):
            called(session, n=1, steps=2, plan=1, x=x, history=history, end=2)


def test_a_plan_that_weighs_a_learned_variance_is_refused_by_its_name():
    spec = tiny_spec(variance="learned", requires=("variance_fraction",))
    spec = dataclasses.replace(spec, plans={"mixed": plan(spec, sampler="ddpm", num_steps=3)})
    for graph in WRITERS:
        with pytest.raises(ModelRefusedError, match="Plan mixed needs a learned variance"):
            spec_of_graph(spec, graph)


def test_times_of_plans_may_be_fractions():
    a = tiny_spec().alphas_cumprod
    own = Plan((Row(1, 30.5, a[30], (0.5,), (0.7,)), Row(2, 8.25, a[8], (1.25, -0.25))))
    spec = tiny_spec(plans={"own": own}, requires=("fractional_t",))
    content = told_model(spec)
    for rows, settings in ((own, {"plan": 1, "steps": 2}), (plan(spec, num_steps=3), {"steps": 3})):
        found = called(session_of(one_call_model(content, spec, "sampler")), n=2, **settings)
        noise = noise_stream(1, range(2), spec.state_shape)
        *_, last = walk(denoiser(model_of(content, spec), spec), noise, rows)
        np.testing.assert_allclose(found["x_0"], last.x, rtol=0, atol=1e-5)


def test_a_plan_may_keep_the_noise_as_the_network_says_it_where_another_does_not():
    rows = plan(tiny_spec(), num_steps=3).rows
    raw = Plan(tuple(row._replace(raw_eps=True) for row in rows))
    spec = tiny_spec(clip_x_0=0.2, plans={"plain": Plan(rows), "raw": raw}, requires=("raw_eps",))
    content = told_model(spec)
    session, ends = session_of(one_call_model(content, spec, "sampler")), []
    for number, own in ((0, plan(spec, num_steps=3)), (1, spec.plans["plain"]), (2, raw)):
        found = called(session, n=2, plan=number, steps=3)["x_0"]
        noise = noise_stream(1, range(2), spec.state_shape)
        *_, last = walk(denoiser(model_of(content, spec), spec), noise, own)
        ends.append(last.x)
        np.testing.assert_allclose(found, ends[-1], rtol=0, atol=1e-5)
    assert np.abs(ends[2] - ends[1]).max() > 0.05


# --- what the network is told ---

KINDS = {
    "label": Input("y", "label", (), 3, ("cat", "dog", "owl")),
    "vector": Input("text", "vector", (5,)),
    "image": Input("sketch", "image", (1, 2, 7), 0.0),
    "previous": Input("x_0_prev", "previous", COLOUR),
}
TOLD = {
    "y": np.array([3, 0]),
    "text": np.linspace(-1, 1, 10, dtype=np.float32).reshape(2, 5),
    "sketch": np.linspace(1, -2, 28, dtype=np.float32).reshape(2, 1, 2, 7),
}


def told_spec(*kinds, **changes):
    return tiny_spec(COLOUR, inputs=tuple(KINDS[kind] for kind in kinds), requires=("inputs",), **changes)


SECOND = Plan(
    (Row(1, 30, 0.3, (0.5,), (0.7,), (0.2,)), Row(2, 20, 0.5, (0.9, -0.1), (0.3,)), Row(3, 5, 0.9, (1.2, -0.2)))
)


@pytest.mark.parametrize("kinds", [*((kind,) for kind in KINDS), tuple(KINDS)], ids=" ".join)
@pytest.mark.parametrize("own", [None, SECOND], ids=["ddim", "plan"])
def test_a_network_is_told_each_kind_of_input(kinds, own):
    spec = told_spec(*kinds, plans={"own": own} if own else {})
    content = told_model(spec)
    asked = {entry.name: TOLD[entry.name] for entry in spec.inputs if entry.kind != "previous"}
    rows = plan(spec, num_steps=6, eta=0.5) if own is None else own
    settings = {"seed": 9, "first": 3, "steps": len(rows.rows), "eta": 0.5, "plan": 1 if own else 0, **asked}
    noise = noise_stream(9, range(3, 5), spec.state_shape)
    states = list(walk(denoiser(model_of(content, spec), spec, **asked), noise, rows))
    whole = called(session_of(one_call_model(content, spec, "sampler")), n=2, **settings)
    np.testing.assert_allclose(whole["x_0"], states[-1].x, rtol=0, atol=1e-5)
    session = session_of(one_call_model(content, spec, "slice"))
    given = in_slices(session, range(len(states) + 1), (2, *COLOUR), **settings)
    for state, found in zip(states, given, strict=True):
        np.testing.assert_allclose(found["x_after"], state.x, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(given[-1]["x_after"], whole["x_0"])
    for name in asked:  # and not for nothing
        other = called(session_of(one_call_model(content, spec, "sampler")), n=2, **{**settings, name: 0 * TOLD[name]})
        assert not np.allclose(other["x_0"], whole["x_0"], rtol=0, atol=1e-3)


def test_what_a_sampler_and_a_slice_take_is_that_of_the_contract():
    spec = told_spec(*KINDS, plans={"own": SECOND})
    images, more = ["n", *COLOUR], {"y": ["n"], "text": ["n", 5], "sketch": ["n", 1, 2, 7]}
    guided = {"guidance": [], "guidance_interval": [2]}
    taken = {
        "sampler": {
            "seed": [],
            "first": [],
            "n": [],
            "steps": [],
            "eta": [],
            "times": ["m"],
            "plan": [],
            **guided,
            **more,
        },
        "slice": {
            **{"seed": [], "first": [], "steps": [], "eta": [], "times": ["m"], "plan": [], **guided, "x": images},
            **{"begin": [], "end": [], "history": [2, *images], **more, "x_0_prev": images},
        },
    }
    given = {
        "sampler": {"images": ["n", 4, 4, 3], "x_0": images},
        "slice": {"x_after": images, "x_0": images, "images": ["n", 4, 4, 3], "history_after": [2, *images]},
    }
    for graph in WRITERS:
        model = one_call_model(told_model(spec), spec, graph)
        onnx.checker.check_model(model, full_check=True)
        for values, expected in ((model.graph.input, taken[graph]), (model.graph.output, given[graph])):
            found = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
            assert found == expected
            assert list(found) == list(expected)
        assert json.loads(model.metadata_props[0].value)["requires"] == ["inputs", "times", "plan", "guidance"]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"y": [0, 4]}, "y must be 0 to 3"),
        ({"y": [-1, 0]}, "y must be 0 to 3"),
        ({"y": [1]}, "y must be one for each image"),
        ({"y": [1, 1, 1]}, "y must be one for each image"),
        ({"text": TOLD["text"][:1]}, "text must be one for each image"),
        ({"sketch": TOLD["sketch"][:1]}, "sketch must be one for each image"),
    ],
)
def test_inputs_that_do_not_fit_fail_by_their_names(values, named):
    spec = told_spec("label", "vector", "image")
    for graph in WRITERS:
        session = session_of(one_call_model(told_model(spec), spec, graph))
        with pytest.raises(Exception, match=rf"Name:'[^']*{named}"):
            called(session, **{"n": 2, "steps": 3, "end": 3, "x": np.zeros((2, *COLOUR)), **TOLD, **values})


@pytest.mark.parametrize("name", ["seed", "times", "history", "images", "x_0", "x", "guidance_interval"])
def test_an_input_called_as_one_of_the_graph_is_refused(name):
    spec = tiny_spec(inputs=(Input(name, "vector", (2,)),), requires=("inputs",))
    for graph in WRITERS:
        with pytest.raises(ModelRefusedError, match=f"Input '{name}'"):
            spec_of_graph(spec, graph)


@pytest.mark.parametrize("graph", WRITERS)
def test_no_other_name_of_the_graph_can_meet_an_inputs(graph):
    golden = golden_case(0)[0]
    spec = told_spec(*KINDS, alphas_cumprod=golden.alphas_cumprod, plans=golden.plans)
    model = one_call_model(told_model(spec), spec, graph)
    names = {name for inner in graphs_of(model.graph) for n in inner.node for name in n.output}
    names |= {tensor.name for inner in graphs_of(model.graph) for tensor in inner.initializer}
    names |= {entry.name for inner in list(graphs_of(model.graph))[1:] for entry in inner.input}
    assert {name for name in names if name.isidentifier()} == {entry.name for entry in model.graph.output}


def graphs_of(graph):
    yield graph
    for entry in graph.node:
        for attribute in entry.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else []:
                yield from graphs_of(inner)


# --- guidance ---

CONDITIONS = json.loads((Path(__file__).parent.parent / "golden" / "conditions.json").read_text(encoding="ascii"))
GUIDED = [k for k, case in enumerate(CONDITIONS["cases"]) if case["sampler"] == "ddim"]


def conditions_case(number):
    """A case of conditions.json: (spec, bytes of its denoiser, the case, its guidance as a graph is given it)."""
    case = CONDITIONS["cases"][number]
    spec = tiny_spec(
        tuple(CONDITIONS["shape"]),
        prediction=case["prediction"],
        clip_x_0=case["clip_x_0"],
        alphas_cumprod=tuple(CONDITIONS["alphas_cumprod"]),
        inputs=tuple(case["inputs"]),
        requires=("inputs",),
    )
    interval = case["guidance"].get("interval", (0, spec.num_train_timesteps - 1))
    asked = {"guidance": case["guidance"]["scale"], "guidance_interval": interval}
    return spec, classes_file(spec, CONDITIONS["means"], CONDITIONS["std"]), case, asked


@pytest.mark.parametrize("number", GUIDED)
def test_guidance_goes_through_the_states_of_the_golden_file(number):
    spec, content, case, guided = conditions_case(number)
    rows, shape = len(case["states"]), (3, *CONDITIONS["shape"])
    slices, whole = (session_of(one_call_model(content, spec, graph)) for graph in ("slice", "sampler"))
    for k, (first, label) in enumerate(zip(CONDITIONS["images"], case["y"], strict=True)):
        asked = {"first": first, "steps": rows, "eta": case["eta"], "y": [label], **guided}
        given = in_slices(slices, range(rows + 1), (1, *shape[1:]), **asked)
        for state, found in zip(case["states"], given, strict=True):
            for name, own in (("x", "x_after"), ("x_0", "x_0")):
                expected = np.reshape(state[name], shape)[k : k + 1]
                np.testing.assert_allclose(found[own], expected, rtol=0, atol=CONDITIONS["tolerance"])
        np.testing.assert_array_equal(called(whole, n=1, **asked)["x_0"], given[-1]["x_after"])


@representative("kinds", [tuple(KINDS), ("label",)], ids=["all", "label"])
@representative("own", [SECOND, None], ids=["plan", "ddim"])
@pytest.mark.parametrize("guidance", [Guidance(0.0), Guidance(1.0), Guidance(2.5), Guidance(3.0, (10, 30))], ids=str)
def test_a_guided_graph_is_the_guided_walk(kinds, own, guidance):
    spec = told_spec(*kinds, plans={"own": own} if own else {})
    content = told_model(spec)
    asked = {entry.name: TOLD[entry.name] for entry in spec.inputs if entry.is_given}
    rows = plan(spec, num_steps=6, eta=0.5) if own is None else own
    denoise = denoiser(model_of(content, spec), spec, guidance=guidance, **asked)
    *_, last = walk(denoise, noise_stream(9, range(3, 5), spec.state_shape), rows)
    given = {"guidance": guidance.scale, "guidance_interval": guidance.interval or (0, 39), **asked}
    settings = {"seed": 9, "first": 3, "steps": len(rows.rows), "eta": 0.5, "plan": 1 if own else 0, **given}
    whole = called(session_of(one_call_model(content, spec, "sampler")), n=2, **settings)
    np.testing.assert_allclose(whole["x_0"], last.x, rtol=0, atol=1e-5)
    given = in_slices(session_of(one_call_model(content, spec, "slice")), (0, 1, 3), (2, *COLOUR), **settings)
    if len(rows.rows) == 3:
        np.testing.assert_array_equal(given[-1]["x_after"], whole["x_0"])


@pytest.mark.parametrize(
    ("values", "named"),
    [
        *(({"guidance": bad}, "guidance must be 0 to 100") for bad in (-0.5, 100.5, np.nan, np.inf)),
        *(
            ({"guidance_interval": bad}, "guidance_interval must be two times, the lower first, from 0 on")
            for bad in ((-1, 5), (5, 4), (np.nan, 5), (5, np.nan))
        ),
    ],
)
def test_guidance_out_of_its_range_fails_by_its_name(values, named):
    spec = told_spec("label")
    for graph in WRITERS:
        session = session_of(one_call_model(told_model(spec), spec, graph))
        with pytest.raises(Exception, match=rf"Name:'{named}"):
            called(session, **{"n": 2, "steps": 3, "end": 3, "x": np.zeros((2, *COLOUR)), "y": [0, 1], **values})


@pytest.mark.parametrize("none", [2, 3])
def test_a_network_that_goes_bad_without_its_label_gives_no_picture(none):
    """The weight of NaN: a class's index is divided by zero for one of them only, so that u alone is bad."""
    spec = told_spec("label")
    model = onnx.ModelProto.FromString(told_model(spec))
    (weighed,) = (entry for entry in model.graph.node if entry.output[0] == "y float")
    weighed.output[0] = "y plain"
    extra = [
        helper.make_node("Equal", ["y", "bad"], ["is bad"], name="is bad"),
        helper.make_node("Where", ["is bad", "nan", "y plain"], ["y float"], name="where"),
    ]
    place = list(model.graph.node).index(weighed) + 1
    nodes = [*model.graph.node[:place], *extra, *model.graph.node[place:]]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.append(numpy_helper.from_array(np.array(none), "bad"))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(np.nan), "nan"))
    session = session_of(one_call_model(model.SerializeToString(), spec, "sampler"))
    asked = {"n": 2, "steps": 3, "y": [0, 1]}
    called(session, **asked)
    if none == 3:  # "no class" of this label
        with pytest.raises(Exception, match="the network gave NaN or infinity"):
            called(session, guidance=2.0, **asked)
        called(session, guidance=2.0, guidance_interval=(39.5, 40), **asked)
    else:
        called(session, guidance=2.0, **asked)


@representative("graph", WRITERS)
@representative("itself", [False, True], ids=["combined", "by itself"])
def test_generate_guides_a_one_call_file(tmp_path, graph, itself):
    number = len(CONDITIONS["cases"]) - 1 if itself else GUIDED[3]
    spec, *_ = conditions_case(number)
    own = Guidance(1.5, (5, 40))
    spec = dataclasses.replace(
        spec, defaults=dataclasses.replace(spec.defaults, guidance=own), requires=("inputs", "guidance")
    )
    (tmp_path / "m.onnx").write_bytes(classes_file(spec, CONDITIONS["means"], CONDITIONS["std"]))
    path = tmp_path / f"m.{graph}.onnx"
    report = export(tmp_path / "m.onnx", path, format=graph, opens="all")
    assert "seed 4, images 2 to 3, 6 steps, eta 0.5, guidance 2.5" in report.proof.draws
    opened = open_file(path)
    assert opened.spec.defaults.guidance == own
    assert all(result.passed for result in replayed(opened))
    assert [case["guidance"] for case in opened.spec.golden["cases"] if "guidance" in case] == [
        json_from_guidance(Guidance(2.5, (12, 37)))
    ]
    for how in ({}, {"guidance": 2.5, "label": "none"}, {"guidance": Guidance(2.5, (10, 29))}, {"guidance": 0}):
        settings = {"n": 4, "batch": 3, "seed": 5, **how}
        difference = np.abs(generate(path, **settings).astype(int) - generate(tmp_path / "m.onnx", **settings))
        assert difference.max() <= 1
    assert (generate(path, n=4, seed=5, guidance=3) != generate(path, n=4, seed=5)).any()


@pytest.mark.parametrize("bad", [{"scale": 200}, 2, {"scale": 2, "interval": [3]}])
def test_guidance_of_golden_vectors_that_cannot_be_meant(rich, bad):
    path, *_ = rich
    spec = open_file(path).spec
    golden = copy.deepcopy(spec.golden)
    golden["cases"][4]["guidance"] = bad
    with pytest.raises(BadFileError, match=r"cases\[4\].guidance"):
        replay_golden_pictures(lambda _: None, dataclasses.replace(spec, golden=golden))


def test_a_file_whose_network_was_always_told_a_class_takes_no_guidance(tmp_path):
    label = dataclasses.replace(KINDS["label"], none=None)
    spec = tiny_spec(COLOUR, inputs=(label,), requires=("inputs",))
    onnx.save(one_call_model(told_model(spec), spec, "sampler"), tmp_path / "m.onnx")
    opened = open_file(tmp_path / "m.onnx")
    assert "guidance" not in opened.spec.requires
    *_, (_, _, images) = opened.run(0, range(2), 2, 0.0, y=[0, 1])
    np.testing.assert_array_equal(images, generate(tmp_path / "m.onnx", n=2, num_steps=2, seed=0))
    with pytest.raises(UsageError, match="guidance must be 1 for a network"):
        generate(tmp_path / "m.onnx", n=2, num_steps=2, guidance=2)


# --- the library around it ---


@pytest.fixture(params=WRITERS)
def rich(request, tmp_path):
    """A one-call file with plans and inputs, with its golden vectors: (path, spec of the denoiser, its Model)."""
    spec = told_spec(*KINDS, plans={"own": SECOND, "start": Plan(SECOND.rows, 0.5)}, defaults=Defaults(num_steps=4))
    content = told_model(spec)
    model = model_of(content, spec)
    own = spec_of_graph(spec, request.param)
    own = dataclasses.replace(own, golden=golden_from_pictures(lambda draw: pictures_of(model, spec, draw)[1], spec))
    path = tmp_path / f"m.{request.param}.onnx"
    onnx.save(WRITERS[request.param](onnx.ModelProto.FromString(content), own), path)
    return path, spec, model


def replayed(opened):
    spec = opened.spec
    return replay_golden_pictures(lambda draw: opened.end(*draw.settings, **inputs_in(spec, draw))[1], spec)


def test_a_file_with_plans_and_inputs_is_proven_and_replayed(rich):
    path, spec, model = rich
    opened = open_file(path)
    proof = prove_pictures(opened, model, spec)
    assert [draw for draw in proof.draws if "plan" in draw] == [
        "seed 3, images 1 to 1, plan own",
        "seed 3, images 1 to 1, plan start",
    ]
    results = replayed(opened)
    assert len(results) == 3 + 1 + 1 + 2
    assert all(result.passed for result in results)


@pytest.mark.parametrize("graph", WRITERS)
def test_a_denoisers_file_with_plans_and_inputs_becomes_one(tmp_path, graph):
    spec = told_spec(*KINDS, plans={"own": SECOND}, defaults=Defaults(num_steps=4))
    (tmp_path / "m.onnx").write_bytes(told_model(spec))
    report = export(tmp_path / "m.onnx", tmp_path / f"m.{graph}.onnx", format=graph, opens="all")
    assert report.proof.draws[-1] == "seed 3, images 1 to 1, plan own"
    assert report.proof.max_level_difference <= 1
    own = open_file(report.path).spec
    assert (own.graph, own.requires, own.inputs) == (graph, ("inputs", "times", "plan", "guidance"), spec.inputs)
    assert own.golden["cases"][-1]["plan"] == "own"


def test_the_golden_vectors_of_a_plan_see_a_wrong_row(rich):
    path, _, _ = rich
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name == "plans/x_0 1":
            numbers = numpy_helper.to_array(tensor).copy()
            numbers[1] += 0.3
            tensor.CopyFrom(numpy_helper.from_array(numbers, tensor.name))
    onnx.save(model, path)
    assert [result.passed for result in replayed(open_file(path))] == [True] * 5 + [False, True]


def test_a_call_tells_what_it_was_given(rich):
    path, spec, model = rich
    one_call = open_file(path).run
    asked = {"y": ["dog", "owl"], "text": TOLD["text"], "sketch": TOLD["sketch"]}
    for rows, how in (
        (SECOND, {"plan": "own"}),
        (plan(spec, times=[30, 11, 2]), {"times": [30, 11, 2]}),
        (plan(spec, num_steps=3), {}),
    ):
        noise = noise_stream(7, range(5, 7), spec.state_shape)
        *_, last = walk(denoiser(model, spec, **asked), noise, rows)
        *_, (i, x, images) = one_call(7, range(5, 7), 3, 0.0, **how, **asked)
        assert i == 3
        np.testing.assert_allclose(x, last.x, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(images, to_uint8(x))
    for bad, named in (
        ({"y": "dog"}, "Input 'text', of kind vector.* must be given"),
        ({**asked, "z": 1}, "no input 'z'"),
        ({**asked, "y": "cow"}, "Input 'y' must be one of cat, dog, owl"),
        ({**asked, "plan": "heun"}, "plan must be one of own, start, got 'heun'"),
    ):
        with pytest.raises(UsageError, match=named):
            list(one_call(7, range(5, 7), 3, 0.0, **bad))


@pytest.mark.parametrize("graph", WRITERS)
def test_generate_takes_plans_and_times(tmp_path, graph):
    spec = tiny_spec(COLOUR, plans={"own": SECOND}, defaults=Defaults(num_steps=4, plan="own"), requires=("plan",))
    content, path = mix_model(spec), tmp_path / f"m.{graph}.onnx"
    onnx.save(one_call_model(content, spec, graph), path)
    (tmp_path / "m.onnx").write_bytes(content)
    for how in ({}, {"plan": "own"}, {"times": [39, 20, 3]}, {"num_steps": 5}, {"times": [39, 2], "sampler": "ddpm"}):
        settings = {"n": 3, "batch": 2, "seed": 5, **how}
        difference = np.abs(generate(path, **settings).astype(int) - generate(tmp_path / "m.onnx", **settings))
        assert difference.max() <= 1


@pytest.mark.parametrize("graph", WRITERS)
def test_a_file_from_before_there_were_times_is_run_as_ever(tmp_path, graph):
    """It had no such input: an empty constant in its place is that file."""
    spec = tiny_spec(COLOUR)
    model = one_call_model(mix_model(spec), spec, graph)
    expected, path = tmp_path / "new.onnx", tmp_path / "old.onnx"
    onnx.save(model, expected)
    model = copy.deepcopy(model)
    (times,) = (entry for entry in model.graph.input if entry.name == "times")
    model.graph.input.remove(times)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(0, np.int64), "times"))
    values = json.loads(model.metadata_props[0].value)
    helper.set_model_props(model, {"ddpm_export": json.dumps({**values, "requires": []})})
    onnx.save(model, path)
    settings = {"n": 3, "num_steps": 5, "seed": 1, "eta": 0.5}
    np.testing.assert_array_equal(generate(path, **settings), generate(expected, **settings))
    with pytest.raises(UsageError, match="times is fixed in this one-call"):
        generate(path, times=[3, 1])
    with pytest.raises(UsageError, match="times is fixed in this one-call"):
        list(open_file(path).run(0, range(1), 2, 0.0, times=[3, 1]))


# --- the carrier ---


def test_a_formula_gives_the_same_doubles_in_a_graph_and_each_part_is_made_once():
    g = Builder()
    a, a_prev, eta = (
        g.input(name, np.float64, shape) for name, shape in (("a", ["n"]), ("a_prev", ["n"]), ("eta", []))
    )
    results = ddim_weights(a, a_prev, eta)
    outputs = [value(entry.name, TensorProto.DOUBLE, ["n"]) for entry in results]
    graph = g.graph("test", g.inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    points = grid(tiny_spec(), 9).a
    found = session_of(model).run(
        None, {"a": np.array(points[:-1]), "a_prev": np.array(points[1:]), "eta": np.array(0.7)}
    )
    expected = np.array([ddim_weights(*pair, 0.7) for pair in pairwise(points)]).T
    np.testing.assert_array_equal(np.array(found), expected)
    made = [(n.op_type, tuple(n.input)) for n in graph.node]
    assert len(set(made)) == len(made)


def test_what_no_output_needs_is_left_out():
    g = Builder()
    a = g.input("a", np.float32, ["n"])
    needed, _ = a * 2.0 + a, (a - 1.0) * 3.0
    graph = g.graph("test", g.inputs, [value(needed.name, FLOAT, ["n"])])
    assert [n.op_type for n in graph.node] == ["Mul", "Add"]
    assert [tensor.name for tensor in graph.initializer] == ["float32 2.0"]
