"""lerobot's own policy beside the exported one: time to a chunk, and the same trajectory in gym-pusht.

`python benchmarks/policies.py make FOLDER` writes an untrained policy; export it, and then
`python benchmarks/policies.py measure FOLDER policy.onnx [--compiled]`. Needs lerobot 0.4.4, gym-pusht and onnxruntime.
"""

import argparse
import time
from pathlib import Path

import gym_pusht  # noqa: F401  (registers its environments)
import gymnasium
import numpy as np
import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
from lerobot.policies.diffusion.processor_diffusion import make_diffusion_pre_post_processors
from safetensors.torch import load_file

from ddpm_export.process.noise import noise_stream
from ddpm_export.sampling.policy import open_policy

STATE, AROUND = "observation.state", "observation.environment_state"
STEPS, ROUNDS, PAUSE_S, STARTS = 10, 30, 0.15, 10


def policy_of(compiled=False):
    """Return an untrained policy of 4.5 M parameters for Push-T's key points, and its processors."""
    torch.manual_seed(0)
    config = DiffusionConfig(
        input_features={
            STATE: PolicyFeature(FeatureType.STATE, (2,)),
            AROUND: PolicyFeature(FeatureType.ENV, (16,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (2,))},
        normalization_mapping=dict.fromkeys(("STATE", "ENV", "ACTION"), "MIN_MAX"),
        down_dims=(64, 128, 256),
        noise_scheduler_type="DDIM",
        num_inference_steps=STEPS,
        device="cpu",
        compile_model=compiled,
        compile_mode="default",  # the other modes are for CUDA graphs
    )
    ends = {"min": np.float32(0), "max": np.float32(512)}
    sizes = {STATE: 2, AROUND: 16, "action": 2}
    statistics = {name: {key: np.full(n, end) for key, end in ends.items()} for name, n in sizes.items()}
    return DiffusionPolicy(config).eval(), make_diffusion_pre_post_processors(config, statistics)


def make(folder):
    """Write the policy as lerobot does."""
    policy, processors = policy_of()
    policy.save_pretrained(folder)
    for processor in processors:
        processor.save_pretrained(folder)


def given_of(observation):
    """Return what a policy is given of an observation of the environment."""
    return {
        STATE: np.float32(observation["agent_pos"]),
        AROUND: np.float32(observation["environment_state"]).reshape(-1),
    }


def trajectories(theirs, processors, ours, seed):
    """Return the places of the agent in 300 steps of each, from one start, their plans from the same noise."""
    before, after = processors
    found = []
    for is_ours in (False, True):
        env = gymnasium.make("gym_pusht/PushT-v0", obs_type="environment_state_agent_pos", max_episode_steps=300)
        observation, _ = env.reset(seed=seed)
        theirs.reset()
        ours.reset(seed=seed)
        plans, places = 0, []
        for step in range(300):
            given = given_of(observation)
            if is_ours:
                action = ours(given)
            else:
                plans = step // theirs.config.n_action_steps
                x_T = noise_stream(seed, [plans], (theirs.config.horizon, 2))(0)
                batch = before({name: torch.from_numpy(value) for name, value in given.items()})
                batch = {name: batch[name] for name in given}
                action = after(theirs.select_action(batch, noise=torch.from_numpy(x_T)))[0].numpy()
            observation, *_ = env.step(action)
            places.append(observation["agent_pos"])
        found.append(np.array(places))
    return found


def measure(folder, path, compiled):
    """Print the time to a chunk of each, and how far their trajectories are from each other."""
    torch.set_num_threads(1)
    weights = load_file(folder / "model.safetensors")
    policies = {}
    for name, is_compiled in {"eager": False, **({"compiled": True} if compiled else {})}.items():
        policy, processors = policy_of(is_compiled)
        own = {key.replace("_orig_mod.", ""): key for key in policy.state_dict()}
        policy.load_state_dict({own[key]: value for key, value in weights.items()})
        policies[name] = (policy, processors)
    ours = open_policy(path, threads=1)
    noise = noise_stream(0, [0], (16, 2))(0)
    given = {STATE: np.float32([200, 300]), AROUND: np.linspace(100, 400, 16, dtype=np.float32)}

    def theirs(name):
        policy, (before, after) = policies[name]
        policy.reset()
        batch = before({key: torch.from_numpy(value) for key, value in given.items()})
        return after(policy.select_action({key: batch[key] for key in given}, noise=torch.from_numpy(noise)))

    def exported():
        ours.reset(seed=0)
        return ours(given)

    contenders = {**{name: lambda name=name: theirs(name) for name in policies}, "exported": exported}
    seconds = {name: [] for name in contenders}
    for turn in range(ROUNDS + 2):
        for name, run in contenders.items():
            time.sleep(PAUSE_S)
            begun = time.perf_counter()
            run()
            if turn > 1:
                seconds[name].append(time.perf_counter() - begun)
    for name, taken in seconds.items():
        ratio = np.median(np.array(taken) / seconds["exported"])
        print(f"{name}: median {1e3 * np.median(taken):.1f} ms, worst {1e3 * max(taken):.1f}, {ratio:.2f} of exported")
    for seed in range(STARTS):
        a, b = trajectories(*policies["eager"], ours, seed)
        size = np.ptp(a, axis=0).max()
        off = np.abs(a - b).max(axis=1) / size
        beyond = [*np.flatnonzero(off > 1e-4), "none"][0]
        print(f"start {seed}: within {off.max():.1e} of its range; first step beyond 1e-4: {beyond}")


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("what", choices=("make", "measure"))
    options.add_argument("folder", type=Path)
    options.add_argument("path", type=Path, nargs="?")
    options.add_argument("--compiled", action="store_true")
    asked = options.parse_args()
    if asked.what == "make":
        make(asked.folder)
    else:
        measure(asked.folder, asked.path, asked.compiled)
