"""Edits of one picture that the programs of all languages are asked for, and what Python makes of them."""

from pathlib import Path

import numpy as np

from ddpm_export import edit
from ddpm_export.images.read import read_image
from ddpm_export.images.write import grid

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "exported" / "unet.onnx"
PICTURE, MASK = ROOT / "docs" / "given" / "pictures" / "00.png", ROOT / "docs" / "given" / "right-half.png"
EDITS = [
    {"mask": MASK, "returns": 2, "jump": 2, "num_steps": 5, "sampler": "ddim", "eta": 1.0},
    {"measure": "average:4", "num_steps": 4, "sampler": "ddpm"},
    {"mask": MASK, "strength": 0.5, "num_steps": 8},
]
N, SEED, FIRST = 2, 3, 4


def flags_of(settings):
    """Return the arguments of a program `sample`, in every language the same."""
    options = {"image": PICTURE, **settings, "n": N, "seed": SEED, "first": FIRST}
    return [text for name, value in options.items() for text in (f"--{name.replace('num_', '')}", value)]


def pictures_of(settings):
    """Return Python's pictures as a grid (H, W, 1)."""
    given = {name: read_image(value, 1)[..., 0] if name == "mask" else value for name, value in settings.items()}
    return grid(edit(MODEL, read_image(PICTURE, 1)[np.newaxis], n=N, seed=SEED, first=FIRST, **given))
