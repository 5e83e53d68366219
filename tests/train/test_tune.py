"""Tuned plans: what a table says, its derivatives, and that what is learned is nearer than what it began from."""

import json
from dataclasses import replace

import numpy as np
import pytest
from models import classes_file, gaussian_file, mix_model, tiny_spec

from ddpm_export import open_model
from ddpm_export.errors import UsageError
from ddpm_export.exporting.plans import with_plans
from ddpm_export.model.inputs import Input
from ddpm_export.model.steps import plan
from ddpm_export.process.pixels import to_uint8
from ddpm_export.sampling.generate import generate
from train import tune


def opened(tmp_path, content):
    (tmp_path / "m.onnx").write_bytes(content)
    model, spec = open_model(tmp_path / "m.onnx")
    return tune.Walker(model, spec)


def lessons_of(walker, numbers, batch=8):
    return list(walker.lessons(numbers, seed=1, num_steps=20, batch=batch))


def test_what_is_seen_of_pictures():
    pictures = np.random.default_rng(0).uniform(-1.5, 1.5, (2, 1, 4, 4)).astype(np.float32)
    shown = np.clip(pictures, -1.0, 1.0)
    a, b = tune.pixels(pictures)
    rms = 127.5 * np.sqrt(np.mean(np.square(shown[0] - shown[1])))
    np.testing.assert_allclose(np.linalg.norm(a - b), rms, rtol=1e-5)
    # noise and a shade of the same size are as far in pixels, and noise is farther in edges
    noise, shade = np.tile([[0.1, -0.1], [-0.1, 0.1]], (1, 1, 2, 2)), np.full((1, 1, 4, 4), 0.1)
    nothing = np.zeros((1, 1, 4, 4))
    lengths = {
        look: [np.linalg.norm(look(x) - look(nothing)) for x in (shade, noise)]
        for look in (tune.pixels, tune.pixels_and_edges)
    }
    np.testing.assert_allclose(lengths[tune.pixels], 12.75, rtol=1e-5)
    np.testing.assert_allclose(lengths[tune.pixels_and_edges], [12.75, 12.75 * np.sqrt(1.0 + 1.5 * 4.0)], rtol=1e-5)


@pytest.mark.parametrize("grid", ["uniform", "karras"])
@pytest.mark.parametrize("sampler", tune.SOLVERS)
def test_a_table_is_its_plan(sampler, grid):
    spec = tiny_spec()
    rows = plan(spec, sampler=sampler, num_steps=6, grid=grid)
    again = tune.table_from_plan(rows, spec.alphas_cumprod, reach=6).plan(spec.alphas_cumprod)
    for row, own in zip(rows.rows[:-1], again.rows[:-1], strict=True):
        assert (row.i, row.t, row.a, ()) == (own.i, own.t, own.a, own.noise)
        for weights, others in ((row.x_0, own.x_0), (row.eps, own.eps)):
            np.testing.assert_allclose(others[: len(weights)], weights, rtol=1e-12)
            assert not np.any(others[len(weights) :])
    last = again.rows[-1]
    assert (last.t, last.a, last.x_0, last.eps) == (
        rows.rows[-1].t,
        rows.rows[-1].a,
        rows.rows[-1].x_0 + (0.0,) * (6 - len(rows.rows[-1].x_0)),
        (),
    )


def test_times_are_rounded_and_kept_apart():
    table = tune.Table((39, 20, 10), tuple(np.zeros((2, 1)) for _ in range(3)))
    by = np.array([7.0, 25.4, -30.0, *range(6)])
    moved = table.moved(by, 40)
    assert moved.times == (39, 38, 0)
    np.testing.assert_array_equal(np.concatenate([shares.ravel() for shares in moved.shares]), range(6))


def test_derivatives_are_those_of_the_whole_walk(tmp_path):
    walker = opened(tmp_path, gaussian_file(tiny_spec(clip_x_0=None), 0.1, 0.2))
    T, a = walker.spec.num_train_timesteps, walker.spec.alphas_cumprod
    (lesson,) = lessons_of(walker, range(3))
    changes = np.concatenate([np.zeros(4), np.random.default_rng(0).normal(0.0, 0.03, 16)])  # so that no share is 0
    table = walker.untuned(4, lesson)[1].moved(changes, T)

    def seen(by):
        return tune.pixels_and_edges(walker.end(lesson, table.moved(by, T).plan(a)))

    here, states = seen(np.zeros(20)), walker.states(lesson, table.plan(a))
    columns = list(walker.derivatives(table, states, lesson, here, times_move=True))
    assert len(columns) == 20
    for number, column in enumerate(columns):
        by = np.zeros(20)
        by[number] = (1.0 if number else -1.0) if number < 4 else 0.02  # nothing is above the first time
        numeric = (seen(by) - here) / by[number]
        assert np.abs(numeric).max() > 1e-4
        np.testing.assert_allclose(column, numeric, atol=(0.3 if number < 4 else 0.02) * np.abs(numeric).max())


def test_where_pixels_are_gaussian_two_evaluations_are_enough(tmp_path):
    """There the way from noise to picture is linear, and a table of two rows can go it exactly."""
    walker = opened(tmp_path, gaussian_file(tiny_spec(clip_x_0=None), 0.1, 0.2))
    learned, held_out = lessons_of(walker, range(8)), lessons_of(walker, range(8, 16))
    fit = tune.tune(walker, walker.untuned(2, learned[0]), learned, held_out, 12)
    assert fit.held_out[0] > 2.0
    assert fit.held_out[-1] < 0.02 * fit.held_out[0]


def test_what_is_learned_is_nearer_and_the_same_each_time(tmp_path):
    walker = opened(tmp_path, mix_model())
    learned, held_out = lessons_of(walker, range(16)), lessons_of(walker, range(16, 24))
    start = walker.untuned(3, learned[0])
    fits = [tune.tune(walker, start, learned, held_out, 6) for _ in range(2)]
    assert fits[0].errors == sorted(fits[0].errors, reverse=True)
    assert fits[0].held_out[-1] < 0.8 * fits[0].held_out[0]
    assert len(fits[0].errors) == len(fits[0].held_out) <= 7
    assert json.dumps(fits[0].errors) == json.dumps(fits[1].errors)
    assert fits[0].table.times == fits[1].table.times


def test_a_network_with_classes_learns_with_each_in_turn_and_with_its_guidance(tmp_path):
    label = Input("y", "label", none=3, classes=("a", "b", "c"))
    spec = tiny_spec(inputs=(label,), requires=("inputs",))
    walker = replace(opened(tmp_path, classes_file(spec, [-0.75, 0.5, 0.75, 0.125], 0.5)), guidance=2.0)
    ends = np.concatenate([lesson.end for lesson in lessons_of(walker, range(1, 8), batch=4)])
    how = {"sampler": "dpmpp_2m", "grid": "quadratic", "num_steps": 20, "seed": 1, "first": 1, "guidance": 2.0}
    np.testing.assert_array_equal(to_uint8(ends), generate((walker.model, walker.spec), n=7, **how))
    learned, held_out = lessons_of(walker, range(8)), lessons_of(walker, range(8, 16))
    fit = tune.tune(walker, walker.untuned(2, learned[0]), learned, held_out, 4)
    assert fit.held_out[-1] < 0.5 * fit.held_out[0]


def test_the_command_takes_an_interval_of_guidance(tmp_path, capsys):
    label = Input("y", "label", none=3, classes=("a", "b", "c"))
    spec = tiny_spec(inputs=(label,), requires=("inputs",))
    opened(tmp_path, classes_file(spec, [-0.75, 0.5, 0.75, 0.125], 0.5))
    usual = {"n": 6, "teacher_steps": 10, "iterations": 1, "seed": 1, "batch": 4, "steps": "2"}
    first = {}
    for name, guidance in {"everywhere": "4", "nowhere": "4@2000-3000", "somewhere": "4@0-5"}.items():
        out = tmp_path / f"{name}.json"
        tune.command(tmp_path / "m.onnx", out=out, guidance=guidance, **usual)
        first[name] = json.loads(capsys.readouterr().out)["errors"][0]
    tune.command(tmp_path / "m.onnx", out=tmp_path / "1.json", guidance="1", **usual)
    assert first["nowhere"] == json.loads(capsys.readouterr().out)["errors"][0]
    assert len(set(first.values())) == 3


def test_the_command_adds_its_plans_to_a_file_that_models_take(tmp_path, capsys):
    (tmp_path / "m.onnx").write_bytes(mix_model())
    out = tmp_path / "plans.json"
    usual = {"n": 4, "teacher_steps": 10, "iterations": 2, "seed": 1, "batch": 4, "guidance": None}
    for steps in ("2", "3,4"):
        tune.command(tmp_path / "m.onnx", steps=steps, out=out, **usual)
    asked = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["plan"] for line in asked] == ["tuned-2", "tuned-3", "tuned-4"]
    for line in asked:
        assert line["errors"][-1] < line["errors"][0]
    model, spec = open_model(tmp_path / "m.onnx")
    spec = with_plans(spec, [str(out)])
    assert list(spec.plans) == ["tuned-2", "tuned-3", "tuned-4"]
    assert [row.t for row in spec.plans["tuned-4"].rows] == asked[2]["times"]
    assert generate((model, spec), n=2, plan="tuned-3", seed=0).shape == (2, 6, 5, 1)
    # a plan that lies there is gone on from
    tune.command(tmp_path / "m.onnx", steps="3", out=out, **usual)
    again = json.loads(capsys.readouterr().out)
    assert again["start"] == "tuned-3 as it was"
    assert again["errors"][0] == asked[1]["errors"][-1]
    assert with_plans(spec, [str(out)]).plans["tuned-4"] == spec.plans["tuned-4"]
    with pytest.raises(UsageError, match="--steps must be numbers with commas between them, got '5,x'"):
        tune.command(tmp_path / "m.onnx", steps="5,x", out=out, **usual)
