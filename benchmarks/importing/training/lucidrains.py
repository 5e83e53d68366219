"""Train a small Unet with the Trainer of denoising-diffusion-pytorch on a folder of PNGs: `python -m ... --out DIR`."""

import argparse
from pathlib import Path

import torch
from denoising_diffusion_pytorch import GaussianDiffusion, Trainer, Unet
from PIL import Image

from ddpm_export.scoring.datasets.readers import open_dataset


def made() -> GaussianDiffusion:
    """Return the network that is trained, with random weights, in its diffusion."""
    network = Unet(dim=24, dim_mults=(1, 2, 2), channels=1, flash_attn=False, attn_dim_head=16, attn_heads=2)
    return GaussianDiffusion(network, image_size=28, timesteps=1000, sampling_timesteps=50)


def main() -> None:
    """Write the data as PNGs once, then let their Trainer do the rest; its checkpoints are `model-N.pt`."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--out", type=Path, required=True, help="a folder for images and checkpoints")
    options.add_argument("--steps", type=int, default=3000)
    options.add_argument("--batch", type=int, default=64)
    arguments = options.parse_args()
    torch.manual_seed(0)
    folder = arguments.out / "images"
    if not folder.exists():
        folder.mkdir(parents=True)
        images = open_dataset("fashion-mnist", None, image_shape=(1, 28, 28)).images
        for number, image in enumerate(images[:20_000]):
            Image.fromarray(image[..., 0]).save(folder / f"{number:05d}.png")
    trainer = Trainer(
        made(),
        str(folder),
        train_batch_size=arguments.batch,
        train_lr=1e-3,
        train_num_steps=arguments.steps,
        augment_horizontal_flip=False,
        save_and_sample_every=500,
        num_samples=16,
        results_folder=str(arguments.out),
        calculate_fid=False,
        amp=False,
    )
    trainer.train()


if __name__ == "__main__":
    main()
