"""What `ddpm-edit` makes of pictures, masks and seeds, and `ddpm-run` of noise, is what the library makes of them."""

import json
import os

import numpy as np
import pytest
from commands import assert_refused, run_apart, run_here, without_digest
from models import GREY, mix_model, tiny_spec
from PIL import Image

from ddpm_export.cli.edit import main
from ddpm_export.cli.run import main as run
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


def ran(place, kind, *arguments, seed=5):
    seeded = () if seed is None else ("--seed", seed)
    return run_here(main, kind, place / "m.onnx", *arguments, "--out", place / "o.npy", *seeded)


CASES = {
    "mask": (
        ["fill", "all/a.png", "--mask", "mask.png", "--sampler", "ddim:eta=1"],
        {"images": PICTURES[:1], "mask": MASK, "eta": 1.0},
    ),
    "folder": (["fill", "all", "--mask", "mask.png", "--n", 2], {"images": PICTURES, "mask": MASK, "n": 2}),
    "returns": (
        ["fill", "all", "--mask", "mask.png", "--returns", 2, "--jump", 2, "--steps", 5],
        {"images": PICTURES, "mask": MASK, "returns": 2, "jump": 2, "num_steps": 5},
    ),
    "part": (
        ["fill", "all", "--mask", "mask.png", "--strength", 0.6],
        {"images": PICTURES, "mask": MASK, "strength": 0.6},
    ),
    "measure": (
        ["measure", "all", "--by", "mask", "--mask", "mask.png"],
        {"images": PICTURES, "measure": "mask", "mask": MASK},
    ),
    "measure all": (
        ["measure", "all", "--by", "grey", "--strength", 0.7, "--returns", 1],
        {"images": PICTURES, "measure": "grey", "strength": 0.7, "returns": 1},
    ),
    "strength": (["vary", "all/b.png", "--strength", 0.6], {"images": PICTURES[1:2], "strength": 0.6}),
    "between": (
        ["between", "all/c.png", "all/a.png", "--strength", 0.6],
        {"images": PICTURES[[2, 0]], "between": True, "strength": 0.6},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_option_does_what_the_library_does(place, case, monkeypatch):
    monkeypatch.chdir(place)
    arguments, given = CASES[case]
    ending = ran(place, *arguments)
    assert ending.code == 0, ending
    np.testing.assert_array_equal(np.load("o.npy"), edit(place / "m.onnx", seed=5, **given))


def test_images_start_from_noise(place, monkeypatch):
    monkeypatch.chdir(place)
    asked = ("--from", "x_T.npy", "--sampler", "ddim:eta=0.5", "--batch", 1, "--seed", 5, "--out", "o.npy")
    assert run_here(run, "m.onnx", *asked).code == 0
    expected = edit(place / "m.onnx", seed=5, x_T=np.load("x_T.npy"), eta=0.5)
    np.testing.assert_array_equal(np.load("o.npy"), expected)


def test_what_was_given_is_told(place, monkeypatch):
    monkeypatch.chdir(place)
    given = ["fill", "all", "--returns", 1, "--steps", 5, "--strength", 0.7, "--n", 2, "--json", "--mask"]
    facts = json.loads(ran(place, *given, "mask.png").out)
    assert (facts["n"], facts["strength"], facts["returns"], facts["jump"], facts["num_steps"]) == (6, 0.7, 1, 1, 5)
    assert len(facts["images_sha256"]) == len(facts["mask_sha256"]) == 64
    other = json.loads(ran(place, *given, "all/a.png").out)
    assert other["mask_sha256"] != facts["mask_sha256"]
    assert other["images_sha256"] == facts["images_sha256"]
    seeds = json.loads(ran(place, "between", "--seeds", "7,11", "--json", seed=None).out)
    assert (seeds["between_seeds"], seeds["between"]) == ([7, 11], 9)


def test_what_lies_between_is_a_row_or_goes_there_and_back(place, monkeypatch):
    monkeypatch.chdir(place)
    expected = edit(place / "m.onnx", seeds=(7, 11), n=4)
    for out in ("row.png", "there.gif", "there.webp"):
        ending = run_here(main, "between", place / "m.onnx", "--seeds", "7,11", "--n", 4, "--out", out)
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
    ending = ran(place, "invert", "all", "--steps", 7, seed=None)
    x_T, rmse = invert(place / "m.onnx", PICTURES, num_steps=7)
    assert (
        ending.out == f"{place / 'o.npy'}: noise of 3 pictures, RMSE on the way back {rmse.mean():.2f} levels of 255\n"
    )
    found = np.load("o.npy")
    np.testing.assert_array_equal(found, x_T)
    np.save("x_T.npy", found)
    assert run_here(run, "m.onnx", "--from", "x_T.npy", "--steps", 7, "--out", "o.npy").code == 0
    errors = np.load("o.npy").astype(float) - PICTURES
    np.testing.assert_allclose(np.sqrt(np.square(errors).mean(axis=(1, 2, 3))), rmse)
    facts = json.loads(ran(place, "invert", "all", "--steps", 7, "--json", seed=None).out)
    np.testing.assert_allclose(facts["rmse"], rmse)


FILL = ["fill", "all", "--mask", "mask.png"]
REFUSED = [
    (["fill", "all"], 2, "--mask"),
    (["vary", "all"], 2, "--strength"),
    (["measure", "all"], 2, "--by"),
    (["fill", "wide.png", "--mask", "mask.png"], 2, "wide.png must have 5 x 6 pixels, got 7 x 6."),
    (["fill", "all/a.png", "--mask", "wide.png"], 2, "wide.png must have 5 x 6 pixels, got 7 x 6."),
    (["measure", "wide.png", "--by", "grey"], 2, "(m, 6, 5, 1), got uint8 (1, 6, 7, 1)."),
    (["measure", "mixed", "--by", "grey"], 2, "Pictures must have the same size, but mixed/b.png differs"),
    (["vary", "empty", "--strength", "0.5"], 3, "empty is a folder without pictures."),
    (["vary", "m.onnx", "--strength", "0.5"], 3, "m.onnx is not a picture that can be read"),
    (["vary", "none.png", "--strength", "0.5"], 3, "none.png: no such file."),
    (["vary", "pipe", "--strength", "0.5"], 3, "pipe: no such file."),
    (["vary", "all", "--strength", "1.5"], 2, "strength must be above 0 and at most 1, got 1.5."),
    (["between"], 2, "ddpm-edit between needs two pictures or --seeds, such as --seeds 7,11."),
    (["between", "all/a.png", "--strength", "0.5"], 2, "needs two pictures, got 1."),
    (["between", "all/a.png", "all/b.png"], 2, "needs --strength with pictures"),
    (["between", "--seeds", "1,2", "--strength", "0.5"], 2, "Give --seeds or --strength, not both."),
    (["between", "--seeds", "1,2"], 2, "seeds"),
    (["between", "--seeds", "1,b"], 2, "--seeds must be integers"),
    (["invert", "all", "--seed", "1"], 2, "--seed"),
]


@pytest.mark.parametrize(("arguments", "code", "words"), REFUSED, ids=[words for *_, words in REFUSED])
def test_what_cannot_be_is_refused_in_one_line(place, arguments, code, words, monkeypatch):
    monkeypatch.chdir(place)
    (place / "empty").mkdir()
    os.mkfifo("pipe")
    save_images("mixed/a.png", PICTURES[:1])
    save_images("mixed/b.png", np.zeros((1, 6, 7, 1), np.uint8))
    assert_refused(ran(place, *arguments), code, words)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--out", "x.png"], 2, "--out must end in .npy, got 'x.png'."),
        (["--out", "x.npy", "--sampler", "ddim:eta=1"], 2, "Inverting needs a --sampler that adds no noise."),
    ],
)
def test_what_cannot_be_inverted(place, arguments, code, words, monkeypatch):
    monkeypatch.chdir(place)
    assert_refused(run_here(main, "invert", "m.onnx", "all", *arguments), code, words)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("pipe", "pipe: no such file."),
        ("huge.npy", "huge.npy is not an array that can be read"),
        ("mask.png", "mask.png is not an array that can be read"),
    ],
)
def test_noise_that_cannot_be_read(place, file, words, monkeypatch):
    monkeypatch.chdir(place)
    os.mkfifo("pipe")
    with open("huge.npy", "wb") as huge:
        header = {"descr": "<f4", "fortran_order": False, "shape": (2**40, *GREY)}
        np.lib.format.write_array_header_1_0(huge, header)
    assert_refused(run_here(run, "m.onnx", "--from", file, "--out", "o.npy"), 3, words)


def test_small_pictures_are_what_is_measured(place, monkeypatch):
    monkeypatch.chdir(place)
    (place / "m.onnx").write_bytes(mix_model(tiny_spec((1, 6, 4))))
    small = np.array([[[60], [200]], [[90], [90]], [[130], [10]]], dtype=np.uint8)
    save_images("small.png", small[None])
    assert ran(place, "measure", "small.png", "--by", "average:2").code == 0
    np.testing.assert_array_equal(np.load("o.npy"), edit(place / "m.onnx", small[None], measure="average:2", seed=5))


def test_a_confined_process_may_read_the_pictures_that_it_is_given(place, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (place / "m.onnx").rename(elsewhere / "m.onnx")
    given = ["--mask", place / "mask.png", "--seed", 5, "--out", elsewhere / "o.npy"]
    code = "from ddpm_export.cli.start import edit\nedit()"
    ending = run_apart("fill", elsewhere / "m.onnx", place / "all", "--untrusted", *given, code=code)
    assert ending.code == 0, ending
    np.testing.assert_array_equal(np.load(elsewhere / "o.npy"), edit(elsewhere / "m.onnx", PICTURES, mask=MASK, seed=5))


def test_a_one_call_edit_does_what_the_denoiser_does_and_says_what_it_does_not(place, command, monkeypatch):
    onnx = pytest.importorskip("onnx")
    monkeypatch.chdir(place)
    assert command("export", "m.onnx", "--format", "edit", "--open", "all")[0] == 0
    fill = ("fill", "all", "--mask", "mask.png")
    made = [[*fill, "--n", 2, "--sampler", "ddim:eta=1"], ["vary", "all/b.png", "--strength", 0.6]]
    for kind, *given in (*made, ["run", "--n", 2]):
        found = []
        for model in ("m.onnx", "m.edit.onnx"):
            called = (run, model) if kind == "run" else (main, kind, model)
            ending = run_here(*called, *given, "--out", "o.npy", "--seed", 5)
            assert ending.code == 0, ending
            found.append(np.load("o.npy").astype(int))
        assert np.abs(found[0] - found[1]).max() <= 1
    only = "A one-call edit takes only a picture with a mask or a strength"
    for (kind, *given), words in (
        (["measure", "all", "--by", "mask", "--mask", "mask.png"], only),
        ([*fill, "--returns", 1], only),
        (["between", "--seeds", "7,11"], only),
        (["invert", "all", "--out", "o.npy"], only),
        ([*fill, "--out", "x.gif"], "for a one-call edit, which shows no steps"),
        (["vary", "wide.png", "--strength", 0.5], "wide.png must have 5 x 6 pixels, got 7 x 6."),
        (["vary", "all", "--strength", 0.01, "--steps", 1], "strength must reach the lowest time"),
    ):
        assert_refused(run_here(main, kind, "m.edit.onnx", *given), 2, words)
    code, out, _ = command("check", "m.edit.onnx", "--json")
    assert (code, json.loads(out)["graph"]) == (0, "edit")
    assert [case["draw"]["strength"] for case in json.loads(out)["golden"]] == [0, 0, 0, 0, 0.6]
    model = onnx.load("m.edit.onnx")
    loop = next(node for node in model.graph.node if node.op_type == "Loop")
    tensor = next(entry for entry in loop.attribute[0].g.initializer if entry.name == "network/w")
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * np.float32(1.1), tensor.name))
    without_digest(model)
    onnx.save(model, "m.edit.onnx")
    code, _, err = command("check", "m.edit.onnx")
    assert code == 4
    assert "does not compute what it promises" in err
