"""Fill in with onnxruntime only: one_call_edit.py unet.edit.onnx picture.png mask.png 8 15 7 images.npy.

Of a model with classes behind these: the number of one, and guidance.
"""

import os
import sys

import numpy as np
from PIL import Image

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when it is imported
import onnxruntime

model, picture, mask, n, steps, seed, out, *told = sys.argv[1:]
label, guidance = [*told, *["0", "1"][len(told) :]]
session = onnxruntime.InferenceSession(model)  # ddpm-export exported/unet.onnx --format edit
shape = (int(n), *next(one.shape[1:] for one in session.get_inputs() if one.name == "image"))  # n, C, H, W
pixels = np.asarray(Image.open(picture).convert("L" if shape[1] == 1 else "RGB"), dtype=np.float32)
levels = np.asarray(Image.open(mask).convert("L"), dtype=np.float32)  # 0 is known, 255 made
integers = {"seed": seed, "first": 0, "steps": steps, "times": [], "plan": 0, "y": [label] * shape[0]}
floats = {
    "eta": 1,
    "strength": 0,  # begin with noise; 0.5 with the picture and half of the noise
    "image": np.broadcast_to(np.atleast_3d(pixels).transpose(2, 0, 1) / 127.5 - 1, shape),
    "mask": np.broadcast_to(levels / 255, shape),
    "guidance": guidance,
    "guidance_interval": [0, 1e9],  # all times
}
taken = {one.name for one in session.get_inputs()}  # plan, y and guidance only of models that have them
given = {name: np.array(value, dtype=np.int64) for name, value in integers.items()}
given |= {name: np.array(value, dtype=np.float32) for name, value in floats.items()}
np.save(out, session.run(["images"], {name: given[name] for name in taken})[0])  # uint8 (n, H, W, C)
