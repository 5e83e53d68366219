"""`python -m train.compare`: trainings side by side, by every judge there is, on few images and steps.

Takes exported models and checkpoints, also those with classes. For scores that count there is `ddpm-eval`.
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from ddpm_export.cli.console import entry_point, print_json
from ddpm_export.cli.options import Debug
from ddpm_export.cli.progress import phases
from ddpm_export.importers.checkpoint import load_torch_file
from ddpm_export.model.denoiser import denoiser
from ddpm_export.model.spec_json import spec_from_json
from ddpm_export.model.steps import plan
from ddpm_export.process.noise import noise_stream
from ddpm_export.process.pixels import to_uint8
from ddpm_export.process.walk import walk
from ddpm_export.runtimes.named import shipped
from ddpm_export.runtimes.onnx import open_extractor
from ddpm_export.runtimes.opening import open_model
from ddpm_export.sampling.request import request_for
from ddpm_export.scoring.datasets.readers import open_dataset
from ddpm_export.scoring.metrics.kernel import kernel_distance
from ddpm_export.scoring.scores import CHUNK, Report, features_of, sampled_images
from ddpm_export.system.files import cache_folder, sha256_of

from .config import config_from_dict
from .pictures import model_from_weights

SEED = 0
SUBSET = 250  # of KID: the same for every number of images
Pixels = NDArray[np.uint8]


def samples_of_checkpoint(path: Path, n: int, num_steps: int, report: Report) -> Pixels:
    """Return n images (N, H, W, C) of a checkpoint by DDIM and its EMA weights; of K classes, image k is of k mod K."""
    contents: Any = load_torch_file(path)
    network, spec = config_from_dict(contents["config"]).network, spec_from_json(contents["spec"])
    done = []
    for start in range(0, n, CHUNK):
        images = range(start, min(start + CHUNK, n))
        model = model_from_weights(network, contents["ema"], spec, "cpu", images)
        noise = noise_stream(SEED, images, spec.state_shape)
        *_, last = walk(denoiser(model, spec), noise, plan(spec, sampler="ddim", num_steps=num_steps))
        done.append(to_uint8(last.x))
        report(images.stop, n, "sampling")
    return np.concatenate(done)


def facts_of_pixels(images: Pixels) -> dict[str, float]:
    """Return what a glance misses: the share of pixels at exactly 0, and how far neighbours in a row differ."""
    return {
        "at_0": float((images == 0).mean()),
        "roughness": float(np.abs(np.diff(images.astype(np.int16), axis=2)).mean()),
    }


def compare(
    models: Annotated[list[Path], typer.Argument(help="Checkpoints (.pt) and exported models.")],
    extractors: Annotated[
        list[Path] | None, typer.Option("--extractor", help="Repeatable. [default: ours, and the judge of the cache]")
    ] = None,
    n: Annotated[int, typer.Option(min=SUBSET, help="Images of each.")] = 500,
    steps: Annotated[int, typer.Option(min=1, help="Of DDIM.")] = 25,
    debug: Debug = False,
) -> None:
    """Print a JSON line a model: KID by each extractor against test images, and what its pixels say.

    The first line is of the first n test images; all are compared with the others.
    """
    chosen = extractors or [shipped("exported/extractor.onnx"), cache_folder() / "judge.onnx"]
    real = np.asarray(open_dataset("fashion-mnist", image_shape=(1, 28, 28), train=False).images)
    with phases() as report:
        rows: dict[str, Pixels] = {f"the first {n} test images": real[:n]}
        for path in models:
            if path.suffix == ".pt":
                rows[str(path)] = samples_of_checkpoint(path, n, steps, report)
            else:
                model, spec = open_model(path)
                settings = request_for(spec, n=n, num_steps=steps, sampler="ddim", eta=0.0, seed=SEED, batch=CHUNK)
                rows[str(path)] = sampled_images(model, spec, settings, sha256_of(path), cache_folder(), report)
        opened = {path.stem: (open_extractor(path, (1, 28, 28), "cpu", None), sha256_of(path)) for path in chosen}
        of_real = {
            name: features_of(real, extract, digest, cache_folder(), report)[0]
            for name, (extract, digest) in opened.items()
        }
        for name, images in rows.items():
            facts: dict[str, Any] = {"model": name, "n": n, "steps": steps, **facts_of_pixels(images)}
            for extractor, (extract, digest) in opened.items():
                features = features_of(images, extract, digest, None, report)[0]
                reference = of_real[extractor][n:]  # without those of the first row
                kid = kernel_distance(features, reference, subset_size=SUBSET)
                facts[f"kid_{extractor}"] = [round(kid.mean, 5), round(kid.standard_error, 5)]
            print_json(facts)


main = entry_point(compare)

if __name__ == "__main__":
    main()
