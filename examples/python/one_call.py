"""Sample with onnxruntime and nothing of this project: one_call.py unet.sampler.onnx 16 50 7 images.npy."""

import os
import sys

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when it is imported
import onnxruntime

model, n, steps, seed, out = sys.argv[1:]
session = onnxruntime.InferenceSession(model)  # ddpm-export exported/unet.onnx --format sampler
integers = {"seed": seed, "first": 0, "n": n, "steps": steps, "times": []}  # no times: evenly spaced steps
settings = {name: np.array(value, dtype=np.int64) for name, value in integers.items()}
images = session.run(["images"], {**settings, "eta": np.array(0, dtype=np.float32)})[0]
np.save(out, images)  # uint8 (n, H, W, C)
