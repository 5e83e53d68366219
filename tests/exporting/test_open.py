"""One-call files that leave some choices to their user, the others fixed to the file's defaults. No torch."""

import dataclasses
import json
from itertools import combinations

import numpy as np
import pytest
from models import COLOUR, gaussian_file, mix_model, tiny_spec, told_model
from representative import representative

from ddpm_export import Guidance, edit, export, generate, open_model
from ddpm_export.errors import BadFileError, UsageError
from ddpm_export.model.golden_pictures import replay_golden_pictures
from ddpm_export.model.inputs import Input
from ddpm_export.model.spec import OPENABLE, Defaults
from ddpm_export.model.spec_json import json_from_spec, spec_from_json
from ddpm_export.model.steps import plan
from ddpm_export.process.rows import Plan, Row
from ddpm_export.runtimes.opening import open_file

onnx = pytest.importorskip("onnx")

A = tiny_spec().alphas_cumprod
LABEL = Input("y", "label", (), 3, ("cat", "dog", "owl"))
OWN = Plan((Row(1, 35, A[35], (0.5,), (0.75,), (0.25,)), Row(2, 9, A[9], (1.25, -0.25))))
DEFAULTS = {
    "steps of ddim": Defaults(num_steps=6, eta=0.5, guidance=Guidance(2.5, (10, 30))),
    "times": Defaults(num_steps=20, times=(35, 20, 3), eta=0.3),
    "a plan": Defaults(num_steps=5, plan="own", guidance=Guidance(1.5)),
    "ddpm": Defaults(sampler="ddpm", num_steps=4),
}
OPENED = [(), *((name,) for name in OPENABLE), *combinations(OPENABLE, 2), ("steps", "eta", "guidance")]


def spec_with(defaults):
    used = {"times": defaults.times, "plan": defaults.plan, "guidance": defaults.guidance}
    requires = ("inputs", *(name for name, value in used.items() if value is not None))
    return tiny_spec(COLOUR, inputs=(LABEL,), requires=requires, plans={"own": OWN, "more": OWN}, defaults=defaults)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(defaults, graph, opens) -> (path of the denoiser, path of the one-call file); each is exported once."""
    folder = tmp_path_factory.mktemp("open")

    def get(name, graph, opens=()):
        source, path = folder / f"{name}.onnx", folder / f"{name}.{'-'.join([graph, *opens])}.onnx"
        if not source.exists():
            source.write_bytes(told_model(spec_with(DEFAULTS[name])))
        if not path.exists():
            export(source, path, format=graph, opens=opens)
        return source, path

    return get


def names_of(path):
    return [entry.name for entry in onnx.load(path).graph.input]


def near(path, source, **how):
    """Whether both files give the same pictures, within one level."""
    found, expected = (generate(entry, n=4, batch=3, seed=5, first=2, **how).astype(int) for entry in (path, source))
    return np.abs(found - expected).max() <= 1


# --- what is fixed ---


@representative(
    ("name", "graph"),
    [(name, graph) for graph in ("sampler", "slice") for name in DEFAULTS],
    by=lambda name, graph: graph == "slice" or name,
)
def test_by_default_a_file_takes_no_choice_and_gives_the_pictures_of_its_defaults(made, name, graph):
    source, path = made(name, graph)
    assert names_of(path) == ["seed", "first", *(["n", "y"] if graph == "sampler" else ["x", "begin", "end"])] + (
        [] if graph == "sampler" else ["history", "y"] if name == "a plan" else ["y"]
    )
    assert near(path, source)
    assert near(path, source, label="dog")
    opened = open_file(path)
    assert (opened.spec.open, "open" in opened.spec.requires) == ((), True)
    assert set(opened.spec.plans) == ({"own"} if name == "a plan" else set())


@representative("opens", OPENED, by=lambda opens: opens if len(opens) < 2 else len(opens), ids="-".join)
@representative("name", DEFAULTS)
def test_what_is_open_can_be_chosen_and_the_rest_is_refused_by_name(made, name, opens):
    source, path = made(name, "sampler", opens)
    expected = [
        entry for choice in opens for entry in [choice, *(["guidance_interval"] if choice == "guidance" else [])]
    ]
    assert names_of(path) == ["seed", "first", "n", *expected, "y"]
    spec = open_file(path).spec
    assert spec.open == opens
    asked = {
        "steps": {"num_steps": 7},
        "eta": {"eta": 0.7},
        "times": {"times": [30, 20, 9, 1]},
        "plan": {"plan": "more"},
    }
    asked["guidance"] = {"guidance": Guidance(3.0, (5, 20))}
    model, own = open_model(source)
    of_file = (
        model,
        dataclasses.replace(own, defaults=spec.defaults, requires=("inputs", "times", "plan", "guidance")),
    )
    for choice, how in asked.items():
        if choice in opens:
            found, expected = (generate(entry, n=3, seed=5, **how).astype(int) for entry in (path, of_file))
            assert np.abs(found - expected).max() <= 1
        else:
            with pytest.raises(
                UsageError, match=f"^{choice} is fixed in this one-call sampler. Export the model again"
            ):
                generate(path, n=1, **how)


@pytest.mark.parametrize("how", [{"sampler": "ddpm"}, {"grid": "karras"}, {"sampler": "ddim", "eta": 0.5}])
def test_what_amounts_to_a_fixed_choice_is_refused(made, how):
    with pytest.raises(UsageError, match="is fixed in this one-call sampler"):
        generate(made("a plan", "sampler")[1], n=1, **how)


def test_a_call_refuses_another_value_than_the_fixed_one(made):
    run = open_file(made("steps of ddim", "sampler")[1]).run
    list(run(1, range(2), 6, 0.5, None, None, Guidance(2.5, (10, 30)), y=[0, 1]))
    for wrong in ((7, 0.5), (6, 0.4), (6, 0.5, (5, 4)), (6, 0.5, None, "own"), (6, 0.5, None, None, 2.0)):
        with pytest.raises(UsageError, match="is fixed in this one-call sampler"):
            list(run(1, range(2), *wrong, y=[0, 1]))


def test_a_slice_says_how_many_steps_there_are(made):
    for name, count in (("steps of ddim", 6), ("times", 3), ("a plan", 2)):
        session = __import__("onnxruntime").InferenceSession(str(made(name, "slice")[1]))
        feeds = {"seed": 1, "first": 0, "begin": 0, "end": 1, "y": [0]}
        given = {entry: np.array(value, np.int64) for entry, value in feeds.items()}
        given["x"] = np.zeros((1, 0, 0, 0), np.float32)  # an app need not know the shape
        if name == "a plan":
            given["history"] = np.zeros((0, 1, 0, 0, 0), np.float32)
        images = generate(made(name, "sampler")[1], n=1, seed=1)
        last = dict(given)
        for begin in range(count):
            last |= {"begin": np.array(begin), "end": np.array(begin + 1)}
            names = ["images", "x_after", *(["history_after"] if name == "a plan" else [])]
            shown, *after = session.run(names, last)
            last |= dict(zip(("x", "history"), after, strict=False))
        np.testing.assert_array_equal(shown, images)
        assert session.run(["num_steps"], given)[0] == count
        with pytest.raises(Exception, match="end must be above begin and at most steps"):
            session.run(["images"], {**given, "end": np.array(count + 1)})


# --- edits ---


@representative(
    ("name", "strength"),
    [(name, strength) for strength in (0.6, None, 0.3, 1.0) for name in DEFAULTS],
    by=lambda name, strength: name if name != "a plan" else (name, strength),
)
def test_an_edit_of_fixed_choices_is_pythons(made, name, strength):
    source, path = made(name, "edit")
    assert names_of(path) == ["seed", "first", "image", "mask", "strength", "y"]
    generator = np.random.default_rng(3)
    images = generator.integers(0, 256, (2, *COLOUR[1:], COLOUR[0])).astype(np.uint8)
    mask = generator.integers(0, 256, COLOUR[1:]).astype(np.uint8)
    given = {"mask": mask, "strength": strength, "seed": 4}
    found = edit(path, images, **given).astype(int)
    # the plan looks back at its second row: beyond any strength that leaves the first one out
    of_ddim = name == "a plan" and strength is not None and strength * 40 <= 35
    how = {"sampler": "ddim", "num_steps": 5, "eta": 0.0} if of_ddim else {}
    assert np.abs(found - edit(source, images, **given, **how)).max() <= 1


def test_an_edit_refuses_a_strength_that_leaves_no_row(made):
    images = np.zeros((1, *COLOUR[1:], COLOUR[0]), np.uint8)
    for name in ("a plan", "times"):
        with pytest.raises(UsageError, match="strength must reach the lowest time"):
            edit(made(name, "edit")[1], images, strength=0.02)


# --- the file ---


def test_all_choices_are_the_file_from_before(tmp_path):
    (tmp_path / "m.onnx").write_bytes(told_model(spec_with(DEFAULTS["steps of ddim"])))
    contents = []
    for opens in ("all", OPENABLE):
        contents.append(
            export(tmp_path / "m.onnx", tmp_path / "s.onnx", format="sampler", opens=opens).path.read_bytes()
        )
    assert contents[0] == contents[1]
    values = json.loads(onnx.load_from_string(contents[0]).metadata_props[0].value)
    assert "open" not in values
    assert values["requires"] == ["inputs", "times", "plan", "guidance"]
    (tmp_path / "bare.onnx").write_bytes(mix_model(tiny_spec(COLOUR)))
    path = export(tmp_path / "bare.onnx", tmp_path / "t.onnx", format="sampler", opens=OPENABLE).path
    assert names_of(path) == ["seed", "first", "n", "steps", "eta", "times"]


def test_a_reader_that_does_not_know_open_refuses_the_file(made):
    """It refuses whatever it does not know in `requires`, as this one does."""
    values = json.loads(json_from_spec(open_file(made("times", "sampler")[1]).spec))
    assert values["open"] == []
    assert "open" in values["requires"]
    without = {**values, "requires": [name for name in values["requires"] if name != "open"]}
    with pytest.raises(BadFileError, match="open must be a list where requires names open"):
        spec_from_json(json.dumps(without))


@pytest.mark.parametrize(
    ("opens", "named"),
    [
        ("steps", "open must be a list"),
        (None, "open must be a list where requires"),
        (["eta", "steps"], "in this order"),
        (["depth"], "must be one of steps, eta, times, plan, guidance"),
        (["plan"], "open must be choices that requires names as well"),
        ([3], "must be one of steps, eta, times, plan, guidance"),
        (["steps"], "open must be without a choice that the fixed times makes"),
    ],
)
def test_what_cannot_be_open_is_refused(made, opens, named):
    values = json.loads(json_from_spec(open_file(made("times", "sampler")[1]).spec))
    with pytest.raises(BadFileError, match=named):
        spec_from_json(json.dumps({**values, "open": opens}))


@pytest.mark.parametrize(
    ("format", "opens", "named"),
    [
        ("sampler", ("guidance",), "open must be some of steps, eta, times for this sampler, got 'guidance'"),
        ("sampler", ("plan",), "open must be some of steps, eta, times for"),
        ("sampler", ("depth",), "open must be all, or some of steps, eta, times, plan, guidance, got 'depth'"),
        ("triton", ("steps",), "open applies to sampler, slice, edit only, got triton"),
    ],
)
def test_what_a_network_does_not_have_cannot_be_opened(tmp_path, format, opens, named):  # noqa: A002
    (tmp_path / "m.onnx").write_bytes(mix_model(tiny_spec(COLOUR)))
    with pytest.raises(UsageError, match=named):
        export(tmp_path / "m.onnx", tmp_path / "s.onnx", format=format, opens=opens)


# --- golden vectors ---


@representative("opens", [("times", "guidance"), (), ("steps",), ("plan",)])
@pytest.mark.parametrize("graph", ["sampler", "slice", "edit"])
def test_golden_cases_hold_only_what_is_open_and_are_replayed(made, graph, opens):
    opened = open_file(made("a plan", graph, opens)[1])
    cases = opened.spec.golden["cases"]
    allowed = {"seed", "first", "n", "positions", "levels", "mean", *(["strength"] if graph == "edit" else [])}
    allowed |= {"num_steps" if name == "steps" else name for name in opens}
    assert set().union(*cases) <= allowed
    assert ("num_steps" in cases[0]) == ("steps" in opens)
    from ddpm_export.model.golden_pictures import given_in, inputs_in

    def pictures(draw):
        return opened.end(*draw.settings, **inputs_in(opened.spec, draw), **given_in(opened.spec, draw))[1]

    results = replay_golden_pictures(pictures, opened.spec)
    assert len(results) == len(cases)
    assert all(result.passed for result in results)
    broken = replay_golden_pictures(lambda draw: pictures(dataclasses.replace(draw, seed=draw.seed + 1)), opened.spec)
    assert not any(result.passed for result in broken)


def test_many_fixed_steps_are_proven_by_few_images(tmp_path):
    T = 200
    spec = tiny_spec(
        (1, 2, 2), alphas_cumprod=tuple(np.linspace(0.999, 0.01, T).tolist()), defaults=Defaults(num_steps=T)
    )
    (tmp_path / "m.onnx").write_bytes(gaussian_file(spec, 0.1, 0.5))
    report = export(tmp_path / "m.onnx", tmp_path / "s.onnx", format="sampler")
    assert len(report.proof.draws) == 2
    assert [case["n"] for case in open_file(report.path).spec.golden["cases"]] == [1, 1]


def test_fixed_rows_are_those_of_the_graphs_own_formula_to_the_bit(tmp_path):
    spec = tiny_spec(COLOUR, defaults=Defaults(num_steps=7, eta=0.3))
    (tmp_path / "m.onnx").write_bytes(mix_model(spec))
    paths = [
        export(tmp_path / "m.onnx", tmp_path / f"{len(opens)}.onnx", format="sampler", opens=opens).path
        for opens in ((), "all")
    ]
    np.testing.assert_array_equal(*(generate(path, n=3, seed=2) for path in paths))
    assert len(plan(spec).rows) == 7
