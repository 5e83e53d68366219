"""Record what EDM's or EDM2's code gives for small networks: `python record.py [CASE ...]`, a clone on PYTHONPATH.

Writes the case's folder beside this file. See ../README.md.
"""

import importlib
import importlib.util
import json
import math
import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from weights import weights_of  # noqa: E402

STEPS, BATCH, SIZE = 5, 2, 8
SONG = {"model_type": "SongUNet", "model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4]}
NCSNPP = {**SONG, "embedding_type": "fourier", "encoder_type": "residual", "channel_mult_noise": 2}
NCSNPP["resample_filter"] = [1, 3, 3, 1]
ADM = {**SONG, "model_type": "DhariwalUNet", "model_channels": 32}
CHURN = {"S_churn": 2.0, "S_min": 0.01, "S_max": 50.0, "S_noise": 1.003}
EDM2 = {"model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4], "channels_per_head": 8}
IS_EDM2 = importlib.util.find_spec("training.networks_edm2") is not None
# class, arguments of the network, of the sampler
CASES = {
    "ddpmpp": ("EDMPrecond", {**SONG, "sigma_data": 0.4}, CHURN),
    "ddpmpp-vp-classes": ("VPPrecond", {**SONG, "label_dim": 3, "label_dropout": 0.1}, {}),
    "ddpmpp-skip": ("EDMPrecond", {**SONG, "encoder_type": "skip", "decoder_type": "skip", "label_dim": 3}, {}),
    "ncsnpp": ("EDMPrecond", {**NCSNPP, "decoder_type": "skip", "augment_dim": 9}, {"rho": 5.0}),
    "ncsnpp-ve": ("VEPrecond", NCSNPP, CHURN),
    "adm-iddpm": ("iDDPMPrecond", {**ADM, "label_dim": 3}, {**CHURN, "S_churn": 40.0}),
    "edm2": ("Precond", {**EDM2, "label_dim": 0, "res_balance": 0.4, "concat_balance": 0.3}, CHURN),
    "edm2-classes": ("Precond", {**EDM2, "label_dim": 3, "label_balance": 0.4, "sigma_data": 0.4}, {"rho": 5.0}),
    "adm-classes": ("EDMPrecond", {**ADM, "label_dim": 3, "augment_dim": 9}, {"sigma_min": 0.01, "sigma_max": 60.0}),
}


def tensors_of(network):
    """Return shape, scale and shift of every weight by its name, by the rule of ../README.md; filters are all 0."""
    tensors = {}
    for name, value in network.state_dict().items():
        if name == "u":  # of iDDPMPrecond, whose own it keeps
            continue
        if value.dim() == 0:
            tensors[name] = [[], 0.1, 0.7]
            continue
        is_norm = value.dim() == 1 and "norm" in name and name.endswith("weight")
        scale = 0.2 if is_norm else 0.1 if value.dim() == 1 else 0.9 / math.sqrt(value[0].numel())
        scale = {"freqs": 6.0 if IS_EDM2 else 16.0, "phases": 2.0, "resample_filter": 0.0}.get(
            name.rpartition(".")[2], scale
        )
        tensors[name] = [list(value.shape), round(scale, 6), 1.0 if is_norm else 0.0]
    return tensors


def record(case):
    kind, arguments, asked = CASES[case]
    networks = importlib.import_module("training.networks_edm2" if IS_EDM2 else "training.networks")
    edm_sampler = importlib.import_module("generate_images" if IS_EDM2 else "generate").edm_sampler
    network = getattr(networks, kind)(img_resolution=SIZE, img_channels=1, **arguments).eval().requires_grad_(False)
    folder = HERE / case
    folder.mkdir(exist_ok=True)
    tensors = {"seed": sum(case.encode()), "tensors": tensors_of(network)}
    (folder / "weights.json").write_text(json.dumps(tensors, indent=1) + "\n", encoding="utf-8")
    options = {"options": {"class_name": kind, **network.init_kwargs}, "sampler": asked}
    (folder / "config.json").write_text(json.dumps(options, indent=1) + "\n", encoding="utf-8")
    own = network.state_dict()
    filters = {name: value for name, value in own.items() if name.endswith("resample_filter")}
    weights = {name: torch.from_numpy(value) for name, value in weights_of(f"edm/{case}").items()}
    network.load_state_dict({**own, **weights, **filters})

    rng = np.random.default_rng(0)
    sigma = np.float32([0.02, 0.5, 5.0, 59.0])
    x = np.round(rng.standard_normal((4, 1, SIZE, SIZE)) * 16).astype(np.float32) / 16 * sigma[:, None, None, None]
    y = np.array([0, 2, 1, 2])
    noise = np.round(rng.standard_normal((STEPS + 1, BATCH, 1, SIZE, SIZE)) * 16).astype(np.float32) / 16
    classes = torch.eye(network.label_dim)[y] if network.label_dim else None
    denoised = network(torch.from_numpy(x), torch.from_numpy(sigma), classes)
    root = [
        max(asked.get("sigma_min", 0.002), getattr(network, "sigma_min", 0.0)),
        min(asked.get("sigma_max", 80.0), getattr(network, "sigma_max", math.inf)),
    ]
    root = [end ** (1 / asked.get("rho", 7.0)) for end in root]
    sigmas = np.linspace(root[1], root[0], STEPS) ** asked.get("rho", 7.0)
    drawn = iter(torch.from_numpy(noise[1:]))
    churns = iter([bool(asked.get("S_churn")) and asked["S_min"] <= at <= asked["S_max"] for at in sigmas])
    final = edm_sampler(
        network,
        torch.from_numpy(noise[0]),
        None if classes is None else classes[1:3],
        num_steps=STEPS,
        randn_like=lambda like: next(drawn) if IS_EDM2 or next(churns) else torch.zeros_like(like),
        **asked,
    )
    arrays = {"sigma": sigma, "x": x, "y": y, "denoised": denoised.numpy(), "noise": noise}
    arrays["final"] = final.float().numpy()
    arrays |= {"filter": next(iter(filters.values())).numpy()} if filters else {}
    np.savez_compressed(folder / "expected.npz", **arrays)


if __name__ == "__main__":
    for name in sys.argv[1:] or [case for case in CASES if case.startswith("edm2") == IS_EDM2]:
        record(name)
