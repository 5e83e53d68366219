"""`python -m train.policies.push_t push-t.onnx`: a policy in gym-pusht, closed loop, from starts it was not taught.

Needs gym-pusht 0.1.8. With `--strip`, draws the first episode.
"""

import argparse
import json
from pathlib import Path

import gym_pusht  # noqa: F401  (registers its environments)
import gymnasium
import numpy as np
from PIL import Image

from ddpm_export.sampling.policy import open_policy

FIRST_START = 1_000_000  # the demonstrations are of lower seeds
MAX_STEPS, FRAMES = 300, 8


def given_of(observed):
    """Return what the policy is given of an observation of the environment."""
    return {
        "observation.state": np.float32(observed["agent_pos"]),
        "observation.environment_state": np.float32(observed["environment_state"]).reshape(-1),
    }


def episode(policy, seed, frames=None):
    """Return the coverage after each step from a start; frames: a list that gets pictures (H, W, 3)."""
    env = gymnasium.make("gym_pusht/PushT-v0", obs_type="environment_state_agent_pos", visualization_width=192,
                         visualization_height=192).unwrapped  # fmt: skip
    observed, _ = env.reset(seed=seed)
    policy.reset(seed=seed)
    coverages = []
    for _ in range(MAX_STEPS):
        if frames is not None:
            frames.append(env.render())
        observed, _, terminated, _, info = env.step(policy(given_of(observed)).astype(float))
        coverages.append(info["coverage"])
        if terminated:
            break
    if frames is not None:
        frames.append(env.render())
    return np.array(coverages)


def main():
    """Print mean best coverage and success (95 % covered within 300 steps)."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("path", type=Path)
    options.add_argument("--starts", type=int, default=50)
    options.add_argument("--num-steps", type=int)
    options.add_argument("--strip", type=Path)
    asked = options.parse_args()
    how = {} if asked.num_steps is None else {"num_steps": asked.num_steps}
    policy = open_policy(asked.path, threads=1, **how)
    best, steps = [], []
    for k in range(asked.starts):
        frames = [] if k == 0 and asked.strip else None
        coverages = episode(policy, FIRST_START + k, frames)
        best.append(float(coverages.max()))
        steps.append(len(coverages))
        print(k, round(best[-1], 3), steps[-1], flush=True)
        if frames:
            chosen = np.linspace(0, len(frames) - 1, FRAMES).round().astype(int)
            Image.fromarray(np.concatenate([frames[i] for i in chosen], axis=1)).save(asked.strip)
    success = np.array(best) > 0.95
    steps = [n for n, done in zip(steps, success, strict=True) if done]
    found = {"mean best coverage": round(float(np.mean(best)), 3), "success": f"{success.sum()} of {len(best)}"}
    print(json.dumps(found | {"median steps to it": float(np.median(steps)) if steps else None}))


if __name__ == "__main__":
    main()
