"""From settings to pictures of networks that are told something: who is told what, and by which guidance."""

import dataclasses
import hashlib

import numpy as np
import pytest
from models import tiny_spec, told_model

from ddpm_export import Guidance, denoiser, generate, noise_stream, open_model, plan, to_uint8, walk
from ddpm_export.errors import UsageError
from ddpm_export.model.defaults import with_defaults
from ddpm_export.model.inputs import Input
from ddpm_export.model.spec import Defaults
from ddpm_export.sampling.generate import sample
from ddpm_export.sampling.request import request_for

LABEL = Input("y", "label", none=3, classes=("shoe", "bag", "coat"))
STRENGTH = Input("strength", "vector", (1,))
LOW = Input("low_res", "image", (1, 2, 2), none=0.0)
PREVIOUS = Input("x_0_prev", "previous", (1, 6, 5))
EVERY = (LABEL, STRENGTH, LOW, PREVIOUS)
SEED = 5


def spec_with(*inputs, **changes):
    return tiny_spec(**{"inputs": inputs, "requires": ("inputs",), "clip_x_0": None, **changes})


@pytest.fixture
def opened(tmp_path):
    def opened(*inputs, **changes):
        (tmp_path / "m.onnx").write_bytes(told_model(spec_with(*inputs, **changes)))
        return open_model(tmp_path / "m.onnx")

    return opened


def by_hand(model, spec, y, **how):
    """Return the pictures of images 0 to len(y) - 1 by the straight line, each told its label."""
    noise = noise_stream(SEED, range(len(y)), spec.state_shape)
    *_, last = walk(denoiser(model, spec, y=y, **how), noise, plan(spec))
    return to_uint8(last.x)


@pytest.mark.parametrize(
    ("label", "labels"),
    [
        (None, [0, 1, 2, 0, 1, 2, 0]),
        ("bag", [1] * 7),
        (2, [2] * 7),
        ("none", [3] * 7),
        (["coat", "none", 0], [2, 3, 0, 2, 3, 0, 2]),
        (np.array([1, 0]), [1, 0, 1, 0, 1, 0, 1]),
    ],
)
@pytest.mark.parametrize("guidance", [None, 0, 2.5, Guidance(3.0, (10, 30))])
def test_image_k_is_told_label_k_modulo_their_number_in_any_batch(opened, label, labels, guidance):
    model, spec = opened(LABEL)
    wanted = by_hand(model, spec, labels, guidance=guidance)
    how = {"seed": SEED, "label": label, "guidance": guidance}
    for batch in (1, 3, 7):
        np.testing.assert_array_equal(generate((model, spec), n=7, batch=batch, **how), wanted)
    for first in (1, 5):
        np.testing.assert_array_equal(generate((model, spec), n=2, first=first, **how), wanted[first : first + 2])


def test_every_kind_of_input_takes_its_values_in_turn(opened):
    model, spec = opened(*EVERY)
    low = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 1, 2, 2)
    inputs = {"strength": [0.1, 0.2, 0.3], "low_res": low}
    chosen = request_for(spec, inputs=inputs, seed=SEED, n=4, first=2)
    asked = chosen.inputs_of(chosen.numbers)
    np.testing.assert_array_equal(asked["y"], [2, 0, 1, 2])
    np.testing.assert_array_equal(asked["strength"], np.float32([[0.3], [0.1], [0.2], [0.3]]))
    np.testing.assert_array_equal(asked["low_res"], low[[0, 1, 0, 1]])
    assert chosen.label_names == ["shoe", "bag", "coat"]
    whole = generate((model, spec), n=6, seed=SEED, inputs=inputs)
    np.testing.assert_array_equal(generate((model, spec), n=4, first=2, seed=SEED, inputs=inputs, batch=3), whole[2:])
    assert (whole != generate((model, spec), n=6, seed=SEED, inputs={**inputs, "low_res": low[0]})).any()


def test_what_an_image_follows_from_is_told():
    low = np.zeros((1, 2, 2), np.float32)
    spec = spec_with(*EVERY)
    asked = request_for(spec, inputs={"strength": 0.5, "low_res": low}, label=["bag", 3], guidance=2, seed=1).describe()
    assert asked["label"] == ["bag", "none"]
    assert (asked["guidance"], "guidance_interval" in asked) == (2, False)
    assert asked["inputs"] == {"strength": [[0.5]], "low_res": hashlib.sha256(low.tobytes()).hexdigest()}
    asked = request_for(spec_with(LABEL), guidance=Guidance(2.0, (10, 30)), seed=1).describe()
    assert (asked["guidance"], asked["guidance_interval"], asked["label"]) == (2.0, (10, 30), ["shoe", "bag", "coat"])
    assert "inputs" not in asked
    always = dataclasses.replace(LABEL, none=None)
    assert "guidance" not in request_for(spec_with(always), seed=1).describe()
    assert not {"label", "guidance", "inputs"} & set(request_for(tiny_spec(), seed=1).describe())


def test_what_is_told_makes_the_same_images_again(opened):
    model, spec = opened(LABEL, STRENGTH)
    how = {"label": ["coat", "none"], "guidance": 2.0, "inputs": {"strength": [0.5, 0.25, 1.0]}}
    described = request_for(spec, **how, seed=SEED).describe()
    np.testing.assert_array_equal(
        generate((model, spec), n=3, **described), generate((model, spec), n=3, seed=SEED, **how)
    )


def test_the_files_guidance_counts_where_nothing_is_said(opened):
    spec = with_defaults(spec_with(LABEL), guidance=Guidance(2.5, (5, 35)))
    assert (spec.defaults.guidance, spec.requires) == (Guidance(2.5, (5, 35)), ("inputs", "guidance"))
    model, spec = opened(LABEL, defaults=spec.defaults, requires=spec.requires)
    options = generate((model, spec), n=3, seed=SEED, guidance=Guidance(2.5, (5, 35)))
    np.testing.assert_array_equal(generate((model, spec), n=3, seed=SEED), options)
    assert (generate((model, spec), n=3, seed=SEED, guidance=1) != options).any()
    kept = with_defaults(spec, num_steps=9)
    assert (kept.defaults.guidance, kept.requires) == (Guidance(2.5, (5, 35)), ("inputs", "guidance"))
    without = with_defaults(spec, guidance=1)
    assert (without.defaults, without.requires) == (Defaults("ddim", 4, 0.0), ("inputs",))


@pytest.mark.parametrize(
    ("inputs", "how", "message"),
    [
        ((LABEL,), {"label": "hat"}, "must be one of shoe, bag, coat or its index from 0 to 2, got 'hat'"),
        ((LABEL,), {"label": []}, r"Input 'y' must have shape \(\) or \(K,\)"),
        ((LABEL,), {"label": 0, "inputs": {"y": 1}}, "Give label or the input 'y', not both"),
        ((LABEL,), {"inputs": {"z": 1}}, "The model has no input 'z'; it has y"),
        ((LABEL,), {"guidance": -1}, "guidance must be a number from 0 to 100"),
        ((LABEL, STRENGTH), {}, r"Input 'strength', of kind vector and shape \(1,\), must be given"),
        ((STRENGTH,), {"label": 0, "inputs": {"strength": 1}}, "label does not apply: the network has no classes"),
        ((STRENGTH,), {"guidance": 2, "inputs": {"strength": 1}}, "guidance must be 1 for a network"),
        ((STRENGTH,), {"inputs": {"strength": np.nan}}, "Input 'strength' must be finite"),
        ((), {"label": "shoe"}, "label does not apply"),
        ((), {"inputs": {"y": 0}}, "The model has no input 'y'; it has none"),
    ],
)
def test_conditions_that_no_image_can_be_made_by(inputs, how, message):
    spec = spec_with(*inputs, requires=("inputs",) if inputs else ())
    with pytest.raises(UsageError, match=message):
        request_for(spec, **how)


def test_a_plain_network_is_told_nothing():
    chosen = request_for(tiny_spec(), seed=1)
    assert (chosen.inputs_of(range(3)), chosen.label_names, chosen.guidance) == ({}, [], None)
    states = sample(lambda x_t, _t: {"eps": x_t}, tiny_spec(), chosen)
    assert next(states)[1].row.i == 1
