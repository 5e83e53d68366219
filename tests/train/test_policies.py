"""Policies trained here: demonstrations that do what they say, training that resumes to the bit, and export."""

import json

import numpy as np
import pytest
from representative import representative

pytest.importorskip("diffusers")


from ddpm_export import export, load_checkpoint, open_policy
from ddpm_export.errors import BadFileError, ConfigError
from train.config import read_config
from train.policies import two_ways
from train.policies.config import policy_from_dict
from train.policies.demonstrations import open_demonstrations
from train.policies.training import train_policy

pytestmark = pytest.mark.torch
TINY = {
    "batch_size": 4,
    "examples": 32,
    "down_dims": [8, 16],
    "log_every": 2,
    "checkpoint_every": 3,
    "cooldown_steps": 0,
}


def config_of(name, **changes):
    return policy_from_dict({**read_config(name), **TINY, **changes})


def pushes(path):
    """Write two short episodes as the planner does; each number says which step it is of."""
    steps = np.arange(13)[:, None]
    np.savez(path, states=steps + np.zeros(18), actions=steps + np.array([0.25, 0.5]), ends=[9, 13])
    return path


def test_two_ways_demonstrates_both_and_hits_nothing():
    given, plans = two_ways.demonstrations(np.random.default_rng(0), 2000, 16)
    goals = np.pad(given[two_ways.GOAL][:, 0], ((0, 0), (0, 1)))
    discs = given[two_ways.DISC][:, 0]
    assert two_ways.clearance(plans, discs).min() > two_ways.RADIUS
    np.testing.assert_allclose(plans[:, -1], goals, atol=1e-6)
    steps = np.linalg.norm(np.diff(np.pad(plans, ((0, 0), (1, 0), (0, 0))), axis=1), axis=2)
    assert (steps.max(axis=1) < 1.02 * steps.min(axis=1)).all()
    blocked = two_ways.clearance(np.linspace(0, goals, 17, axis=1)[:, 1:], discs) < two_ways.RADIUS
    assert blocked.mean() > 0.3
    assert 0.4 < two_ways.is_left(plans, discs)[blocked].mean() < 0.6
    mirrored = two_ways.is_left(plans * (1, -1), discs * (1, -1))
    assert (mirrored != two_ways.is_left(plans, discs)).all()


def test_windows_repeat_the_ends_of_an_episode(tmp_path):
    data = open_demonstrations(config_of("push-t"), pushes(tmp_path / "pushes.npz"))
    assert list(data.inputs) == ["observation.state", "observation.environment_state"]
    seen, plans = data.inputs["observation.state"][..., 0], data.plans[..., 0] - 0.25
    assert seen.tolist() == [
        [0, 0],
        [0, 1],
        [9, 9],
    ]  # of nine steps the last seven begin no window, of four all but one
    assert plans[1].tolist() == [*range(9), *[8] * 7]
    assert plans[2].tolist() == [9, *range(9, 13), *[12] * 11]
    assert data.inputs["observation.environment_state"].shape == (3, 2, 16)


@representative("name", ["push-t", "two-ways"])
def test_a_policy_resumes_to_the_bit_and_opens_exported(name, tmp_path):
    data = pushes(tmp_path / "pushes.npz") if name == "push-t" else None
    config = config_of(name, steps=5)
    demonstrations = open_demonstrations(config, data)
    whole = train_policy(config, demonstrations, tmp_path / "whole", print)
    train_policy(config_of(name, steps=3), demonstrations, tmp_path / "parts", print)
    parts = train_policy(config, demonstrations, tmp_path / "parts", print)
    assert (whole / "model.safetensors").read_bytes() == (parts / "model.safetensors").read_bytes()
    assert json.loads((tmp_path / "parts/log.jsonl").read_text().splitlines()[-1])["step"] == 5
    with pytest.raises(ConfigError, match="another seed"):
        train_policy(config_of(name, seed=1), demonstrations, tmp_path / "parts", print)

    export(load_checkpoint(whole), tmp_path / "policy.onnx")
    policy = open_policy(tmp_path / "policy.onnx")
    middle = sum(config.units[:1])
    action = policy({name: np.full(size, middle) for name, size in config.inputs.items()})
    assert action.shape == (2,)
    assert config.low <= action.min() <= action.max() <= config.high


def test_what_a_policy_cannot_be_trained_on_is_refused(tmp_path):
    config = config_of("push-t")
    with pytest.raises(ConfigError, match="give it with --data"):
        open_demonstrations(config, None)
    np.savez(tmp_path / "other.npz", states=np.zeros((3, 2)), actions=np.zeros((3, 2)), ends=[3])
    with pytest.raises(BadFileError, match="does not hold this policy"):
        open_demonstrations(config, tmp_path / "other.npz")
    for wrong, message in (
        ({"prediction_type": "v"}, "epsilon or sample"),
        ({"n_action_steps": 16}, "n_action_steps"),
        ({"low": 512}, "low must be below"),
        ({"steps": 0}, "steps must be at least 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            config_of("push-t", **wrong)


def test_a_regression_learns_the_mean_of_both_ways(tmp_path):
    from train.policies.report import measured, predicted, scenes

    config = config_of("two-ways", steps=40, is_regression=True, batch_size=32, warmup_steps=1)
    train_policy(config, open_demonstrations(config, None), tmp_path, print)
    goals, discs = scenes(8, 0)
    plans = predicted(tmp_path / "checkpoint.pt", goals, discs)
    assert plans.shape == (8, 16, 2)
    assert set(measured(goals, discs, plans)) >= {"against the clock, %", "through the disc, %"}
