"""The benchmark of few evaluations on a tiny model: what is chosen, judged, kept and told."""

import json

import numpy as np
import pytest
from models import GREY, extractor_file, mix_model

from benchmarks import solvers
from ddpm_export import open_model
from ddpm_export.errors import BadFileError, UsageError
from ddpm_export.exporting.plans import with_plans
from ddpm_export.measuring.timing import Timings
from ddpm_export.model.plans import json_from_plan
from ddpm_export.model.steps import plan
from ddpm_export.sampling.generate import generate
from ddpm_export.scoring import scores as scoring
from ddpm_export.scoring.datasets import readers as datasets
from train.pages import BEGIN, END


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "m.onnx").write_bytes(mix_model())
    _, spec = open_model(tmp_path / "m.onnx")
    (tmp_path / "e.onnx").write_bytes(extractor_file())
    (tmp_path / "f.onnx").write_bytes(extractor_file(dimensions=3))
    (tmp_path / "page.md").write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    (tmp_path / "plans.json").write_text(json.dumps({"tuned-2": json_from_plan(plan(spec, num_steps=2))}))
    sets = {
        train: np.random.default_rng(seed).integers(0, 256, (count, *GREY[1:], 1), dtype=np.uint8)
        for train, seed, count in ((True, 0, 90), (False, 1, 40))
    }
    monkeypatch.setattr(solvers, "open_dataset", lambda *_, train, **__: datasets.Dataset("f", sets[train], None, None))
    monkeypatch.setattr(solvers, "LIMIT", {"sampler": "ddim", "num_steps": 40, "eta": 0.0})
    monkeypatch.setattr(solvers, "LIMIT_IMAGES", 3)
    monkeypatch.setattr(solvers, "ANCHORS", (3, 4))
    monkeypatch.setattr(solvers, "TIMED", 2)
    monkeypatch.setattr(solvers, "ROUNDS", 1)
    for name in ("WARM_UP_S", "PAUSE_S", "TURN_S"):
        monkeypatch.setattr(f"ddpm_export.measuring.timing.{name}", 0.0)
    monkeypatch.setattr("ddpm_export.measuring.timing.BUSY_LOOK_S", 0.0)
    return tmp_path


def measured(place, *more):
    usual = {"model": "m.onnx", "plans": "plans.json", "results": "r.json", "cache": "cache"}
    usual = {name: place / value for name, value in usual.items()}
    usual |= {"n": 30, "steps": "2,3", "best": 2, "slow-steps": "", "noisy-steps": "", "reference": 80, "threads": 1}
    arguments = [str(part) for name, value in usual.items() for part in (f"--{name}", value)]
    judges = ["--judges", str(place / "e.onnx"), str(place / "f.onnx")]
    return solvers.measure(solvers._options().parse_args([*arguments, *judges, *map(str, more)]))


def test_the_nearest_solvers_are_judged_beside_ddim_and_tuned_plans(place):
    report = measured(place, "--write", place / "page.md")
    table, *_, distances = report.tables
    by_count = {count: [line for line in table.rows if line[0] == count] for count in "23"}
    assert [len(lines) for lines in by_count.values()] == [4, 3]  # ddim, the two nearest, and the tuned plan of 2
    for count, lines in by_count.items():
        levels = [float(line[4]) for line in lines if line[1] not in ("ddim", "tuned-2")]
        nearest = min(value for label, value in report.values["distances"].items() if label.endswith(f", {count}"))
        assert {line[3] for line in lines} == {"30"}
        assert min([*levels, *(float(line[4]) for line in lines if line[1] == "ddim")]) == pytest.approx(
            nearest, abs=0.06
        )
    assert table.rows[-1][1] == "real test images"
    assert len(distances.rows) == len(solvers.SOLVERS) * 4
    # heun costs odd numbers of evaluations
    heun = next(line for line in distances.rows if line[0] == "heun")
    assert heun[2] == "-"
    assert heun[3] != "-"
    # the scores are of these images
    model, spec = open_model(place / "m.onnx")
    spec = with_plans(spec, [str(place / "plans.json")])
    images = generate((model, spec), n=30, plan="tuned-2", seed=0)
    extract = solvers.open_extractor(place / "f.onnx", GREY, "cpu", None)
    train = solvers.open_dataset(train=True).images[:80]
    fake, real = (scoring.features_of(part, extract, "", None, lambda *_: None)[0] for part in (images, train))
    (label,) = (label for label in report.values["rows"] if label.startswith("tuned-2"))
    assert label.endswith("; 30 images")
    kid = solvers.kernel_distance(fake, real, subsets=solvers.SUBSETS)._asdict()
    assert {**kid, "sha256": report.values["rows"][label]["f"]["sha256"]} == report.values["rows"][label]["f"]
    page = (place / "page.md").read_text()
    assert page.startswith("before\n")
    assert "](page/chart.png)" in page
    assert (place / "page/chart.png").stat().st_size > 5_000


def test_rows_are_compared_with_ddim_and_with_many_steps(place):
    report = measured(place, "--n-slow", "20", "--slow-steps", "40", "--noisy-steps", "5", "--time")
    table, _, by_f, _ = report.tables
    images = {tuple(line[:2]): line[3] for line in table.rows}
    assert images["40", "ddim"] == images["40", "ancestral"] == "20"
    assert images["2", "tuned-2"] == images["5", "dpmpp_2m_sde"] == images["-", "real test images"] == "30"
    assert all(float(line[-1]) >= 0 for line in table.rows if line[0] != "-")
    assert by_f.columns[3:] == ["minus ddim 3", "minus ddim 40", "minus ancestral 40"]  # 4 is none of --steps
    cells = {tuple(line[:2]): line[3:] for line in by_f.rows}
    assert [cell.rpartition(" ")[2] for cell in cells["2", "tuned-2"]] == ["(30)", "(20)", "(20)"]
    assert cells["3", "ddim"][0] == "-"
    assert all(cell.endswith((" (30)", " (20)")) for cell in cells["5", "dpmpp_2m_sde"])
    (drawn,) = (line for line in table.rows if line[1] == "dpmpp_2m_sde")
    assert drawn[2:5] == ["quadratic", "30", "-"]  # no distance to a limit that it does not go to
    # of pairs from the same noise
    model, spec = open_model(place / "m.onnx")
    spec = with_plans(spec, [str(place / "plans.json")])
    extract = solvers.open_extractor(place / "f.onnx", GREY, "cpu", None)
    train = solvers.open_dataset(train=True).images[:80]
    hows = {"plan": "tuned-2"}, {"sampler": "ddpm", "variance": "fixed_small", "num_steps": 40}
    noisy = {"sampler": "dpmpp_2m_sde", "grid": "quadratic", "num_steps": 5}
    *pair, drawn_anew, real = (
        scoring.features_of(part, extract, "", None, lambda *_: None)[0]
        for part in (*(generate((model, spec), n=20, seed=0, **how) for how in (*hows, noisy)), train)
    )
    mean, error = solvers.kernel_difference(*(solvers.kernel_pulls(entry, real) for entry in pair))
    assert cells["2", "tuned-2"][2] == f"{1e3 * mean:.2f} ± {1e3 * error:.2f} (20)"
    mean, error = solvers.kernel_difference(*(solvers.kernel_pulls(entry, real) for entry in (drawn_anew, pair[1])))
    assert cells["5", "dpmpp_2m_sde"][2] == f"{1e3 * mean:.2f} ± {1e3 * error:.2f} (20)"


def test_a_picture_takes_as_long_as_its_row_has_evaluations(place, monkeypatch):
    def counted(calls, _rounds):
        asked = []
        inner = solvers.denoiser

        def denoiser(model, spec):
            return inner(lambda x_t, t: asked.append(len(x_t)) or model(x_t, t), spec)

        monkeypatch.setattr(solvers, "denoiser", denoiser)
        seconds = {}
        for name, call in calls.items():
            asked.clear()
            call()
            seconds[name] = [sum(asked)]
        return Timings(seconds)

    monkeypatch.setattr(solvers, "interleaved", counted)
    table = measured(place, "--n-slow", "20", "--slow-steps", "40", "--time").tables[0]
    assert {line[0] for line in table.rows} == {"2", "3", "40", "-"}
    assert all(line[-2:] == [f"{line[0]}000"] * 2 for line in table.rows if line[0] != "-")


def test_what_was_found_is_kept_and_the_rest_made(place, monkeypatch):
    first = measured(place).values
    sampled = []
    inner = scoring.sample

    def counted(model, spec, settings):
        sampled.append(settings.num_rows)
        return inner(model, spec, settings)

    monkeypatch.setattr(scoring, "sample", counted)
    assert measured(place).values == first
    assert sampled == []
    kept = measured(place, "--steps", "2,4", "--kept")  # of 4 there is nothing yet
    assert {line[0] for line in kept.tables[0].rows} == {"2", "-"}
    assert kept.tables[-1].columns[2:] == ["2"]
    assert sampled == []
    measured(place, "--steps", "4", "--best", "1")
    assert set(sampled) == {4}
    sampled.clear()
    # a plan of the same name and other rows has other images
    _, spec = open_model(place / "m.onnx")
    other = plan(spec, sampler="ddim", times=[30, 3])
    (place / "plans.json").write_text(json.dumps({"tuned-2": json_from_plan(other)}))
    changed = measured(place).values["rows"]
    assert set(sampled) == {2}
    assert sum(label.startswith("tuned-2") for label in changed) == 2
    with pytest.raises(UsageError, match="--steps must be numbers"):
        measured(place, "--steps", "5,x")
    (place / "r.json").write_text("[")
    with pytest.raises(BadFileError, match="damaged"):
        measured(place)
