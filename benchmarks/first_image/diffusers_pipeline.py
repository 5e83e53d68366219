"""diffusers' own DDPM pipeline: `build FOLDER` saves a random network, `run FOLDER OUT.npy N STEPS` makes images."""

import sys

import numpy as np
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel


def build(folder: str) -> int:
    """Save a pipeline whose UNet2DModel is as large as the shipped small network; return its number of parameters."""
    unet = UNet2DModel(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32, 64, 64),
        layers_per_block=2,
        norm_num_groups=8,
        attention_head_dim=64,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )
    DDPMPipeline(unet, DDPMScheduler(num_train_timesteps=1000)).save_pretrained(folder)
    return sum(p.numel() for p in unet.parameters())


def make(folder: str, out: str, n: int, num_steps: int) -> None:
    """Load it and make n images in one batch, as uint8 (n, H, W, C)."""
    pipeline = DDPMPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(batch_size=n, num_inference_steps=num_steps, output_type="np").images
    np.save(out, (255 * images + 0.5).astype(np.uint8))


if __name__ == "__main__":
    if sys.argv[1] == "build":
        print(build(sys.argv[2]))
    else:
        make(sys.argv[2], sys.argv[3], *map(int, sys.argv[4:]))
