"""The ablation's runner, on a toy, and what its page says of scores that are given."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from commands import assert_refused, heeding_interrupts, run_here
from models import extractor_file
from PIL import Image
from scipy.stats import spearmanr

from ddpm_export import open_model
from ddpm_export.importers.checkpoint import load_torch_file
from ddpm_export.system.files import sha256_of
from train import ablation
from train.ablation_page import STUDY, Cell, Result, draw_chart, draw_samples, markdown, rank_correlation, verdicts
from train.pages import BEGIN, END

pytestmark = pytest.mark.torch
ROOT = Path(__file__).parents[2]


# --- the page ---------------------------------------------------------------------------------------------------------


def scores_of(value):
    """Scores by which `value`, an Inception Score, is as good in every other metric as well."""
    return {
        "is": {"mean": value, "std": 0.05},
        "fid": 20.0 - value,
        "kid": {"mean": 0.02 - value / 1e3, "standard_error": 0.001},
        "bits": {"mean": 9.0 - value, "standard_error": 0.1},
    }


def as_the_study(seed=0, factor=2.0):
    return {Cell(*key, seed): Result(scores_of(factor * value), None) for key, value in STUDY.items()}


REAL = {"of": {"n": 2000}, "scores": {name: scores_of(8.0)[name] for name in ("is", "fid", "kid")}}


def page_of(results, toy_config, real=REAL, seeds=1):
    return markdown(results, real, toy_config(), seeds, 20, "ablation")


def rows_of(text, title):
    """The cells of a table's rows by their first one."""
    table = text.split(f"**{title}**\n\n")[1].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in table]
    return {first: rest for first, *rest in cells}


def test_scores_in_the_studys_order_uphold_all_it_found(toy_config):
    text = page_of(as_the_study(), toy_config)
    table = rows_of(text, "Twelve cells")
    assert list(table) == [*(f"{schedule}, {loss}" for schedule, loss in STUDY), "real test images"]
    assert table["quadratic, huber"] == ["3.878", "7.756 ± 0.050", "12.24", "12.24 ± 1.00", "1.244 ± 0.100"]
    assert table["real test images"] == ["4.088", "8.000 ± 0.050", "12.00", "12.00 ± 1.00", "-"]
    verdict = rows_of(text, "The study's findings, and whether they hold here")
    assert len(verdict) == 6
    assert all(answer.startswith("yes (") for answers in verdict.values() for answer in answers)
    assert "IS 1.00, FID 1.00, KID 1.00, bits/dim 1.00" in text
    assert "7.756 (quadratic, huber), is 0.970 of that of real test images" in text
    assert "0.949 in its table and 1.023 after 20 epochs" in text


def test_what_does_not_hold_is_said():
    values = dict(STUDY)
    values["linear", "l2"] = 4.0
    values["sigmoid", "l1"] = 1.0
    found = {claim: (holds, here) for claim, holds, here in verdicts(values)}
    assert found["the best is quadratic with huber"] == (False, "linear with l2")
    assert found["the worst is cosine with l1"] == (False, "sigmoid with l1")
    assert found["cosine is the worst schedule under every loss"] == (False, "l1: sigmoid, l2: cosine, huber: cosine")
    assert found["quadratic is the best schedule under every loss"][0] is False
    assert found["huber beats l1 with every schedule"][0] is True
    assert found["huber beats l2 with every schedule but cosine"] == (False, "with quadratic, sigmoid")


def test_a_failed_and_a_missing_cell_are_shown_and_nothing_is_concluded(toy_config):
    results = as_the_study()
    results[Cell("cosine", "l1", 0)] = Result(None, {"stage": "train", "exit_code": 6, "reason": "step 3: bad."})
    results[Cell("linear", "l1", 0)] = Result(None, None)
    text = page_of(results, toy_config)
    table = rows_of(text, "Twelve cells")
    assert table["cosine, l1"] == ["1.614", "failed (train)", "-", "-", "-"]
    assert table["linear, l1"][1] == "not scored"
    assert "- cosine-l1 failed in train: step 3: bad." in text
    assert "Scored so far: 10 of 12 cells" in text
    assert "whether they hold" not in text


def test_several_seeds_show_mean_and_range(toy_config):
    results = {**as_the_study(0, 2.0), **as_the_study(1, 1.0)}
    results[Cell("linear", "l1", 1)] = Result(scores_of(9.0), {"stage": "score", "exit_code": 6, "reason": "x"})
    table = rows_of(page_of(results, toy_config, seeds=2), "Twelve cells")
    assert table["quadratic, huber"][1] == "5.817 (3.878 to 7.756)"
    assert table["linear, l1"][1] == "6.741 ± 0.050"  # the failed one does not count


def test_rank_correlation_is_spearmans(rng):
    a, b = rng.normal(size=(2, 12))
    assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert rank_correlation([1.0, 2.0, 9.0], [5.0, 4.0, 3.0]) == pytest.approx(-1.0)


def test_pictures_show_what_there_is(tmp_path, rng):
    draw_chart(tmp_path / "chart.png", as_the_study(), REAL)
    draw_chart(tmp_path / "none.png", {}, None)
    images = rng.integers(0, 256, (16, 8, 8, 1), dtype=np.uint8)
    draw_samples(tmp_path / "all.png", dict.fromkeys(as_the_study(), images))
    draw_samples(tmp_path / "one.png", {Cell("linear", "l2", 0): images, Cell("cosine", "l2", 0): None})
    kinds = {}
    for path in tmp_path.glob("*.png"):
        with Image.open(path) as image:
            kinds[path.stem] = len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0))
        assert path.stat().st_size < 150_000
    assert kinds["chart"] > kinds["none"]
    assert kinds["one"] > 100


def test_the_page_has_its_marks():
    text = (ROOT / "docs/ablation.md").read_text(encoding="utf-8")
    assert text.index(BEGIN) < text.index(END)


# --- the runner -------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(toy_folder, tmp_path, monkeypatch):
    """A folder with an extractor and a page; the toy's 40 images of 8x8 are data and test set."""
    (tmp_path / "e.onnx").write_bytes(extractor_file((1, 8, 8)))
    (tmp_path / "page.md").write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    monkeypatch.setattr(ablation, "POLL_S", 0.05)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def options(place, toy_folder, *more, cells="linear-l2"):
    usual = {"config": toy_folder / "toy.json", "data": toy_folder / "images", "out": place / "out", "cells": cells}
    usual |= {"runs": place / "runs", "page": place / "page.md", "extractor": place / "e.onnx"}
    usual |= {"cache": place / "cache", "n": 12}
    return [part for name, value in usual.items() for part in (f"--{name}", value)] + list(more)


def ablate(place, toy_folder, *more, **changes):
    return run_here(ablation.main, *options(place, toy_folder, *more, **changes))


@pytest.mark.long
def test_cells_are_trained_exported_scored_and_shown_once(place, toy_folder, monkeypatch):
    ending = ablate(place, toy_folder, "--jobs", 2, cells="linear-l2,cosine-l1")
    assert ending.code == 0, ending
    for cell, schedule in (("linear-l2", "linear"), ("cosine-l1", "cosine")):
        kept = {path.name for path in (place / "out" / cell).iterdir()}
        assert kept == {"unet.onnx", "log.jsonl", "samples.png", "scores.json"}
        assert open_model(place / "out" / cell / "unet.onnx")[1].source["schedule"]["name"] == schedule
        config = load_torch_file(place / "runs" / cell / "checkpoint.pt")["config"]
        assert f"{config['schedule']}-{config['loss']}" == cell
        assert config["seed"] == 0
    scores = json.loads((place / "out/linear-l2/scores.json").read_text())
    assert (scores["of"]["n"], scores["of"]["num_steps"], scores["of"]["bits"]["images"]) == (12, 20, 12)
    assert scores["scores"].keys() >= {"is", "fid", "kid", "bits"}
    page = (place / "page.md").read_text()
    assert page.startswith("before\n")
    assert page.endswith("after\n")
    assert "Scored so far: 2 of 12" in page
    assert {path.name for path in (place / "page").iterdir()} == {"chart.png", "samples.png"}

    # again: nothing is trained, sampled or scored
    def never(*_, **__):
        raise AssertionError

    before = sha256_of(place / "out/linear-l2/scores.json")
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", never)
        patch.setattr(ablation, "bits_per_dimension", never)
        patch.setattr("ddpm_export.scoring.scores.scores", never)
        assert ablate(place, toy_folder, cells="linear-l2,cosine-l1").out == ending.out
    # other settings: scored anew, without training
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", never)
        assert ablate(place, toy_folder, "--n", 15, "--stages", "score").code == 0
    assert sha256_of(place / "out/linear-l2/scores.json") != before
    # a model in another cell's folder
    (place / "out/sigmoid-l2").mkdir()
    os.link(place / "out/linear-l2/unet.onnx", place / "out/sigmoid-l2/unet.onnx")
    ending = ablate(place, toy_folder, "--stages", "score", cells="sigmoid-l2")
    assert ending.code == 3
    assert "another schedule" in json.loads((place / "out/sigmoid-l2/failed.json").read_text())["reason"]


@pytest.fixture
def exports_nothing(monkeypatch):
    """Stand in for the export, which takes seconds and is seen in the test above."""
    monkeypatch.setattr(ablation, "export", lambda _, path: path.write_bytes(b"exported"))


@pytest.mark.long
def test_a_cell_that_fails_is_shown_with_its_reason_and_tried_again(place, toy_folder, exports_nothing):
    ending = ablate(place, toy_folder, "--set", "learning_rate=1e37", "--seeds", 2, cells="linear-l2-seed1,cosine-l1")
    assert ending.code == 6
    failed = json.loads((place / "out/cosine-l1/failed.json").read_text())
    assert (failed["stage"], failed["exit_code"]) == ("train", 6)
    assert failed["reason"].startswith("At training step")
    assert not (place / "out/cosine-l1/unet.onnx").exists()
    page = (place / "page.md").read_text()
    assert "failed (train)" in page
    assert "linear-l2-seed1 failed in train: At training step" in page
    assert ablate(place, toy_folder, "--seeds", 2, "--stages", "train", cells="linear-l2-seed1").code == 0
    assert {path.name for path in (place / "out/linear-l2-seed1").iterdir()} == {"unet.onnx", *ablation.KEPT}
    assert load_torch_file(place / "runs/linear-l2-seed1/checkpoint.pt")["config"]["seed"] == 1


def last_step(log):
    return ablation._last_step(log)


@pytest.mark.long
def test_an_interrupt_stops_every_training_after_its_checkpoint_and_the_next_run_goes_on(
    place, toy_folder, exports_nothing
):
    many = ["--set", "steps=100000", "--set", "checkpoint_every=50000", "--stages", "train", "--jobs", "2"]
    arguments = [str(part) for part in options(place, toy_folder, *many, cells="linear-l2,cosine-l1")]
    runner = subprocess.Popen(
        [sys.executable, "-m", "train.ablation", *arguments],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heeding_interrupts,
    )
    logs = [place / "runs" / cell / "log.jsonl" for cell in ("linear-l2", "cosine-l1")]
    try:
        until = time.monotonic() + 100.0
        while min(last_step(log) for log in logs) < 3 and time.monotonic() < until and runner.poll() is None:
            time.sleep(0.05)
        runner.send_signal(signal.SIGINT)
        _, err = runner.communicate(timeout=60)
    finally:
        if runner.poll() is None:
            runner.terminate()  # killed outright, it would leave its trainings behind
            runner.communicate(timeout=60)
    assert runner.returncode == 130
    assert err.endswith("stopped.\n")
    reached = [load_torch_file(log.parent / "checkpoint.pt")["step"] for log in logs]
    assert min(reached) >= 3
    assert [last_step(log) for log in logs] == reached  # the processes have ended: nothing came after the checkpoint
    assert not (place / "out").exists()
    more = ablate(place, toy_folder, "--set", f"steps={reached[0] + 2}", "--stages", "train")
    assert more.code == 0
    assert f"going on from step {reached[0]}" in (place / "runs/linear-l2.log").read_text()
    assert last_step(logs[0]) == reached[0] + 2


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--cells", "linear-l3"], 2, "--cells must name some of"),
        (["--stages", "train,draw"], 2, "--stages must name some of"),
        (["--set", "nonsense=1"], 2, "nonsense"),
        (["--set", "steps"], 2, "KEY=VALUE"),
        (["--config", "nowhere"], 3, "or a JSON file with a training configuration"),
        (["--stages", "score", "--extractor", "nowhere.onnx"], 3, "nowhere.onnx"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(place, toy_folder, arguments, code, words):
    assert_refused(ablate(place, toy_folder, *arguments), code, words)
    assert not (place / "out").exists()
