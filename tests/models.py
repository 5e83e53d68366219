"""Small hand-made denoisers, as files of our format: written with onnx.helper, so that no test needs torch."""

import math

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save_model

from ddpm_export.schedules import SCHEDULES
from ddpm_export.spec import METADATA_KEY, Defaults, ModelSpec, json_from_spec

GREY, COLOUR = (1, 6, 5), (3, 4, 4)
T = 40


def tiny_spec(image_shape=GREY, **changes):
    """Return a spec of T = 40 steps that clips; `changes` replace any field."""
    fields = {
        "name": "tiny",
        "prediction": "eps",
        "image_shape": image_shape,
        "alphas_cumprod": tuple(float(a) for a in np.linspace(0.999, 0.01, T)),
        "clip_x_0": 1.0,
        "defaults": Defaults(sampler="ddim", num_steps=4, eta=0.0),
    }
    return ModelSpec(**{**fields, **changes})
