"""Record what lerobot's own code gives for small diffusion policies: `python record.py [CASE ...]`.

Needs lerobot 0.4.4 and diffusers below 0.36; writes the case's folder beside this file. See ../README.md.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers.schedulers import scheduling_ddpm
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
from lerobot.policies.diffusion.processor_diffusion import make_diffusion_pre_post_processors

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from weights import weights_of  # noqa: E402

STATE, ENV, TOP, WRIST = (
    "observation." + name for name in ("state", "environment_state", "images.top", "images.wrist")
)
BATCH = 2
SMALL = {"down_dims": (16, 32), "diffusion_step_embed_dim": 16, "spatial_softmax_num_keypoints": 8}
DDIM = {"noise_scheduler_type": "DDIM", "num_inference_steps": 10}


def modes(state, action, env=None, visual="MEAN_STD"):
    return {"normalization_mapping": {"STATE": state, "ENV": env or state, "ACTION": action, "VISUAL": visual}}


# the shapes of what is observed, of an action, and what the configuration has of its own
CASES = {
    "state-ddpm": ({STATE: (3,), ENV: (5,)}, 2, {}),
    "state-ddim": ({STATE: (2,), ENV: (4,)}, 2, {**DDIM, "use_film_scale_modulation": False}),
    "sample-ddpm": (
        {STATE: (4,), ENV: (3,)},
        3,
        {
            **modes("QUANTILES", "QUANTILES"),
            **{"prediction_type": "sample", "num_train_timesteps": 50, "num_inference_steps": 10},
            **{"beta_schedule": "linear", "beta_end": 0.05, "clip_sample_range": 1.5},
        },
    ),
    "sample-ddim": (
        {STATE: (1,), ENV: (6,)},
        1,
        {
            **DDIM,
            **modes("QUANTILE10", "QUANTILE10", "IDENTITY"),
            **{"prediction_type": "sample", "n_obs_steps": 1, "horizon": 8, "n_action_steps": 8},
        },
    ),
    "odd": (
        {STATE: (7,), ENV: (1,)},
        5,
        {
            **modes("MEAN_STD", "MEAN_STD"),
            **{"down_dims": (24, 32, 40), "n_groups": 4, "kernel_size": 3, "diffusion_step_embed_dim": 10},
            **{
                "n_obs_steps": 3,
                "horizon": 24,
                "n_action_steps": 5,
                "num_inference_steps": 12,
                "clip_sample_range": 3.0,
            },
        },
    ),
    "unclipped": ({STATE: (3,), ENV: (2,)}, 2, {**DDIM, **modes("MIN_MAX", "IDENTITY"), "clip_sample": False}),
    "camera": ({STATE: (3,), TOP: (3, 48, 56)}, 2, {**DDIM, "crop_shape": (41, 44)}),
    "cameras": (
        {STATE: (2,), ENV: (3,), TOP: (3, 60, 50), WRIST: (3, 60, 50)},
        2,
        {**DDIM, "resize_shape": (45, 48), "crop_ratio": 0.9},
    ),
    "cameras-apart": (
        {STATE: (2,), TOP: (3, 40, 33), WRIST: (3, 40, 33)},
        2,
        {
            **DDIM,
            **modes("MIN_MAX", "MIN_MAX", visual="IDENTITY"),
            **{"use_separate_rgb_encoder_per_camera": True, "use_group_norm": False, "n_obs_steps": 1},
        },
    ),
}


def config_of(case):
    shapes, actions, own = CASES[case]
    own = {**SMALL, **own}
    if "normalization_mapping" in own:
        named = own["normalization_mapping"].items()
        own["normalization_mapping"] = {kind: NormalizationMode(mode) for kind, mode in named}
    kinds = {STATE: FeatureType.STATE, ENV: FeatureType.ENV}
    features = {name: PolicyFeature(kinds.get(name, FeatureType.VISUAL), shape) for name, shape in shapes.items()}
    action = {"action": PolicyFeature(FeatureType.ACTION, (actions,))}
    return DiffusionConfig(input_features=features, output_features=action, device="cpu", **own)


def statistics_of(rng, config):
    found = {}
    for name, feature in {**config.input_features, **config.output_features}.items():
        shape = (feature.shape[0], *(1,) * (len(feature.shape) - 1))
        low = rng.uniform(-3, 1, shape) if len(shape) == 1 else rng.uniform(0.2, 0.4, shape)
        width = rng.uniform(1, 6, shape) if len(shape) == 1 else rng.uniform(0.2, 0.4, shape)
        ends = {"min": low, "q01": low, "q10": low, "mean": low, "max": low + width, "q99": low + width}
        found[name] = {key: np.float32(value) for key, value in {**ends, "q90": low + width, "std": width}.items()}
    found[STATE]["max"][0] = found[STATE]["min"][0] + (0 if len(found[STATE]["min"]) > 2 else 1)  # one never moves
    return found


def tensors_of(network):
    """Return shape, scale and shift of every weight by its name, by the rule of ../README.md."""
    tensors = {}
    for name, value in network.state_dict().items():
        if name.endswith(("pos_grid", "num_batches_tracked")):
            continue
        is_norm = value.dim() == 1 and not name.endswith("bias") and "running_mean" not in name
        scale = 0.2 if is_norm else 0.1 if value.dim() == 1 else 0.9 / math.sqrt(value[0].numel())
        tensors[name] = [list(value.shape), round(scale, 6), 1.0 if is_norm else 0.0]
    return tensors


def observations_of(rng, config, statistics):
    observations = {}
    for name, feature in config.input_features.items():
        shape = (BATCH, config.n_obs_steps, *feature.shape)
        if len(feature.shape) == 3:  # levels, multiples of 16 in squares of 8, which keep the file small
            coarse = rng.integers(0, 16, (*shape[:3], -(-shape[3] // 8), -(-shape[4] // 8)), dtype=np.uint8) * 16
            fine = coarse.repeat(8, axis=3).repeat(8, axis=4)[..., : shape[3], : shape[4]]
            observations[name] = np.ascontiguousarray(fine)
        else:
            low, high = statistics[name]["min"], statistics[name]["max"]
            observations[name] = np.float32(low + (high - low) * rng.uniform(0, 1, shape))
    return observations


def record(case):
    config = config_of(case)
    rng = np.random.default_rng(sorted(CASES).index(case))
    policy = DiffusionPolicy(config).eval()
    folder = HERE / case
    folder.mkdir(exist_ok=True)
    made = {"seed": 35, "tensors": tensors_of(policy)}
    (folder / "weights.json").write_text(json.dumps(made, separators=(",", ":")) + "\n")
    drawn = {name: torch.from_numpy(value) for name, value in weights_of(f"lerobot/{case}").items()}
    fixed = {name: value for name, value in policy.state_dict().items() if name not in drawn}
    policy.load_state_dict({**drawn, **fixed}, strict=True)
    statistics = statistics_of(rng, config)
    processors = make_diffusion_pre_post_processors(config, statistics)
    policy.config._save_pretrained(folder)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"type": "diffusion", **values}, indent=1) + "\n")
    for processor in processors:
        processor.save_pretrained(folder)
    for file in folder.glob("*.safetensors"):  # the tests write them, of expected.npz
        file.unlink()

    observations = observations_of(rng, config, statistics)
    given = {
        name: values / np.float32(255) if values.dtype == np.uint8 else values for name, values in observations.items()
    }
    batch = processors[0]({name: torch.from_numpy(np.float32(values)) for name, values in given.items()})
    batch = {name: value for name, value in batch.items() if name in observations}
    if config.image_features:
        batch["observation.images"] = torch.stack([batch[name] for name in config.image_features], dim=-4)
    steps = config.num_inference_steps or config.num_train_timesteps
    draws = 1 + (steps if config.noise_scheduler_type == "DDPM" else 0)
    noise = np.float32(np.round(rng.standard_normal((draws, BATCH, config.horizon, CASES[case][1])) * 16) / 16)
    items = iter(noise[1:])
    scheduling_ddpm.randn_tensor = lambda *_, **__: torch.from_numpy(next(items))
    with torch.inference_mode():
        chunk = processors[1](policy.diffusion.generate_actions(batch, noise=torch.from_numpy(noise[0])))
    arrays = {f"statistics/{name}.{key}": v for name, entry in statistics.items() for key, v in entry.items()}
    arrays |= {f"weights/{name}": value.numpy() for name, value in fixed.items() if name.endswith("pos_grid")}
    arrays |= {f"observations/{name}": value for name, value in observations.items()}
    np.savez_compressed(folder / "expected.npz", noise=noise, chunk=np.float32(chunk.numpy()), **arrays)
    print(case, sum(p.numel() for p in policy.parameters()), chunk.min().item(), chunk.max().item())


if __name__ == "__main__":
    torch.set_num_threads(1)
    for case in sys.argv[1:] or CASES:
        record(case)
