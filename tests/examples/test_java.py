"""The Java core against the golden files and the Python reader; the adapter and the program over a real ONNX Runtime.

Java's floats are IEEE's and its compiler fuses nothing, so noise, steps and pixels are asked to equal to the bit what
float32 NumPy says, wherever no power is taken. What needs Android's SDK is compiled against signatures alone.
"""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from gaussian import gaussian_model, gaussian_spec
from models import constant, node, onnx_file
from PIL import Image
from test_spec import SPEC, values

from ddpm_export import edit, generate
from ddpm_export.errors import BadFileError, ModelRefusedError, UsageError
from ddpm_export.exporting.sampler import sampler_from_denoiser, spec_of_graph
from ddpm_export.images.read import read_image
from ddpm_export.images.write import grid
from ddpm_export.model.denoiser import denoiser
from ddpm_export.model.guidance import Guidance, json_from_guidance
from ddpm_export.model.inputs import Input, input_from_json
from ddpm_export.model.plans import json_from_plan, plan_from_json
from ddpm_export.model.spec import METADATA_KEY, Defaults, ModelSpec, json_from_spec, spec_from_json
from ddpm_export.model.steps import plan
from ddpm_export.process.given import with_returns
from ddpm_export.process.noise import noise_stream, normal_table
from ddpm_export.process.pixels import to_uint8
from ddpm_export.process.rows import Plan, Row
from ddpm_export.process.solvers import SAMPLERS
from ddpm_export.process.walk import walk
from ddpm_export.sampling.generate import sample
from ddpm_export.sampling.request import request_for

from .edits import EDITS, PICTURE, flags_of, pictures_of
from .fed import FED, TOLD, mixed, mixed_with_t
from .specs import guided_specs, specs

ROOT = Path(__file__).resolve().parents[2]
ANDROID = ROOT / "examples" / "android"
CORE = ANDROID / "core" / "src" / "main" / "java"
MODEL = ROOT / "exported" / "unet.onnx"
PLAIN = ROOT / "ablation" / "cosine-l1" / "unet.onnx"  # without classes and plans


def golden(name):
    return json.loads((ROOT / "tests" / "golden" / f"{name}.json").read_text(encoding="ascii"))


def needs(tool, package):
    if shutil.which(tool) is None:
        pytest.skip(f"no {tool}: apt install {package}")
    return tool


def ran(*command, **options):
    """The finished process; with what it said, should it have failed."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


def javac(out, *sources, classpath=""):
    ran(
        needs("javac", "openjdk-17-jdk-headless"),
        *("--release", "8", "-Xlint:all,-options", "-Xdoclint:all,-missing", "-Werror", "-d", out, "-cp", classpath),
        *sources,
    )
    return out


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """The core and the test's own door to it, compiled as Android's oldest supported Java, warnings as errors."""
    sources = [*CORE.rglob("*.java"), ROOT / "tests" / "examples" / "java" / "ddpm" / "Calls.java"]
    return javac(tmp_path_factory.mktemp("java"), *sources)


@pytest.fixture(scope="module")
def java(classes):
    """Call the core: one JVM for all the calls given, an answer for each."""

    def call(*calls):
        asked = "".join(json.dumps(one) + "\n" for one in calls)
        done = ran("java", "-cp", classes, "ddpm.Calls", input=asked)
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(answers) == len(calls)
        return answers

    return call


def bits_of(array):
    return np.ascontiguousarray(array, dtype=np.float32).reshape(-1).view(np.uint32).tolist()


def floats(bits):
    return np.array(bits, dtype=np.uint32).view(np.float32)


def test_the_table_as_the_core_holds_it(java):
    (answer,) = java({"call": "table"})
    assert answer["table"] == normal_table().reshape(-1).tolist()
    digest = hashlib.sha256(np.array(answer["table"], dtype="<i4").tobytes()).hexdigest()
    assert digest == answer["sha256"] == golden("normals")["table_sha256"]


def test_philox(java):
    cases = golden("philox")["cases"]
    answers = java(*({"call": "philox", "counter": case["counter"], "key": case["key"]} for case in cases))
    assert [answer["words"] for answer in answers] == [case["words"] for case in cases]


def test_normals(java):
    cases = golden("normals")["cases"]
    (answer,) = java({"call": "normals", "words": [case["word"] for case in cases]})
    assert answer["bits"] == [case["bits"] for case in cases]


def test_noise(java):
    cases = golden("noise")["cases"]
    answers = java(
        *(
            {"call": "noise", "images": [case["image"]], **{k: case[k] for k in ("seed", "draw", "domain", "shape")}}
            for case in cases
        )
    )
    for case, answer in zip(cases, answers, strict=True):
        assert answer["bits"][:8] == case["first_bits"]
        assert answer["bits"][-3:] == case["last_bits"]
        assert hashlib.sha256(np.array(answer["bits"], dtype="<u4").tobytes()).hexdigest() == case["sha256"]


def test_the_noise_of_an_image_does_not_depend_on_its_batch(java):
    one = {"call": "noise", "seed": "5", "draw": 3, "domain": 0, "shape": [1, 3, 3]}
    together, alone = java({**one, "images": [2, 7, 4294967295]}, {**one, "images": [7]})
    assert together["bits"][9:18] == alone["bits"]
    assert together["bits"] == bits_of(noise_stream(5, [2, 7, 4294967295], (1, 3, 3))(3))


def test_time_grids(java):
    cases = golden("time_grids")["cases"]
    asked = [{"call": "spacing", **{k: case[k] for k in ("num_train_timesteps", "num_steps")}} for case in cases]
    assert [answer["t"] for answer in java(*asked)] == [case["t"] for case in cases]


def test_coefficients(java):
    """A row of the plan at a step's two levels has its coefficients; the denoiser's show in what it does to ones."""
    cases = golden("coefficients")["cases"]
    asked = []
    for case in cases:
        levels = [case["a"]] if case["a_prev"] == 1 else [case["a_prev"], case["a"]]
        spec = json_from_spec(gaussian_spec(levels, prediction="v", image_shape=(1, 1, 1)))
        times = list(reversed(range(len(levels))))
        knobs = {"sampler": "ddim", "eta": case["eta"]}
        if case["variance"] != "fixed_small":
            knobs = {"sampler": "ddpm", "variance": case["variance"]}
        asked.append({"call": "plan", "spec": spec, "times": times, **knobs})
        asked.append({"call": "coefficients", "spec": spec, "a": case["a"]})
    answers = java(*asked)
    for case, made, ones in zip(cases, answers[::2], answers[1::2], strict=True):
        _, _, a, x_0, eps, noise, _ = made["rows"][0]
        assert a == case["a"]
        for name, numbers in (("sqrt_a_prev", x_0), ("c_eps", eps), ("c_noise", noise)):
            np.testing.assert_allclose(sum(numbers), case[name], rtol=1e-14, atol=0)
        expected = [case["bits"][name] for name in ("sqrt_a", "sqrt_1_minus_a")]
        assert np.abs(np.array(ones["bits"]) - expected).max() <= 1, "a unit in the last place"


def test_plans_are_pythons_to_the_last_bit(java):
    """Any number of steps, any falling times, any eta, three variances, a named plan, and the file's own defaults."""
    T = 50
    named = {"third": Plan((Row(1, 49, 0.25, (0.5,), ()), Row(2, 30, 0.5, (0.1, -0.25), (0.75,), (0.125,))), start=2.0)}
    base = gaussian_spec(np.linspace(0.99, 0.01, T), plans=named, requires=("variance_fraction",), variance="learned")
    chosen = [
        (Defaults("ddpm", 7), (), "learned"),
        (Defaults("ddim", 7, 0.3), (), "learned"),
        (Defaults("ddim", 7, 0.3, times=(40, 12, 3)), ("times",), "fixed_large"),
        (Defaults("ddim", 7, 0.3, plan="third"), ("plan",), "fixed_large"),
    ]
    others = [
        replace(base, defaults=defaults, requires=(*base.requires, *requires), variance=variance)
        for defaults, requires, variance in chosen
    ]
    said = [{"num_steps": n, "sampler": "ddim", "eta": eta} for n in (1, 2, 7, 49, 50) for eta in (0, 0.1, 0.7, 1)]
    said += [
        {"times": times, "eta": 0.3, "sampler": "ddim"} for times in ([49], [0], [3, 1, 0], list(range(49, -1, -1)))
    ]
    said += [
        {"num_steps": 9, "sampler": "ddpm", "variance": name} for name in ("fixed_small", "fixed_large", "learned")
    ]
    asked = [(base, knobs) for knobs in said]
    asked += [
        (spec, knobs) for spec in others for knobs in ({}, {"num_steps": 5}, {"times": [4, 2]}, {"plan": "third"})
    ]
    answers = java(*({"call": "plan", "spec": json_from_spec(spec), **knobs} for spec, knobs in asked))
    for (spec, knobs), answer in zip(asked, answers, strict=True):
        keywords = {"name" if key == "plan" else key: value for key, value in knobs.items()}
        expected = plan(spec, **keywords)
        assert answer == {"start": expected.start, "rows": [list(map(jsonable, row)) for row in expected.rows]}, knobs


def jsonable(value):
    return list(value) if isinstance(value, tuple) else value


WRONG_PLANS = [
    {"num_steps": 0},
    {"num_steps": 51},
    {"times": []},
    {"times": [5, 5]},
    {"times": [50]},
    {"times": [9, 8, 7, 6, 5, 4, 4]},
    {"times": [3, -1]},
    {"times": [3, 1], "num_steps": 3},
    {"sampler": "euler"},
    {"sampler": "ddim", "variance": "fixed_small"},
    {"sampler": "ddpm", "eta": 0.0},
    {"eta": -0.1},
    {"eta": 1.5},
    {"sampler": "ddpm", "variance": "small"},
    {"sampler": "ddpm", "variance": "learned"},
    {"plan": "other"},
    {"plan": "p", "eta": 0.5},
    {"plan": "p", "num_steps": 1},
]


def test_plans_are_refused_in_pythons_words(java):
    plans = {"p": Plan((Row(1, 3, 0.5, (1.0,)),))}
    spec = gaussian_spec(np.linspace(0.99, 0.01, 50), plans=plans)
    answers = java(*({"call": "plan", "spec": json_from_spec(spec), **changes} for changes in WRONG_PLANS))
    for changes, answer in zip(WRONG_PLANS, answers, strict=True):
        with pytest.raises(UsageError) as caught:
            plan(spec, **{"name" if key == "plan" else key: value for key, value in changes.items()})
        assert answer.get("error") == "USAGE", f"{changes}: {answer}"
        assert answer["message"] == str(caught.value).replace(", ".join(SAMPLERS), "ddpm, ddim")
    unknown = replace(spec, defaults=Defaults("euler", 5))
    bare = gaussian_spec([0.5])
    refused, none = java(
        {"call": "plan", "spec": json_from_spec(unknown)}, {"call": "plan", "spec": json_from_spec(bare), "plan": "p"}
    )
    with pytest.raises(ModelRefusedError) as caught:
        plan(unknown)
    assert refused == {"error": "REFUSED", "message": str(caught.value)}
    with pytest.raises(UsageError) as caught:
        plan(bare, name="p")
    assert none == {"error": "USAGE", "message": str(caught.value)}


def walk_call(case, file, **changes):
    changed = {"variance": "learned", "requires": ("variance_fraction",)} if case.get("name") == "learned" else {}
    shape = tuple(file["shape"])
    if "plan" in case:
        read = plan_from_json("p", case["plan"], len(file["alphas_cumprod"]), fractional_t=False)
        changed["plans"] = {"p": read}
        changed["requires"] = (*changed.get("requires", ()), *(["raw_eps"] if read.raw_eps else []))
    spec = gaussian_spec(file["alphas_cumprod"], case["prediction"], case["clip_x_0"], shape, **changed)
    said = {"plan": "p"} if "plan" in case else {"num_steps": file["num_steps"]}
    return {
        **{"call": "states", "spec": json_from_spec(spec), **said},
        **{name: file[name] for name in ("seed", "images", "shape", "mean", "std")},
        **({"fraction": file["variance_fraction"]} if "plan" in case else {}),
        **{name: value for name, value in case.items() if name in ("sampler", "eta", "variance")},
        **changes,
    }


@pytest.mark.parametrize("name", ["trajectories", "plans"])
def test_golden_walks_from_the_start_and_from_every_state(java, name):
    """Whole; again from a state of the core's own, to the same bits; and from a state as the file has it."""
    file = golden(name)
    calls, places = [], []
    for case in file["cases"]:
        states = case["states"]
        for k in range(1, len(states)):
            history = [[bits_of(states[j]["x_0"]), bits_of(states[j]["eps"])] for j in range(k - 1, -1, -1)]
            arrays = {key: bits_of(states[k - 1][key]) for key in ("x", "x_0", "eps")}
            calls.append(walk_call(case, file, again=k))
            calls.append(walk_call(case, file, state={"i": k, "history": history, **arrays}))
            places.append((case, k))
    answers = java(*calls)
    for (case, k), whole, rest in zip(places, answers[::2], answers[1::2], strict=True):
        assert whole["again"] == whole["states"][k:], "a resumed walk is the same to the bit"
        for states, expected in ((whole["states"], case["states"]), (rest["states"], case["states"][k:])):
            assert len(states) == len(expected)
            for state, right in zip(states, expected, strict=True):
                assert [state[key] for key in ("i", "t", "a")] == [right[key] for key in ("i", "t", "a")]
                for key in ("x", "x_0", "eps"):
                    np.testing.assert_allclose(
                        floats(state[key]), np.float32(right[key]), rtol=0, atol=file["tolerance"]
                    )


def test_the_history_is_what_later_rows_read_and_no_more(java):
    file = golden("plans")
    kept = {"third-order": [1, 2, 2, 1, 0], "back-and-on": [0, 1, 0, 0], "learned": [0] * 4, "far": [*range(1, 16), 0]}
    kept["raw-eps"] = kept["third-order"]
    answers = java(*(walk_call(case, file) for case in file["cases"]))
    for case, answer in zip(file["cases"], answers, strict=True):
        read = plan_from_json("p", case["plan"], 50, fractional_t=False)
        held = [len(state["history"]) for state in answer["states"]]
        assert held == list(read.kept) == kept[case["name"]]
        for k, state in enumerate(answer["states"]):
            found = [[old["x_0"], old["eps"]] for old in reversed(answer["states"][: k + 1])]
            assert state["history"] == found[: held[k]]


def test_a_walk_from_an_x_and_rows_that_read_what_is_not_there(java):
    file = golden("plans")
    x = bits_of(np.linspace(-1, 1, 12))
    states = file["cases"][0]["states"]
    short = {"i": 2, "history": [], **{key: bits_of(states[1][key]) for key in ("x", "x_0", "eps")}}
    given, none = java(walk_call(file["cases"][0], file, x=x), walk_call(file["cases"][0], file, state=short))
    read = plan_from_json("p", file["cases"][0]["plan"], 50, fractional_t=False)
    spec = gaussian_spec(file["alphas_cumprod"])
    denoise = denoiser(gaussian_model(spec.alphas_cumprod, file["mean"], file["std"]), spec)
    start = floats(x).reshape(2, 1, 2, 3)
    expected = list(walk(denoise, noise_stream(1, file["images"], (1, 2, 3)), read, x=start))
    for state, right in zip(given["states"], expected, strict=True):
        assert state["x"] == bits_of(right.x)
    message = "Row 3 reads 3 evaluations, got 2. Go on from a state, whose history holds them."
    assert none == {"error": "USAGE", "message": message}


@pytest.mark.parametrize("prediction", ["eps", "x_0", "v"])
def test_learned_variances_given_times_and_bit_equality(java, prediction):
    """The Java core walks as the Python one does, through times of one's own, with and without a learned variance."""
    many = [Row(i, 50 - 3 * i, 0.06 * i, (0.5, 0.25, -0.125)[:i], (0.25,) * min(i, 3)) for i in range(1, 9)]
    mixed = [row._replace(noise=((), (0.5,), (0.25, 0.75))[row.i % 3]) for row in many]
    named = {"many": Plan(tuple(many), start=1.5), "mixed": Plan(tuple(mixed))}
    learned = gaussian_spec(
        *(np.linspace(0.99, 0.01, 50), prediction, 0.8, (3, 4, 5)),
        **{"variance": "learned", "requires": ("variance_fraction",), "plans": named},
    )
    times = [49, 48, 40, 33, 30, 26, 21, 17, 12, 11, 7, 3]
    common = {"call": "states", "seed": "9", "images": [4, 5], "shape": [3, 4, 5], "mean": 0.1, "std": 0.4}
    settings = [{"sampler": "ddim", "times": times, "eta": eta} for eta in (0.1, 0.3, 0.7, 0.9)]  # rounded to float32
    names = ("fixed_small", "fixed_large", "learned")
    settings += [{"sampler": "ddpm", "times": times, "variance": name} for name in names]
    settings += [{"plan": name} for name in named]
    asked = [{**common, "spec": json_from_spec(learned), **knobs} for knobs in settings]
    inner = gaussian_model(learned.alphas_cumprod, 0.1, 0.4, prediction)

    def model(x_t, t):
        fraction = (np.arange(x_t.size, dtype=np.float32) / np.float32(x_t.size)).reshape(x_t.shape)
        return {**inner(x_t, t), "variance_fraction": fraction}

    for knobs, answer in zip(settings, java(*asked), strict=True):
        rows = plan(learned, **{"name" if key == "plan" else key: value for key, value in knobs.items()})
        expected = walk(denoiser(model, learned), noise_stream(9, [4, 5], (3, 4, 5)), rows)
        for state, right in zip(answer["states"], expected, strict=True):
            for name in ("x", "x_0", "eps"):
                if rows.needs_learned_variance:  # two libraries' powers
                    np.testing.assert_allclose(floats(state[name]), getattr(right, name).reshape(-1), rtol=0, atol=2e-6)
                else:
                    assert state[name] == bits_of(getattr(right, name))


def fed_call(inputs, **changes):
    encoded = {name: bits_of(value) if isinstance(value, np.ndarray) else value for name, value in inputs.items()}
    run = {"seed": "2", "images": [3, 8], "shape": [1, 2, 3], "num_steps": 4, "sampler": "ddpm"}
    return {"call": "fed", "spec": json_from_spec(TOLD), "inputs": encoded, **run, **changes}


HINT = np.linspace(-0.5, 0.5, 12, dtype=np.float32)


@pytest.mark.parametrize(
    "inputs",
    [
        {"hint": HINT},
        {"hint": HINT[:6], "y": 2},
        {"hint": HINT, "y": "dog", "w": np.float32([0.25, 9])},
        {"hint": HINT, "y": [3, "cat"], "w": np.float32([0.25, 9, -1, 9])},
    ],
    ids=str,
)
def test_inputs_reach_the_model(java, inputs):
    """What was given, what stands for nothing, and the clean image found before, bit for bit as in Python."""
    (answer,) = java(fed_call(inputs))
    assert answer["names"] == [["y", "w", "hint", "x_0_prev"]] * 4
    shapes = {"hint": (-1, 1, 2, 3) if inputs["hint"].size == 12 else (1, 2, 3), "w": (-1, 2)}
    given = {
        name: value.reshape(shapes[name] if value.size > 2 else -1) if isinstance(value, np.ndarray) else value
        for name, value in inputs.items()
    }
    noise = noise_stream(2, [3, 8], (1, 2, 3))
    states = walk(denoiser(mixed, TOLD, **given), noise, plan(TOLD, num_steps=4, sampler="ddpm"))
    for state, right in zip(answer["states"], states, strict=True):
        assert state["x"] == bits_of(right.x)
        assert state["x_0"] == bits_of(right.x_0)


def test_inputs_are_refused_by_name(java):
    """In Python's words; a wrong shape is told as that of a flat array."""
    many = Input("y", "label", (), None, tuple(f"c{k}" for k in range(30)))
    nameless = replace(TOLD, inputs=(many,))
    nothing = gaussian_spec([0.5])
    same = [
        (TOLD, {}),
        (TOLD, {"hint": HINT, "z": 1, "a": 1}),
        (TOLD, {"hint": HINT, "x_0_prev": HINT}),
        (TOLD, {"hint": HINT, "y": 4}),
        (TOLD, {"hint": HINT, "y": -1}),
        (TOLD, {"hint": HINT, "y": "fox"}),
        (TOLD, {"hint": HINT, "y": [0, 1.5]}),
        (TOLD, {"hint": HINT, "w": np.float32([np.nan, 1])}),
        (TOLD, {"hint": HINT, "w": np.float32([1, np.inf])}),
        (TOLD, {"hint": HINT, "y": [0, 1, 2]}),
        (TOLD, {"hint": HINT, "w": np.float32([1, 2, 3])}),
        (nameless, {}),
        (nameless, {"y": 30}),
        (nothing, {"y": 1}),
    ]
    answers = java(*(fed_call(inputs, spec=json_from_spec(spec)) for spec, inputs in same))
    for (spec, inputs), answer in zip(same, answers, strict=True):
        given = {key: value.reshape(2, 1, 2, 3) if value is HINT else value for key, value in inputs.items()}
        with pytest.raises(UsageError) as caught:
            denoiser(mixed, spec, **given)(np.zeros((2, 1, 2, 3), np.float32), Row(1, 0, 0.5), None)
        expected = str(caught.value)
        if "z" in inputs:
            expected = expected.replace("'a'", "'z'")  # Java tells the first as given
        assert answer == {"error": "USAGE", "message": expected}
    flat, early, late = java(
        fed_call({"hint": HINT[:5]}),
        fed_call({"y": "fox"}, only_bind=True),
        fed_call({"y": "fox", "hint": HINT}, only_bind=True),
    )
    assert flat["message"] == "Input 'hint' must have shape (1, 2, 3) or (2, 1, 2, 3), got float32 (5,)."
    assert "must be one of cat, dog, owl" in early["message"], "what fits any batch is refused before the first"
    assert late == {}


@pytest.mark.parametrize("number", range(len(golden("conditions")["cases"])))
def test_golden_conditions(java, number):
    """One evaluation a row, of twice the batch where it is guided and not by the network itself."""
    file = golden("conditions")
    case = file["cases"][number]
    learned = {"variance": "learned", "requires": ("inputs", "variance_fraction")} if "variance" in case else {}
    inputs = tuple(input_from_json(one) for one in case["inputs"])
    changes = {"inputs": inputs, "requires": ("inputs",), **learned}
    spec = gaussian_spec(file["alphas_cumprod"], case["prediction"], case["clip_x_0"], tuple(file["shape"]), **changes)
    (answer,) = java(
        {
            **{"call": "conditions", "spec": json_from_spec(spec), "inputs": {"y": case["y"]}},
            **{name: file[name] for name in ("seed", "images", "shape", "num_steps", "means", "std")},
            **{name: case[name] for name in ("guidance", "sampler", "eta", "variance") if name in case},
            "variance_fractions": file["variance_fractions"],
        }
    )
    guided = Guidance(case["guidance"]["scale"], case["guidance"].get("interval"))
    can = len(inputs) == 1 and any(y != 3 for y in case["y"])
    assert answer["batches"] == [6 if can and guided.at(state["t"]) > 1 else 3 for state in case["states"]]
    for state, right in zip(answer["states"], case["states"], strict=True):
        assert [state[key] for key in ("i", "t", "a")] == [right[key] for key in ("i", "t", "a")]
        for key in ("x", "x_0", "eps"):
            np.testing.assert_allclose(floats(state[key]), np.float32(right[key]), rtol=0, atol=file["tolerance"])


GUIDED = replace(
    TOLD, defaults=Defaults("ddpm", 4, guidance=Guidance(3.0, (0.0, 24.0))), requires=("inputs", "guidance")
)
ONE = replace(TOLD, inputs=tuple(replace(one, shape=(1,)) if one.name == "w" else one for one in TOLD.inputs))
SIX = np.linspace(-0.5, 0.5, 6, dtype=np.float32)


def settings_call(spec, inputs=None, guidance=None, **changes):
    inputs = {"hint": SIX.reshape(1, 2, 3), **(inputs or {})}
    encoded = {name: bits_of(value) if isinstance(value, np.ndarray) else value for name, value in inputs.items()}
    said = {} if guidance is None else {"guidance": json_from_guidance(guidance)}
    return {"call": "fed", "spec": json_from_spec(spec), "seed": "2", "first": 0, "inputs": encoded, **said, **changes}


@pytest.mark.parametrize(
    ("spec", "batches", "settings"),
    [
        (TOLD, [5] * 4, {"n": 5, "first": 2}),
        (TOLD, [3] * 4, {"n": 3, "first": 1, "label": ["dog", "none", 0, "2"]}),
        (TOLD, [3] * 4, {"n": 3, "label": "owl", "inputs": {"w": HINT[:8].reshape(4, 2)}}),
        (TOLD, [4] * 4, {"n": 2, "first": 3, "label": "1", "guidance": Guidance(2.3)}),
        (TOLD, [2] * 4, {"n": 2, "label": ["none", 3], "guidance": Guidance(2.3)}),
        (TOLD, [2] * 4, {"n": 2, "guidance": Guidance(0.0)}),
        (TOLD, [2] * 4, {"n": 2, "inputs": {"y": ["dog", "cat"], "hint": HINT.reshape(2, 1, 2, 3)}}),
        (GUIDED, [2, 2, 4, 4], {"n": 2}),
        (GUIDED, [2] * 4, {"n": 2, "guidance": Guidance(1.0)}),
        (GUIDED, [4] * 4, {"n": 2, "guidance": Guidance(3.0)}),
        (GUIDED, [2, 4, 2, 2], {"n": 2, "guidance": Guidance(3.0, (36.0, 36.5))}),
        (ONE, [2] * 4, {"n": 2, "inputs": {"w": 0.25}}),
    ],
    ids=str,
)
def test_images_are_told_in_turn_and_guided(java, spec, batches, settings):
    """By their numbers, whatever the batch; every picture is Python's to the bit."""
    said = {"sampler": "ddpm", "num_steps": 4, **settings}
    (answer,) = java(settings_call(spec, **said))
    given = {"hint": SIX.reshape(1, 2, 3), **said.pop("inputs", {})}
    *_, (_, last) = sample(mixed, spec, request_for(spec, seed=2, inputs=given, **said))
    assert answer["bits"] == bits_of(last.x)
    assert answer["batches"] == batches


def test_conditions_are_refused_in_pythons_words(java):
    always = replace(TOLD, inputs=(replace(TOLD.inputs[0], none=None), *TOLD.inputs[1:]))
    nothing = replace(TOLD, inputs=TOLD.inputs[1:])
    own = replace(TOLD, inputs=(*TOLD.inputs, Input("guidance", "vector", (1,), 1.0)))
    wrong = [
        (TOLD, {"guidance": Guidance(100.5)}),
        (TOLD, {"guidance": Guidance(-0.5)}),
        (TOLD, {"guidance": Guidance(2.0, (3.5, 1.5))}),
        (TOLD, {"guidance": Guidance(2.0, (-0.5, 1.5))}),
        (always, {"guidance": Guidance(2.5)}),
        (nothing, {"guidance": Guidance(2.0)}),
        (always, {"label": "none"}),
        (nothing, {"label": "cat"}),
        (TOLD, {"label": "cat", "inputs": {"y": 1}}),
        (TOLD, {"label": "cow"}),
        (TOLD, {"label": ["cat", "4"]}),
        (TOLD, {"label": []}),
        (TOLD, {"inputs": {"z": 1}}),
        (TOLD, {"inputs": {"w": np.float32([1, 2, 3])}}),
        (own, {"inputs": {"guidance": np.float32([2])}}),
    ]
    said = {"n": 2, "sampler": "ddpm", "num_steps": 4}
    calls = (settings_call(spec, **{**said, **one}) for spec, one in wrong)
    for (spec, one), answer in zip(wrong, java(*calls), strict=True):
        given = {"hint": SIX.reshape(1, 2, 3), **one.get("inputs", {})}
        with pytest.raises(UsageError) as caught:
            request_for(spec, seed=2, **{**said, **one, "inputs": given})
        assert answer == {"error": "USAGE", "message": str(caught.value)}


@pytest.mark.parametrize("place", [7, 19], ids=["with the label", "without it"])
def test_what_is_not_finite_is_told_of_its_image(java, place):
    said = {"n": 2, "first": 4, "sampler": "ddpm", "num_steps": 4, "guidance": Guidance(2.0)}
    (answer,) = java(settings_call(TOLD, poisoned=place, **said))
    assert answer["error"] == "NOT_FINITE"
    assert answer["message"].startswith("At step 1 (t = 49), image 5 became NaN")


GIVEN = golden("given")
PICTURES = (np.array(GIVEN["levels"]).reshape(2, *GIVEN["shape"]) / 127.5 - 1.0).astype(np.float32)


@pytest.mark.parametrize("case", GIVEN["cases"], ids=lambda case: case["name"])
def test_golden_given(java, case):
    """And going on from a state puts in no known pixels a second time."""
    made = {"p": plan_from_json("p", case["plan"], 50, fractional_t=False)}
    shape = tuple(GIVEN["shape"])
    spec = gaussian_spec(GIVEN["alphas_cumprod"], "v", case["clip_x_0"], shape, plans=made)
    start = {"backwards": "picture"}.get(case["name"], "noised" if "strength" in case else None)
    (answer,) = java(
        {
            **{
                "call": "given",
                "spec": json_from_spec(spec),
                "plan": "p",
                "pictures": bits_of(PICTURES),
                "from": start,
            },
            **{name: GIVEN[name] for name in ("seed", "images", "shape", "mean", "std")},
            "mask": bits_of(case["mask"]) if "mask" in case else None,
            "measure": case.get("measure"),
        }
    )
    for state, right in zip(answer["states"], case["states"], strict=True):
        assert [state[key] for key in ("i", "t", "a")] == [right[key] for key in ("i", "t", "a")]
        for key in ("x", "x_0", "eps"):
            np.testing.assert_allclose(floats(state[key]), np.float32(right[key]), rtol=0, atol=GIVEN["tolerance"])
    assert answer["again"] == answer["states"][1:]


def test_given_plans_and_what_is_between(java):
    spec = gaussian_spec(GIVEN["alphas_cumprod"], "v", 0.75, tuple(GIVEN["shape"]))
    returned = next(case for case in GIVEN["cases"] if "returns" in case)
    between, rows, below = java(
        {"call": "crossfade", "first": bits_of(PICTURES[0]), "last": bits_of(PICTURES[1]), "count": 3},
        {
            **{"call": "returns", "spec": json_from_spec(spec)},
            **{name: returned[name] for name in ("num_steps", "sampler", "eta", "returns", "jump")},
        },
        {"call": "times_below", "times": GIVEN["times"], "strength": 0.6, "T": 50},
    )
    np.testing.assert_allclose(floats(between["bits"]), GIVEN["crossfade"], rtol=0, atol=1e-7)
    assert below["t"] == [24, 11]
    expected = with_returns(plan(spec, num_steps=4, sampler="ddim", eta=0.5), 2, 2)
    assert [row[:3] for row in rows["rows"]] == [[row.i, row.t, row.a] for row in expected.rows]
    for row, right in zip(rows["rows"], expected.rows, strict=True):
        for numbers, others in zip(row[3:6], (right.x_0, right.eps, right.noise), strict=True):
            np.testing.assert_allclose(numbers, others, rtol=1e-14, atol=0)


EDITED = gaussian_spec(
    GIVEN["alphas_cumprod"],
    "v",
    None,
    tuple(GIVEN["shape"]),
    inputs=(Input("y", "label", (), 2, ("cat", "dog")),),
    requires=("inputs",),
    plans={"back": Plan((Row(1, 40, 0.5, (1.0,), ()), Row(2, 30, 0.6, (1.0, 0.5), ())))},
)
LEVELS = np.array(GIVEN["levels"], dtype=np.uint8).reshape(2, *GIVEN["shape"]).transpose(0, 2, 3, 1)
BLENDED = np.array([[0, 255, 64, 0], [255, 255, 0, 128]], dtype=np.uint8)


def edit_call(images=LEVELS, **given):
    told = {name: value.reshape(-1).tolist() if name == "mask" else value for name, value in given.items()}
    said = {"seed": "3", "first": 4, "n": 1, "mean": 0.3, "std": 0.5, "pictures": images.reshape(-1).tolist()}
    return {"call": "edit", "spec": json_from_spec(EDITED), **said, **told}


@pytest.mark.parametrize(
    ("given", "labels"),
    [
        ({"mask": BLENDED, "n": 2, "returns": 2, "jump": 2, "eta": 1.0}, [2, 2, 2, 2]),
        ({"mask": np.stack([BLENDED, 255 - BLENDED]), "strength": 0.6, "label": ["cat", "dog", "dog"]}, [1, 1]),
        ({"mask": BLENDED, "measure": "mask", "eta": 1.0}, [2, 2]),
        ({"measure": "average:2", "n": 2, "label": "dog"}, [1, 1, 1, 1]),
        ({"measure": "grey", "inputs": {"y": [0, 1]}}, [0, 1]),
        ({"strength": 0.3, "sampler": "ddpm"}, [2, 2]),
        ({"strength": 0.6, "between": True, "n": 3, "label": ["cat", "dog"]}, [0, 0, 0]),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else "",
)
def test_edits_are_pythons(java, given, labels):
    """To 1e-6, since a mean of several numbers is summed in another order."""
    how = {"num_steps": 4, **({} if "sampler" in given else {"sampler": "ddim", "eta": 0.5}), **given}
    (answer,) = java(edit_call(**how))
    made = request_for(EDITED, LEVELS, seed=3, first=4, **how)
    images = range(4, 4 + made.settings.n)
    told = {"y": np.array(labels)}
    network = gaussian_model(GIVEN["alphas_cumprod"], 0.3, 0.5, "v")
    denoise = denoiser(lambda x_t, t, **_: network(x_t, t), EDITED, **told)
    *_, last = made.walks(denoise, images)
    np.testing.assert_allclose(floats(answer["bits"]), last.x.reshape(-1), rtol=0, atol=1e-6)
    assert answer["labels"] == [labels] * made.settings.num_rows


def test_edits_are_refused_in_pythons_words(java):
    wrong = [
        {},
        {"strength": 0.0},
        {"strength": 0.1},
        {"strength": 0.5, "returns": 1},
        {"mask": BLENDED, "returns": -1},
        {"mask": BLENDED, "returns": 1, "jump": 4},
        {"mask": BLENDED, "returns": 1, "plan": "back", "num_steps": None},
        {"measure": "average:4"},
        {"measure": "average:0"},
        {"measure": "half"},
        {"measure": "mask"},
        {"measure": "grey", "mask": BLENDED},
        {"mask": BLENDED, "between": True},
        {"strength": 0.5, "between": True, "n": 1},
        {"strength": 0.5, "between": True, "images": LEVELS[:1]},
    ]
    asked = [{"num_steps": 4, **one} for one in wrong]
    others = [{"images": LEVELS[0, 0]}, {"mask": BLENDED[:1]}, {"plan": "back", "strength": 0.7}]
    answers = java(*(edit_call(**one) for one in asked), *(edit_call(**{"mask": BLENDED, **one}) for one in others))
    for one, answer in zip(asked, answers, strict=False):
        with pytest.raises(UsageError) as caught:
            request_for(EDITED, **{"images": LEVELS, "seed": 3, **one})
        assert answer == {"error": "USAGE", "message": str(caught.value)}
    assert [answer["message"] for answer in answers[len(asked) :]] == [
        "images must be uint8 (m, 2, 4, 3), got 12 numbers.",
        "mask must be uint8 (2, 4), or one for each picture, got 4 numbers.",
        "strength does not apply to a plan whose rows look back beyond it.",
    ]


def test_pixels(java):
    cases = golden("pixels")["cases"]
    (answer,) = java({"call": "pixels", "bits": [case["bits"] for case in cases], "shape": [1, 1, 1]})
    assert answer["levels"] == [case["level"] for case in cases]


def test_pixels_have_their_channels_last(java, rng):
    x = rng.uniform(-1.5, 1.5, (2, 3, 4, 5)).astype(np.float32)
    (answer,) = java({"call": "pixels", "bits": bits_of(x), "shape": [3, 4, 5]})
    expected = np.floor(np.clip(np.float32(127.5) * x + np.float32(127.5), 0, 255) + np.float32(0.5))
    assert answer["levels"] == expected.transpose(0, 2, 3, 1).astype(int).reshape(-1).tolist()


def sample_call(**changes):
    file = golden("trajectories")
    spec = gaussian_spec(file["alphas_cumprod"], image_shape=(1, 2, 3))
    return {
        **{"call": "sample", "spec": json_from_spec(spec), "seed": "1", "first": 0, "n": 2, "num_steps": 6},
        **{"sampler": "ddim", "eta": 0.5, "mean": 0.3, "std": 0.5, "stop_after": 99, "poisoned_row": 1},
        **changes,
    }


def test_sampling_in_one_call_tells_its_progress_and_can_be_cancelled(java):
    whole, cancelled, second = java(sample_call(), sample_call(stop_after=3), sample_call(first=1, n=1))
    assert [told[:2] for told in whole["progress"]] == [[i, 6] for i in range(1, 7)]
    assert whole["progress"][-1][2] == whole["bits"]
    assert whole["progress"][-1][3] == whole["bits"], "after the last step the preview is the picture"
    assert cancelled == {"error": "CANCELLED", "message": "cancelled after step 3 of 6"}
    assert second["bits"] == whole["bits"][6:], "an image is a function of its number, not of its batch"


def test_sampling_takes_every_setting(java):
    """Times, a plan, a variance: what `sample` of Python makes of the same settings."""
    rows = (Row(1, 49, 0.25, (0.5,), (0.75,)), Row(2, 30, 0.5, (0.75, 0.25), (), (0.125,)), Row(3, 30, 0.5, (1.0,), ()))
    spec = gaussian_spec(np.linspace(0.99, 0.01, 50), plans={"p": Plan(rows)}, clip_x_0=1.0)
    given = [{"times": [40, 20, 3]}, {"plan": "p"}, {"sampler": "ddpm", "variance": "fixed_large"}, {}]
    plain = {"spec": json_from_spec(spec), "sampler": None, "eta": None, "num_steps": None}
    model = gaussian_model(spec.alphas_cumprod, 0.3, 0.5)
    for settings, answer in zip(given, java(*(sample_call(**{**plain, **one}) for one in given)), strict=True):
        *_, (_, last) = sample(model, spec, request_for(spec, n=2, seed=1, **settings))
        assert answer["bits"] == bits_of(last.x)


def is_one_plain_line(message):
    return message.isprintable() and message.endswith(".") and not re.search(r"\. got |, expected |\. Do ", message)


def test_refusals(java):
    wrong = [
        ({"seed": "-1"}, "USAGE", "seed must be from 0 to 2^63 - 1, got -1."),
        ({"first": -1}, "USAGE", "Numbers of images must be from 0 to 2^32 - 1, got -1."),
        ({"first": 2**32 - 1}, "USAGE", "Numbers of images must be from 0 to 2^32 - 1, got 4294967296."),
        ({"n": 0}, "USAGE", "n must be at least 1, got 0."),
        ({"n": -1}, "USAGE", "n must be at least 1, got -1."),
        ({"n": 2**29}, "USAGE", "n is too many images for one batch, got 536870912. Sample them in several."),
        ({"num_steps": 0}, "USAGE", "The number of steps must be from 1 to 50, the model's own, got 0."),
        ({"eta": 1.0000001}, "USAGE", "eta must be between 0 and 1, got 1.0000001."),
        ({"sampler": "ddpm"}, "USAGE", "eta does not apply to ddpm."),
    ]
    answers = java(*(sample_call(**changes) for changes, _, _ in wrong))
    for (_, kind, message), answer in zip(wrong, answers, strict=True):
        assert answer == {"error": kind, "message": message}


def test_a_network_that_is_not_finite_is_not_hidden_by_clipping(java):
    """Its row is told by number: this plan comes to a time twice."""
    rows = (Row(1, 30, 0.25, (0.5,)), Row(2, 30, 0.25, (0.5,)), Row(3, 12, 0.5, (0.5,), (), (0.25, 0.5)))
    spec = gaussian_spec(
        np.linspace(0.99, 0.01, 50),
        **{"clip_x_0": 1.0, "variance": "learned", "requires": ("variance_fraction",), "plans": {"p": Plan(rows)}},
    )
    common = {"spec": json_from_spec(spec), "first": 7, "plan": "p", "sampler": None, "eta": None, "num_steps": None}
    first, second, fraction = java(
        sample_call(**common, poison="eps"),
        sample_call(**common, poison="eps", poisoned_row=2),
        sample_call(**common, poison="variance_fraction", poisoned_row=3),
    )
    for answer, where in ((first, "step 1 (t = 30)"), (second, "step 2 (t = 30)"), (fraction, "step 3 (t = 12)")):
        message = f"At {where}, image 8 became NaN or infinite. Run ddpm-check on the model."
        assert answer == {"error": "NOT_FINITE", "message": message}


def test_a_state_that_is_not_finite_is_told(java):
    """Weights beyond float32 overflow after a sound prediction; a time may be a fraction."""
    rows = (Row(1, 30, 0.25, (0.5,)), Row(2, 12.5, 0.5, (1e300,)))
    spec = gaussian_spec(np.linspace(0.99, 0.01, 50), plans={"p": Plan(rows)}, requires=("fractional_t",))
    case = {"prediction": "eps", "clip_x_0": None}
    (answer,) = java(walk_call(case, golden("trajectories"), spec=json_from_spec(spec), num_steps=None, plan="p"))
    message = "At step 2 (t = 12.5), image 0 of its batch became NaN or infinite. Run ddpm-check on the model."
    assert answer == {"error": "NOT_FINITE", "message": message}


def test_refusals_of_the_parts(java):
    wrong = [
        ({"x": [0] * 5}, "x must be as many numbers as the noise, 12, got 5."),
        ({"shape": []}, "shape must be positive (C, H, W), got []."),
        ({"shape": [1, 2]}, "shape must be positive (C, H, W), got [1, 2]."),
        ({"shape": [0, 2, 3]}, "shape must be positive (C, H, W), got [0, 2, 3]."),
        ({"shape": [1, 2, 4]}, "x_t must hold images of 6 numbers, got 16."),
        ({"images": []}, "n must be at least 1, got 0."),
        ({"images": [2**32]}, "Numbers of images must be from 0 to 2^32 - 1, got 4294967296."),
    ]
    case = {"sampler": "ddpm", "variance": "fixed_small", "prediction": "eps", "clip_x_0": None}
    file = golden("trajectories")
    answers = java(*(walk_call(case, file, **changes) for changes, _ in wrong))
    for (_, message), answer in zip(wrong, answers, strict=True):
        assert answer == {"error": "USAGE", "message": message}


@pytest.mark.parametrize(
    "settings",
    [{"variance": "fixed_small"}, {"variance": "learned"}, {"plan": "p"}, {"plan": "p", "guidance": {"scale": 2}}],
    ids=lambda one: " ".join(map(str, one.values())),
)
def test_no_array_is_made_in_the_loop(java, settings):
    rows = tuple(Row(i, 20 - i, 0.04 * i, (0.25,) * min(i, 3), (0.25,) * min(i, 3), (0.5,)) for i in range(1, 21))
    inputs = (Input("y", "label", (), 1, ("a",)), Input("x_0_prev", "previous", (3, 32, 32), None))
    spec = gaussian_spec(
        *(np.linspace(0.99, 0.01, 50), "eps", 1.0, (3, 32, 32)),
        **{"requires": ("variance_fraction", "inputs"), "plans": {"p": Plan(rows)}, "inputs": inputs},
    )
    said = settings if "plan" in settings else {"sampler": "ddpm", "num_steps": 20, **settings}
    (answer,) = java(
        {
            **{"call": "allocated", "spec": json_from_spec(spec), "mean": 0.0, "std": 0.5, **said},
            **{"seed": "0", "images": [0, 1], "shape": [3, 32, 32]},
        }
    )
    assert answer["bytes"] < 4 * 3 * 32 * 32, "less in ten rows than one array of one image"


def verdict(text):
    try:
        spec_from_json(text)
    except ModelRefusedError:
        return "REFUSED"
    except BadFileError:
        return "BAD_FILE"
    return None


def test_the_spec_is_read(java):
    shipped = onnx.load(MODEL, load_external_data=False)
    text = {entry.key: entry.value for entry in shipped.metadata_props}[METADATA_KEY]
    rows = (Row(1, 2.5, 0.25, (0.5,), ()), Row(2, 1, 0.5, (0.25, -0.5), (0.75,), (0.125, 0.25)))
    full = replace(
        TOLD,
        plans={"a": Plan(rows, start=1.5), "b": Plan(rows[:1])},
        defaults=Defaults("ddim", 5, 0.25, times=(40, 3), plan="b", guidance=Guidance(2.5, (3.0, 20.5))),
        requires=("inputs", "times", "plan", "guidance", "variance_fraction", "fractional_t"),
        graph="slice",
    )
    texts = (text, *map(json_from_spec, (SPEC, full)))
    for answer, spec in zip(
        java(*({"call": "spec", "spec": one} for one in texts)), map(spec_from_json, texts), strict=True
    ):
        defaults = spec.defaults
        assert answer == {
            "name": spec.name,
            "prediction": spec.prediction,
            "state_shape": list(spec.state_shape),
            "picture_shape": list(spec.picture_shape),
            "T": spec.num_train_timesteps,
            "last": spec.alphas_cumprod[-1],
            "clip_x_0": spec.clip_x_0,
            "variance": spec.variance,
            "graph": spec.graph,
            "defaults": [
                *(defaults.sampler, defaults.num_steps, defaults.eta),
                *(defaults.times and list(defaults.times), defaults.plan),
                defaults.guidance and [defaults.guidance.scale, [*defaults.guidance.interval]],
            ],
            "takes_guidance": spec.takes_guidance,
            "outputs": list(spec.outputs),
            "inputs": [[one.name, one.kind, list(one.shape), one.none, list(one.classes)] for one in spec.inputs],
            "plans": {
                name: {"start": made.start, "rows": [[row.i, *values, made.raw_eps] for row, values in rows_of(made)]}
                for name, made in spec.plans.items()
            },
            "fractional_t": spec.t_dtype == "float32",
        }


def rows_of(made):
    return zip(made.rows, json_from_plan(made)["rows"], strict=True)


def test_the_reader_judges_every_text_as_pythons_does(java):
    """Sound, broken and hostile specs, and a thousand damaged ones: one verdict, and never anything but one line."""
    texts = [*specs(), *guided_specs()]
    answers = java(*({"call": "spec", "spec": text} for text in texts))
    seen = set()
    for text, answer in zip(texts, answers, strict=True):
        assert answer.get("error") == verdict(text), f"{text[:300]!r} {text[-300:]!r}: {answer}"
        seen.add(answer.get("error"))
        if "error" in answer:
            assert is_one_plain_line(answer["message"]), answer
            assert len(answer["message"]) < 1000
    assert seen == {None, "BAD_FILE", "REFUSED"}


def test_plans_and_inputs_are_refused_in_pythons_words(java):
    row = [3, 0.1, [0.5], [0.25], []]
    changes = [
        {"plans": {"p": {"rows": [row, [9, *row[1:]]]}}},
        {"plans": {"p": {"rows": [[3, 1, *row[2:]]]}}},
        {"plans": {"p": {"rows": [[*row[:2], [1, 1], [], []]]}}},
        {"plans": {"p": {"rows": [[*row[:4], [0]]]}}},
        {"plans": {"p": {"rows": []}}},
        {"plans": {"a b": {"rows": [row]}}},
        {"plans": {"p": {"rows": [row], "start": 0}}},
        {"plans": {"p": {"rows": [row], "raw_eps": 1}}},
        {"plans": {"p": {"rows": [row], "raw_eps": True}}},
        {"plans": {"p": {"rows": [[*row[:4], [0.5, 0.75]]]}}},
        {"inputs": [{"name": "y"}], "requires": ["inputs"]},
        {"inputs": [{"name": "t", "kind": "vector", "shape": [2], "none": 0}], "requires": ["inputs"]},
        {"inputs": [{"name": "w", "kind": "other", "shape": [2], "none": 0}], "requires": ["inputs"]},
        {"inputs": [{"name": "y", "kind": "vector", "shape": [2], "none": 0}], "requires": ["inputs"]},
        {"inputs": [{"name": "w", "kind": "vector", "shape": [], "none": 0}], "requires": ["inputs"]},
        {"inputs": [{"name": "w", "kind": "vector", "shape": [2], "none": 0}]},
        {"defaults": {**values()["defaults"], "times": [3, 1]}},
        {"defaults": {**values()["defaults"], "plan": "p"}},
        *({"defaults": {**values()["defaults"], "guidance": one}} for one in (2, {}, {"scale": "2"}, {"scale": 100.5})),
        {"defaults": {**values()["defaults"], "guidance": {"scale": 2, "interval": [3, 2]}}},
        {"defaults": {**values()["defaults"], "guidance": {"scale": 2, "interval": "ab"}}},
        {"defaults": {**values()["defaults"], "guidance": {"scale": 2}}},
        {"inputs": [{"name": "guidance", "kind": "vector", "shape": [1], "none": 2}], "requires": ["inputs"]},
        {
            "inputs": [{"name": "guidance", "kind": "vector", "shape": [1], "none": 1}],
            **{"requires": ["inputs"], "defaults": {**values()["defaults"], "guidance": {"scale": 2}}},
        },
    ]
    texts = [json.dumps(values(**one)) for one in changes]
    for text, answer in zip(texts, java(*({"call": "spec", "spec": text} for text in texts)), strict=True):
        with pytest.raises(BadFileError) as caught:
            spec_from_json(text)
        assert answer == {"error": "BAD_FILE", "message": str(caught.value)}


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The program `sample`, built as its README says: the adapter for ai.onnxruntime over Debian's ONNX Runtime."""
    needs("javac", "openjdk-17-jdk-headless")
    needs("c++", "g++")
    needs("pkg-config", "pkg-config")
    if subprocess.run(["pkg-config", "--exists", "libonnxruntime"], check=False).returncode != 0:
        pytest.skip("no libonnxruntime: apt install libonnxruntime-dev")
    folder = tmp_path_factory.mktemp("jvm")
    ran("sh", ANDROID / "jvm" / "build.sh", folder)
    return folder


def sampled(program, out, *arguments):
    done = ran(program / "sample", *arguments, "--out", out)
    report = json.loads(done.stdout)
    assert set(report) == {"images", "seconds_load", "seconds"}
    assert 0 < report["seconds_load"] < report["seconds"]
    return report["images"], np.asarray(Image.open(out)).astype(int)


def test_the_golden_image(program, tmp_path):
    full = golden("full_image")
    count, pixels = sampled(
        *(program, tmp_path / "one.png", MODEL, "--n", 1, "--steps", full["num_steps"]),
        *("--sampler", full["sampler"], "--eta", full["eta"], "--seed", full["seed"], "--first", full["first"]),
    )
    assert count == 1
    assert np.abs(pixels - np.array(full["pixels"]).reshape(28, 28)).max() <= 1


@pytest.mark.torch  # for its time: 18 images
@pytest.mark.parametrize(("sampler", "eta"), [("ddim", 0.5), ("ddpm", None)])
def test_a_grid_of_two_batches_equals_pythons(program, tmp_path, sampler, eta):
    knobs = [] if eta is None else ["--eta", eta]
    count, pixels = sampled(
        *(program, tmp_path / "grid.png", MODEL, "--n", 18, "--steps", 5, "--sampler", sampler, "--seed", 3),
        *("--first", 40, *knobs),
    )
    expected = grid(generate(MODEL, n=18, num_steps=5, sampler=sampler, eta=eta, seed=3, first=40))[..., 0]
    assert count == 18
    assert pixels.shape == (4 * 28, 5 * 28)
    assert np.abs(pixels - expected).max() <= 1
    assert not pixels[84:, 84:].any(), "cells that no image fills are black"


@pytest.mark.parametrize("settings", EDITS, ids=str)
def test_the_program_makes_pythons_edits(program, tmp_path, settings):
    _, pixels = sampled(program, tmp_path / "grid.png", MODEL, *flags_of(settings))
    assert np.abs(pixels - pictures_of(settings)[..., 0]).max() <= 1


def test_colours_are_edited_and_a_colour_picture_can_be_a_grey_mask(program, tmp_path):
    path = small_onnx(tmp_path / "m.onnx", spec=json_from_spec(COLOUR))
    picture, mask = (np.random.default_rng(k).integers(0, 256, (4, 5, 3), dtype=np.uint8) for k in range(2))
    for name, pixels in (("x", picture), ("mask", mask)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    given = ("--image", tmp_path / "x.png", "--mask", tmp_path / "mask.png", "--n", 2, "--steps", 3, "--eta", 1)
    _, pixels = sampled(program, tmp_path / "c.png", path, *given)
    grey = read_image(tmp_path / "mask.png", 1)[..., 0]
    made = grid(edit(path, picture[np.newaxis], mask=grey, n=2, num_steps=3, sampler="ddim", eta=1.0, seed=0))
    assert np.abs(pixels - made).max() <= 1


def small_onnx(path, outputs=("eps",), spec=None, inputs=("x_t", "t")):
    """A graph of 3 x 4 x 5 pixels whose first output is x_t itself, another its sigmoid; the spec in its metadata."""
    shapes = {"x_t": (1, ["batch", 3, 4, 5]), "t": (7, ["batch"])}
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Identity" if name == outputs[0] else "Sigmoid", ["x_t"], [name], name=name)
            for name in outputs
        ],
        "small",
        [onnx.helper.make_tensor_value_info(name, *shapes.get(name, (1, [1]))) for name in inputs],
        [onnx.helper.make_tensor_value_info(name, 1, ["batch", 3, 4, 5]) for name in outputs],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    if spec is not None:
        onnx.helper.set_model_props(model, {METADATA_KEY: spec})
    onnx.save(model, path)
    return path


COLOUR = gaussian_spec(np.linspace(0.99, 0.01, 50), clip_x_0=1.0, image_shape=(3, 4, 5))
LEARNED = ModelSpec(**{**vars(COLOUR), "variance": "learned", "requires": ("variance_fraction",)})


def test_colours_and_a_second_output(program, tmp_path):
    """Two outputs, three channels: the planes of an image become its pixels, and the fraction reaches the sampler."""
    path = small_onnx(tmp_path / "m.onnx", ("eps", "variance_fraction"), json_from_spec(LEARNED))
    _, pixels = sampled(program, tmp_path / "c.png", path, "--n", 3, "--steps", 4, "--sampler", "ddpm", "--seed", 2)
    assert pixels.shape == (8, 10, 3)
    expected = grid(generate(path, n=3, num_steps=4, sampler="ddpm", seed=2)).astype(int)
    assert np.abs(pixels - expected).max() <= 1


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        (["--plan", "twice"], {"plan": "twice"}),
        (["--times", "49,30, 2", "--eta", 0.5], {"times": [49, 30, 2], "eta": 0.5}),
        (["--label", "cat,none,0", "--guidance", 0.5], {"label": ["cat", "none", 0], "guidance": 0.5}),
    ],
)
def test_what_the_spec_lists_is_fed(program, tmp_path, options, settings):
    """Inputs of every kind, a time that is a fraction, a plan that the file carries, times of one's own."""
    spec = FED["spec"]
    path = tmp_path / "fed.onnx"
    path.write_bytes(onnx_file(FED["nodes"], FED["constants"], spec, inputs=FED["inputs"]))
    count, pixels = sampled(program, tmp_path / "grid.png", path, "--n", 17, "--seed", 4, *options)
    assert count == 17
    chosen = request_for(spec, n=17, seed=4, **settings)
    last = [state.x for _, state in sample(mixed_with_t, spec, chosen) if state.row is chosen.steps.plan.rows[-1]]
    expected = grid(to_uint8(np.concatenate(last)))[..., 0].astype(int)
    assert len(np.unique(expected)) > 50
    assert np.abs(pixels - expected).max() <= 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "must be named"),
        ([MODEL, "--n"], 2, "needs a value"),
        ([MODEL, "--mask", PICTURE], 2, "--mask needs an --image."),
        ([MODEL, "--image", PICTURE], 2, "A picture needs a mask, a measure or a strength."),
        ([MODEL, "--image", "README.md", "--strength", "1"], 3, "README.md cannot be read as a picture."),
        ([MODEL, "--image", PICTURE.parent.parent / "between.png", "--strength", "1"], 2, "must have 28 x 28 pixels"),
        ([MODEL, "--n", "0"], 2, "1 to"),
        ([MODEL, "--n", "x"], 2, "--n"),
        ([MODEL, "--steps", "1001"], 2, "The number of steps must be from 1 to 1000, the model's own, got 1001."),
        ([MODEL, "--steps", "x"], 2, "--steps"),
        ([MODEL, "--times", "9,8,x"], 2, "such as 980,960,0, got '9,8,x'."),
        ([MODEL, "--times", "8,9"], 2, "strictly fall from at most 999"),
        ([MODEL, "--times", "9,8", "--steps", "3"], 2, "the number of times, 2, got 3."),
        ([PLAIN, "--plan", "p"], 2, "the model carries none, got 'p'."),
        ([MODEL, "--seed", "-1"], 2, "--seed"),
        ([MODEL, "--seed", "9223372036854775808"], 2, "--seed"),
        ([MODEL, "--first", "4294967295"], 2, "--first"),
        ([MODEL, "--eta", "2"], 2, "eta"),
        ([MODEL, "--eta", "NaN"], 2, "eta"),
        ([MODEL, "--sampler", "ddpm", "--eta", "0.5"], 2, "does not apply"),
        ([MODEL, "--sampler", "euler"], 2, "euler"),
        ([MODEL, "--guidance", "x"], 2, "--guidance must be a number, got 'x'."),
        ([MODEL, "--guidance", "101"], 2, "guidance must be a number from 0 to 100, got 101."),
        ([PLAIN, "--guidance", "2"], 2, "guidance must be 1 for a network that has not learned to do without a class"),
        ([PLAIN, "--label", "cat"], 2, "label does not apply to a network that is told no class."),
        ([MODEL, "--fast"], 2, "--fast"),
        ([MODEL, MODEL], 2, "Unknown argument"),
        ([MODEL, "--out", "nowhere/grid.png"], 2, "--out"),
        (["missing.onnx"], 3, "no such file"),
        (["text.onnx"], 3, "cannot load"),
        (["bare.onnx"], 3, "without metadata"),
        (["inputs.onnx"], 3, "inputs must be [x_t, t] and"),
        (["lacking.onnx"], 3, "inputs must be [x_t, t, y, w, hint, x_0_prev]"),
        (["outputs.onnx"], 3, "outputs [eps], got"),
        (["shape.onnx"], 3, "does not run"),
        (["newer.onnx"], 4, "needs a reader of 'y', and this version knows"),
        (["slice.onnx"], 4, "a one-call slice"),
        (["needy.onnx"], 2, "Input 'hint', of kind image and shape (1, 2, 3), must be given."),
        (["nan.onnx"], 6, "NaN or infinite"),
    ],
    ids=lambda value: " ".join(map(str, value[-2:])).replace(str(ROOT), "") if isinstance(value, list) else None,
)
def test_what_the_program_refuses(program, tmp_path, arguments, code, words):
    spec = json_from_spec(COLOUR)
    (tmp_path / "text.onnx").write_text("not a model")
    small_onnx(tmp_path / "bare.onnx")
    small_onnx(tmp_path / "inputs.onnx", spec=spec, inputs=("x_t", "t", "y"))
    small_onnx(tmp_path / "lacking.onnx", spec=json_from_spec(TOLD))
    small_onnx(tmp_path / "outputs.onnx", ("v",), spec)
    small_onnx(tmp_path / "slice.onnx", spec=json_from_spec(replace(COLOUR, graph="slice")))
    inputs = {**FED["inputs"], "t": (7, ["batch"])}
    (tmp_path / "needy.onnx").write_bytes(onnx_file([node("Neg", ["x_t"], "eps")], (), TOLD, inputs=inputs))
    small_onnx(tmp_path / "shape.onnx", spec=spec.replace("[3, 4, 5]", "[3, 4, 6]"))
    small_onnx(tmp_path / "newer.onnx", spec=spec.replace('"requires": []', '"requires": ["y"]'))
    model = onnx.load(small_onnx(tmp_path / "nan.onnx", spec=spec))
    model.graph.node[0].op_type = "Log"  # of negative numbers
    onnx.save(model, tmp_path / "nan.onnx")
    command = [str(part) for part in (program / "sample", *arguments)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    told = [line for line in done.stderr.splitlines() if line and "Schema error" not in line]  # that is Debian's build
    assert done.returncode == code, done.stderr[-500:]
    assert done.stdout == ""
    assert len(told) == 1, told
    assert words in told[0]
    assert is_one_plain_line(told[0])
    assert not (tmp_path / "grid.png").exists()


def test_without_its_library_the_program_says_so(program, tmp_path):
    command = ["java", "-cp", str(program / "classes"), "ddpm.Sample", str(MODEL), "--out", str(tmp_path / "g.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert len(done.stderr.splitlines()) == 1
    assert "ONNX Runtime does not start" in done.stderr


def test_the_one_call_file(program, tmp_path):
    """The program that knows no sampler, over a file that holds one."""
    model = onnx.load(MODEL)
    spec = spec_from_json({entry.key: entry.value for entry in model.metadata_props}[METADATA_KEY])
    onnx.save(sampler_from_denoiser(model, spec_of_graph(spec, "sampler")), tmp_path / "unet.sampler.onnx")
    ran(
        *("java", "-Djava.awt.headless=true", f"-Djava.library.path={program}", "-cp", program / "classes"),
        *("ddpm.OneCall", tmp_path / "unet.sampler.onnx", 2, 10, 7, tmp_path / "grid.png"),
    )
    pixels = np.asarray(Image.open(tmp_path / "grid.png")).astype(int)
    expected = grid(generate(MODEL, n=2, num_steps=10, sampler="ddim", eta=0.0, seed=7))[..., 0]
    assert np.abs(pixels - expected).max() <= 1


@pytest.mark.torch  # for its time
def test_the_one_call_file_of_classes(program, tmp_path):
    """Every class in turn, with the file's own guidance."""
    spec = gaussian_spec(
        np.linspace(0.99, 0.01, 50),
        **{"clip_x_0": 1.0, "inputs": TOLD.inputs[:1], "requires": ("inputs", "guidance")},
        defaults=Defaults("ddim", 4, guidance=Guidance(2.0, (0.0, 24.0))),
    )
    nodes = [
        node("Mul", ["x_t", "half"], "a"),
        node("Cast", ["y"], "label", to=1),
        node("Reshape", ["label", "column"], "b"),
        node("Mul", ["b", "quarter"], "c"),
        node("Add", ["a", "c"], "eps"),
    ]
    constants = [constant("half", 0.5), constant("quarter", 0.25), constant("column", [-1, 1, 1, 1], np.int64)]
    inputs = {name: FED["inputs"][name] for name in ("x_t", "t", "y")} | {"t": (7, ["batch"])}
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx_file(nodes, constants, spec, inputs=inputs))
    onnx.save(sampler_from_denoiser(onnx.load(path), spec_of_graph(spec, "sampler")), tmp_path / "m.sampler.onnx")
    ran(
        *("java", "-Djava.awt.headless=true", f"-Djava.library.path={program}", "-cp", program / "classes"),
        *("ddpm.OneCall", tmp_path / "m.sampler.onnx", 5, 4, 7, tmp_path / "grid.png"),
    )
    pixels = np.asarray(Image.open(tmp_path / "grid.png")).astype(int)
    expected = grid(generate(path, n=5, seed=7, num_steps=4))[..., 0]
    assert len(np.unique(expected)) > 10
    assert np.abs(pixels - expected).max() <= 1


@pytest.fixture(scope="module")
def resources(tmp_path_factory):
    """The app's manifest, layout and texts through Android's own resource compiler: the folder of its R.java."""
    needs("aapt2", "aapt")
    package = subprocess.run(
        [needs("dpkg-query", "dpkg"), "--listfiles", "android-framework-res"],
        capture_output=True,
        text=True,
        check=False,
    )
    framework = next((line for line in package.stdout.splitlines() if line.endswith(".apk")), None)
    if framework is None:
        pytest.skip("no resources of Android: apt install android-framework-res")
    folder = tmp_path_factory.mktemp("resources")
    source = ANDROID / "app" / "src" / "main"
    manifest = (source / "AndroidManifest.xml").read_text(encoding="utf-8")
    # Gradle adds these three from build.gradle.kts
    manifest = manifest.replace("<manifest ", '<manifest package="ddpm.sample" ')
    (folder / "AndroidManifest.xml").write_text(manifest, encoding="utf-8")
    ran("aapt2", "compile", "--dir", source / "res", "-o", folder / "compiled.zip")
    ran(
        *("aapt2", "link", "-I", framework, "--manifest", folder / "AndroidManifest.xml", "--java", folder / "java"),
        *("--min-sdk-version", 26, "--target-sdk-version", 36, "-o", folder / "app.apk", folder / "compiled.zip"),
    )
    return folder / "java"


def test_the_apps_resources_compile(resources):
    assert (resources / "ddpm" / "sample" / "R.java").is_file()


@pytest.mark.torch  # for its time
def test_the_app_compiles_against_androids_signatures(program, resources, tmp_path):
    """By Kotlin's compiler, which the Jupyter kernel's wheel carries; Android's classes are signatures alone."""
    kernel = importlib.util.find_spec("run_kotlin_kernel")
    if kernel is None:
        pytest.skip("no Kotlin compiler: pip install --no-deps kotlin-jupyter-kernel")
    jars = Path(kernel.submodule_search_locations[0]) / "jars"
    signatures = (ROOT / "tests" / "examples" / "stubs").rglob("*.java")
    stubs = javac(tmp_path / "stubs", *signatures, *resources.rglob("*.java"))
    (stdlib,) = jars.glob("kotlin-stdlib-[0-9]*.jar")
    classpath = os.pathsep.join(map(str, (stdlib, program / "classes", stubs)))
    sources = [*(ANDROID / "app" / "src" / "main").rglob("*.kt"), *readme_blocks(tmp_path)]
    ran(
        *("java", "-cp", os.pathsep.join(map(str, jars.glob("*.jar"))), "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"),
        *(
            "-Werror",
            "-no-stdlib",
            "-no-reflect",
            "-jvm-target",
            "1.8",
            "-cp",
            classpath,
            "-d",
            tmp_path / "app",
            *sources,
        ),
    )
    assert (tmp_path / "app" / "ddpm" / "sample" / "MainActivity.class").is_file()


def readme_blocks(folder):
    """The README's Kotlin, each block a function of its own, with what it takes as given."""
    text = (ANDROID / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```kotlin\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 2
    for k, block in enumerate(blocks):
        lines = block.splitlines()
        imports = [line for line in lines if line.startswith("import ")]
        body = [line for line in lines if not line.startswith("import ")]
        given = "assets: android.content.res.AssetManager, cancelled: Boolean, show: (FloatArray) -> Unit"
        path = folder / f"Block{k}.kt"
        path.write_text(
            "\n".join([*imports, f"fun block{k}({given}): ByteArray {{", *body, "return pixels }"]), "utf-8"
        )
        yield path
