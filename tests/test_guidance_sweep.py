"""The guidance benchmark on a tiny model: a row a guidance, of the images it says, and a chart."""

import numpy as np
import pytest
from models import GREY, extractor_file, mix_model, tiny_spec, told_model
from PIL import Image

from benchmarks import guidance
from ddpm_export import Guidance, generate
from ddpm_export.errors import UsageError
from ddpm_export.model.inputs import Input
from ddpm_export.scoring import scores as scoring
from ddpm_export.scoring.datasets import readers as datasets

CLASSES = ("bag", "coat", "shoe")


@pytest.fixture
def place(tmp_path, monkeypatch):
    spec = tiny_spec(inputs=(Input("y", "label", none=3, classes=CLASSES),), requires=("inputs",), clip_x_0=None)
    (tmp_path / "m.onnx").write_bytes(told_model(spec))
    (tmp_path / "e.onnx").write_bytes(extractor_file())
    (tmp_path / "judge.onnx").write_bytes(extractor_file(classes=5))
    rng = np.random.default_rng(0)
    sets = {
        train: datasets.Dataset(
            "f", rng.integers(0, 256, (n, *GREY[1:], 1), dtype=np.uint8), np.arange(n) % 3, None, classes=CLASSES
        )
        for train, n in ((True, 90), (False, 40))
    }
    monkeypatch.setattr(guidance, "open_dataset", lambda *_, train, **__: sets[train])
    monkeypatch.setattr("ddpm_export.measuring.timing.BUSY_LOOK_S", 0.0)
    return tmp_path


def measured(place, *more, model="m.onnx"):
    usual = {"model": model, "extractor": "e.onnx", "cache": "cache"}
    arguments = [str(part) for name, value in usual.items() for part in (f"--{name}", place / value)]
    arguments += ["--n", "30", "--steps", "3", "--scales", "0,1,2.5", *map(str, more)]
    return guidance.measure(guidance._options().parse_args(arguments))


def test_a_row_for_every_guidance_by_every_judge(place):
    more = ("--interval", "10,30", "--extractor", place / "judge.onnx", "--chart", place / "chart.png")
    more += ("--sampler", "unipc", "--grid", "quadratic", "--reference", "60")
    report = measured(place, *more)
    (table,) = report.tables
    assert [row[0] for row in table.rows] == ["0", "1", "2.5", "2.5 at t 10 to 30", "real test images"]
    assert "e: class seen" in table.columns
    assert "judge: class seen" not in table.columns  # it has other classes
    assert all(len(row) == len(table.columns) for row in table.rows)
    how = {"num_steps": 3, "sampler": "unipc", "grid": "quadratic"}
    images = generate(place / "m.onnx", n=30, seed=0, guidance=Guidance(2.5, (10, 30)), **how)
    extract = guidance.open_extractor(place / "e.onnx", GREY, "cpu", None)
    fake, real = (
        scoring.features_of(part, extract, "", None, lambda *_: None)
        for part in (images, guidance.open_dataset(train=True).images[:60])
    )
    found = report.values["rows"]["2.5 at t 10 to 30"]["e"]
    assert found["fid"] == pytest.approx(scoring.scores(("fid",), fake, real)["fid"])
    assert found["accuracy"]["mean"] == pytest.approx((fake[1].argmax(axis=1) == np.arange(30) % 3).mean())
    assert [note for note in report.notes if note.startswith("By judge, guidance ")]
    judges = f"--extractor {place / 'e.onnx'} --extractor {place / 'judge.onnx'}"
    asked = " --sampler unipc --steps 3 --grid quadratic --reference 60 --interval 10,30 "
    assert report.command.endswith(asked + judges)
    with Image.open(place / "chart.png") as chart:
        assert chart.size[0] > 500


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--scales", "1,x"], "--scales must be numbers"),
        (["--interval", "3"], "--scales must be numbers, and --interval two times"),
        (["--scales", "-1"], "guidance must be a number from 0 to 100"),
    ],
)
def test_what_cannot_be_swept(place, more, message):
    with pytest.raises(UsageError, match=message):
        measured(place, *more)


def test_a_model_without_classes_is_refused(place):
    (place / "plain.onnx").write_bytes(mix_model())
    with pytest.raises(UsageError, match=r"plain\.onnx must be a model that takes guidance"):
        measured(place, model="plain.onnx")
