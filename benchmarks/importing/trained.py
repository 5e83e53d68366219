"""Trained networks of other projects beside their exported files: the same noise through their own samplers and ours.

`python -m benchmarks.importing.trained --diffusers DIR --lucidrains FILE`; the networks come from
benchmarks.importing.training.
"""

import argparse
import tempfile
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.importing.diffusers import walk
from benchmarks.importing.lucidrains import ddim_sample, fed
from ddpm_export.exporting.export import export
from ddpm_export.images.write import grid, save_images
from ddpm_export.importers.load import load_checkpoint
from ddpm_export.model.denoiser import denoiser
from ddpm_export.model.steps import plan
from ddpm_export.process.equations import Array
from ddpm_export.process.noise import noise_stream
from ddpm_export.process.pixels import to_uint8
from ddpm_export.process.walk import walk as walk_plan
from ddpm_export.runtimes.opening import open_model
from train.pages import markdown_from_table, write_between_marks

IMAGES = 16
COLUMNS = ["trained network, sampler", "equal", "largest", "mean difference in levels"]


def main() -> None:
    """Compare both, print a table, and save the pictures side by side: theirs on the left, ours on the right."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--diffusers", type=Path, required=True, help="a folder of DDPMPipeline.save_pretrained")
    options.add_argument("--lucidrains", type=Path, required=True, help="a model-N.pt of Trainer")
    options.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the marks of this page")
    options.add_argument("--pictures", type=Path, metavar="DIR", help="save a picture of each project here")
    arguments = options.parse_args()
    rows = []
    for project, compared in (
        ("diffusers", _diffusers(arguments.diffusers)),
        ("lucidrains", _lucidrains(arguments.lucidrains)),
    ):
        pictures = []
        for name, theirs, ours in compared:
            a, b = to_uint8(theirs), to_uint8(ours)
            difference = np.abs(a.astype(int) - b.astype(int))
            cells = [f"{(difference == 0).mean():.2%}", str(difference.max()), f"{difference.mean():.3f}"]
            rows.append([f"{project}, {name}", *cells])
            print(rows[-1], flush=True)
            pictures.append((a, b))
        if arguments.pictures:
            sides = [grid(images) for images in pictures[0]]
            gap = np.full((sides[0].shape[0], 8, sides[0].shape[2]), 128, dtype=np.uint8)
            page = np.concatenate([sides[0], gap, sides[1]], axis=1).repeat(3, axis=0).repeat(3, axis=1)
            save_images(arguments.pictures / f"{project}.png", page[None])
    text = markdown_from_table(f"{IMAGES} images each", COLUMNS, rows)
    print(text)
    if arguments.write:
        write_between_marks(arguments.write, text, "<!-- trained: begin -->", "<!-- trained: end -->")


def _exported(path: Path, options: dict[str, Any]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return open_model(export(load_checkpoint(path, options=options), Path(folder) / "unet.onnx").path)


def _ours(opened: Any, sampler: str, noise: Array, times: tuple[int, ...]) -> Array:
    model, spec = opened
    states = walk_plan(denoiser(model, spec), lambda draw: noise[draw], plan(spec, sampler=sampler, times=times))
    return deque(states, maxlen=1).pop().x


def _noise(shape: tuple[int, ...], draws: int) -> Array:
    drawn = noise_stream(0, range(IMAGES), shape)
    return np.stack([drawn(draw) for draw in range(draws)])


def _diffusers(path: Path) -> list[tuple[str, Array, Array]]:
    """Return (sampler, theirs, ours), each x (N, C, H, W): ancestral of 50 and 1000 steps, DDIM of 50."""
    import diffusers

    pipeline, opened = diffusers.DDPMPipeline.from_pretrained(path), _exported(path, {})
    network, config = pipeline.unet.eval().requires_grad_(False), pipeline.scheduler.config
    noise = _noise(opened[1].state_shape, 1001)
    compared = []
    for steps in (1000, 50):
        ddpm = diffusers.DDPMScheduler.from_config(config)
        times, final = walk(network, ddpm, ddpm.step, noise, steps)
        compared.append((f"DDPMScheduler, {steps} steps", final, _ours(opened, "ddpm", noise, times)))
    ddim = diffusers.DDIMScheduler.from_config(config)

    def step(out: Any, t: Any, x: Any) -> Any:
        return ddim.step(out, t, x, eta=0.0, use_clipped_model_output=True)

    times, final = walk(network, ddim, step, noise, 50)
    compared.append(
        ("DDIMScheduler, 50 steps, use_clipped_model_output=True", final, _ours(opened, "ddim", noise, times))
    )
    return compared


def _lucidrains(path: Path) -> list[tuple[str, Array, Array]]:
    """Return (sampler, theirs, ours), each x (N, C, H, W): ancestral of 1000 steps, DDIM of 50."""
    from benchmarks.importing.training.lucidrains import made

    model = made()
    ema = torch.load(path, weights_only=True)["ema"]
    weights = {key.removeprefix("ema_model."): value for key, value in ema.items() if key.startswith("ema_model.")}
    model.load_state_dict(weights)
    model = model.eval().requires_grad_(False)
    opened = _exported(path, {"image_size": 28})
    noise = _noise(opened[1].state_shape, 1001)
    draws = torch.from_numpy(noise)
    times = tuple(range(999, -1, -1))
    x = draws[0]
    with fed(draws[1:]):
        for time in times:
            x, _ = model.p_sample(x, time)
    compared = [("p_sample_loop, 1000 steps", x.numpy(), _ours(opened, "ddpm", noise, times))]
    final, ddim_times = ddim_sample(model, draws, 50)
    compared.append(("ddim_sample, 50 steps", final.numpy(), _ours(opened, "ddim", noise, ddim_times)))
    return compared


if __name__ == "__main__":
    main()
