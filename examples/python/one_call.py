"""Sample with onnxruntime and nothing of this project: one_call.py unet.sampler.onnx 16 50 7 images.npy.

Of a model with classes behind these: the number of one, and guidance.
"""

import os
import sys

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when it is imported
import onnxruntime

model, n, steps, seed, out, *told = sys.argv[1:]
label, guidance = [*told, *["0", "1"][len(told) :]]
session = onnxruntime.InferenceSession(model)  # ddpm-export exported/unet.onnx --format sampler
taken = {one.name for one in session.get_inputs()}  # plan, y and guidance only of models that have them
integers = {"seed": seed, "first": 0, "n": n, "steps": steps, "times": [], "plan": 0, "y": [label] * int(n)}
floats = {"eta": 0, "guidance": guidance, "guidance_interval": [0, 1e9]}  # no times, no plan: evenly spaced steps
given = {name: np.array(value, dtype=np.int64) for name, value in integers.items()}
given |= {name: np.array(value, dtype=np.float32) for name, value in floats.items()}
images = session.run(["images"], {name: given[name] for name in taken})[0]
np.save(out, images)  # uint8 (n, H, W, C)
