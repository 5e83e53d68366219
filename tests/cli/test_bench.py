"""`ddpm-bench`: rows of every engine, ratios within a round, what is not here and why, and files that do not fit."""

import json
import os

import pytest
from commands import run_apart
from models import COLOUR, mix_model, scale_model, tiny_spec

from ddpm_export.errors import EnvironmentProblem, ModelRefusedError
from ddpm_export.measuring import steps, timing
from ddpm_export.runtimes import providers
from ddpm_export.runtimes.opening import open_model
from ddpm_export.runtimes.providers import PROVIDERS

APART = """
import sys
from ddpm_export.cli import bench
from ddpm_export.measuring import timing
timing.WARM_UP_S = timing.PAUSE_S = timing.TURN_S = timing.BUSY_LOOK_S = 0.0
bench.STARTS = 2
try:
    bench.main()
finally:
    assert not {"torch", "onnx"} & set(sys.modules)
"""


@pytest.mark.skipif(not hasattr(os, "posix_spawn"), reason="processes are measured on POSIX")
def test_a_file_is_timed_and_started_without_torch(tmp_path):
    (tmp_path / "m.onnx").write_bytes(mix_model())
    ending = run_apart(tmp_path / "m.onnx", "--batches", "1,3", "--rounds", "2", "--threads", "1", code=APART)
    assert ending.code == 0, ending
    for words in ("1 threads; onnxruntime", "One step, batch 1", "One step, batch 3", "one image of one step"):
        assert words in ending.out
    # two steps and a start, with all cells; against itself it is as fast as itself
    rows = [line.split() for line in ending.out.splitlines() if line.startswith("  m.onnx, cpu")]
    assert [row[2] for row in rows[:2]] == ["float32", "float32"]
    assert [row[4:] for row in rows[:2]] == [["1.00", "(1.00-1.00)", "0.0e+00"]] * 2
    assert float(rows[2][2]) > 0.05
    assert float(rows[2][4]) > 20
    refused = ending.out.partition("Not available here:")[2].splitlines()[1:]
    assert {line.split(":")[0].split(", ")[-1].strip() for line in refused} <= set(PROVIDERS) - {"cpu"}


@pytest.fixture
def hurried(monkeypatch):
    for name in ("PAUSE_S", "TURN_S", "WARM_UP_S", "BUSY_LOOK_S"):
        monkeypatch.setattr(timing, name, 0.0)
    started = {}

    def launched_in_turns(programs, rounds):
        started.update(programs)
        return {name: [{"seconds": k + 1.0, "peak_bytes": 5e7} for k in range(3)] for name in programs}

    monkeypatch.setattr(timing, "launched_in_turns", launched_in_turns)
    return started


def test_with_a_checkpoint_pytorch_has_rows_and_every_speed_is_against_it(command, trained, hurried, monkeypatch):
    import torch

    checkpoint, model = trained

    def breaks(*_, **__):
        raise RuntimeError("no C compiler\nhere")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: breaks)
    monkeypatch.setattr(providers, "PROVIDERS", {"cpu": PROVIDERS["cpu"]})  # whatever else is installed here
    threads = torch.get_num_threads()
    code, out, err = command("bench", model, "--checkpoint", checkpoint, "--batches", "2", "--rounds", "3", "--json")
    torch.set_num_threads(threads)
    assert code == 0, err
    inputs = json.loads(out)
    rows = {row["engine"]: row for row in inputs["steps"]["2"]}
    assert list(rows) == ["eager", "eager channels_last", "unet.onnx, cpu", "torch.compile channels_last"]
    assert rows["torch.compile channels_last"]["reason"] == "does not run here: no C compiler"
    ours = rows["unet.onnx, cpu"]
    assert 0 < ours["error"] < 1e-4
    assert list(ours["speed_against"]) == ["eager"]
    assert rows["eager"]["speed_against"]["eager"] == [1.0, 1.0, 1.0]
    assert set(hurried) == set(inputs["starts"]) == {"unet.onnx, cpu", "eager"}
    assert inputs["starts"]["eager"] == {"seconds": [1.0, 2.0, 3.0], "peak_bytes": 50_000_000}


def test_a_file_that_a_provider_refuses_is_named_beside_one_that_it_runs(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / f"{name}.onnx").write_bytes(mix_model())

    def opened(path, provider, **more):
        if provider != "cpu" and (provider != "webgpu" or path.name == "b.onnx"):
            raise (ModelRefusedError if provider == "webgpu" else EnvironmentProblem)(f"{path.name} on {provider}")
        return open_model(path, "cpu", **more)

    monkeypatch.setattr(steps, "open_model", opened)
    engines, refused = steps.opened_engines([tmp_path / "a.onnx", tmp_path / "b.onnx"], ["cpu", "cuda", "webgpu"], 1)
    assert [(entry.path.name, entry.provider) for entry in engines] == [
        ("a.onnx", "cpu"),
        ("b.onnx", "cpu"),
        ("a.onnx", "webgpu"),
    ]
    assert refused == {"cuda": "b.onnx on cuda", "b.onnx, webgpu": "b.onnx on webgpu"}


@pytest.mark.usefixtures("hurried")
def test_files_that_cannot_be_compared_are_refused(command, tmp_path):
    contents = {"a": mix_model(), "b": scale_model(), "c": mix_model(tiny_spec(COLOUR))}
    for name, content in contents.items():
        (tmp_path / f"{name}.onnx").write_bytes(content)
    a, b, c = (tmp_path / f"{name}.onnx" for name in contents)
    for arguments, ended, words in (
        ((a, c), 2, "c.onnx must be of the same network as"),
        ((a, b), 4, "b.onnx, cpu must agree with a.onnx, cpu within 0.01, got a relative error of"),
        ((a, a), 2, "The models must be different files"),
        ((a, "--batches", "0,1"), 2, "--batches must all be at least 1, got 0,1."),
        ((tmp_path / "d.onnx",), 3, "d.onnx: no such file"),
    ):
        code, out, err = command("bench", *arguments, "--rounds", "2")
        assert (code, out, words in err) == (ended, "", True), err
