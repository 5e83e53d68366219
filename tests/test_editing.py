"""Pictures given to a run: which image is of which, known pixels to the level, and the same answer in any batch."""

from dataclasses import replace

import numpy as np
import pytest
from gaussian import flow
from models import COLOUR, GREY, gaussian_file, mix_model, tiny_spec, told_model

from ddpm_export import denoiser, generate, noise_stream, open_model, plan, to_uint8, walk
from ddpm_export.errors import UsageError
from ddpm_export.exporting.plans import with_plans
from ddpm_export.model.inputs import Input
from ddpm_export.model.spec import Defaults
from ddpm_export.process.equations import noised
from ddpm_export.process.given import known_pixels, with_returns
from ddpm_export.process.noise import GIVEN
from ddpm_export.process.pixels import from_uint8
from ddpm_export.runtimes.opened import OneCallFile
from ddpm_export.sampling.edit import edit, invert
from ddpm_export.sampling.generate import sample
from ddpm_export.sampling.request import request_for

HOW = {"num_steps": 4, "sampler": "ddim", "seed": 5}
IMAGES = np.random.default_rng(0).integers(0, 256, (3, *GREY[1:], 1), dtype=np.uint8)
COLOURS = np.random.default_rng(1).integers(0, 256, (3, *COLOUR[1:], 3), dtype=np.uint8)
MASK = np.zeros(GREY[1:], dtype=np.uint8)
MASK[:, 3:] = 255
WAYS = {
    "mask": {"images": IMAGES, "mask": MASK, "eta": 1.0},
    "mask, returns": {"images": IMAGES, "mask": MASK, "eta": 1.0, "returns": 2, "jump": 2},
    "mask, strength": {"images": IMAGES, "mask": MASK, "strength": 0.6},
    "measure average": {"images": IMAGES[:, :, :4], "measure": "average:2", "eta": 1.0},
    "measure mask": {"images": IMAGES, "measure": "mask", "mask": MASK},
    "strength": {"images": IMAGES, "strength": 0.6, "eta": 0.5},
    "between": {"images": IMAGES[:2], "between": True, "strength": 0.6, "n": 6},
    "seeds": {"seeds": (7, 11), "n": 6, "seed": None},
    "x_T": {"x_T": np.random.default_rng(2).standard_normal((3, *GREY)), "eta": 0.5},
}


@pytest.fixture
def model(tmp_path):
    (tmp_path / "m.onnx").write_bytes(mix_model())
    return open_model(tmp_path / "m.onnx", threads=1)


@pytest.fixture
def even(tmp_path):
    """A model of 6 x 4 pixels, which squares of 2 x 2 fill."""
    (tmp_path / "even.onnx").write_bytes(mix_model(tiny_spec((1, 6, 4))))
    return open_model(tmp_path / "even.onnx", threads=1)


@pytest.mark.parametrize("way", WAYS)
def test_image_k_is_the_same_in_any_batch_and_of_picture_k_over_n(model, even, way):
    opened = even if "average" in way else model
    given = {"n": 2, **HOW, **WAYS[way]}
    whole = edit(opened, **given)
    assert len(whole) == 6
    assert len({image.tobytes() for image in whole}) == 6
    for batch in (1, 4):
        np.testing.assert_array_equal(edit(opened, **given, batch=batch), whole, strict=True)
    if given["n"] == 2:
        key = "x_T" if way == "x_T" else "images"
        alone = edit(opened, **{**given, key: given[key][1:2]}, first=2)
        np.testing.assert_array_equal(alone, whole[2:4])


def test_known_pixels_come_back_to_the_level_and_the_others_are_made(model):
    made = edit(model, IMAGES, mask=MASK, n=4, eta=1.0, **HOW).reshape(3, 4, *IMAGES.shape[1:])
    np.testing.assert_array_equal(made[:, :, :, :3], np.broadcast_to(IMAGES[:, None, :, :3], made[:, :, :, :3].shape))
    assert (made[:, 0, :, 3:] != made[:, 1, :, 3:]).any()
    grey = np.where(MASK == 0, 0, 51).astype(np.uint8)  # a fifth of what is made, the rest of the picture
    whole = edit(model, IMAGES, mask=np.where(MASK == 0, 0, 255).astype(np.uint8), **HOW).astype(float)
    blended = edit(model, IMAGES, mask=grey, **HOW).astype(float)
    np.testing.assert_allclose(blended, np.where(MASK[..., None] == 0, IMAGES, 0.2 * whole + 0.8 * IMAGES), atol=0.51)


def test_filled_pictures_are_walks_with_known_pixels(model):
    mask = MASK.copy()
    mask[0] = 100
    opened, spec = model
    states, given = noise_stream(5, range(4, 7), GREY), noise_stream(5, range(4, 7), GREY, domain=GIVEN)
    keep = known_pixels(from_uint8(IMAGES).astype(np.float32), mask.astype(np.float32)[None] / 255, given)
    rows = with_returns(plan(spec, sampler="ddim", num_steps=4, eta=1.0), 2, 2)
    *_, last = walk(denoiser(opened, spec), states, rows, keep=keep)
    made = edit(model, IMAGES, mask=mask, returns=2, jump=2, eta=1.0, first=4, **HOW)
    np.testing.assert_array_equal(made, to_uint8(last.x))


def test_every_picture_can_have_its_own_mask(model):
    masks = np.stack([MASK, 255 - MASK, MASK])
    made = edit(model, IMAGES, mask=masks, n=2, **HOW)
    for k in range(3):
        alone = edit(model, IMAGES[k : k + 1], mask=masks[k], n=2, first=2 * k, **HOW)
        np.testing.assert_array_equal(made[2 * k : 2 * k + 2], alone)


def test_measured_pictures_measure_what_was_given_to_rounding(even):
    pictures = np.random.default_rng(0).integers(60, 190, (2, 6, 4, 1), dtype=np.uint8)
    made = edit(even, pictures, measure="average:2", n=3, **HOW)

    def means(images):
        return images.reshape(-1, 3, 2, 2, 2).mean(axis=(2, 4))

    inside = ((made > 0) & (made < 255)).reshape(-1, 3, 2, 2, 2).all(axis=(2, 4))
    assert inside.sum() >= 5
    errors = np.abs(means(made.astype(float)) - np.repeat(means(pictures.astype(float)), 3, axis=0))
    assert errors[inside].max() <= 0.5
    # the small picture itself says the same, but for its own rounding
    small = np.floor(means(pictures.astype(float)) + 0.5).astype(np.uint8)[..., None]
    again = edit(even, small, measure="average:2", n=3, **HOW)
    assert np.abs(again.astype(int) - made.astype(int)).max() <= 2
    # begun from the small picture, it is begun from what A+ makes of it
    large = small.repeat(2, axis=1).repeat(2, axis=2)
    begun = [edit(even, entry, measure="average:2", strength=0.6, **HOW) for entry in (small, large)]
    assert np.abs(begun[0].astype(int) - begun[1]).max() <= 1


def test_colours_are_found_for_a_grey_picture(tmp_path):
    (tmp_path / "c.onnx").write_bytes(mix_model(tiny_spec(COLOUR)))
    colour = open_model(tmp_path / "c.onnx", threads=1)
    grey = COLOURS // 4 + 96
    made = edit(colour, grey, measure="grey", **HOW)
    inside = ((made > 0) & (made < 255)).all(axis=-1)
    assert inside.any()
    errors = np.abs(made.astype(float).mean(axis=-1) - grey.astype(float).mean(axis=-1))
    assert errors[inside].max() <= 0.5
    from_one_channel = edit(colour, grey[..., :1], measure="grey", **HOW)
    assert from_one_channel.shape == made.shape


def test_strength_begins_at_the_noised_picture_at_the_plans_own_times(model):
    _, spec = model
    made = request_for(spec, images=IMAGES, strength=0.6, n=2, first=3, **HOW)
    assert [row.t for row in made.steps.plan.rows] == [t for t in (39, 29, 19, 9) if t < 24]
    assert made.steps.num_steps == 4  # what was asked for
    assert made.describe()["strength"] == 0.6
    seen = []

    def network(x_t, t, **inputs):
        seen.append((x_t, t))
        raise KeyError

    with pytest.raises(KeyError):
        next(sample(network, spec, made))
    x_t, t = seen[0]
    known = from_uint8(IMAGES).astype(np.float32)[[0, 0, 1, 1, 2, 2]]
    np.testing.assert_array_equal(x_t, noised(known, noise_stream(5, range(3, 9), GREY)(0), made.steps.plan.rows[0].a))
    assert t[0] == 19


def test_a_named_plan_is_cut_where_it_does_not_look_back(tmp_path):
    spec = with_plans(tiny_spec(), ["ddim:4", "dpmpp_2m:4"])
    (tmp_path / "p.onnx").write_bytes(mix_model(spec))
    model = open_model(tmp_path / "p.onnx", threads=1)
    cut = edit(model, IMAGES, strength=0.6, plan="ddim-4", seed=5)
    np.testing.assert_array_equal(cut, edit(model, IMAGES, strength=0.6, **HOW))
    with pytest.raises(UsageError, match="strength does not apply to plan dpmpp_2m-4, whose rows look back beyond it"):
        edit(model, IMAGES, strength=0.8, plan="dpmpp_2m-4", seed=5)
    several = edit(model, IMAGES, strength=0.8, sampler="dpmpp_2m", num_steps=4, seed=5)  # this one is made anew
    assert (several != edit(model, IMAGES, strength=0.8, **HOW)).any()


def test_between_goes_from_one_picture_to_the_other(model):
    made = edit(model, IMAGES[:2], between=True, strength=0.3, n=5, **HOW)
    for end, k in ((0, 0), (4, 1)):
        np.testing.assert_array_equal(made[end : end + 1], edit(model, IMAGES[k : k + 1], strength=0.3, **HOW))
    steps = np.abs(np.diff(made.astype(float), axis=0)).mean(axis=(1, 2, 3))
    assert steps.max() < np.abs(made[0].astype(float) - made[4]).mean()
    assert len(edit(model, IMAGES[:2], between=True, strength=0.3, **HOW)) == 9


def test_between_seeds_goes_from_one_seeds_image_to_the_others(model):
    how = {"num_steps": 4, "sampler": "ddim", "eta": 0.0}
    made = edit(model, seeds=(7, 11), n=5, first=3, **how)
    for end, seed in ((0, 7), (4, 11)):
        expected = generate(model, n=1, seed=seed, first=3, **how)
        assert np.abs(made[end].astype(int) - expected[0]).max() <= 1
    assert len(edit(model, seeds=(7, 11), **how)) == 9


def test_noise_that_is_given_is_noise_that_is_begun_from(model):
    x_T = noise_stream(5, range(4), GREY)(0)
    for eta in (0.0, 1.0):
        np.testing.assert_array_equal(edit(model, x_T=x_T, eta=eta, **HOW), generate(model, n=4, eta=eta, **HOW))


def test_what_is_inverted_leads_back(tmp_path):
    """On Gaussian data the noise is known: where the flow comes from."""
    alphas = tuple(float(a) for a in np.linspace(0.9999, 0.01, 400))
    spec = tiny_spec(alphas_cumprod=alphas, prediction="v", defaults=Defaults(sampler="ddim", num_steps=400, eta=0.0))
    (tmp_path / "g.onnx").write_bytes(gaussian_file(spec, 0.1, 0.4))
    model = open_model(tmp_path / "g.onnx", threads=1)
    pictures = np.random.default_rng(0).integers(40, 200, (3, *GREY[1:], 1), dtype=np.uint8)
    x_T, rmse = invert(model, pictures, batch=2)
    assert x_T.dtype == np.float32
    np.testing.assert_allclose(flow(x_T, 0.01, 0.1, 0.4), from_uint8(pictures), atol=0.05)
    assert rmse.shape == (3,)
    assert rmse.max() < 2.0
    back = edit(model, x_T=x_T)
    errors = np.sqrt(np.square(back.astype(float) - pictures).mean(axis=(1, 2, 3)))
    np.testing.assert_allclose(rmse, errors)
    (tmp_path / "c.onnx").write_bytes(gaussian_file(replace(spec, clip_x_0=0.1), 0.1, 0.4))
    clipping = invert(open_model(tmp_path / "c.onnx", threads=1), pictures)
    np.testing.assert_array_equal(clipping.x_T, x_T)  # for what is clipped could not be found again
    assert clipping.rmse.min() > 10.0
    assert invert(model, pictures, num_steps=40).rmse.min() > 2.0 * rmse.max()
    with pytest.raises(UsageError, match="Inverting needs a sampler that adds no noise"):
        invert(model, pictures, eta=0.5)


SMALL = IMAGES[:, :3]
REFUSED = [
    ({"mask": MASK}, "mask needs a picture."),
    ({"images": IMAGES, "seeds": (1, 2)}, "Give only one of images, seeds and x_T, got images and seeds."),
    ({"images": IMAGES}, "A picture needs a mask, a measure or a strength."),
    ({"seeds": (1, 2), "mask": MASK}, "mask needs a picture."),
    ({"x_T": IMAGES, "strength": 0.5}, "strength needs a picture."),
    ({"images": IMAGES, "strength": 0.5, "returns": 1}, "returns needs a mask or a measure."),
    ({"images": IMAGES[:2], "between": True}, "between needs a strength and no other edit option."),
    ({"images": IMAGES[:2], "between": True, "strength": 0.5, "mask": MASK}, "between needs a strength and no other"),
    ({"images": IMAGES, "between": True, "strength": 0.5}, "between needs 2 images, got 3."),
    ({"images": IMAGES, "measure": "average:1", "mask": MASK}, "mask does not apply to measure average:1."),
    ({"images": IMAGES, "measure": "mask"}, "measure mask needs a mask."),
    ({"seeds": (1, 2, 3)}, "seeds takes two seeds and replaces seed, got [1, 2, 3]."),
    ({"seeds": (1, 2), "seed": 4}, "seeds takes two seeds and replaces seed, got [1, 2]."),
    ({"images": SMALL, "mask": MASK}, "images must be uint8 (m, 6, 5, 1), got uint8 (3, 3, 5, 1)."),
    ({"images": SMALL, "measure": "average:1"}, "images must be uint8 (m, 6, 5, 1), got uint8 (3, 3, 5, 1)."),
    ({"images": IMAGES / 255, "mask": MASK}, "images must be uint8 (m, 6, 5, 1), got float64 (3, 6, 5, 1)."),
    ({"images": IMAGES, "mask": MASK[1:]}, "mask must be uint8 (6, 5), or one for each picture, got uint8 (5, 5)."),
    ({"images": IMAGES, "mask": MASK > 0}, "mask must be uint8 (6, 5), or one for each picture, got bool (6, 5)."),
    ({"images": IMAGES, "mask": MASK[None][[0, 0]]}, "mask must hold one mask, or one for each of 3 pictures, got 2."),
    ({"x_T": np.zeros((2, 1, 5, 5))}, "x_T must be float32 (m, 1, 6, 5), got float64 (2, 1, 5, 5)."),
    ({"x_T": np.full((2, *GREY), np.nan)}, "x_T must be finite, got NaN or infinity."),
]


@pytest.mark.parametrize(("given", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_does_not_go_together_is_refused(given, message):
    with pytest.raises(UsageError) as error:
        request_for(tiny_spec(), **given)
    assert str(error.value).startswith(message)


def test_an_edit_of_nothing_is_refused(model):
    with pytest.raises(UsageError, match="Give images, seeds or x_T"):
        edit(model)


def test_a_default_plan_that_cannot_do_an_edit_leaves_it_to_ddim(model):
    _, spec = model
    spec = replace(
        spec,
        plans={"own-3": plan(spec, sampler="dpmpp_2m", num_steps=3)},
        defaults=replace(spec.defaults, plan="own-3", num_steps=5),
        requires=(*spec.requires, "plan"),
    )
    ddim = request_for(spec, images=IMAGES, strength=0.7, seed=1, sampler="ddim", num_steps=5)
    assert request_for(spec, images=IMAGES, strength=0.7, seed=1).steps == ddim.steps
    assert request_for(spec, images=IMAGES, strength=1.0, seed=1).steps.name == "own-3"  # which looks back at itself
    back = request_for(spec, images=IMAGES, mask=MASK, returns=1, seed=1)
    assert back.steps.sampler == "ddim"
    spec = replace(spec, plans={**spec.plans, "own-4": plan(spec, sampler="dpmpp_2m", num_steps=4)})  # of a count alone
    assert request_for(spec, num_steps=4, seed=1).steps.name == "own-4"
    counted = request_for(spec, images=IMAGES, strength=0.7, seed=1, num_steps=4).steps
    assert counted == request_for(spec, images=IMAGES, strength=0.7, seed=1, sampler="ddim", num_steps=4).steps
    with pytest.raises(UsageError, match="plan own-3, whose rows look back"):
        request_for(spec, images=IMAGES, strength=0.7, plan="own-3")


def test_a_one_call_file_is_refused():
    opened = OneCallFile(None, tiny_spec(graph="sampler"))
    with pytest.raises(UsageError, match="A one-call sampler takes no picture"):
        edit(opened, IMAGES, strength=0.5)
    with pytest.raises(UsageError, match="A one-call sampler takes no picture"):
        invert(opened, IMAGES)


def test_pictures_are_of_no_class_unless_one_is_said_and_a_line_of_one(tmp_path):
    label = Input("y", "label", none=3, classes=("shoe", "bag", "coat"))
    spec = tiny_spec(inputs=(label,), requires=("inputs",))
    (tmp_path / "l.onnx").write_bytes(told_model(spec))
    model = open_model(tmp_path / "l.onnx", threads=1)
    unsaid = edit(model, IMAGES, mask=MASK, **HOW)
    np.testing.assert_array_equal(edit(model, IMAGES, mask=MASK, label="none", **HOW), unsaid)
    assert (edit(model, IMAGES, mask=MASK, label="bag", **HOW) != unsaid).any()
    in_turn = edit(model, IMAGES, mask=MASK, inputs={"y": [0, 1, 2]}, **HOW)
    np.testing.assert_array_equal(edit(model, IMAGES, mask=MASK, label=["shoe", "bag", "coat"], **HOW), in_turn)
    assert (in_turn != unsaid).any()
    x_T, _ = invert(model, IMAGES, num_steps=4)
    np.testing.assert_array_equal(invert(model, IMAGES, num_steps=4, label="none").x_T, x_T)
    assert (invert(model, IMAGES, num_steps=4, label="bag").x_T != x_T).any()
    back = edit(model, x_T=x_T, num_steps=4)  # of no class either, or it would lead elsewhere
    np.testing.assert_array_equal(edit(model, x_T=x_T, num_steps=4, label="none"), back)
    # all from one seed to the other are of the class of their first, image number 4
    line = edit(model, seeds=(7, 11), n=5, first=4, **{**HOW, "seed": None})
    np.testing.assert_array_equal(edit(model, seeds=(7, 11), n=5, first=4, label="bag", **{**HOW, "seed": None}), line)
