"""Fill in what a mask leaves open of a picture, eight ways, step by step, with NumPy and ONNX Runtime only."""

import numpy as np

from ddpm_export import denoiser, noise_stream, open_model, plan, save_images, to_uint8, walk
from ddpm_export.images.read import read_image
from ddpm_export.process.given import known_pixels, with_returns
from ddpm_export.process.noise import GIVEN
from ddpm_export.process.pixels import from_uint8

model, spec = open_model("exported/unet.onnx", provider="cpu")
channels = spec.state_shape[0]
picture = from_uint8(read_image("docs/given/pictures/00.png", channels)[None]).astype(np.float32)
mask = read_image("docs/given/right-half.png", 1)[..., 0] / 255.0  # 0 is known, 1 is made
noise = noise_stream(seed=0, images=range(8), shape=spec.state_shape)
keep = known_pixels(picture, mask, noise_stream(seed=0, images=range(8), shape=spec.state_shape, domain=GIVEN))
rows = with_returns(plan(spec, sampler="ddim", num_steps=10, eta=1.0), returns=2)
for state in walk(denoiser(model, spec), noise, rows, keep=keep):
    print(f"row {state.row.i} of {len(rows.rows)}, t = {state.row.t:3d}")
save_images("filled.png", to_uint8(state.x))
