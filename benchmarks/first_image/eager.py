"""Our own network in eager PyTorch, from the checkpoint: `eager.py CHECKPOINT OUT.npy`."""

import sys

import numpy as np

from ddpm_export import generate, load_checkpoint
from ddpm_export.exporting.export import eager_model

checkpoint = load_checkpoint(sys.argv[1])
np.save(sys.argv[2], generate((eager_model(checkpoint), checkpoint.spec), n=1, num_steps=1, seed=0))
