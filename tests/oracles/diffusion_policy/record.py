"""Record what diffusion_policy's own code gives for small policies: `python record.py [CASE ...]`.

Needs its repository on PYTHONPATH, and diffusers and torchvision; writes the case's folder beside this file. See
../README.md.
"""

import json
import math
import sys
import types
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.schedulers import scheduling_ddpm

sys.modules["zarr"] = types.ModuleType("zarr")  # of which its normaliser asks whether data are an array
sys.modules["zarr"].Array = type("Array", (), {})

from diffusion_policy.model.common.normalizer import LinearNormalizer, SingleFieldLinearNormalizer  # noqa: E402
from diffusion_policy.model.diffusion.conditional_unet1d import ConditionalUnet1D  # noqa: E402
from diffusion_policy.model.diffusion.transformer_for_diffusion import TransformerForDiffusion  # noqa: E402
from diffusion_policy.model.vision.model_getter import get_resnet  # noqa: E402
from diffusion_policy.model.vision.multi_image_obs_encoder import MultiImageObsEncoder  # noqa: E402
from diffusion_policy.policy.diffusion_transformer_lowdim_policy import DiffusionTransformerLowdimPolicy  # noqa: E402
from diffusion_policy.policy.diffusion_unet_image_policy import DiffusionUnetImagePolicy  # noqa: E402
from diffusion_policy.policy.diffusion_unet_lowdim_policy import DiffusionUnetLowdimPolicy  # noqa: E402

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from weights import weights_of  # noqa: E402

BATCH, DRAWN = 2, 400
CLASSES = {
    kind.__name__: kind
    for kind in (
        *(ConditionalUnet1D, TransformerForDiffusion, MultiImageObsEncoder, DDPMScheduler, DDIMScheduler),
        *(DiffusionUnetLowdimPolicy, DiffusionTransformerLowdimPolicy, DiffusionUnetImagePolicy),
    )
}
DDPM = {
    **{"_target_": "diffusers.schedulers.scheduling_ddpm.DDPMScheduler", "num_train_timesteps": 20},
    **{"beta_schedule": "squaredcos_cap_v2", "variance_type": "fixed_small"},
    **{"clip_sample": True, "clip_sample_range": 3.0, "prediction_type": "epsilon"},
}
DDIM = {
    **{"_target_": "diffusers.schedulers.scheduling_ddim.DDIMScheduler", "num_train_timesteps": 100},
    **{"beta_schedule": "squaredcos_cap_v2", "clip_sample": True, "set_alpha_to_one": True, "steps_offset": 0},
}
UNET = {"diffusion_step_embed_dim": 16, "down_dims": [16, 32], "kernel_size": 5, "n_groups": 8}


def unet(state, local=None, given=None, **own):
    target = "diffusion_policy.model.diffusion.conditional_unet1d.ConditionalUnet1D"
    return {"_target_": target, "input_dim": state, "local_cond_dim": local, "global_cond_dim": given, **UNET, **own}


def transformer(size, condition, **own):
    target = "diffusion_policy.model.diffusion.transformer_for_diffusion.TransformerForDiffusion"
    sizes = {"input_dim": size, "output_dim": size, "horizon": 8, "n_obs_steps": 2, "cond_dim": condition}
    return {"_target_": target, **sizes, "n_layer": 2, "n_head": 4, "n_emb": 32, "p_drop_attn": 0.3, **own}


def lowdim(kind, model, scheduler, steps, **own):
    target = f"diffusion_policy.policy.diffusion_{kind.lower()}_lowdim_policy.Diffusion{kind}LowdimPolicy"
    times = {"horizon": 8, "n_obs_steps": 2, "n_action_steps": 4, "num_inference_steps": steps}
    parts = {"model": model, "noise_scheduler": scheduler, "obs_dim": 5, "action_dim": 2}
    return {"_target_": target, **parts, **times, **own}


def images(cameras, shared, **own):
    names = [f"camera{k}" for k in range(cameras)]
    meta = {"obs": {name: {"shape": [3, 40, 44], "type": "rgb"} for name in names}, "action": {"shape": [2]}}
    meta["obs"]["agent_pos"] = {"shape": [3], "type": "low_dim"}
    encoder = {
        **{"_target_": "diffusion_policy.model.vision.multi_image_obs_encoder.MultiImageObsEncoder"},
        **{"shape_meta": meta, "resize_shape": None, "crop_shape": [33, 36], "random_crop": True},
        **{"rgb_model": {"_target_": "diffusion_policy.model.vision.model_getter.get_resnet", "name": "resnet18"}},
        **{"use_group_norm": True, "share_rgb_model": shared, "imagenet_norm": not shared},
    }
    times = {"horizon": 8, "n_obs_steps": 2, "n_action_steps": 4, "num_inference_steps": 8}
    target = "diffusion_policy.policy.diffusion_unet_image_policy.DiffusionUnetImagePolicy"
    scheduler = {**DDIM, "prediction_type": "epsilon"}
    parts = {"shape_meta": meta, "noise_scheduler": scheduler, "obs_encoder": encoder}
    return {"_target_": target, **parts, **times, **UNET, "cond_predict_scale": True, **own}


# a configuration as its workspace has it under `policy`, and how its normaliser is fitted
CASES = {
    "unet-global": (
        lowdim(
            *("Unet", unet(2, given=10, cond_predict_scale=True), DDPM, 20),
            **{"obs_as_global_cond": True, "oa_step_convention": True},
        ),
        "limits",
    ),
    "unet-local": (
        lowdim("Unet", unet(2, local=5), {**DDIM, "prediction_type": "sample"}, 10, obs_as_local_cond=True),
        "gaussian",
    ),
    "unet-known": (
        lowdim("Unet", unet(7, down_dims=[24, 32, 40], n_groups=4), DDPM, 20, oa_step_convention=True),
        "limits",
    ),
    "unet-only": (
        lowdim(
            *("Unet", unet(2, given=10), {**DDIM, "prediction_type": "epsilon"}, 8),
            **{"obs_as_global_cond": True, "pred_action_steps_only": True, "eta": 0.5},
        ),
        "limits",
    ),
    "transformer": (lowdim("Transformer", transformer(2, 5, causal_attn=True), DDPM, 20, obs_as_cond=True), "limits"),
    "transformer-layers": (
        lowdim(
            *("Transformer", transformer(2, 5, n_cond_layers=2), {**DDIM, "prediction_type": "sample"}, 10),
            obs_as_cond=True,
        ),
        "gaussian",
    ),
    "transformer-known": (
        lowdim("Transformer", transformer(7, 0, causal_attn=True, time_as_cond=False, n_head=2), DDPM, 20),
        "limits",
    ),
    "images": (images(2, shared=False), "limits"),
}


def built(config):
    """Return the object of a configuration, as hydra makes it."""
    config = {
        key: built(value) if isinstance(value, dict) and "_target_" in value else value for key, value in config.items()
    }
    target = config.pop("_target_", None)
    name = str(target).rpartition(".")[2]
    return get_resnet(**config) if name == "get_resnet" else CLASSES[name](**config)


def tensors_of(network):
    """Return shape, scale and shift of every weight by its name, by the rule of ../README.md."""
    tensors = {}
    for name, value in network.state_dict().items():
        if "params_dict" in name or name.endswith(("mask", "num_batches_tracked", "_dummy_variable")):
            continue
        is_norm = value.dim() == 1 and not name.endswith("bias") and "running_mean" not in name
        scale = 0.2 if is_norm else 0.1 if value.dim() == 1 else 0.9 / math.sqrt(value[0].numel())
        tensors[name] = [list(value.shape), round(scale, 6), 1.0 if is_norm else 0.0]
    return tensors


def normaliser_of(rng, shapes, actions, mode):
    """Return a normaliser fitted to drawn data, one number of which never moves, and their range."""
    normaliser, ranges = LinearNormalizer(), {}
    for name, shape in {**shapes, "action": (actions,)}.items():
        if len(shape) == 3:
            scale, offset = np.float32([2]), np.float32([-1])
            found = dict(zip(("min", "max", "mean", "std"), np.float32([[0], [1], [0.5], [0.3]]), strict=True))
            normaliser[name] = SingleFieldLinearNormalizer.create_manual(scale, offset, found)
            continue
        low = rng.uniform(-3, 1, shape)
        high = low + rng.uniform(1, 6, shape)
        if shape == (5,):
            high[3] = low[3]
        data = np.float32(rng.uniform(low, high, (DRAWN, *shape)))
        normaliser[name] = SingleFieldLinearNormalizer.create_fit(data, mode=mode)
        ranges[name] = low, high
    return normaliser, ranges


def observations_of(rng, shapes, ranges, steps):
    observations = {}
    for name, shape in shapes.items():
        if len(shape) == 3:  # levels, multiples of 16 in squares of 8, which keep the file small
            coarse = rng.integers(0, 16, (BATCH, steps, 3, -(-shape[1] // 8), -(-shape[2] // 8)), dtype=np.uint8) * 16
            fine = coarse.repeat(8, axis=3).repeat(8, axis=4)[..., : shape[1], : shape[2]]
            observations[name] = np.ascontiguousarray(fine)
        else:
            observations[name] = np.float32(rng.uniform(*ranges[name], (BATCH, steps, *shape)))
    return observations


def record(case):
    config, mode = CASES[case]
    rng = np.random.default_rng(sorted(CASES).index(case))
    policy = built(config).eval()
    folder = HERE / case
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    made = {"seed": 35, "tensors": tensors_of(policy)}
    (folder / "weights.json").write_text(json.dumps(made, separators=(",", ":")) + "\n")
    meta = config.get("shape_meta", {"obs": {"obs": {"shape": [5]}}})["obs"]
    shapes = {name: tuple(entry["shape"]) for name, entry in meta.items()}
    normaliser, ranges = normaliser_of(rng, shapes, 2, mode)
    policy.set_normalizer(normaliser)
    drawn = {name: torch.from_numpy(value) for name, value in weights_of(f"diffusion_policy/{case}").items()}
    fixed = {name: value for name, value in policy.state_dict().items() if name not in drawn}
    policy.load_state_dict({**drawn, **fixed}, strict=True)

    observations = observations_of(rng, shapes, ranges, config["n_obs_steps"])
    given = {k: np.float32(v) / np.float32(255) if v.dtype == np.uint8 else v for k, v in observations.items()}
    ddpm = "ddpm" in config["noise_scheduler"]["_target_"]
    draws = 1 + (config["num_inference_steps"] if ddpm or config.get("eta") else 0)
    length = config["n_action_steps"] if config.get("pred_action_steps_only") else config["horizon"]
    width = (
        policy.model.final_conv[1].out_channels
        if hasattr(policy.model, "final_conv")
        else policy.model.head.out_features
    )
    noise = np.float32(np.round(rng.standard_normal((draws, BATCH, length, width)) * 16) / 16)
    items = iter(noise)

    def draw(*_, **__):
        return torch.from_numpy(next(items))

    torch.randn = draw
    scheduling_ddpm.randn_tensor = draw
    sys.modules["diffusers.schedulers.scheduling_ddim"].randn_tensor = draw
    with torch.inference_mode():
        chunk = policy.predict_action({name: torch.from_numpy(value) for name, value in given.items()})["action"]
    assert len(list(items)) < 2  # DDPM's last step draws nothing
    arrays = {f"weights/{name}": value.numpy() for name, value in fixed.items()}
    arrays |= {f"observations/{name}": value for name, value in observations.items()}
    np.savez_compressed(folder / "expected.npz", noise=noise, chunk=np.float32(chunk.numpy()), **arrays)
    print(case, sum(p.numel() for p in policy.parameters()), chunk.shape, chunk.min().item(), chunk.max().item())


if __name__ == "__main__":
    torch.set_num_threads(1)
    normal = torch.randn
    for case in sys.argv[1:] or CASES:
        torch.randn = normal
        record(case)
