"""Fill in with onnxruntime only: one_call_edit.py unet.edit.onnx picture.png mask.png 8 7 3 images.npy."""

import os
import sys

import numpy as np
from PIL import Image

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when it is imported
import onnxruntime

model, picture, mask, n, seed, label, out = sys.argv[1:]
session = onnxruntime.InferenceSession(model)  # ddpm-export exported/unet.onnx --format edit
shape = (int(n), *next(one.shape[1:] for one in session.get_inputs() if one.name == "image"))  # n, C, H, W
pixels = np.asarray(Image.open(picture).convert("L" if shape[1] == 1 else "RGB"), dtype=np.float32)
levels = np.asarray(Image.open(mask).convert("L"), dtype=np.float32)  # 0 is known, 255 made
given = {name: np.array(value, np.int64) for name, value in {"seed": seed, "first": 0, "y": [label] * shape[0]}.items()}
given["strength"] = np.array(0, np.float32)  # start from noise; 0.5: from the image and half the noise
given["image"] = np.broadcast_to(np.atleast_3d(pixels).transpose(2, 0, 1) / np.float32(127.5) - 1, shape)
given["mask"] = np.broadcast_to(levels / 255, shape)
np.save(out, session.run(["images"], given)[0])  # uint8 (n, H, W, C)
