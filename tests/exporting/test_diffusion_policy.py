"""Policies of diffusion_policy: from the same observations and noise to the chunk that its own code recorded."""

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from safetensors.torch import load_file, save_file

from ddpm_export import export, load_checkpoint, open_model, walk
from ddpm_export.errors import BadFileError
from ddpm_export.model.denoiser import denoiser
from ddpm_export.model.steps import plan
from tests.oracles.weights import ORACLES, weights_of

from .test_lerobot import observed

pytestmark = pytest.mark.torch
CASES = sorted(path.parent.name for path in (ORACLES / "diffusion_policy").glob("*/expected.npz"))
NEEDED = ("unet-known", "transformer")


def policy(case: str, folder: Path) -> dict:
    """Write a recorded policy as docs/policies.md says to, and return its recording."""
    folder.mkdir()
    shutil.copy(ORACLES / "diffusion_policy" / case / "config.json", folder)
    recorded = dict(np.load(ORACLES / "diffusion_policy" / case / "expected.npz"))
    weights = {name: torch.from_numpy(value) for name, value in weights_of(f"diffusion_policy/{case}").items()}
    weights |= {name[8:]: torch.from_numpy(value) for name, value in recorded.items() if name.startswith("weights/")}
    save_file(weights, folder / "model.safetensors")
    return recorded


@pytest.mark.parametrize("case", [pytest.param(c, marks=[pytest.mark.long] * (c not in NEEDED)) for c in CASES])
def test_a_policy_gives_the_chunk_that_its_own_code_gives(case, tmp_path):
    if "images" in case:
        pytest.importorskip("torchvision")
    recorded = policy(case, tmp_path / "policy")
    export(load_checkpoint(tmp_path / "policy"), tmp_path / "policy.onnx")
    network, spec = open_model(tmp_path / "policy.onnx")
    noise = recorded["noise"]
    *_, last = walk(
        denoiser(network, spec, **network.prepare(observed(recorded))), lambda draw: noise[draw], plan(spec)
    )
    chunk = network.decode(last.x)
    size = np.ptp(recorded["chunk"])
    assert chunk.shape == recorded["chunk"].shape
    assert size > 0.5
    np.testing.assert_allclose(chunk, recorded["chunk"], rtol=0, atol=1e-5 * size)


def test_a_checkpoint_of_its_workspace_is_refused_with_the_line_that_takes_it_apart(tmp_path, monkeypatch):
    module = ModuleType("omegaconf.dictconfig")
    module.DictConfig = type("DictConfig", (), {"__module__": module.__name__})
    monkeypatch.setitem(sys.modules, "omegaconf", ModuleType("omegaconf"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    torch.save({"cfg": module.DictConfig(), "state_dicts": {"model": {}}}, tmp_path / "latest.ckpt")
    with pytest.raises(BadFileError, match=r"is a pickle of a workspace.*python -c \"import dill") as refused:
        load_checkpoint(tmp_path / "latest.ckpt")
    line = str(refused.value).partition('python -c "')[2].rstrip('"')
    compile(line, "line", "exec")
    assert repr(str(tmp_path / "latest.ckpt")) in line


@pytest.mark.parametrize(
    ("case", "edit", "message"),
    [
        ("unet-local", {"_target_": "diffusion_policy.policy.bet_lowdim_policy.BETLowdimPolicy"}, "BETLowdimPolicy"),
        ("unet-local", {"other": 1}, "other"),
        ("unet-local", {"obs_as_global_cond": True}, "obs_as_local_cond"),
        ("unet-local", {"n_action_steps": 7}, "n_action_steps"),
        ("unet-local", {"horizon": 7}, "horizon"),
        ("unet-local", {"model": None}, "model"),
        ("unet-known", {"obs_as_global_cond": True}, "model.safetensors"),
        ("transformer", {"horizon": 9}, "config.json"),
        ("images", {"shape_meta": {"obs": {}, "action": {"shape": [2, 2]}}}, "shape_meta.action"),
    ],
)
def test_policies_that_are_refused(case, edit, message, tmp_path):
    policy(case, tmp_path / "policy")
    path = tmp_path / "policy" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **edit}))
    with pytest.raises(BadFileError, match=message):
        load_checkpoint(tmp_path / "policy")


@pytest.mark.parametrize(
    ("key", "value"), [("action.scale", 0.0), ("obs.offset", float("nan")), ("obs.input_stats.min", None)]
)
def test_a_normaliser_that_is_missing_or_broken_is_refused(key, value, tmp_path):
    policy("unet-global", tmp_path / "policy")
    path, name = tmp_path / "policy" / "model.safetensors", f"normalizer.params_dict.{key}"
    weights = load_file(path)
    if value is None:
        del weights[name]
    else:
        weights[name] = torch.full_like(weights[name], value)
    save_file(weights, path)
    with pytest.raises(BadFileError, match=key.partition(".")[2]):
        load_checkpoint(tmp_path / "policy")
