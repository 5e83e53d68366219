"""What a network is told on the command line: labels, guidance, numbers, pictures and arrays."""

import json

import numpy as np
import pytest
from commands import assert_refused, run_here
from models import mix_model, tiny_spec, told_model
from PIL import Image

from ddpm_export import Guidance, generate
from ddpm_export.cli.run import main
from ddpm_export.images.write import grid
from ddpm_export.model.inputs import Input
from ddpm_export.model.spec import Defaults

LABEL = Input("y", "label", none=3, classes=("shoe", "bag, large", "coat"))
VECTOR = Input("v", "vector", (2,), none=0.0)
LOW = Input("low_res", "image", (1, 2, 3), none=0.0)
DEEP = Input("deep", "image", (2, 1, 1), none=0.0)


@pytest.fixture
def model(tmp_path):
    spec = tiny_spec(inputs=(LABEL, VECTOR, LOW, DEEP), requires=("inputs",), clip_x_0=None)
    (tmp_path / "m.onnx").write_bytes(told_model(spec))
    np.save(tmp_path / "v.npy", np.array([[0.5, 1.0], [2.0, 3.0], [4.0, 5.0]]))
    np.save(tmp_path / "deep.npy", np.ones((2, 1, 1), np.float32))
    Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3) * 51).save(tmp_path / "low.png")
    return tmp_path / "m.onnx"


LOW_VALUES = np.arange(6).reshape(1, 2, 3) * 51 / 127.5 - 1
CASES = {
    "nothing": ([], {}),
    "name": (["--label", "coat"], {"label": 2}),
    "name with a comma": (["--label", "bag, large"], {"label": 1}),
    "index": (["--label", 1], {"label": 1}),
    "several": (["--label", "2, none,shoe"], {"label": [2, 3, 0]}),
    "guidance": (["--guidance", 2.5], {"guidance": 2.5}),
    "no guidance": (["--guidance", 0], {"label": "none"}),
    "interval": (["--guidance", "3@10-30"], {"guidance": Guidance(3.0, (10, 30))}),
    "numbers": (["--input", "v=0.5,1"], {"inputs": {"v": [0.5, 1.0]}}),
    "more numbers": (["--input", "v=0.5,1,2,3"], {"inputs": {"v": [[0.5, 1.0], [2.0, 3.0]]}}),
    "array": (["--input", "v=v.npy"], {"inputs": {"v": [[0.5, 1.0], [2.0, 3.0], [4.0, 5.0]]}}),
    "picture": (["--input", "low_res=low.png"], {"inputs": {"low_res": LOW_VALUES}}),
    "deep": (["--input", "deep=deep.npy", "--input", "y=coat"], {"label": 2, "inputs": {"deep": np.ones((2, 1, 1))}}),
}


@pytest.mark.parametrize("case", CASES)
def test_each_option_does_what_the_library_does(model, case, monkeypatch):
    arguments, settings = CASES[case]
    monkeypatch.chdir(model.parent)
    ending = run_here(main, model, "--seed", 3, "--n", 5, "--out", "a.npy", *arguments)
    assert ending.code == 0, ending
    wanted = generate(model, seed=3, n=5, **settings)
    np.testing.assert_array_equal(np.load("a.npy"), wanted)
    assert (case == "nothing") == np.array_equal(wanted, generate(model, seed=3, n=5))


def text_of(path):
    with Image.open(path) as image:
        return json.loads(image.text["ddpm_export"])


def test_pictures_say_what_they_were_told(model, tmp_path):
    arguments = ["--label", "coat,none", "--guidance", "2@10-30", "--input", "v=1,2", "--n", 3]
    ending = run_here(main, model, "--out", tmp_path / "a.png", *arguments, "--json")
    asked = {"label": ["coat", "none"], "guidance": 2.0, "guidance_interval": [10, 30], "inputs": {"v": [[1.0, 2.0]]}}
    for found in (json.loads(ending.out), text_of(tmp_path / "a.png")):
        assert {name: found[name] for name in asked} == asked
    run_here(main, model, "--out", tmp_path / "folder", *arguments)
    assert [text_of(tmp_path / "folder" / f"{k:06d}.png")["label"] for k in range(3)] == ["coat", "none", "coat"]


@pytest.mark.parametrize("first", [0, 4])
def test_each_label_is_a_row_with_its_name(model, tmp_path, first):
    arguments = [model, "--each-label", "--n", 6, "--first", first, "--seed", 3]
    assert run_here(main, *arguments, "--out", tmp_path / "a.png").code == 0
    images = generate(model, seed=3, n=6, first=first)
    in_rows = images[np.argsort([(first + k) % 3 for k in range(6)], kind="stable")]
    pixels = np.asarray(Image.open(tmp_path / "a.png"))
    assert pixels.shape[0] == 18
    np.testing.assert_array_equal(pixels[:, -10:], grid(in_rows, LABEL.classes)[:, -10:, 0])
    for row in range(3):
        np.testing.assert_array_equal(pixels[6 * row : 6 * row + 6, -5:], in_rows[2 * row + 1, ..., 0])
    names = pixels[:, :-10].reshape(3, 6, -1)
    assert names.any(axis=(1, 2)).all(), "each row has a name"
    assert (names[0] != names[2]).any()
    assert run_here(main, *arguments, "--out", tmp_path / "a.npy").code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), images, "an array is in the order of numbers")
    assert run_here(main, *arguments, "--out", tmp_path / "a.gif").code == 0
    with Image.open(tmp_path / "a.gif") as image:
        assert image.size == pixels.shape[::-1]


def test_ten_of_each_label_unless_said_otherwise(model, tmp_path):
    for arguments, n in (([], 30), (["--label", "coat,none"], 20)):
        assert run_here(main, model, "--each-label", *arguments, "--out", tmp_path / "a.png").code == 0
        assert text_of(tmp_path / "a.png")["n"] == n


def test_the_interval_alone_keeps_the_models_scale(tmp_path):
    spec = tiny_spec(
        inputs=(LABEL,), requires=("inputs", "guidance"), defaults=Defaults(num_steps=4, guidance=Guidance(2.5))
    )
    (tmp_path / "m.onnx").write_bytes(told_model(spec))
    ending = run_here(main, tmp_path / "m.onnx", "--guidance", "@3-20.5", "--out", tmp_path / "a.npy", "--json")
    asked = json.loads(ending.out)
    assert (asked["guidance"], asked["guidance_interval"]) == (2.5, [3, 20.5])


REFUSED = [
    (["--label", "hat"], "must be one of shoe, bag, large, coat or its index from 0 to 2, got 'hat'"),
    (["--label", "0,7"], "must be one of shoe"),
    (["--label", "shoe,"], "must be one of shoe"),
    (["--label", "0", "--input", "y=1"], "Give --label or the input 'y', not both"),
    (["--each-label", "--n", 4], "--n must be a multiple of 3, the number of labels, with --each-label, got 4"),
    (["--guidance", "-1"], "guidance must be a number from 0 to 100, got -1.0"),
    (["--guidance", "nan"], "guidance must be a number from 0 to 100, got nan"),
    (["--guidance", "@1-2"], "--guidance @1-2 needs a scale"),
    (["--guidance", "2@5-1"], "must be two times, the lower first"),
    (["--input", "v"], "--input must be given as KEY=VALUE, got 'v'"),
    (["--input", "w=1"], "The model has no input 'w'; it has y, v, low_res, deep"),
    (["--input", "v=a,b"], "--input v must be numbers or an .npy, got 'a,b'"),
    (["--input", "v=1,2,3"], r"Input 'v' must have shape (2,) or (K, 2), got float64 (3,)"),
    (["--input", "v=nan,1"], "Input 'v' must be finite"),
    (["--input", "deep=x.png"], "--input deep has 2 channels and must be an .npy, got 'x.png'"),
]


@pytest.mark.parametrize(("arguments", "named"), REFUSED)
def test_what_cannot_be_told_is_refused(model, tmp_path, arguments, named):
    ending = run_here(main, model, "--out", tmp_path / "x.png", *arguments)
    assert_refused(ending, 2, named)
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize(("text", "named"), [("low_res=x.png", "x.png"), ("v=x.npy", "x.npy is not an array")])
def test_files_that_cannot_be_read(model, tmp_path, text, named, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_refused(run_here(main, model, "--out", "a.png", "--input", text), 3, named)


def test_an_archive_of_arrays_is_no_array(model, tmp_path):
    np.savez(tmp_path / "x.npz", np.zeros(3))
    (tmp_path / "x.npz").rename(tmp_path / "x.npy")
    ending = run_here(main, model, "--out", tmp_path / "a.png", "--input", f"v={tmp_path / 'x.npy'}")
    assert_refused(ending, 3, "x.npy is not an array")


@pytest.mark.parametrize("arguments", [["--label", "shoe"], ["--each-label"]])
def test_a_network_without_classes_has_no_labels(tmp_path, arguments):
    (tmp_path / "m.onnx").write_bytes(mix_model())
    ending = run_here(main, tmp_path / "m.onnx", "--out", tmp_path / "a.png", *arguments)
    assert_refused(ending, 2, "does not apply")
