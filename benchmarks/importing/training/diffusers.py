"""Train a small UNet2DModel the way diffusers' own guide does, and save its pipeline: `python -m ... --out DIR`."""

import argparse
from pathlib import Path

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from torch.nn import functional as F

from ddpm_export.scoring.datasets.readers import open_dataset


def main() -> None:
    """Train, and save the pipeline with the averaged weights every 500 steps."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--out", type=Path, required=True, help="a folder for the pipeline")
    options.add_argument("--steps", type=int, default=3000)
    options.add_argument("--batch", type=int, default=64)
    arguments = options.parse_args()
    torch.manual_seed(0)
    images = open_dataset("fashion-mnist", None, image_shape=(1, 28, 28)).images  # (N, H, W, C) uint8
    data = torch.from_numpy(images.copy()).permute(0, 3, 1, 2)
    network = UNet2DModel(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(32, 32, 64),
        norm_num_groups=8,
        attention_head_dim=32,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )
    scheduler = DDPMScheduler(num_train_timesteps=1000, prediction_type="v_prediction", beta_schedule="linear")
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    ema = EMAModel(network.parameters(), decay=0.995, model_cls=UNet2DModel, model_config=network.config)
    for step in range(1, arguments.steps + 1):
        clean = data[torch.randint(len(data), (arguments.batch,))].float() / 127.5 - 1.0
        noise, times = torch.randn(clean.shape), torch.randint(1000, (len(clean),))
        noisy = scheduler.add_noise(clean, noise, times)
        loss = F.mse_loss(network(noisy, times).sample, scheduler.get_velocity(clean, noise, times))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        ema.step(network.parameters())
        if step % 50 == 0:
            print(step, f"{loss.item():.4f}", flush=True)
        if step % 500 == 0 or step == arguments.steps:
            ema.store(network.parameters())
            ema.copy_to(network.parameters())
            DDPMPipeline(network, scheduler).save_pretrained(arguments.out)
            ema.restore(network.parameters())


if __name__ == "__main__":
    main()
