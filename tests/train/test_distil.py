"""Distillation: where its steps lead, that trajectories and training are repeatable, and that the student learns."""

import dataclasses
import json
import sys

import numpy as np
import pytest
import torch

from ddpm_export.errors import BadFileError, ConfigError, UsageError
from ddpm_export.exporting.export import eager_model, export
from ddpm_export.importers.checkpoint import load_own_checkpoint
from ddpm_export.importers.load import load_checkpoint
from ddpm_export.model.defaults import with_defaults
from ddpm_export.model.denoiser import denoiser
from ddpm_export.model.steps import choose, plan
from ddpm_export.process.noise import noise_stream
from ddpm_export.process.walk import walk
from ddpm_export.runtimes.opening import open_model
from ddpm_export.system.files import sha256_of
from train import distil, matching, trajectories
from train.loop import train

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def teacher(toy_config, toy_dataset, tmp_path_factory):
    """An exported file of two classes, whose default is a plan, and its checkpoint, of 40 times."""
    folder = tmp_path_factory.mktemp("teacher")
    labelled = dataclasses.replace(toy_dataset, labels=np.arange(40) % 2, classes=("a", "b"))
    config = toy_config(num_train_timesteps=40, network__num_classes=2, network__dropout=0, steps=30, prediction="v")
    checkpoint = train(config, labelled, folder, "cpu", lambda _: None)
    loaded = load_checkpoint(checkpoint)
    tuned = dataclasses.replace(loaded.spec, plans={"tuned-2": plan(loaded.spec, sampler="ddim", num_steps=2)})
    export(dataclasses.replace(loaded, spec=with_defaults(tuned, plan="tuned-2")), folder / "unet.onnx")
    return folder / "unet.onnx", checkpoint


@pytest.fixture
def recipe(teacher):
    digests = map(sha256_of, teacher)
    return trajectories.Recipe(*digests, ((39, 30, 20, 10), (38, 19), (37,)), 8, "unipc", "log_snr", seed=1, batch=8)


@pytest.fixture
def kept(teacher, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(trajectories, "CHUNK", 16)
    return trajectories.Trajectories(tmp_path / "trajectories", recipe)


def silent(*_):
    pass


def student_of(teacher, recipe, **how):
    return distil.Student(load_own_checkpoint(teacher[1]), open_model(teacher[0])[1], recipe, fused=False, **how)


@pytest.mark.parametrize("T", [20, 1000])
def test_no_two_plans_share_a_time(T):
    plans = distil.student_times([4, 2, 1], T)
    assert [len(times) for times in plans] == [4, 2, 1]
    assert len({t for times in plans for t in times}) == 7
    for plans in ([(9, 5), (5,)], [(5, 9)], [(T,)], []):
        with pytest.raises(UsageError, match="no two plans may share one"):
            distil._checked(plans, T)


def test_the_teacher_stops_where_the_student_does(teacher):
    spec = open_model(teacher[0])[1]
    times = trajectories.teacher_times(spec, (30, 20, 10), 8, "log_snr")
    assert times == sorted(times, reverse=True)
    assert times[0] == 39
    assert {30, 20, 10} <= set(times)
    assert len(times) == 8


def test_a_step_lands_where_the_sampler_does(teacher, recipe):
    """The training's arithmetic is the sampler's, so what is learned is what the file will draw."""
    student, x = student_of(teacher, recipe), noise_stream(5, range(3), (1, 8, 8))(0)
    checkpoint = load_checkpoint(teacher[1])
    y = np.array([0, 1, 2])
    for rows in student.plans.values():
        states = walk(denoiser(eager_model(checkpoint), checkpoint.spec, y=y), silent, rows, x=x)
        landed = torch.from_numpy(x)
        for row, state in zip(rows.rows, states, strict=True):
            with torch.no_grad():
                predicted = checkpoint.network(landed, torch.full((3,), int(row.t)), torch.from_numpy(y))
            landed = distil.land(row, predicted, landed, student.spec)
            np.testing.assert_allclose(landed, state.x, atol=2e-5)


def test_a_pixel_beyond_the_clip_still_learns(teacher, recipe):
    student = student_of(teacher, recipe)
    (row,) = student.plans["fast-1"].rows
    predicted = torch.full((1, 1, 8, 8), -3.0, requires_grad=True)  # v: an x_0 of about 3
    landed = distil.land(row, predicted, torch.zeros(1, 1, 8, 8), student.spec)
    assert landed.max() == 1.0
    landed.sum().backward()
    assert (predicted.grad != 0).all()


def test_trajectories_follow_from_the_seed_and_are_the_samplers(teacher, kept):
    kept.make(teacher[0], 32, 5, silent)
    data = kept.load(30)
    assert data.shape == (2 + 4, 30, 1, 8, 8)
    (kept.folder / "00000.npy").unlink()
    assert kept.missing(32) == [0]
    kept.make(teacher[0], 32, 16, silent)  # another batch
    np.testing.assert_allclose(kept.load(30), data, atol=2e-3)
    model, spec = open_model(teacher[0])
    x = noise_stream(1, [29], (1, 8, 8))(0)
    rows = plan(spec, sampler="unipc", times=trajectories.teacher_times(spec, kept.recipe.stops, 8, "log_snr"))
    states = {state.row.t: state.x for state in walk(denoiser(model, spec, y=[2]), silent, rows, x=x)}
    times = [row.t for row in rows.rows]
    np.testing.assert_allclose(data[0, 29:], x, atol=2e-3)
    for k, stop in enumerate(kept.recipe.stops, 1):
        np.testing.assert_allclose(data[k, 29:], states[times[times.index(stop) - 1]], atol=2e-3)
    np.testing.assert_allclose(data[-1, 29:], states[times[-1]], atol=2e-3)
    (kept.folder / "00001.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(BadFileError, match="does not hold trajectories"):
        kept.load(30)


def test_it_learns_and_a_training_that_was_stopped_ends_the_same(teacher, recipe, kept, tmp_path):
    kept.make(teacher[0], 16, 16, silent)
    data = kept.load(16)
    through = student_of(teacher, recipe, learning_rate=2e-3)
    with torch.no_grad():
        through.network.head.bias += 0.3  # it knew too much
    losses = list(through.train(data, 30))
    for name in through.plans:
        assert np.mean([np.mean(found[name]) for found in losses[-5:]]) < 0.3 * np.mean(losses[0][name])
    assert through.updates == 30 * (4 + 2 * 2 + 4)
    stopped = student_of(teacher, recipe, learning_rate=2e-3)
    stopped.network.load_state_dict({**stopped.ema, "head.bias": stopped.ema["head.bias"] + 0.3})
    next(stopped.train(data, 30))
    stopped.save(tmp_path / "checkpoint.pt")
    again = student_of(teacher, recipe, learning_rate=2e-3)
    again.resume(tmp_path / "checkpoint.pt")
    assert list(again.train(data, 30)) == losses[1:]
    for name, value in through.ema.items():
        assert torch.equal(value, again.ema[name])
    with pytest.raises(BadFileError, match="does not fit this student"):
        again.resume(teacher[1])


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["distil", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        distil.main()
    captured = capsys.readouterr()
    return ended.value.code or 0, captured.out, captured.err


def test_the_command_makes_a_checkpoint_that_exports_with_its_plans(teacher, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trajectories, "CHUNK", 16)
    file, checkpoint = teacher
    out = tmp_path / "run"
    options = ["--checkpoint", checkpoint, "--out", out, "--trajectories", 16, "--batch", 8, "--teacher-steps", 8]
    code, stdout, err = run(monkeypatch, capsys, file, *options, "--no-fused", "--rounds", 2)
    assert code == 0, err
    assert json.loads(stdout)["round"] == 2
    code, stdout, err = run(monkeypatch, capsys, file, *options, "--no-fused", "--rounds", 3, "--matching", 1)
    assert "trajectories to" not in err
    assert [json.loads(line)["round"] for line in (out / "log.jsonl").read_text().splitlines()] == [1, 2, 3]
    export(load_checkpoint(out / "checkpoint.pt"), tmp_path / "fast.onnx")
    _, spec = open_model(tmp_path / "fast.onnx")
    assert list(spec.plans) == ["fast-1", "fast-2", "fast-4"]
    assert spec.defaults.guidance is None
    assert choose(spec).name == "fast-4"
    assert choose(spec, num_steps=1).name == "fast-1"
    assert spec.source["distilled_from_sha256"] == sha256_of(file)
    assert spec.label.none == 2
    code, _, err = run(monkeypatch, capsys, file, *options, "--seed", 2)
    assert (code, "begun with another seed" in err) == (ConfigError("").exit_code, True)


def matching_of(teacher, recipe, **how):
    student = student_of(teacher, recipe, **how)
    return matching.Matching(student, load_own_checkpoint(teacher[1]), fused=False)


def test_pictures_that_the_teacher_would_draw_are_not_moved_and_others_are_moved_to_it(teacher, recipe, rng):
    matched = matching_of(teacher, recipe, bf16=False)
    pictures, y = torch.from_numpy(np.float32(rng.standard_normal((64, 1, 8, 8)))), torch.zeros(64, dtype=torch.int64)
    for optimizer in matched.optimizers.values():
        optimizer.param_groups[0]["lr"] = 0.0  # its denoiser is the teacher: both find the same
    assert not matched.gradient("fast-1", pictures, (y,), torch.Generator()).any()
    with torch.no_grad():
        matched.teacher.head.bias += 0.5 * torch.tensor(-1.0)  # its v is less, so its pictures are brighter
    gradient = matched.gradient("fast-1", pictures, (y,), torch.Generator().manual_seed(0))
    assert (gradient < 0).all()  # brighter is downhill


def test_the_denoiser_of_a_students_pictures_learns_them(teacher, recipe, rng):
    matched = matching_of(teacher, recipe, bf16=False)
    pictures, y = torch.full((32, 1, 8, 8), 0.8), torch.zeros(32, dtype=torch.int64)
    before, losses = matched.own["fast-2"].head.bias.clone(), []
    for k in range(60):
        matched.gradient("fast-2", pictures, (y,), torch.Generator().manual_seed(k))
        x, t, a, eps = matched._noised(pictures, torch.Generator().manual_seed(1000 + k))
        with torch.no_grad():
            said = matched.student.predicted(matched.own["fast-2"], x, t, y)
        losses.append((said - (a.sqrt() * eps - (1 - a).sqrt() * pictures)).square().mean().item())
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    assert not torch.equal(before, matched.own["fast-2"].head.bias)
    assert torch.equal(before, matched.own["fast-1"].head.bias)


def test_a_matching_that_was_stopped_ends_the_same(teacher, recipe, kept, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(matching, "WARM", 2)
    monkeypatch.setattr(matching, "KEPT", 3)
    kept.make(teacher[0], 16, 16, silent)
    data = kept.load(16)
    through = matching_of(teacher, recipe)
    weights = {name: value.clone() for name, value in through.student.ema.items()}
    losses = through.train(data, 6)
    next(losses), next(losses)
    assert all(torch.equal(value, weights[name]) for name, value in through.student.network.state_dict().items())
    list(losses)
    assert not torch.equal(through.student.ema["head.weight"], weights["head.weight"])
    stopped = matching_of(teacher, recipe)
    monkeypatch.setattr(stopped, "save", lambda path, save=stopped.save: save(path) if stopped.update == 3 else None)
    stopped.run(data, 6, tmp_path)
    again = matching_of(teacher, recipe)
    again.run(data, 6, tmp_path)
    assert (again.update, again.student.updates) == (through.update, through.student.updates)
    for name, value in through.student.ema.items():
        assert torch.equal(value, again.student.ema[name])
    assert [json.loads(line)["matching"] for line in capsys.readouterr().err.splitlines()] == [3, 6, 6]
    (tmp_path / "matching.pt").write_bytes((tmp_path / "trajectories" / "00000.npy").read_bytes())
    with pytest.raises(BadFileError):
        again.run(data, 6, tmp_path)
