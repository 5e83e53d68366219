"""What `ddpm-run` makes of pictures, masks, seeds and noise is what the library makes of them."""

import json
import os

import numpy as np
import pytest
from commands import assert_refused, run_apart, run_here, without_digest
from models import GREY, mix_model, tiny_spec
from PIL import Image

from ddpm_export.cli.run import main
from ddpm_export.images.read import read_image
from ddpm_export.images.write import save_images
from ddpm_export.sampling.edit import edit, invert

PICTURES = np.random.default_rng(0).integers(0, 256, (3, *GREY[1:], 1), dtype=np.uint8)
MASK = np.zeros(GREY[1:], dtype=np.uint8)
MASK[:, 3:] = 255


@pytest.fixture
def place(tmp_path):
    """A folder with a model, three pictures, a mask and noise."""
    (tmp_path / "m.onnx").write_bytes(mix_model())
    for name, picture in zip("abc", PICTURES, strict=True):
        save_images(tmp_path / "all" / f"{name}.png", picture[None])
    (tmp_path / "all" / ".hidden").write_text("not a picture")
    save_images(tmp_path / "mask.png", MASK[None, ..., None])
    save_images(tmp_path / "wide.png", np.zeros((1, 6, 7, 1), np.uint8))
    np.save(tmp_path / "x_T.npy", np.random.default_rng(1).standard_normal((2, *GREY)).astype(np.float32))
    return tmp_path


def ran(place, *arguments, seed=5):
    seeded = () if seed is None else ("--seed", seed)
    return run_here(main, place / "m.onnx", "--out", place / "o.npy", *seeded, *arguments)


CASES = {
    "mask": (
        ["--image", "all/a.png", "--mask", "mask.png", "--eta", 1],
        {"images": PICTURES[:1], "mask": MASK, "eta": 1.0},
    ),
    "folder": (["--image", "all", "--mask", "mask.png", "--n", 2], {"images": PICTURES, "mask": MASK, "n": 2}),
    "returns": (
        ["--image", "all", "--mask", "mask.png", "--returns", 2, "--jump", 2, "--steps", 5],
        {"images": PICTURES, "mask": MASK, "returns": 2, "jump": 2, "num_steps": 5},
    ),
    "measure": (
        ["--image", "all", "--measure", "mask", "--mask", "mask.png"],
        {"images": PICTURES, "measure": "mask", "mask": MASK},
    ),
    "strength": (["--image", "all/b.png", "--strength", 0.6], {"images": PICTURES[1:2], "strength": 0.6}),
    "between": (
        ["--between", "all/c.png", "all/a.png", "--strength", 0.6],
        {"images": PICTURES[[2, 0]], "between": True, "strength": 0.6},
    ),
    "noise": (["--from", "x_T.npy", "--eta", 0.5, "--batch", 1], {"x_T": None, "eta": 0.5}),
}


@pytest.mark.parametrize("case", CASES)
def test_each_option_does_what_the_library_does(place, case, monkeypatch):
    monkeypatch.chdir(place)
    arguments, given = CASES[case]
    ending = ran(place, *arguments)
    assert ending.code == 0, ending
    given = {**given, "x_T": np.load("x_T.npy")} if "x_T" in given else given
    np.testing.assert_array_equal(np.load("o.npy"), edit(place / "m.onnx", seed=5, **given))


def test_what_was_given_is_told(place, monkeypatch):
    monkeypatch.chdir(place)
    given = ["--image", "all", "--mask", "mask.png", "--returns", 1, "--steps", 5, "--strength", 0.7, "--n", 2]
    facts = json.loads(ran(place, *given, "--json").out)
    assert (facts["n"], facts["strength"], facts["returns"], facts["jump"], facts["num_steps"]) == (6, 0.7, 1, 1, 5)
    assert len(facts["images_sha256"]) == len(facts["mask_sha256"]) == 64
    other = json.loads(ran(place, *given, "--mask", "all/a.png", "--json").out)
    assert other["mask_sha256"] != facts["mask_sha256"]
    assert other["images_sha256"] == facts["images_sha256"]
    seeds = json.loads(ran(place, "--between-seeds", 7, 11, "--json", seed=None).out)
    assert (seeds["between_seeds"], seeds["between"]) == ([7, 11], 9)


def test_what_lies_between_is_a_row_or_goes_there_and_back(place, monkeypatch):
    monkeypatch.chdir(place)
    expected = edit(place / "m.onnx", seeds=(7, 11), n=4)
    for out in ("row.png", "there.gif", "there.webp"):
        ending = run_here(main, place / "m.onnx", "--between-seeds", 7, 11, "--n", 4, "--out", out)
        assert ending.code == 0, ending
    np.testing.assert_array_equal(read_image("row.png", 1), np.concatenate(list(expected), axis=1))
    for out in ("there.gif", "there.webp"):
        with Image.open(out) as film:
            assert film.n_frames == 6
            frames = []
            for k in range(6):
                film.seek(k)
                frames.append(np.asarray(film.convert("L")))
        np.testing.assert_allclose(frames, expected[[0, 1, 2, 3, 2, 1], ..., 0], atol=1)


def test_noise_that_is_found_leads_back(place, monkeypatch):
    monkeypatch.chdir(place)
    ending = ran(place, "--image", "all", "--invert", "--steps", 7, seed=None)
    x_T, rmse = invert(place / "m.onnx", PICTURES, num_steps=7)
    assert (
        ending.out == f"{place / 'o.npy'}: noise of 3 pictures, RMSE on the way back {rmse.mean():.2f} levels of 255\n"
    )
    found = np.load("o.npy")
    np.testing.assert_array_equal(found, x_T)
    np.save("x_T.npy", found)
    assert ran(place, "--from", "x_T.npy", "--steps", 7).code == 0
    errors = np.load("o.npy").astype(float) - PICTURES
    np.testing.assert_allclose(np.sqrt(np.square(errors).mean(axis=(1, 2, 3))), rmse)
    facts = json.loads(ran(place, "--image", "all", "--invert", "--steps", 7, "--json", seed=None).out)
    np.testing.assert_allclose(facts["rmse"], rmse)


REFUSED = [
    (["--image", "all"], 2, "A picture needs a mask, a measure or a strength."),
    (["--mask", "mask.png"], 2, "mask needs a picture."),
    (["--returns", "2"], 2, "returns need a mask or a measure."),
    (["--image", "wide.png", "--mask", "mask.png"], 2, "wide.png must have 5 x 6 pixels, got 7 x 6."),
    (["--image", "all/a.png", "--mask", "wide.png"], 2, "wide.png must have 5 x 6 pixels, got 7 x 6."),
    (["--image", "wide.png", "--measure", "grey"], 2, "images must be uint8 (m, 6, 5, 1), got uint8 (1, 6, 7, 1)."),
    (["--image", "mixed", "--measure", "grey"], 2, "Pictures must have one size, but mixed/b.png has another"),
    (["--image", "empty", "--strength", "0.5"], 3, "empty is a folder without pictures."),
    (["--image", "m.onnx", "--strength", "0.5"], 3, "m.onnx is not a picture that can be read"),
    (["--image", "none.png", "--strength", "0.5"], 3, "none.png: no such file."),
    (["--image", "pipe", "--strength", "0.5"], 3, "pipe: no such file."),
    (["--from", "pipe"], 3, "pipe: no such file."),
    (["--from", "huge.npy"], 3, "huge.npy is not an array that can be read"),
    (["--from", "mask.png"], 3, "mask.png is not an array that can be read"),
    (["--from", "x_T.npy", "--image", "all"], 2, "Of images, seeds and x_T there must be only one"),
    (["--image", "all", "--strength", "1.5"], 2, "strength must be above 0 and at most 1, got 1.5."),
    (["--between", "all/a.png", "all/b.png"], 2, "between needs a strength, and nothing else besides."),
    (["--between-seeds", "1", "2"], 2, "seeds must be 2 and stand in place of seed, got [1, 2]."),
    (["--invert"], 2, "--invert needs --image, and nothing else of a picture besides."),
    (["--invert", "--image", "all", "--mask", "mask.png"], 2, "--invert needs --image, and nothing else"),
    (["--invert", "--image", "all", "--strength", "0.5"], 2, "--invert needs --image, and nothing else"),
    (["--invert", "--image", "all", "--out", "x.png"], 2, "--out must end in .npy for --invert, got 'x.png'."),
    (["--invert", "--image", "all", "--eta", "1"], 2, "Inverting needs a plan that adds no noise."),
    (["--image", "all", "--strength", "0.5", "--each-label"], 2, "--each-label does not apply to what begins"),
]


@pytest.mark.parametrize(("arguments", "code", "words"), REFUSED, ids=[words for *_, words in REFUSED])
def test_what_cannot_be_is_refused_in_one_line(place, arguments, code, words, monkeypatch):
    monkeypatch.chdir(place)
    (place / "empty").mkdir()
    os.mkfifo("pipe")
    with open("huge.npy", "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (2**40, *GREY)}
        np.lib.format.write_array_header_1_0(file, header)
    save_images("mixed/a.png", PICTURES[:1])
    save_images("mixed/b.png", np.zeros((1, 6, 7, 1), np.uint8))
    assert_refused(ran(place, *arguments), code, words)


def test_small_pictures_are_what_is_measured(place, monkeypatch):
    monkeypatch.chdir(place)
    (place / "m.onnx").write_bytes(mix_model(tiny_spec((1, 6, 4))))
    small = np.array([[[60], [200]], [[90], [90]], [[130], [10]]], dtype=np.uint8)
    save_images("small.png", small[None])
    assert ran(place, "--image", "small.png", "--measure", "average:2").code == 0
    np.testing.assert_array_equal(np.load("o.npy"), edit(place / "m.onnx", small[None], measure="average:2", seed=5))


def test_a_confined_process_may_read_the_pictures_that_it_is_given(place, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (place / "m.onnx").rename(elsewhere / "m.onnx")
    given = ["--image", place / "all", "--mask", place / "mask.png", "--seed", 5, "--out", elsewhere / "o.npy"]
    ending = run_apart(elsewhere / "m.onnx", "--untrusted", *given, code="from ddpm_export.cli.start import run\nrun()")
    assert ending.code == 0, ending
    np.testing.assert_array_equal(np.load(elsewhere / "o.npy"), edit(elsewhere / "m.onnx", PICTURES, mask=MASK, seed=5))


def test_a_one_call_edit_does_what_the_denoiser_does_and_says_what_it_does_not(place, command, monkeypatch):
    onnx = pytest.importorskip("onnx")
    monkeypatch.chdir(place)
    assert command("export", "m.onnx", "--format", "edit", "--open", "all")[0] == 0
    pictures = ["--image", "all", "--mask", "mask.png"]
    for given in ([*pictures, "--n", 2, "--eta", 1], ["--image", "all/b.png", "--strength", 0.6], ["--n", 2]):
        found = []
        for model in ("m.onnx", "m.edit.onnx"):
            ending = run_here(main, model, "--out", "o.npy", "--seed", 5, *given)
            assert ending.code == 0, ending
            found.append(np.load("o.npy").astype(int))
        assert np.abs(found[0] - found[1]).max() <= 1
    only = (
        "A one-call edit takes a picture with a mask or a strength, and nothing else. Run the .onnx it was made from."
    )
    for given, words in (
        ([*pictures, "--measure", "mask"], only),
        ([*pictures, "--returns", 1], only),
        (["--between-seeds", 7, 11], only),
        (["--image", "all", "--invert"], only),
        ([*pictures, "--out", "x.gif"], "for a one-call edit, which shows no steps"),
        (["--image", "wide.png", "--strength", 0.5], "wide.png must have 5 x 6 pixels, got 7 x 6."),
        (["--image", "all", "--strength", 0.01, "--steps", 1], "strength must reach the lowest time"),
    ):
        assert_refused(run_here(main, "m.edit.onnx", "--out", "o.npy", *given), 2, words)
    code, out, _ = command("check", "m.edit.onnx", "--json")
    assert (code, json.loads(out)["graph"]) == (0, "edit")
    assert [case["draw"]["strength"] for case in json.loads(out)["golden"]] == [0, 0, 0, 0, 0.6]
    model = onnx.load("m.edit.onnx")
    loop = next(node for node in model.graph.node if node.op_type == "Loop")
    tensor = next(one for one in loop.attribute[0].g.initializer if one.name == "network/w")
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * np.float32(1.1), tensor.name))
    without_digest(model)
    onnx.save(model, "m.edit.onnx")
    code, _, err = command("check", "m.edit.onnx")
    assert code == 4
    assert "does not compute what it promises" in err
