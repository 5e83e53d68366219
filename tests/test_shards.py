"""A set of many pictures: the same from every format, engine and number of shards, however often it is stopped."""

import dataclasses
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from commands import assert_refused, command_line, run_here
from models import extractor_file, mix_model, tiny_spec, told_model
from PIL import Image

from ddpm_export import Input, generate, open_model
from ddpm_export.cli.dataset import main
from ddpm_export.cli.eval import main as evaluate
from ddpm_export.errors import BadFileError, EnvironmentProblem
from ddpm_export.scoring.datasets.readers import open_dataset
from ddpm_export.sets import job as jobs
from ddpm_export.sets import on_ray
from ddpm_export.sets.formats import FORMATS, digest_of, hexadecimal

LABEL = Input("y", "label", none=3, classes=("shoe", "bag", "hat"))
ASKED = ["--n", 23, "--first", 5, "--seed", 3, "--label", "bag,none,shoe", "--batch", 4]
NUMBERS, CYCLE = range(5, 28), [1, 3, 0]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.onnx"
    path.write_bytes(told_model(tiny_spec(inputs=(LABEL,), requires=("inputs",))))
    return path


@pytest.fixture(scope="module")
def expected(model):
    return generate(model, n=23, first=5, seed=3, label=["bag", "none", "shoe"])


def made(model, out, *arguments):
    ending = run_here(main, "make", model, *ASKED, "--out", out, "--format", "npy", "--json", *arguments)
    assert ending.code == 0, ending
    return json.loads(ending.out)


def labels_of(numbers):
    return [CYCLE[number % 3] for number in numbers]


@pytest.fixture(scope="module")
def sets(model, tmp_path_factory):
    """{format: (folder, its facts)} of the same pictures, in other numbers of shards."""
    place = tmp_path_factory.mktemp("sets")
    shards = zip(FORMATS, (1, 4, 5, 23), strict=True)
    return {name: (place / name, made(model, place / name, "--format", name, "--shards", k)) for name, k in shards}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_holds_the_pictures_of_one_call_and_the_same_digest(sets, expected, name):
    folder, facts = sets[name]
    data = open_dataset("shards", folder, image_shape=(1, 6, 5))
    np.testing.assert_array_equal(data.images[:], expected)
    np.testing.assert_array_equal(data.images[[20, 0, 7]], expected[[20, 0, 7]])
    assert (data.labels.tolist(), data.classes) == (labels_of(NUMBERS), ("shoe", "bag", "hat", "none"))
    assert facts["digest"] == hexadecimal(digest_of(NUMBERS, expected, labels_of(NUMBERS)))
    assert facts["files"] == facts["shards"] == {"parquet": 1, "tar": 4, "npy": 5, "png": 23}[name]
    assert (facts["made"], facts["settings"]["seed"]) == (23, 3)


def test_a_digest_sees_pixels_labels_and_order_and_adds_up(expected):
    def digest(pixels, labels):
        return digest_of(NUMBERS, pixels, labels)

    whole = digest(expected, labels_of(NUMBERS))
    parts = [
        digest_of(part, expected[part.start - 5 :][: len(part)], labels_of(part))
        for part in (range(5, 9), range(9, 28))
    ]
    assert sum(parts) % 2**256 == whole
    other = expected.copy()
    other[3, 0, 0] ^= 1
    others = {digest(other, labels_of(NUMBERS)), digest(expected[::-1], labels_of(NUMBERS)), digest(expected, [])}
    assert len(others | {whole}) == 4


BY_DATASETS = """
import sys, numpy as np, datasets
found = datasets.load_dataset(sys.argv[2], split="train", cache_dir=sys.argv[3])
np.save(sys.argv[1], np.stack([np.asarray(row["image"]) for row in found]))
print(found.features["label"].int2str(found[0]["label"]), type(found.features["image"]).__name__)
"""
BY_WEBDATASET = """
import sys, numpy as np, webdataset
found = list(webdataset.WebDataset(sys.argv[2:], shardshuffle=False).decode("l8"))
np.save(sys.argv[1], np.stack([sample["png"] for sample in found]))
print(*[int(sample["__key__"]) for sample in found], *[sample["cls"] for sample in found])
"""


def read_by(code, tmp_path, *arguments):
    """Return what a program prints that reads a set, and the pictures that it saves."""
    line = [sys.executable, "-c", code, tmp_path / "a.npy", *arguments]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split(), np.load(tmp_path / "a.npy")


def test_parquet_is_read_by_pyarrow_and_datasets(sets, expected, tmp_path, monkeypatch):
    folder, _ = sets["parquet"]
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(folder / "00000-of-00001.parquet").to_pydict()
    assert (table["number"], table["label"]) == (list(NUMBERS), labels_of(NUMBERS))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(table["image"][4]["bytes"]))), expected[4, ..., 0])
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    printed, pixels = read_by(BY_DATASETS, tmp_path, folder, tmp_path / "cache")
    assert printed == ["shoe", "Image"]
    np.testing.assert_array_equal(pixels, expected[..., 0])


def test_a_tar_is_read_by_webdataset(sets, expected, tmp_path):
    printed, pixels = read_by(BY_WEBDATASET, tmp_path, *sorted(sets["tar"][0].glob("*.tar")))
    assert list(map(int, printed)) == [*NUMBERS, *labels_of(NUMBERS)]
    np.testing.assert_array_equal(pixels, expected[..., 0])


def test_a_stopped_set_continues_and_ends_the_same(sets, model, tmp_path, monkeypatch):
    whole = (sets["npy"][0] / "manifest.json").read_bytes()
    asked = ["--format", "npy", "--shards", 5]
    real, left = jobs.pictures, iter([0] * 18)

    def stopping(*arguments):
        for found in real(*arguments):
            if next(left, None) is None:
                raise KeyboardInterrupt
            yield found

    monkeypatch.setattr(jobs, "pictures", stopping)
    assert run_here(main, "make", model, *ASKED, "--out", tmp_path / "a", *asked).code == 130
    assert not (tmp_path / "a" / "manifest.json").exists()
    monkeypatch.setattr(jobs, "pictures", real)
    without_seed = [word for word in ASKED if word not in ("--seed", 3)]
    (tmp_path / "a" / "00000-of-00005.npy").write_bytes(b"cut off")
    ending = run_here(main, "make", model, *without_seed, "--out", tmp_path / "a", *asked, "--json")
    assert ending.code == 0, ending
    assert json.loads(ending.out)["made"] == 4 + 5 + 5
    assert (tmp_path / "a" / "manifest.json").read_bytes() == whole
    assert made(model, tmp_path / "a", *asked)["made"] == 0
    assert [path.name for path in (tmp_path / "a").rglob("*part*")] == []


def test_another_set_model_or_machine_is_refused(sets, model, tmp_path, monkeypatch):
    folder, other = tmp_path / "copy", tmp_path / "other.onnx"
    shutil.copytree(sets["npy"][0], folder)
    usual = ["--out", folder, "--format", "npy", "--shards", 5]
    cases = {
        "--seed 3, not 4": (model, ["--seed", 4]),
        "--n 23, not 24": (model, ["--n", 24]),
        "--shards 5, not 6": (model, ["--shards", 6]),
        "--format 'npy', not 'png'": (model, ["--format", "png"]),
        "--steps 4, not 5": (model, ["--steps", 5]),
        "labels": (model, ["--label", "hat"]),
    }
    for words, (which, arguments) in cases.items():
        assert_refused(run_here(main, "make", which, *ASKED, *usual, *arguments), 2, words, "Choose another folder.")
    spec = tiny_spec(inputs=(LABEL,), requires=("inputs",), source={"importer": "own"})
    other.write_bytes(told_model(spec))
    assert_refused(run_here(main, "make", other, *ASKED, *usual), 2, "model_sha256")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("a year's work")
    assert_refused(
        run_here(main, "make", model, *ASKED, *usual, "--out", tmp_path / "mine"),
        2,
        "--out must be an empty folder or a set of pictures",
    )

    begun = jobs.begin(model, open_model(model)[1], folder, asked_of(seed=3), format="npy", shards=5)
    monkeypatch.setattr(jobs, "instructions", lambda: "a390 vfma")
    assert_refused(run_here(main, "make", model, *ASKED, *usual), 2, "instructions", "a390 vfma", "--mixed")
    with pytest.raises(EnvironmentProblem, match="a390 vfma"):
        jobs.opened_for(begun)
    with pytest.raises(BadFileError, match="not the file"):
        jobs.opened_for(dataclasses.replace(begun, model=str(other)))
    next(folder.glob("*.npy")).unlink()
    facts = made(model, folder, "--shards", 5, "--mixed")
    assert [machine["instructions"] == "a390 vfma" for machine in facts["machines"]].count(True) == 1
    assert len(facts["machines"]) == 2


def asked_of(**changes):
    return {"n": 23, "first": 5, "label": ["bag", "none", "shoe"], "batch": 4, **changes}


def test_options_that_make_no_sense_are_refused(model, tmp_path):
    usual = ["make", model, "--n", 4, "--out", tmp_path / "a"]
    cases = {
        "must be one of": ["--format", "gif"],
        "--shards must be between 1 and 4": ["--shards", 5],
        "--engine must be process or ray": ["--engine", "spark"],
        "--each-label": ["--each-label"],
    }
    for words, arguments in cases.items():
        assert_refused(run_here(main, *usual, *arguments), 2, words)
    seven = tmp_path / "seven.onnx"
    seven.write_bytes(mix_model(tiny_spec((7, 4, 4))))
    assert_refused(
        run_here(main, "make", seven, "--n", 4, "--out", tmp_path / "a", "--format", "png"), 2, "must be npy"
    )
    assert not list((tmp_path / "a").glob("*.npy"))


def test_a_shard_that_was_changed_is_not_read(model, tmp_path):
    made(model, tmp_path / "a", "--shards", 2)
    path = tmp_path / "a" / "00001-of-00002.npy"
    pixels = np.load(path)
    pixels[3, 2, 2] ^= 1
    np.save(path, pixels)
    images = open_dataset("shards", tmp_path / "a", image_shape=(1, 6, 5)).images
    images[:11]
    with pytest.raises(BadFileError, match=r"00001-of-00002.npy holds other pictures"):
        images[11:12]
    (tmp_path / "a" / "manifest.json").unlink()
    with pytest.raises(BadFileError, match="No such file"):
        open_dataset("shards", tmp_path / "a", image_shape=(1, 6, 5))


def test_without_their_packages_one_line_says_so(model, tmp_path, monkeypatch):
    for package, arguments in {
        "pyarrow": ["parquet"],
        "webdataset": ["tar"],
        "ray": ["npy", "--engine", "ray"],
    }.items():
        monkeypatch.setitem(sys.modules, package, None)
        ending = run_here(main, "make", model, "--n", 2, "--out", tmp_path / package, "--format", *arguments)
        assert_refused(ending, 5, f"{package} is not installed")


def ray_workers(driver):
    """Return the process ids of the workers that hold a model in the cluster that a driver began."""
    parents, titles = {}, {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            titles[int(place.name)] = (place / "cmdline").read_bytes()
        except OSError:
            continue
    workers = [pid for pid, title in titles.items() if title.startswith(b"ray::") and b"Map" in title]
    return [pid for pid in workers if parents.get(parents[pid]) == driver]


def wait_for(what, seconds=120):
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until
        time.sleep(0.02)
    return found


DATASET = "from ddpm_export.cli.dataset import main; main()"
LARGER = (3, 16, 16)
SORTED = dataclasses.replace(LABEL, classes=("bag", "hat", "shoe"))  # as folders are


@pytest.fixture(scope="module")
def scoring(tmp_path_factory):
    """A folder with a model, an extractor, a reference of the model's classes, and the words that score the one."""
    place = tmp_path_factory.mktemp("scoring")
    (place / "m.onnx").write_bytes(told_model(tiny_spec(LARGER, inputs=(SORTED,), requires=("inputs",))))
    (place / "e.onnx").write_bytes(extractor_file(LARGER))
    for number, image in enumerate(np.random.default_rng(0).integers(0, 256, (90, 16, 16, 3), dtype=np.uint8)):
        folder = place / "real" / SORTED.classes[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number:03d}.png")
    usual = ["--data", place / "real", "--extractor", place / "e.onnx", "--cache", place / "cache", "--json"]
    return place, [place / "m.onnx", *usual, "--metrics", "is,fid,kid,pr,accuracy,class_fid", "--steps", 30]


def scored(words, *options, by=(evaluate,)):
    ending = run_here(*by, *words, *options)
    assert ending.code == 0, ending
    return json.loads(ending.out)


def scored_in_shards(words, *options):
    return scored(words, *options, by=(main, "score"))


@pytest.mark.long
def test_workers_and_drivers_of_ray_that_are_killed_lose_nothing(scoring, tmp_path, monkeypatch):
    """A set is made and then scored; a worker is killed each time, and the first driver as well."""
    place, usual = scoring
    out, asked = tmp_path / "a", ["--n", 600, "--seed", 3, "--steps", 40]
    expected = scored(usual, *asked)
    assert expected["accuracy"].keys() == {"mean", *SORTED.classes}
    making = ["make", place / "m.onnx", *asked, "--shards", 40]
    assert run_here(main, *making, "--out", tmp_path / "b").code == 0
    monkeypatch.setenv("RAY_worker_niceness", "0")  # Ray would put its workers behind whatever else runs
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # of no cluster: what is not asked for is not joined
    on_workers = ["--out", out, "--engine", "ray:workers=2"]

    def begun(*line, code):
        return subprocess.Popen(command_line(*line, code=code), stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def kill_worker(driver, pattern, count):
        wait_for(lambda: len(list(out.glob(pattern))) > count)
        os.kill(wait_for(lambda: ray_workers(driver.pid))[0], signal.SIGKILL)

    with begun(*making, *on_workers, code=DATASET) as process:
        kill_worker(process, "*.npy", 1)
        wait_for(lambda: len(list(out.glob("*.npy"))) > 8)
        process.kill()
        process.communicate()
    assert not (out / "manifest.json").exists()
    with begun("score", *usual, *asked, *on_workers, code=DATASET) as process:
        kill_worker(process, ".features/*/*.npy", 3)
        facts, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert all(line.startswith(b"sampling: ") for line in errors.splitlines()), errors
    assert json.loads(facts) == expected  # no output of Ray's beside it
    assert (out / "manifest.json").read_bytes() == (tmp_path / "b" / "manifest.json").read_bytes()
    assert not list(out.rglob("*part*"))
    monkeypatch.setitem(sys.modules, "ray", None)  # nothing is left to make
    assert scored_in_shards(usual, *asked, *on_workers) == expected
    next(out.glob("*.npy")).unlink()
    assert_refused(run_here(main, "score", *usual, *asked, *on_workers), 5, "ray is not installed", "ddpm-export[ray]")


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_set_on_ray_that_is_interrupted_leaves_no_file_and_no_process(scoring, tmp_path, monkeypatch, number):
    place, _ = scoring
    out = tmp_path / "a"
    monkeypatch.setenv("RAY_worker_niceness", "0")
    making = ["make", place / "m.onnx", "--n", 6000, "--steps", 40, "--shards", 3, "--out", out]
    line = command_line(*making, "--engine", "ray:workers=2", code=DATASET)
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        wait_for(lambda: list(out.glob(".*part*")))
        workers = wait_for(lambda: ray_workers(process.pid))
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.splitlines()[-1]) == (130, b"stopped.")
    assert not list(out.rglob("*part*"))
    assert not [pid for pid in workers if (Path("/proc") / str(pid) / "cmdline").exists()]


def test_a_set_that_is_scored_is_found_again_in_the_cache(scoring, monkeypatch):
    place, usual = scoring
    made = []

    def make_here(begin, todo, *, workers, address, report):
        make = begin(1)
        for shard in todo:
            make(shard)
            made.append(shard)
            report(shard)

    def sets():
        return sorted(path.parent for path in place.glob("cache/sets/*/manifest.json"))

    def times():
        return {path: path.stat().st_mtime_ns for path in sets()[0].glob("*.npy")}

    monkeypatch.setattr(on_ray, "make_on_ray", make_here)
    on_workers = [*usual, "--n", 250, "--engine", "ray"]
    expected = scored(usual, "--n", 250)
    assert scored_in_shards(on_workers) == expected
    assert scored_in_shards(on_workers) == expected
    assert made == [0, 1, 2]
    (folder,) = sets()
    assert open_dataset("shards", folder, image_shape=LARGER).images.shape == (250, 16, 16, 3)
    by_class = {name: expected[name] for name in ("accuracy", "class_fid")}
    assert scored(usual, "--samples", folder).items() > by_class.items()
    since = times()
    (place / "other.onnx").write_bytes(extractor_file(LARGER, dimensions=7))
    other = ["--extractor", place / "other.onnx"]
    assert scored_in_shards(on_workers, *other) == scored(usual, "--n", 250, *other) != expected
    assert (made, times()) == ([0, 1, 2, 0, 1, 2], since)  # of pictures that are there, features were made
    for changes in (["--seed", 4], ["--mixed"], ["--n", 251]):
        scored_in_shards(on_workers, *changes)
    assert len(sets()) == 4
    shard = folder / "00001-of-00003.npy"
    pixels = np.load(shard)
    pixels[7, 2, 2] ^= 1
    np.save(shard, pixels)
    shutil.rmtree(folder / ".features")
    assert_refused(run_here(main, "score", *on_workers), 3, shard.name, "holds other pictures")


def test_a_set_is_made_and_scored_in_this_process_too(scoring, tmp_path):
    _, usual = scoring
    expected = scored(usual, "--n", 250, "--seed", 9)
    assert scored_in_shards(usual, "--n", 250, "--seed", 9, "--out", tmp_path / "a") == expected
    assert len(list((tmp_path / "a").glob("*.npy"))) == 3


def test_options_of_scoring_that_make_no_sense_are_refused(scoring):
    for words, arguments in {
        "--engine must be process or ray": ["--engine", "spark"],
        "--metrics must be some of": ["--metrics", "bits"],
        "--data cifar10 needs its folder or file": ["--data", "cifar10"],
    }.items():
        assert_refused(run_here(main, "score", *scoring[1], *arguments), 2, words)
