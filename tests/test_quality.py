"""The quality benchmark on a tiny model: every row is there, kept, and of the images it says."""

import json

import numpy as np
import pytest
from models import GREY, extractor_file, mix_model, tiny_spec

import ddpm_export.exporting.export
import ddpm_export.importers.load
from benchmarks import quality
from ddpm_export import open_model
from ddpm_export.errors import BadFileError, UsageError
from ddpm_export.model.spec import Defaults
from ddpm_export.model.steps import plan
from ddpm_export.sampling.generate import generate
from ddpm_export.scoring import scores as scoring
from ddpm_export.scoring.datasets import readers as datasets
from train.pages import BEGIN, END


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "m.onnx").write_bytes(mix_model())
    (tmp_path / "e.onnx").write_bytes(extractor_file())
    (tmp_path / "c.pt").write_bytes(b"what eager PyTorch would read")
    (tmp_path / "page.md").write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    sets = {
        train: np.random.default_rng(seed).integers(0, 256, (count, *GREY[1:], 1), dtype=np.uint8)
        for train, seed, count in ((True, 0, 90), (False, 1, 40))
    }
    monkeypatch.setattr(quality, "open_dataset", lambda *_, train, **__: datasets.Dataset("f", sets[train], None, None))
    for name, value in (("ROUNDS", 1), ("SLOW_FROM", 8), ("warm_up", lambda call: call())):
        monkeypatch.setattr(quality, name, value)
    for name, value in (("PAUSE_S", 0.0), ("TURN_S", 0.0), ("BUSY_LOOK_S", 0.0)):
        monkeypatch.setattr(f"ddpm_export.measuring.timing.{name}", value)
    eager, _ = open_model(tmp_path / "m.onnx")

    def almost(x_t, t):  # eager PyTorch, which differs in one pixel of each batch
        outputs = eager(x_t, t)
        outputs["eps"][0, 0, 0, 0] += 0.3
        return outputs

    monkeypatch.setattr(ddpm_export.importers.load, "load_checkpoint", lambda path: path)
    monkeypatch.setattr(ddpm_export.exporting.export, "eager_model", lambda _: almost)
    return tmp_path


def measured(place, *more):
    usual = {"model": "m.onnx", "checkpoint": "c.pt", "extractor": "e.onnx", "results": "r.json", "cache": "cache"}
    usual = {name: place / value for name, value in usual.items()} | {"n": 30, "n-slow": 12, "steps": "2,4,10"}
    arguments = [str(part) for name, value in usual.items() for part in (f"--{name}", value)]
    return quality.measure(quality._options().parse_args([*arguments, *map(str, more)]))


def test_every_sampler_at_every_number_of_steps(place):
    report = measured(place, "--write", place / "page.md")
    table, effect = report.tables
    labels = [(row[0], int(row[1]), int(row[2])) for row in table.rows[:-2]]
    assert labels == [(name, steps, n) for name in quality.SAMPLERS for steps, n in ((2, 30), (4, 30), (10, 12))]
    assert [(row[0], row[2]) for row in table.rows[-2:]] == [("real test images", "12"), ("real test images", "30")]
    for row in table.rows:
        assert (row[4] == "-") == (row[2] == "12")  # no FID of few images
        assert "±" in row[3]
    # the scores are of these images
    images = generate(place / "m.onnx", n=30, num_steps=4, sampler="ddpm", variance="fixed_large", seed=0)
    row = report.values["rows"]["ddpm, fixed_large, 4 steps, 30 images"]
    extract = quality.open_extractor(place / "e.onnx", GREY, "cpu", None)
    train = quality.open_dataset(train=True).images
    fake, real = (scoring.features_of(part, extract, "", None, lambda *_: None) for part in (images, train))
    assert row == scoring.scores(("fid", "kid"), fake, real)
    # a picture's time is that of a step times the steps
    seconds = report.values["seconds_a_step"]["ddim, eta 0"]
    assert table.rows[1][-1] == f"{1e3 * seconds[16] * 4 / 16:.1f}"
    # eager beside exported
    assert "40 steps, 30 images" in effect.title
    share = float(effect.rows[1][3].split("%")[0]) / 100.0
    assert 0.5 < share < 1.0
    page = (place / "page.md").read_text()
    assert page.startswith("before\n")
    assert "](page/chart.png)" in page
    assert (place / "page/chart.png").stat().st_size > 5_000


def test_finished_rows_are_kept_and_others_made(place, monkeypatch):
    first = measured(place).values["rows"]
    sampled = []
    inner = scoring.sampled_images

    def counted(model, spec, settings, *more):
        sampled.append(settings.steps.num_steps)
        return inner(model, spec, settings, *more)

    monkeypatch.setattr(scoring, "sampled_images", counted)
    assert measured(place).values["rows"] == first
    assert sampled == []
    more = measured(place, "--steps", "2,3").values["rows"]
    assert sampled == [3, 3, 3]
    assert more.items() > first.items()
    # a file that only names other defaults, and offers plans, makes the same images
    sampled.clear()
    plans = {"short": plan(tiny_spec(), num_steps=2)}
    other = tiny_spec(defaults=Defaults("ddpm", 9, plan="short"), plans=plans, requires=("plan",))
    (place / "m.onnx").write_bytes(mix_model(other))
    measured(place, "--steps", "2,3")
    assert sampled == []
    # one that clips x_0 elsewhere does not
    (place / "m.onnx").write_bytes(mix_model(tiny_spec(clip_x_0=0.5)))
    measured(place, "--steps", "2")
    assert sampled.count(2) == 3
    (place / "m.onnx").write_bytes(mix_model())
    # of another extractor, nothing is kept
    (place / "e.onnx").write_bytes(extractor_file(dimensions=5))
    assert measured(place, "--steps", "2").values["rows"].keys() < first.keys()
    (place / "r.json").write_text("[")
    with pytest.raises(BadFileError, match="damaged"):
        measured(place)
    with pytest.raises(UsageError, match="--steps must be numbers"):
        measured(place, "--steps", "5,x")


def test_a_cut_off_run_keeps_its_rows(place, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(quality._Judge, "of_eager", stop)
    with pytest.raises(KeyboardInterrupt):
        measured(place)
    kept = json.loads((place / "r.json").read_text())["rows"]
    assert len(kept) == 9 + 2 + 1  # the cases, real images twice, and the export's own


def kid(mean, error):
    return {"kid": {"mean": mean, "standard_error": error}}


def test_the_fewest_steps_that_are_not_told_apart():
    cases = [quality.Case("ddim, eta 0", steps, 30) for steps in (5, 20, 100)]
    rows = {case.label: kid(mean, 0.001) for case, mean in zip(cases, (0.02, 0.0065, 0.005), strict=True)}
    inputs = quality._cheapest_as_text(rows, cases)
    assert "ddim, eta 0 with 100 steps has the lowest KID" in inputs
    assert "ddim, eta 0 with 20 steps is within two standard errors" in inputs
    rows[cases[1].label] = kid(0.0095, 0.001)
    assert quality._cheapest_as_text(rows, cases).endswith("ddim, eta 0 with 100 steps has the lowest KID.")
