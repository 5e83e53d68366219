import dataclasses
import json
import math

import numpy as np
import pytest
from gaussian import classes_model, gaussian_spec

from ddpm_export import Guidance, denoiser, noise_stream, plan, walk
from ddpm_export.errors import BadFileError, ModelRefusedError, NonFiniteError, UsageError
from ddpm_export.model.inputs import Input
from ddpm_export.model.spec import Defaults, guidance_for
from ddpm_export.model.spec_json import json_from_spec, spec_from_json
from ddpm_export.process.equations import combine
from ddpm_export.process.rows import Row

ALPHAS_CUMPROD = tuple(float(a) for a in np.linspace(0.99, 0.01, 40))
MEANS, STD = (-0.5, 0.25, 0.75, 0.125), 0.5
LABEL = Input("y", "label", none=3, classes=("shoe", "bag", "coat"))
ALWAYS_TOLD = dataclasses.replace(LABEL, none=None)
OWN = Input("guidance", "vector", (1,), none=1.0)
PREVIOUS = Input("x_0_prev", "previous", (1, 2, 3))
LABELS = [0, 2, 3, 1]
ROW = Row(1, 25, ALPHAS_CUMPROD[25])


def spec_with(*inputs, requires=("inputs",), **changes):
    return gaussian_spec(ALPHAS_CUMPROD, inputs=inputs, requires=requires, **changes)


def guided_by(guidance):
    requires = ("inputs", "guidance")
    return spec_with(LABEL, requires=requires, defaults=Defaults(num_steps=5, guidance=guidance))


def found(guidance, labels=LABELS, spec=None, model=None, row=ROW):
    spec = spec or spec_with(LABEL)
    x_t = noise_stream(1, range(len(labels)), spec.state_shape)(0).astype(np.float64)
    model = model or classes_model(ALPHAS_CUMPROD, MEANS, STD)
    return denoiser(model, spec, guidance=guidance, y=labels)(x_t, row)


def test_one_is_the_label_and_zero_is_none_and_between_them_is_a_straight_line():
    c, u = found(1.0), found(1.0, labels=[3] * 4)
    np.testing.assert_array_equal(found(None).x_0, c.x_0)
    np.testing.assert_array_equal(found(0.0).x_0, u.x_0)
    for scale in (0.5, 2.5, 100.0):
        np.testing.assert_allclose(found(scale).x_0, u.x_0 + scale * (c.x_0 - u.x_0), rtol=0, atol=1e-12)
        np.testing.assert_array_equal(found(scale).x_0[2], u.x_0[2])  # "none" is guided nowhere


def test_guidance_comes_before_clipping():
    spec = spec_with(LABEL, clip_x_0=0.5)
    free = found(2.5).x_0
    assert (np.abs(free) > 0.5).any()
    np.testing.assert_array_equal(found(2.5, spec=spec).x_0, np.clip(free, -0.5, 0.5))


def test_times_outside_the_interval_are_not_guided():
    guidance = Guidance(2.5, (10, 25))
    assert [guidance.at(t) for t in (9, 9.99, 10, 17.5, 25, 25.01, 39)] == [1, 1, 2.5, 2.5, 2.5, 1, 1]
    np.testing.assert_array_equal(found(guidance).x_0, found(2.5).x_0)
    row = Row(1, 26, ALPHAS_CUMPROD[26])
    np.testing.assert_array_equal(found(guidance, row=row).x_0, found(1.0, row=row).x_0)


def test_guidance_in_words():
    assert [str(entry) for entry in (Guidance(), Guidance(2.5), Guidance(4.0, (200, 700.5)))] == [
        "1",
        "2.5",
        "4 at t 200 to 700.5",
    ]


@pytest.mark.parametrize(
    ("guidance", "labels", "rows"),
    [
        (None, LABELS, [4]),
        (1.0, LABELS, [4]),
        (0.0, LABELS, [4]),
        (2.5, LABELS, [8]),
        (2.5, [3] * 4, [4]),
        (2.5, [3, 3, 3, 0], [8]),
        (Guidance(2.5, (26, 39)), LABELS, [4]),
    ],
)
def test_only_what_counts_is_evaluated_at_once(guidance, labels, rows):
    seen = []

    def model(x_t, t, y):
        assert len(t) == len(y) == len(x_t)
        seen.append(len(x_t))
        return classes_model(ALPHAS_CUMPROD, MEANS, STD)(x_t, t, y)

    found(guidance, labels, model=model)
    assert seen == rows


def test_an_image_is_the_same_alone_and_in_any_batch():
    spec, model = spec_with(LABEL), classes_model(ALPHAS_CUMPROD, MEANS, STD)

    def last(images):
        denoise = denoiser(model, spec, guidance=3.0, y=[LABELS[image] for image in images])
        *_, state = walk(denoise, noise_stream(2, images, spec.state_shape), plan(spec, num_steps=6, eta=0.5))
        return state.x

    whole = last(range(4))
    for image in range(4):
        np.testing.assert_array_equal(last([image])[0], whole[image])


def test_a_learned_variance_is_that_of_the_label():
    c = {"eps": np.float32([3.0]), "variance_fraction": np.float32([0.25])}
    u = {"eps": np.float32([1.0]), "variance_fraction": np.float32([0.75])}
    assert combine([c, u], 2.5) == {"eps": np.float32([6.0]), "variance_fraction": np.float32([0.25])}
    assert combine([c]) is c


def test_both_are_told_the_clean_image_before_and_all_else():
    seen = {}

    def model(x_t, t, **inputs):
        seen.update(inputs)
        return {"eps": x_t}

    strength = Input("strength", "vector", (2,), none=0.0)
    spec = spec_with(LABEL, strength, PREVIOUS)
    x_t, before = np.zeros((2, 1, 2, 3), np.float32), np.ones((2, 1, 2, 3), np.float32)
    denoiser(model, spec, guidance=2, y=["bag", "coat"], strength=[1.0, 2.0])(x_t, ROW, before)
    np.testing.assert_array_equal(seen["y"], [1, 2, 3, 3])
    np.testing.assert_array_equal(seen["strength"], [[1.0, 2.0]] * 4)
    np.testing.assert_array_equal(seen["x_0_prev"], np.ones((4, 1, 2, 3)))


@pytest.mark.parametrize("bad", [1, 6])  # the second image with its label, and the third without
def test_an_image_that_goes_bad_is_told_by_its_own_number(bad):
    def model(x_t, t, y):
        eps = x_t.copy()
        eps[bad] = math.nan
        return {"eps": eps}

    with pytest.raises(NonFiniteError, match=rf"At step 1 \(t = 25\), image {bad % 4} of its batch became NaN"):
        found(2.5, model=model)


def test_a_network_that_guides_itself_is_given_the_scale_and_evaluated_once():
    seen = []

    def model(x_t, t, y, guidance):
        seen.append((len(x_t), guidance))
        return classes_model(ALPHAS_CUMPROD, MEANS, STD)(x_t, t, y, guidance)

    guidance = Guidance(2.5, (0, 25))
    for scale, row in ((2.5, ROW), (1.0, ROW._replace(t=26))):
        x_0 = found(guidance, spec=spec_with(LABEL, OWN), model=model, row=row).x_0
        np.testing.assert_allclose(x_0, found(guidance, row=row).x_0, rtol=0, atol=1e-12)
        assert seen[-1][0] == 4
        np.testing.assert_array_equal(seen[-1][1], np.full((4, 1), scale, np.float32), strict=True)
    assert len(seen) == 2


def test_the_files_guidance_is_that_of_who_says_nothing():
    spec = guided_by(Guidance(2.5, (3, 30)))
    np.testing.assert_array_equal(found(None, spec=spec).x_0, found(2.5).x_0)
    np.testing.assert_array_equal(found(1, spec=spec).x_0, found(1.0).x_0)
    assert guidance_for(spec, 3) == Guidance(3), "a number is a scale for all times"


def test_guidance_travels_in_a_spec():
    for guidance in (Guidance(2.5, (3, 30.5)), Guidance(0)):
        text = json_from_spec(guided_by(guidance))
        assert spec_from_json(text) == guided_by(guidance)
        assert json.loads(text)["defaults"]["guidance"]["scale"] == guidance.scale
        assert ("interval" in json.loads(text)["defaults"]["guidance"]) == (guidance.interval is not None)
    assert "guidance" not in json_from_spec(spec_with(LABEL))


@pytest.mark.parametrize("bad", [-0.1, 100.1, math.nan, math.inf, "2", True, [2.0]])
def test_scales_out_of_their_range(bad):
    for use in (found, Guidance):
        with pytest.raises(UsageError, match="guidance must be a number from 0 to 100, got "):
            use(bad)


@pytest.mark.parametrize("bad", [(5, 4), (-1, 4), (1,), (1, 2, 3), (0, math.inf), (math.nan, 3), 7, ("a", "b")])
def test_intervals_that_are_none(bad):
    with pytest.raises(UsageError, match=r"guidance\.interval.* must be"):
        Guidance(2.0, bad)


@pytest.mark.parametrize(
    "bad", [7, {}, {"interval": [1, 2]}, {"scale": 2, "interval": 3}, {"scale": 2, "interval": [3]}]
)
def test_guidance_of_a_file_that_is_none(bad):
    values = json.loads(json_from_spec(guided_by(Guidance(2.0))))
    values["defaults"]["guidance"] = bad
    with pytest.raises(BadFileError, match=r"spec cannot be used: defaults\.guidance.* must be"):
        spec_from_json(json.dumps(values))


@pytest.mark.parametrize("inputs", [(), (ALWAYS_TOLD,), (Input("v", "vector", (2,), none=0.0),)])
def test_a_network_that_never_learned_to_do_without_a_class_takes_none(inputs):
    spec = spec_with(*inputs, requires=("inputs",) if inputs else ())
    assert guidance_for(spec, 1) == guidance_for(spec, None) == Guidance(1)
    for scale in (0, 2):
        with pytest.raises(UsageError, match="guidance must be 1 for a network that has not learned to do without a"):
            guidance_for(spec, scale)
    with pytest.raises(BadFileError, match=r"defaults\.guidance must be absent, since the network has no label that"):
        dataclasses.replace(
            spec, requires=(*spec.requires, "guidance"), defaults=Defaults(num_steps=5, guidance=Guidance(2))
        )


def test_guidance_of_a_file_is_named_in_requires():
    with pytest.raises(BadFileError, match="requires must be a list with guidance"):
        spec_with(LABEL, defaults=Defaults(num_steps=5, guidance=Guidance(2.0)))
    with pytest.raises(ModelRefusedError, match="a reader of 'later'"):
        spec_from_json(json_from_spec(guided_by(Guidance(2.0))).replace('"inputs", "guidance"', '"later"'))


@pytest.mark.parametrize("bad", [Input("guidance", "vector", (2,), none=1.0), Input("guidance", "vector", (1,))])
def test_the_name_guidance_is_kept_for_the_scale(bad):
    with pytest.raises(BadFileError, match="name must be of a vector of one number, whose none is 1"):
        spec_with(LABEL, bad)
