"""Diffusion policies of lerobot: from the same observations and noise to the chunk that its own code recorded."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from commands import run_here
from safetensors.torch import save_file

from ddpm_export import generate, load_checkpoint, open_model, open_policy, walk
from ddpm_export.cli import bench
from ddpm_export.errors import BadFileError, EnvironmentProblem, ModelRefusedError, UsageError
from ddpm_export.exporting.export import export_all
from ddpm_export.measuring import timing
from ddpm_export.measuring.steps import observed_at_the_middle
from ddpm_export.model.denoiser import denoiser
from ddpm_export.model.steps import plan
from ddpm_export.runtimes import providers
from tests.oracles.weights import ORACLES, weights_of

pytestmark = pytest.mark.torch
ROOT = Path(__file__).parents[2]
STATE = "observation.state"
CASES = sorted(path.parent.name for path in (ORACLES / "lerobot").glob("*/expected.npz"))
NEEDED = ("camera", "state-ddim")  # both exported for other tests as well


def policy(case: str, folder: Path) -> dict:
    """Write a recorded policy as `save_pretrained` does, and return its recording."""
    shutil.copytree(ORACLES / "lerobot" / case, folder)
    recorded = dict(np.load(folder / "expected.npz"))
    weights = {name: torch.from_numpy(value) for name, value in weights_of(f"lerobot/{case}").items()}
    weights |= {name[8:]: torch.from_numpy(value) for name, value in recorded.items() if name.startswith("weights/")}
    save_file(weights, folder / "model.safetensors")
    statistics = {
        k[11:]: torch.from_numpy(np.atleast_1d(v)) for k, v in recorded.items() if k.startswith("statistics/")
    }
    for processor in ("policy_preprocessor.json", "policy_postprocessor.json"):
        for step in json.loads((folder / processor).read_text())["steps"]:
            if "state_file" in step:
                save_file(statistics, folder / step["state_file"])
    return recorded


def observed(recorded: dict) -> dict:
    given = {name[13:]: values for name, values in recorded.items() if name.startswith("observations/")}
    return {name: v / np.float32(255) if v.dtype == np.uint8 else v for name, v in given.items()}


@pytest.fixture(scope="session")
def exported_policy(made_once):
    """Return case -> (path of the exported policy, what was recorded of it); state-ddim also as policy.sampler.onnx."""

    def get(case):
        if "camera" in case:
            pytest.importorskip("torchvision")

        def make(folder):
            policy(case, folder / "policy")
            names = ("policy.onnx", "policy.sampler.onnx")[: 1 + (case == "state-ddim")]
            formats = dict(zip(("onnx", "sampler"), (folder / name for name in names), strict=False))
            assert len(list(export_all(load_checkpoint(folder / "policy"), formats))) == len(names)

        folder = made_once(f"policy-{case}", make, ROOT / "ddpm_export", ORACLES / "lerobot" / case, __file__)
        return folder / "policy.onnx", dict(np.load(folder / "policy" / "expected.npz"))

    return get


@pytest.mark.parametrize("case", [pytest.param(c, marks=[pytest.mark.long] * (c not in NEEDED)) for c in CASES])
def test_a_policy_gives_the_chunk_that_its_own_code_gives(case, exported_policy):
    path, recorded = exported_policy(case)
    network, spec = open_model(path)
    inputs = network.prepare(observed(recorded))
    rows = plan(spec)
    noise = recorded["noise"]
    *_, last = walk(denoiser(network, spec, **inputs), lambda draw: noise[draw], rows)
    chunk = network.decode(last.x)
    size = np.ptp(recorded["chunk"])
    assert chunk.shape == recorded["chunk"].shape
    assert size > 0.5
    np.testing.assert_allclose(chunk, recorded["chunk"], rtol=0, atol=1e-5 * size)


@pytest.fixture
def opened(exported_policy):
    """Return the path of a policy that took two observations and gives eight actions, and its recording."""
    path, recorded = exported_policy("state-ddim")
    return path, {name: values[0] for name, values in observed(recorded).items()}


def test_a_camera_takes_pictures_as_cameras_give_them(exported_policy):
    path, recorded = exported_policy("camera")
    run = open_policy(path)
    floats = {name: values[0, 0] for name, values in observed(recorded).items()}
    levels = {name[13:]: v[0, 0] for name, v in recorded.items() if v.dtype == np.uint8}
    assert levels
    expected = run(floats)
    run.reset()
    np.testing.assert_array_equal(run({**floats, **{k: v.transpose(1, 2, 0) for k, v in levels.items()}}), expected)
    with pytest.raises(UsageError, match=r"or, as uint8, \(\d+, \d+, 3\), got uint8 \(\d+, \d+, 3\)"):
        run({**floats, **{k: v.T for k, v in levels.items()}})


def test_a_policy_plans_when_no_action_is_left_and_the_same_in_any_process(opened):
    path, given = opened
    run = open_policy(path)
    first = {name: values[0] for name, values in given.items()}
    actions = [run(first) for _ in range(9)]
    assert run.plans == 2
    same = {name: np.stack([value] * 2) for name, value in first.items()}
    chunks = [generate(path, n=1, seed=0, first=k, inputs=same)[0] for k in range(2)]
    np.testing.assert_array_equal(actions, [*chunks[0], chunks[1][0]])
    run.reset(seed=7)
    moved = {name: values[1] for name, values in given.items()}
    later = [run(first), *(run(moved) for _ in range(8))]
    np.testing.assert_array_equal(later[0], generate(path, n=1, seed=7, inputs=same)[0, 0])
    both = {name: np.stack([value] * 2) for name, value in moved.items()}
    np.testing.assert_array_equal(later[8], generate(path, n=1, seed=7, first=1, inputs=both)[0, 0])
    one_call = open_policy(path.with_suffix(".sampler.onnx"))
    np.testing.assert_allclose([one_call(first) for _ in range(8)], chunks[0], atol=1e-5)


def test_what_is_wrong_with_an_observation_is_named_and_changes_nothing(opened):
    path, given = opened
    first = {name: values[0] for name, values in given.items()}
    run = open_policy(path)
    expected = run(first)
    far = {**first, STATE: first[STATE] + 1e4}
    wrong = {
        "lacks 'observation.state'": {k: v for k, v in first.items() if k != STATE},
        "has 'other'": {**first, "other": 1.0},
        "must have shape": {**first, STATE: np.zeros(5)},
        "must be finite": {**first, STATE: first[STATE] * np.nan},
        "must be from": far,
    }
    run.reset()
    for message, observation in wrong.items():
        with pytest.raises(UsageError, match=message):
            run(observation)
    np.testing.assert_array_equal(run(first), expected)
    with pytest.raises(EnvironmentProblem, match="longer than"):
        open_policy(path, deadline_s=0.0)(first)
    with pytest.raises(UsageError, match="must be from"):
        generate(path, n=1, inputs={name: np.stack([value] * 2) for name, value in far.items()})
    with pytest.raises(ModelRefusedError, match="Use `generate`"):
        open_policy(ROOT / "exported" / "unet.onnx")


def test_its_plans_are_timed_and_its_process_gets_an_observation(opened, monkeypatch):
    for name in ("PAUSE_S", "TURN_S", "WARM_UP_S", "BUSY_LOOK_S"):
        monkeypatch.setattr(timing, name, 0.0)
    programs = {}
    monkeypatch.setattr(timing, "launched_in_turns", lambda given, _: programs.update(given) or {})
    monkeypatch.setattr(providers, "PROVIDERS", {"cpu": providers.PROVIDERS["cpu"]})
    ending = run_here(bench.main, opened[0], "--batches", 1, "--rounds", 2, "--json")
    assert ending.code == 0, ending
    ((name, plans),) = json.loads(ending.out)["plans"].items()
    assert (name, plans["plans"]) == ("policy.onnx, cpu", 24)
    assert 0 < plans["ms"] <= plans["ms_99"]
    assert plans["per_second"] == pytest.approx(1e3 / plans["ms"])
    assert any(word.startswith(f"{STATE}=") for word in programs[name])
    middle = observed_at_the_middle(open_model(opened[0])[1])
    low, high = open_model(opened[0])[1].stages["before"].inputs[0].limits
    np.testing.assert_allclose(middle[STATE], np.tile(np.mean([low, high], axis=0), (2, 1)), rtol=1e-6)


def change(path, edit):
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("file", "edit", "message"),
    [
        ("config.json", lambda c: c.update(rtc_config={"enabled": True}), "real-time chunking"),
        ("config.json", lambda c: c.update(n_action_steps=40), "n_action_steps"),
        ("config.json", lambda c: c.update(down_dims=[16]), "down_dims"),
        ("config.json", lambda c: c.update(down_dims=[16, 64]), "model.safetensors"),
        ("policy_preprocessor.json", lambda p: p["steps"][-1].pop("state_file"), "Save the policy again with the stat"),
        ("policy_preprocessor.json", lambda p: p["steps"].append({"registry_name": "other"}), "other"),
        ("policy_preprocessor.json", lambda p: p["steps"][-1].update(state_file="../x"), "files beside it"),
        ("policy_postprocessor.json", None, "policy_postprocessor.json"),
    ],
)
def test_policies_that_are_refused(file, edit, message, tmp_path):
    policy("state-ddim", tmp_path / "policy")
    if edit is None:
        (tmp_path / "policy" / file).unlink()
    else:
        change(tmp_path / "policy" / file, edit)
    with pytest.raises(BadFileError, match=message):
        load_checkpoint(tmp_path / "policy")
