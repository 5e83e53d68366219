"""Values of every input for images of a seed, the same everywhere: golden vectors and proofs use them. NumPy only."""

import math
from collections.abc import Sequence

import numpy as np

from ddpm_export.model.inputs import Input
from ddpm_export.process.equations import Array
from ddpm_export.process.noise import INPUTS, noise_stream


def example_of_inputs(inputs: Sequence[Input], seed: int, images: Sequence[int]) -> dict[str, Array]:
    """Return values of every input for some images of a seed, as golden vectors and the proof use them.

    Inputs that the walk feeds are included: a network can be evaluated by itself. Labels are the images' numbers modulo
    the number of labels, "no class" included; input k of any other kind is draw k of the domain INPUTS.
    """
    values: dict[str, Array] = {}
    for k, entry in enumerate(inputs):
        if entry.kind == "label":
            values[entry.name] = np.array([image % entry.num_labels for image in images], dtype=np.int64)
        else:
            flat = noise_stream(seed, images, (1, 1, math.prod(entry.shape)), domain=INPUTS)(k)
            values[entry.name] = flat.reshape(len(images), *entry.shape)
    return values
