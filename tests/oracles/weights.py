"""Make the checkpoint of a recorded case from its seed: `python tests/oracles/weights.py CASE OUT`.

NumPy and, for a checkpoint, torch; it knows no network: names and shapes are those of the case's weights.json.
"""

import argparse
import json
import math
import zlib
from pathlib import Path

import numpy as np

ORACLES = Path(__file__).resolve().parent


def weights_of(case, seed="seed"):
    """Return {name: float32 array} of a case, the same to the last bit on every machine.

    A weight is shift + scale sqrt(12) (w / 2^32 - 1/2), where w is the upper half of a 64-bit word of Philox4x64-10
    (Salmon et al. 2011) with the key (seed, CRC-32 of the tensor's name): uniform, with mean shift and deviation scale.
    NumPy promises that its raw words never change; the rest is a few float64 operations, each rounded as IEEE 754 says.
    """
    made = json.loads((ORACLES / case / "weights.json").read_text(encoding="utf-8"))
    weights = {}
    for name, (shape, scale, shift) in made["tensors"].items():
        words = np.random.Philox(key=[made[seed], zlib.crc32(name.encode())]).random_raw(math.prod(shape))
        uniform = (words >> np.uint64(32)) / 2.0**32 - 0.5
        weights[name] = (shift + scale * math.sqrt(12.0) * uniform).astype(np.float32).reshape(shape)
    return weights


def contents_of(case):
    """Return what the case's project itself hands to torch.save."""
    import torch

    def state_dict(seed):
        return {name: torch.from_numpy(value) for name, value in weights_of(case, seed).items()}

    if not case.startswith("tqch-"):
        return state_dict("seed")
    average = {"decay": 0.9999, "num_updates": 10, "shadow": state_dict("seed")}
    return {"model": state_dict("raw_seed"), "ema": average, "epoch": 3}


def save(case, path):
    """Write the checkpoint of a case, and return its path."""
    import torch

    torch.save(contents_of(case), path)
    return path


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("case", choices=sorted(path.parent.name for path in ORACLES.glob("*/weights.json")))
    options.add_argument("out", type=Path)
    arguments = options.parse_args()
    save(arguments.case, arguments.out)
