"""Sample 16 images from an exported model, step by step, with NumPy and ONNX Runtime only."""

from ddpm_export import denoiser, noise_stream, open_model, plan, save_images, to_uint8, walk

model, spec = open_model("exported/unet.onnx", provider="cpu")
noise = noise_stream(seed=0, images=range(16), shape=spec.state_shape)
for state in walk(denoiser(model, spec), noise, plan(spec, num_steps=50)):
    print(f"t = {state.row.t:3d}, x_0 within {state.x_0.min():+.2f} .. {state.x_0.max():+.2f}")
save_images("samples.png", to_uint8(state.x))
