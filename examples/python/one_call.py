"""Sample with onnxruntime and nothing of this project: one_call.py unet.sampler.onnx 16 7 3 images.npy."""

import os
import sys

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when it is imported
import onnxruntime

model, n, seed, label, out = sys.argv[1:]
session = onnxruntime.InferenceSession(model)  # ddpm-export exported/unet.onnx --format sampler
given = {"seed": seed, "first": 0, "n": n, "y": [label] * int(n)}  # y: each image's class, if the model has classes
given = {one.name: np.array(given[one.name], dtype=np.int64) for one in session.get_inputs()}
images = session.run(["images"], given)[0]
np.save(out, images)  # uint8 (n, H, W, C)
