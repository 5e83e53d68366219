import json
import math

import numpy as np
import pytest
from gaussian import gaussian_spec

from ddpm_export.errors import BadFileError, UsageError
from ddpm_export.model.examples import example_of_inputs
from ddpm_export.model.inputs import KINDS, Input, bound_inputs
from ddpm_export.model.spec_json import json_from_spec, spec_from_json
from ddpm_export.process.noise import noise_stream

ALPHAS_CUMPROD = (0.9, 0.5, 0.1)
LABEL = Input("y", "label", none=3, classes=("shoe", "bag", "coat"))
VECTOR = Input("strength", "vector", (2,), none=0.0)
IMAGE = Input("low_res", "image", (3, 2, 2))
PREVIOUS = Input("x_0_prev", "previous", (1, 2, 3))
EVERY = (LABEL, VECTOR, IMAGE, PREVIOUS)


def spec_with(*inputs, requires=("inputs",)):
    return gaussian_spec(ALPHAS_CUMPROD, inputs=inputs, requires=requires)


def test_every_kind_is_here():
    assert {entry.kind for entry in EVERY} == set(KINDS)


def test_inputs_travel_in_a_spec():
    spec = spec_with(*EVERY)
    assert spec_from_json(json_from_spec(spec)) == spec
    assert "classes" not in json.loads(json_from_spec(spec))["inputs"][1]


def test_one_value_for_all_images_or_one_for_each():
    np.testing.assert_array_equal(LABEL.batch_of("bag", 3), np.array([1, 1, 1]), strict=True)
    np.testing.assert_array_equal(LABEL.batch_of(["bag", 3, np.int64(0)], 3), np.array([1, 3, 0]), strict=True)
    np.testing.assert_array_equal(VECTOR.batch_of([1, 2], 3), np.tile(np.float32([1, 2]), (3, 1)), strict=True)
    each = np.arange(6).reshape(3, 2)
    np.testing.assert_array_equal(VECTOR.batch_of(each, 3), each.astype(np.float32), strict=True)


def test_nothing_said_is_filled_and_the_clean_image_before_comes_by_itself():
    image = np.ones((3, 2, 2))
    values = bound_inputs(EVERY, {"low_res": image}, 2)
    assert list(values) == [entry.name for entry in EVERY]
    np.testing.assert_array_equal(values["y"], [3, 3])
    np.testing.assert_array_equal(values["strength"], np.zeros((2, 2), np.float32), strict=True)
    np.testing.assert_array_equal(values["x_0_prev"], np.zeros((2, 1, 2, 3), np.float32), strict=True)
    before = np.full((2, 1, 2, 3), 0.5, np.float32)
    assert bound_inputs(EVERY, {"low_res": image}, 2, before)["x_0_prev"] is before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"Input 'low_res', of kind image and shape \(3, 2, 2\), must be given"),
        ({"low_res": np.ones((3, 2))}, r"Input 'low_res' must have shape \(3, 2, 2\) or \(2, 3, 2, 2\)"),
        ({"low_res": np.full((3, 2, 2), math.inf)}, "Input 'low_res' must be finite"),
        ({"low_res": np.full((3, 2, 2), 1e300)}, "Input 'low_res' must be finite in float32"),
        ({"low_res": "x.png"}, "Input 'low_res' must have shape"),
        (
            {"low_res": np.ones((3, 2, 2)), "y": "hat"},
            "must be one of shoe, bag, coat or its index from 0 to 2, got 'hat'",
        ),
        ({"low_res": np.ones((3, 2, 2)), "y": -1}, "must be one of shoe"),
        ({"low_res": np.ones((3, 2, 2)), "y": True}, "must be one of shoe"),
        ({"low_res": np.ones((3, 2, 2)), "w": 1}, "no input 'w'; it has y, strength, low_res"),
        ({"low_res": np.ones((3, 2, 2)), "x_0_prev": 0}, "no input 'x_0_prev'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(given, message):
    with pytest.raises(UsageError, match=message):
        bound_inputs(EVERY, given, 2)


def test_examples_have_every_label_and_noise_of_their_own():
    values = example_of_inputs(EVERY, seed=5, images=range(9))
    assert values["y"].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0]
    expected = noise_stream(5, range(9), (1, 1, 12), domain=2)(2).reshape(9, 3, 2, 2)
    np.testing.assert_array_equal(values["low_res"], expected)
    alone = example_of_inputs(EVERY, seed=5, images=[7])
    for name, value in alone.items():
        np.testing.assert_array_equal(value[0], values[name][7])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            Input("x_t", "vector", (2,)),
            "name must be an identifier, or several with dots between, other than x_t and t",
        ),
        (Input("a b", "vector", (2,)), "name must be an identifier"),
        (Input("ä", "vector", (2,)), "name must be an identifier"),
        (Input("v", ["vector"], (2,)), r"inputs\[0\].kind must be one of"),
        (Input("v", "tensor", (2,)), "kind must be one of label, vector, image, previous, got"),
        (Input("c", "label", classes=("a",)), "name must be y for the kind label, and for no other"),
        (Input("y", "vector", (2,)), "name must be y for the kind label, and for no other"),
        (Input("x_0_prev", "image", (1, 2, 3)), "name must be x_0_prev for the kind previous"),
        (Input("x_0_prev", "previous", (1, 2, 2)), r"shape must be \[1, 2, 3\], as of the state"),
        (Input("v", "vector", (2, 2)), "shape must be a list of 1 entries for a vector"),
        (Input("v", "vector", (0,)), r"shape\[0\] must be an integer from 1"),
        (Input("v", "image", (2**20, 2**20, 1)), "shape must be of at most 67108864 numbers"),
        (Input("y", "label"), "classes must be 1 to 4096 names"),
        (Input("y", "label", classes=("a", "a")), "different names"),
        (Input("y", "label", classes=("a", 1)), r"classes\[1\] must be a text"),
        (Input("y", "label", none=2, classes=("a",)), "none must be null or an index from 0 to 1"),
        (Input("y", "label", none=0.5, classes=("a",)), "none must be null or an index"),
        (Input("v", "vector", (2,), classes=("a",)), "classes must be absent from a vector"),
        (Input("a..b", "vector", (2,)), "name must be an identifier, or several with dots"),
        (Input("v", "vector", (2,), limits=((0.0, 1.0), (2.0,))), "limits must be two lists"),
        (Input("v", "vector", (2,), limits=((0.0,),)), "limits must be two lists"),
        (Input("v", "vector", (2,), none=math.nan), "none must be a finite number"),
        (Input("v", "vector", (2,), none=10**400), "none must be a finite number"),
    ],
)
def test_inputs_that_cannot_be_fed(bad, message):
    with pytest.raises(BadFileError, match=message):
        spec_with(bad)


def test_inputs_are_named_in_requires_and_only_once():
    for inputs, requires in (((VECTOR,), ()), ((), ("inputs",)), ((VECTOR, VECTOR), ("inputs",))):
        with pytest.raises(BadFileError, match="inputs"):
            spec_with(*inputs, requires=requires)


@pytest.mark.parametrize(
    "values", [7, {}, {"name": "v", "kind": "vector", "shape": 2, "none": None}, {"name": "v", "kind": "vector"}]
)
def test_inputs_of_a_file_that_are_none(values):
    text = json.dumps({**json.loads(json_from_spec(spec_with(VECTOR))), "inputs": [values]})
    with pytest.raises(BadFileError, match="spec cannot be used"):
        spec_from_json(text)


def test_a_cycle_of_values_for_images_in_turn():
    np.testing.assert_array_equal(LABEL.cycle_of(["bag", "none", "0"]), np.array([1, 3, 0]), strict=True)
    np.testing.assert_array_equal(LABEL.cycle_of("coat"), np.array([2]), strict=True)
    np.testing.assert_array_equal(VECTOR.cycle_of([1, 2]), np.float32([[1, 2]]), strict=True)
    np.testing.assert_array_equal(VECTOR.cycle_of(np.ones((5, 2))), np.ones((5, 2), np.float32), strict=True)
    assert IMAGE.cycle_of(np.ones((3, 2, 2))).shape == (1, 3, 2, 2)
    for given in ([], [1, 2, 3], np.ones((5, 3)), np.ones((0, 2))):
        with pytest.raises(UsageError, match=r"Input 'strength' must have shape \(2,\) or \(K, 2\)"):
            VECTOR.cycle_of(given)
    with pytest.raises(UsageError, match=r"Input 'y' must have shape \(\) or \(K,\)"):
        LABEL.cycle_of([])


def test_plain_numbers_stand_for_vectors_of_one():
    entry = Input("difficulty", "vector", (1,))
    for given in (0.5, [0.5], [[0.5]]):
        np.testing.assert_array_equal(entry.cycle_of(given), np.float32([[0.5]]), strict=True)
        np.testing.assert_array_equal(entry.batch_of(given, 1), np.float32([[0.5]]), strict=True)
    np.testing.assert_array_equal(entry.cycle_of([0.1, 0.2]), np.float32([[0.1], [0.2]]), strict=True)
    np.testing.assert_array_equal(entry.batch_of(0.5, 3), np.full((3, 1), 0.5, np.float32), strict=True)


def test_none_is_a_class_only_where_it_was_learned():
    always = Input("y", "label", classes=("shoe", "bag"))
    with pytest.raises(UsageError, match="Input 'y' cannot be none, since the network was always told a class"):
        always.batch_of("none", 1)
    named = Input("y", "label", none=2, classes=("none", "all"))
    assert (named.batch_of("none", 1)[0], named.name_of(2), LABEL.name_of(3), LABEL.name_of(1)) == (
        0,
        "none",
        "none",
        "bag",
    )
