"""Sample 16 images with onnxruntime and nothing of this project: the sampler is in the file."""

import sys

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1])  # ddpm-export exported/unet.onnx --format sampler
settings = {"seed": np.int64(7), "first": np.int64(0), "n": np.int64(16), "steps": np.int64(50), "eta": np.float32(0)}
images = session.run(["images"], settings)[0]  # uint8 (16, 28, 28, 1)
np.save(sys.argv[2], images)
