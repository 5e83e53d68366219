"""One-call edits: golden cases, what Python's `edit` makes of pictures, and what is refused. No torch."""

import json
from pathlib import Path

import numpy as np
import pytest
from models import COLOUR, gaussian_file, mix_model, tiny_spec, told_model

from ddpm_export import edit, generate, open_model
from ddpm_export.errors import ModelRefusedError, UsageError
from ddpm_export.exporting.export import export
from ddpm_export.model.inputs import Input
from ddpm_export.model.plans import plan_from_json
from ddpm_export.model.steps import grid_of as grid
from ddpm_export.model.steps import plan
from ddpm_export.process.given import times_below, with_returns
from ddpm_export.process.pixels import from_uint8
from ddpm_export.process.rows import Plan, Row
from ddpm_export.runtimes.opening import open_file

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from ddpm_export.exporting.sampler import edit_from_denoiser, sampler_from_denoiser, spec_of_graph  # noqa: E402

from .sessions import called, session_of  # noqa: E402

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "given.json").read_text(encoding="ascii"))
CASES = {case["name"]: case for case in GOLDEN["cases"] if "measure" not in case and case["name"] != "backwards"}
PICTURES = (np.array(GOLDEN["levels"]).reshape(2, *GOLDEN["shape"]) / 127.5 - 1.0).astype(np.float32)


def one_call(content, spec, write=edit_from_denoiser, graph="edit"):
    """Return the session of a denoiser's bytes in a one-call graph."""
    own = spec_of_graph(spec, graph)
    model = write(onnx.ModelProto.FromString(content), own)
    onnx.checker.check_model(model, full_check=True)
    return session_of(model)


@pytest.mark.parametrize("name", CASES)
def test_golden_cases_end_where_they_should_as_plans_and_as_steps(name):
    case = CASES[name]
    alphas_cumprod = tuple(GOLDEN["alphas_cumprod"])
    own = plan_from_json("own", case["plan"], len(alphas_cumprod), fractional_t=False)
    another = Plan((Row(1, 20, alphas_cumprod[20], (0.5,), (0.25,), (2.0,)),), 0.5)
    spec = tiny_spec(
        tuple(GOLDEN["shape"]),
        prediction=GOLDEN["prediction"],
        clip_x_0=case["clip_x_0"],
        alphas_cumprod=alphas_cumprod,
        plans={"a-first": another, "own": own},
    )
    session = one_call(gaussian_file(spec, GOLDEN["mean"], GOLDEN["std"]), spec)
    mask = np.array(case.get("mask", np.ones(24))).reshape(1, *spec.state_shape)
    expected = np.array(case["states"][-1]["x"]).reshape(PICTURES.shape)
    runs = [{"plan": 2, "steps": len(own.rows), "strength": 1.0 if "strength" in case else 0.0}]
    if case["sampler"] == "ddim" and "returns" not in case:
        runs.append({"steps": case["num_steps"], "eta": case["eta"], "strength": case.get("strength", 0.0)})
    for how in runs:
        for k, first in enumerate(GOLDEN["images"]):
            given = {"seed": int(GOLDEN["seed"]), "first": first, "image": PICTURES[k : k + 1], "mask": mask}
            found = called(session, **given, **how)
            np.testing.assert_allclose(found["x_0"], expected[k : k + 1], rtol=0, atol=GOLDEN["tolerance"])


LABEL = Input("y", "label", none=2, classes=("shoe", "bag"))
BEFORE = Input("x_0_prev", "previous", COLOUR)


def spec_of_all(**more):
    """A spec with a plan that looks back and one that returns, which have their way through the graph."""
    spec = tiny_spec(COLOUR, **more)
    returning = with_returns(plan(spec, sampler="ddim", num_steps=5, eta=1.0), 2, 2)
    plans = {"back": plan(spec, sampler="dpmpp_2m", num_steps=5), "returning": returning}
    return tiny_spec(COLOUR, plans=plans, **more)


def made(folder, content):
    """Return the path of a denoiser's file, and that of the edit that was made of it."""
    (folder / "m.onnx").write_bytes(content)
    export(folder / "m.onnx", folder / "m.edit.onnx", format="edit", opens="all")
    return folder / "m.onnx", folder / "m.edit.onnx"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of a network that is told a label, and what it found before."""
    spec = spec_of_all(inputs=(LABEL, BEFORE), requires=("inputs",))
    return made(tmp_path_factory.mktemp("told"), told_model(spec))


@pytest.fixture(scope="module")
def mixing(tmp_path_factory):
    """Files of a network in which each pixel sees its neighbours: what is known changes what is made."""
    return made(tmp_path_factory.mktemp("mixing"), mix_model(spec_of_all()))


LEVELS = np.random.default_rng(0).integers(0, 256, (2, *COLOUR[1:], COLOUR[0]), dtype=np.uint8)
MASKS = np.random.default_rng(1).choice(np.array([0, 0, 100, 255], np.uint8), (2, *COLOUR[1:]))
EDITS = {
    "a mask": {"mask": MASKS[0], "eta": 1.0},
    "a mask for each": {"mask": MASKS, "n": 3, "batch": 4, "num_steps": 7},
    "strength": {"strength": 0.5, "eta": 0.3, "num_steps": 9},
    "both, at times": {"mask": MASKS, "strength": 0.7, "times": [35, 26, 20, 3]},
    "returns": {"mask": MASKS, "plan": "returning"},
    "looking back": {"mask": MASKS[1], "plan": "back"},
    "looking back to the beginning": {"plan": "back", "strength": 1.0},
    "from within a plan": {"plan": "returning", "strength": 0.5},
}
OF_CLASSES = {
    "a class, guided": {"mask": MASKS, "label": "bag", "guidance": 2.5},
    "no class": {"strength": 0.6, "label": None},
    "of a plan": {"strength": 1.0, "plan": "back", "label": "shoe"},
}


def assert_is_pythons(files, how):
    found = [edit(path, LEVELS, seed=7, first=5, **how).astype(int) for path in files]
    assert np.abs(found[0] - found[1]).max() <= 1
    assert (found[0] == found[1]).mean() >= 0.97  # of 96 numbers, not of 10,000
    if "mask" in how:
        known = np.broadcast_to(how["mask"], MASKS.shape) == 0
        np.testing.assert_array_equal(found[1][:: how.get("n", 1)][known], LEVELS[known])


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_is_pythons(mixing, name):
    assert_is_pythons(mixing, EDITS[name])


@pytest.mark.parametrize("name", OF_CLASSES)
def test_an_edit_of_a_class_is_pythons(files, name):
    assert_is_pythons(files, OF_CLASSES[name])


def test_where_nothing_is_known_it_is_the_sampler_to_the_bit_and_makes_no_noise_of_known_pixels(files):
    spec = open_model(files[0])[1]
    content = files[0].read_bytes()
    sampler, session = (
        one_call(content, spec, *how) for how in ((sampler_from_denoiser, "sampler"), (edit_from_denoiser, "edit"))
    )
    nothing = {"image": np.zeros((3, *COLOUR)), "mask": np.full((3, *COLOUR), 1.0)}
    for how in ({"steps": 4, "eta": 1.0}, {"steps": 5, "plan": 1}):
        expected = called(sampler, n=3, y=[0, 1, 2], **how)
        for name, values in called(session, y=[0, 1, 2], **nothing, **how).items():
            np.testing.assert_array_equal(values, expected[name])
    np.testing.assert_array_equal(
        generate(files[1], n=3, seed=3, num_steps=4), generate(files[0], n=3, seed=3, num_steps=4)
    )


def test_strength_leaves_the_times_that_it_leaves_in_python():
    """Though it is float32 in the graph: at whole and at half thousandths, where T is 1000."""
    spec = tiny_spec((1, 1, 1), alphas_cumprod=tuple(np.linspace(0.999, 0.001, 1000).tolist()), clip_x_0=None)
    session = one_call(mix_model(spec), spec)
    times = grid(spec, 250).t
    image, mask = np.zeros((1, 1, 1, 1)), np.zeros((1, 1, 1, 1))
    for strength in np.arange(9, 2001, 37) / 2000.0:
        below = times_below(times, float(strength), 1000)
        whole, cut = (
            called(session, image=image, mask=mask + 1.0, **how)["x_0"]
            for how in (
                {"steps": len(below), "times": below, "strength": 1.0},
                {"steps": 250, "strength": strength},
            )
        )
        np.testing.assert_array_equal(whole, cut)


IMAGE = np.zeros((2, *COLOUR), np.float32)
REFUSED = {
    "no image": ({"image": IMAGE[:0], "mask": IMAGE[:0]}, "image must have a row or more"),
    "an image beyond its range": ({"image": IMAGE + 1.01}, "image must be -1 to 1"),
    "an image of NaN": ({"image": IMAGE * np.nan}, "image must be -1 to 1"),
    "levels": ({"image": IMAGE + 255}, "image must be -1 to 1"),
    "one mask of two": ({"mask": IMAGE[:1]}, "mask must be one for each image"),
    "a mask above": ({"mask": IMAGE + 1.5}, "mask must be 0 to 1"),
    "a mask of NaN": ({"mask": IMAGE * np.nan}, "mask must be 0 to 1"),
    "strength below": ({"strength": -0.1}, "strength must be 0 to 1"),
    "strength above": ({"strength": 1.1}, "strength must be 0 to 1"),
    "strength NaN": ({"strength": np.nan}, "strength must be 0 to 1"),
    "strength below all times": ({"strength": 0.5, "steps": 1}, "strength must be 0 or reach the lowest of the times"),
    "looking back": (
        {"strength": 0.5, "steps": 5, "plan": 1},
        "strength must be 0 where a row of the plan looks back beyond it",
    ),
    "numbers beyond 32 bits": ({"first": 2**32 - 1}, "image must have a row or more"),
    "labels of another number": ({"y": [0]}, "y must be one for each image"),
    "steps": ({"steps": 0}, "steps must be"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_values_give_no_picture(files, case):
    values, named = REFUSED[case]
    usual = {"steps": 4, "image": IMAGE, "mask": IMAGE, "y": [0, 1]}
    with pytest.raises(Exception, match=rf"Name:'[^']*{named}"):
        called(session_of(files[1]), **{**usual, **values})


def test_a_picture_of_another_size_is_refused_by_the_runtime(files):
    with pytest.raises(Exception, match="invalid dimensions"):
        called(session_of(files[1]), steps=4, image=IMAGE[..., :3], mask=IMAGE, y=[0, 1])


@pytest.mark.parametrize(
    "given",
    [
        {"measure": "mask", "mask": MASKS[0]},
        {"mask": MASKS[0], "returns": 1},
        {"between": True, "strength": 0.5},
        {"images": None, "seeds": (1, 2)},
        {"images": None, "x_T": IMAGE},
    ],
)
def test_what_it_does_not_take_is_refused_in_python(files, given):
    with pytest.raises(UsageError, match="A one-call edit takes only a picture with a mask or a strength"):
        edit(files[1], **{"images": LEVELS, **given})


def test_its_names_are_taken_in_an_edit_only(tmp_path):
    spec = tiny_spec(COLOUR, inputs=(Input("mask", "image", COLOUR, 0.0),), requires=("inputs",))
    assert spec_of_graph(spec, "sampler").inputs == spec.inputs
    with pytest.raises(
        ModelRefusedError, match="Input 'mask' has the name of an input or output of every one-call edit"
    ):
        spec_of_graph(spec, "edit")
    (tmp_path / "m.onnx").write_bytes(told_model(spec))
    export(tmp_path / "m.onnx", tmp_path / "m.sampler.onnx", format="sampler")  # its mask is the network's
    a, b = (
        generate(tmp_path / name, n=2, seed=1, inputs={"mask": np.full(COLOUR, 0.5)})
        for name in ("m.onnx", "m.sampler.onnx")
    )
    assert np.abs(a.astype(int) - b).max() <= 1


def test_a_file_of_an_edit_shows_no_network_and_its_pictures_may_be_floats(files):
    with pytest.raises(ModelRefusedError, match="a one-call edit shows no network"):
        open_model(files[1])
    run, spec = open_file(files[1]).run, open_file(files[1]).spec
    image = from_uint8(LEVELS).astype(np.float32)
    half = 0.5 * image[:1] + 0.5 * image[1:]  # between two pictures, with the noise of one image
    ((_, x, _),) = run(7, range(5, 6), 4, 0.0, y=[2], image=half, strength=0.5)
    expected = edit(files[0], LEVELS, between=True, strength=0.5, n=3, seed=7, first=5, num_steps=4)
    assert spec.picture_shape == (3, 4, 4)
    assert np.abs(np.clip(x * 127.5 + 127.5, 0, 255)[0].transpose(1, 2, 0) - expected[1]).max() <= 1
