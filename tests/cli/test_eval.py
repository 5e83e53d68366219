import json
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import assert_refused, run_here
from models import GREY, extractor_file, mix_model, tiny_spec, told_model
from PIL import Image

from ddpm_export.cli.eval import main
from ddpm_export.cli.scores import Source, source_from_text
from ddpm_export.model.inputs import Input
from ddpm_export.model.steps import plan
from ddpm_export.runtimes.onnx import open_extractor
from ddpm_export.sampling.generate import generate
from ddpm_export.scoring.datasets import dataset
from ddpm_export.scoring.datasets import readers as datasets
from ddpm_export.scoring.datasets.readers import READERS
from ddpm_export.scoring.scores import features_of
from ddpm_export.system.files import sha256_of

ROOT = Path(__file__).resolve().parents[2]


def images_of(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *GREY[1:], 1), dtype=np.uint8)


@pytest.fixture
def place(tmp_path):
    """A folder with a model, an extractor and a reference set of 120 images."""
    (tmp_path / "m.onnx").write_bytes(mix_model())
    (tmp_path / "e.onnx").write_bytes(extractor_file())
    (tmp_path / "real").mkdir()
    for number, image in enumerate(images_of(120)):
        Image.fromarray(image[..., 0]).save(tmp_path / "real" / f"{number:03d}.png")
    return tmp_path


def evaluated(place, *arguments):
    usual = ("--data", place / "real", "--extractor", place / "e.onnx", "--cache", place / "cache")
    return run_here(main, place / "m.onnx", *usual, *arguments)


def test_a_score_names_what_it_is_of(place):
    ending = evaluated(place, "--n", 150, "--steps", 3, "--seed", 2, "--metrics", "is,fid,kid,pr", "--json")
    assert ending.code == 0, ending
    facts = json.loads(ending.out)
    assert (facts["n"], facts["reference"], facts["extractor"]) == (150, "real, 120 images", "e.onnx")
    assert (facts["sampler"], facts["num_steps"], facts["seed"]) == ("ddim", 3, 2)
    assert len(facts["extractor_sha256"]) == len(facts["model_sha256"]) == 64
    assert facts["fid"] > 0
    assert {"precision", "coverage"} < facts["pr"].keys()
    # the same images, from a file
    np.save(place / "a.npy", generate(place / "m.onnx", n=150, num_steps=3, seed=2))
    again = json.loads(evaluated(place, "--samples", place / "a.npy", "--metrics", "fid", "--json").out)
    assert again["fid"] == facts["fid"]
    assert again["n"] == 150
    assert "num_steps" not in again
    assert "model" not in again  # nothing of it was scored
    first = json.loads(evaluated(place, "--samples", place / "a.npy", "--n", 120, "--metrics", "fid", "--json").out)
    assert first["n"] == 120
    # a folder, here the reference itself
    same = json.loads(evaluated(place, "--samples", place / "real", "--metrics", "fid", "--json").out)
    assert same["fid"] == pytest.approx(0.0, abs=1e-9)


def test_a_score_on_a_grid_and_of_a_plan(place):
    spec = tiny_spec()
    (place / "m.onnx").write_bytes(mix_model(replace(spec, plans={"short": plan(spec, num_steps=3, sampler="unipc")})))
    how = ("--n", 20, "--metrics", "fid", "--json")
    facts = json.loads(evaluated(place, *how, "--sampler", "unipc:order=2,grid=karras", "--steps", 3).out)
    assert (facts["grid"], facts["sampler"], facts["order"], facts["num_steps"]) == ("karras", "unipc", 2, 3)
    facts = json.loads(evaluated(place, *how, "--plan", "short").out)
    assert (facts["plan"], facts["n"]) == ("short", 20)
    assert "sampler" not in facts
    assert facts["fid"] == json.loads(evaluated(place, *how, "--sampler", "unipc", "--steps", 3).out)["fid"]
    assert facts["fid"] != json.loads(evaluated(place, *how, "--sampler", "ddim", "--steps", 3).out)["fid"]
    assert_refused(evaluated(place, *how, "--plan", "long"), 2, "short")


def test_real_images_beside_others_are_the_floor(place, monkeypatch):
    parts = {True: images_of(50, 1), False: images_of(30, 2)}
    inner = datasets.open_dataset

    def opened(name, *more, train, **changes):
        if name == "folder":
            return inner(name, *more, train=train, **changes)
        return datasets.Dataset("f", parts[train], None, None)

    monkeypatch.setattr(datasets, "open_dataset", opened)
    floor = json.loads(evaluated(place, "--samples", "fashion-mnist:test", "--metrics", "kid", "--json").out)
    assert (floor["samples"], floor["n"]) == ("fashion-mnist:test", 30)
    np.save(place / "test.npy", parts[False])
    again = json.loads(evaluated(place, "--samples", place / "test.npy", "--metrics", "kid", "--json").out)
    assert floor["kid"] == again["kid"]
    usual = ("--extractor", place / "e.onnx", "--cache", place / "cache", "--metrics", "fid", "--json")
    own = json.loads(run_here(main, place / "m.onnx", *usual, "--samples", "fashion-mnist:train").out)
    assert own["reference"] == "f train, 50 images"
    assert own["fid"] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("name", READERS)
def test_every_data_set_is_a_reference_and_what_is_scored(place, name, monkeypatch):
    reader = READERS[name]
    where = f"{name}:{place / 'real'}" if reader.needs_place else name
    parts = {True: images_of(50, 1), False: images_of(30, 2)}
    seen = []

    def read(folder, shape, train):
        seen.append((folder, shape))
        return datasets.Dataset(name, parts[train], None, None)

    monkeypatch.setitem(READERS, name, reader._replace(read=read))
    usual = ("--extractor", place / "e.onnx", "--cache", place / "cache", "--metrics", "kid", "--json")

    def scored(*arguments):
        ending = run_here(main, place / "m.onnx", *usual, *arguments)
        assert ending.code == 0, ending
        return json.loads(ending.out)

    found = scored("--data", where, "--samples", f"{where}:test" if reader.has_splits else where)
    assert found["reference"] == f"{name}{' train' if reader.has_splits else ''}, 50 images"
    assert found["n"] == (30 if reader.has_splits else 50)
    if reader.has_splits:
        test = scored("--data", f"{where}:test", "--samples", f"{where}:train")
        assert (test["reference"], test["n"]) == (f"{name} test, 30 images", 50)
    assert set(seen) == {(str(place / "real") if reader.needs_place else None, GREY)}


def test_more_images_than_fit_into_memory_are_a_reference(place, monkeypatch):
    usual = ("--samples", place / "real", "--metrics", "fid,bits", "--n", 7, "--json")
    whole = evaluated(place, *usual, "--cache", place / "a").out
    monkeypatch.setattr(dataset, "MAX_ARRAY_BYTES", 0)
    assert evaluated(place, *usual, "--cache", place / "b").out == whole
    (place / "real" / "broken.png").write_bytes(b"no picture")
    monkeypatch.undo()
    found = json.loads(evaluated(place, "--metrics", "kid", "--json").out)["reference"]
    assert found == "real, 120 images, 1 broken"


def test_the_extractor_of_the_package_is_used_where_none_is_named(place, monkeypatch):
    place.joinpath("m28.onnx").write_bytes(mix_model(tiny_spec((1, 28, 28))))
    monkeypatch.chdir(place)  # no exported/ here
    ending = run_here(main, "m28.onnx", "--data", "real", "--n", 4, "--steps", 1, "--metrics", "fid", "--json")
    assert ending.code == 0, ending
    assert json.loads(ending.out)["extractor_sha256"] == sha256_of(ROOT / "exported" / "extractor.onnx")


def test_bits_with_all_times_and_with_some(place):
    whole = json.loads(evaluated(place, "--metrics", "bits", "--n", 8, "--curve", place / "c.csv", "--json").out)[
        "bits"
    ]
    assert (whole["images"], whole["times"], whole["strata_error"]) == (8, 40, 0.0)
    rows = (place / "c.csv").read_text().splitlines()
    assert rows[0] == "t,bits_per_dimension,rate,rate_error,rmse,rmse_error"
    assert [int(row.split(",")[0]) for row in rows[1:]] == list(range(40))
    total = whole["prior"] + sum(float(row.split(",")[1]) for row in rows[1:])
    assert total == pytest.approx(whole["mean"], rel=1e-9)
    some = json.loads(evaluated(place, "--metrics", "bits", "--n", 8, "--t-stride", 5, "--json").out)["bits"]
    assert some["times"] == 9
    assert 0.0 < some["strata_error"] < some["standard_error"]
    entry = json.loads(evaluated(place, "--metrics", "bits", "--n", 1, "--json").out)["bits"]
    assert entry["standard_error"] is None
    text = evaluated(place, "--metrics", "bits", "--n", 8)
    assert "bits.standard_error" in text.out


def claiming(shape):
    """Return what writes an .npy file whose header claims a shape, and which holds nothing."""

    def write(path):
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})

    return write


def write_archive(path):
    with path.open("wb") as file:
        np.savez(file, np.zeros((3, 6, 5, 1), np.uint8))


ODD_SAMPLES = {
    "an archive": write_archive,
    "empty": lambda path: path.write_bytes(b""),
    "beyond all counting": claiming((2**70, 6, 5, 1)),
    "beyond all memory": claiming((2**40, 6, 5, 1)),
    "a pipe": os.mkfifo,
}


def test_rate_with_its_curve_and_strip(place):
    paths = ("--curve", place / "c.csv", "--strip", place / "s.png")
    ending = evaluated(place, "--metrics", "bits,rate", "--n", 3, *paths, "--json")
    found = json.loads(ending.out)
    rate = found["rate"]
    assert rate["L_0"] + rate["L_1:T"] == pytest.approx(found["bits"]["mean"])
    assert [cost["messages"] for cost in rate["coder"]] == [10, 20]
    assert all(cost["cost"] > cost["kl"] for cost in rate["coder"])
    first = (place / "c.csv").read_text().splitlines()[1].split(",")
    assert (float(first[2]), float(first[4])) == (rate["L_1:T"], rate["rmse"])
    with Image.open(place / "s.png") as strip:
        height, width, _ = (*GREY[1:], 1)
        assert strip.size == (12 * width, 3 * height)
        shown = np.asarray(strip).reshape(3, height, 12, width)[:, :, -1]
    np.testing.assert_array_equal(shown, images_of(120)[:3, ..., 0])
    text = evaluated(place, "--metrics", "rate", "--n", 3, "--t-stride", 5).out
    assert "rate.L_0" in text
    assert "bits.mean" not in text
    assert "coder" not in text
    assert "messages 20  kl " in evaluated(place, "--metrics", "rate", "--n", 2).out


def test_likelihood_alone_and_beside_the_bound(place):
    found = json.loads(evaluated(place, "--metrics", "likelihood", "--n", 3, "--steps", 6, "--json").out)
    assert (found["likelihood"]["images"], found["likelihood"]["steps"]) == (3, 6)
    assert math.isfinite(found["likelihood"]["mean"])
    assert "bits" not in found
    both = json.loads(evaluated(place, "--metrics", "likelihood,bits", "--n", 3, "--steps", 6, "--json").out)
    assert both["likelihood"] == found["likelihood"]
    assert both["bits"]["images"] == 3


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (
            ["--metrics", "lpips"],
            2,
            "must be some of is, fid, kid, pr, accuracy, class_fid, bits, rate, likelihood, got",
        ),
        (["--metrics", "bits", "--strip", "s.png"], 2, "--strip must end in .png and needs --metrics rate"),
        (["--data", "noto-emoji:real:train"], 2, "--data noto-emoji:real:train names a split, but noto-emoji has none"),
        (["--data", "cifar10"], 2, "--data cifar10 needs its folder or file. Write cifar10:PLACE."),
        *(
            (
                ["--metrics", "bits", "--n", n],
                2,
                f"--n must be between 1 and 120, the number of images in the reference, got {n}.",
            )
            for n in ("0", "121")
        ),
        (["--extractor", "none.onnx"], 3, "none.onnx"),
        (["--samples", "none.npy"], 3, "none.npy"),
        (["--samples", "fashion-mnist:test"], 3, "the network takes (6, 5, 1)"),
        (["--samples", "no images.npy"], 3, "must hold uint8 (N, 6, 5, 1), got uint8 (0, 6, 5, 1)"),
        *((["--samples", f"{odd}.npy"], 3, f"{odd}.npy is neither an .npy file nor a folder") for odd in ODD_SAMPLES),
        (["--samples", "x" * 300], 3, "File name too long"),
        (["--data", "x" * 300], 3, "File name too long"),
        (
            ["--samples", "real", "--n", "121"],
            2,
            "--n must be between 1 and 120, the number of images in --samples, got 121.",
        ),
        (["--metrics", "bits", "--curve", "c.png"], 2, "--curve must end in .csv, got 'c.png'."),
        (["--data", "nowhere"], 3, "nowhere"),
        (["--n", "0"], 2, "n must be at least 1, got 0."),
        (["--provider", "cuda"], 5, "cuda"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(place, arguments, code, words, monkeypatch):
    monkeypatch.chdir(place)
    np.save("no images.npy", np.zeros((0, 6, 5, 1), np.uint8))
    for name, write in ODD_SAMPLES.items():
        if not (place / f"{name}.npy").exists():
            write(place / f"{name}.npy")
    assert_refused(evaluated(place, *arguments), code, words)


@pytest.fixture
def classed(place):
    """The same with a model of three classes, and a reference whose images lie in folders called as they are."""
    label = Input("y", "label", none=3, classes=("bag", "coat", "shoe"))
    spec = tiny_spec(inputs=(label,), requires=("inputs",), clip_x_0=None)
    (place / "m.onnx").write_bytes(told_model(spec))
    for number, image in enumerate(sorted((place / "real").glob("*.png"))):
        folder = place / "real" / label.classes[number % 3]
        folder.mkdir(exist_ok=True)
        image.rename(folder / image.name)
    return place


def test_classes_are_asked_for_in_turn_and_scored(classed):
    options = ("--n", 60, "--steps", 2, "--metrics", "accuracy,class_fid", "--json")
    facts = json.loads(evaluated(classed, *options).out)
    assert facts["label"] == ["bag", "coat", "shoe"]
    assert set(facts["class_fid"]) == set(facts["accuracy"]) == {"mean", "bag", "coat", "shoe"}
    opened = open_extractor(classed / "e.onnx", GREY, "cpu", None)
    images = generate(classed / "m.onnx", n=60, num_steps=2, seed=0)
    _, logits = features_of(images, opened, "", None, lambda *_: None)
    seen = logits.argmax(axis=1) == np.arange(60) % 3
    assert facts["accuracy"]["mean"] == pytest.approx(seen.mean())
    guided = json.loads(evaluated(classed, *options, "--guidance", "4@0-30").out)
    assert (guided["guidance"], guided["guidance_interval"]) == (4.0, [0, 30])
    assert guided["class_fid"] != facts["class_fid"]
    entry = json.loads(evaluated(classed, *options, "--label", "coat,none").out)
    assert set(entry["class_fid"]) == {"mean", "coat"}
    bits = json.loads(evaluated(classed, "--metrics", "bits", "--n", 3, "--json").out)["bits"]
    assert bits["images"] == 3
    # real images by their own labels: what a classifier sees at best
    real = json.loads(evaluated(classed, "--samples", classed / "real", *options[4:]).out)
    assert real["accuracy"].keys() == facts["accuracy"].keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--label", "hat"], "must be one of bag, coat, shoe"),
        (["--label", "none", "--metrics", "accuracy"], "accuracy needs images of known classes"),
        (["--metrics", "accuracy", "--samples", "a.npy"], "accuracy needs images of known classes"),
    ],
)
def test_classes_that_cannot_be_scored(classed, arguments, message, monkeypatch):
    monkeypatch.chdir(classed)
    np.save("a.npy", images_of(5))
    assert_refused(evaluated(classed, "--n", 5, "--steps", 2, *arguments), 2, message)


def test_a_reference_of_other_classes_is_refused(classed):
    (classed / "real" / "bag").rename(classed / "real" / "cap")
    ending = evaluated(classed, "--n", 6, "--steps", 2, "--metrics", "class_fid")
    assert_refused(ending, 2, "The classes of real must be the images' bag, coat, shoe, got cap, coat, shoe.")


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_folder_of_the_idx_files_is_that_data_set(tmp_path, ending):
    assert source_from_text("--data", str(tmp_path)) == Source("folder", str(tmp_path), None)
    (tmp_path / f"train-images-idx3-ubyte{ending}").touch()
    assert source_from_text("--data", str(tmp_path)) == Source("fashion-mnist", str(tmp_path), "train")
