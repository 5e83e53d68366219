"""`ddpm-eval`: how good the images of an exported model are, by an extractor and a reference set that are named."""

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ddpm_export.cli.console import Debug, Json, Provider, Threads, Trust, entry_point, print_json, printable
from ddpm_export.errors import UsageError

__all__ = ["main"]

EXTRACTOR = Path("exported/extractor.onnx")


def evaluate(
    model: Annotated[Path, typer.Argument(help="An exported model, such as exported/unet.onnx.")],
    data: Annotated[str, typer.Option(help="The reference: fashion-mnist, or a folder of images.")] = "fashion-mnist",
    split: Annotated[str, typer.Option(help="Of fashion-mnist: train (60,000 images) or test (10,000).")] = "train",
    extractor: Annotated[
        Path, typer.Option(help="ONNX with outputs features and logits (docs/scoring.md).")
    ] = EXTRACTOR,
    metrics: Annotated[str, typer.Option(help="Some of is,fid,kid,pr,bits.")] = "is,fid,kid",
    n: Annotated[
        int, typer.Option(help="How many images to sample; of bits: how many of the reference to code.")
    ] = 1000,
    steps: Annotated[int | None, typer.Option(help="Denoising steps, 1 to T. [default: the model's]")] = None,
    sampler: Annotated[str | None, typer.Option(help="ddim or ddpm. [default: the model's]")] = None,
    eta: Annotated[float | None, typer.Option(help="Noise that ddim adds, 0 (none) to 1 (as ddpm).")] = None,
    variance: Annotated[str | None, typer.Option(help="Of ddpm: fixed_small, fixed_large or learned.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same images.")] = 0,
    samples: Annotated[
        Path | None, typer.Option(help="Score these instead: an .npy of uint8 (N,H,W,C) or a folder of images.")
    ] = None,
    t_stride: Annotated[int, typer.Option(help="Of bits: one time in so many, 1 for all T.")] = 1,
    curve: Annotated[Path | None, typer.Option(help="Of bits: write the terms over t to this .csv file.")] = None,
    batch: Annotated[int, typer.Option(help="Images at a time: memory and speed, never the images.")] = 64,
    cache: Annotated[
        Path | None, typer.Option(help="Where images and features are kept. [default: the user's cache]")
    ] = None,
    provider: Provider = "cpu",
    threads: Threads = None,
    trust: Trust = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Score an exported model: Inception Score, FID, KID, precision and recall, bits per dimension. Needs no torch.

    Images and features are kept: what was cut off goes on where it was.

    Exit codes: 0 done, 2 usage, 3 bad file, 4 model refused, 5 environment, 6 numbers went bad, 130 interrupted.
    """
    from ddpm_export import scoring
    from ddpm_export.datasets import open_dataset
    from ddpm_export.files import cache_folder, sha256_of
    from ddpm_export.generate import settings_for
    from ddpm_export.runtimes import open_model
    from ddpm_export.runtimes.onnx import open_extractor

    wanted = tuple(dict.fromkeys(metrics.split(",")))
    unknown = sorted(set(wanted) - {*scoring.METRICS, "bits"})
    if unknown:
        raise UsageError(
            f"--metrics: unknown. got {', '.join(unknown)}, expected some of {', '.join(scoring.METRICS)}, bits. Do "
            "correct it."
        )
    if split not in ("train", "test"):
        raise UsageError(f"--split: unknown. got {split!r}, expected train or test. Do pick one.")
    opened, spec = open_model(model, provider, threads=threads, trust=trust)
    cache = cache_folder() if cache is None else cache
    named = data == "fashion-mnist"
    reference = open_dataset(
        data if named else "folder", None if named else data, image_shape=spec.image_shape, train=split == "train"
    )
    facts: dict[str, Any] = {
        "model": spec.name,
        "model_sha256": sha256_of(model),
        "reference": f"{reference.name}{f' {split}' if named else ''}, {len(reference.images)} images",
    }
    report = _lines()
    featured = tuple(name for name in wanted if name != "bits")
    if featured:
        extract = open_extractor(extractor, spec.image_shape, provider, threads)
        digest = sha256_of(extractor)
        if samples is not None:
            images = _images(samples, spec.image_shape)
            facts |= {"samples": str(samples)}
        else:
            settings = settings_for(
                spec, n=n, num_steps=steps, sampler=sampler, eta=eta, variance=variance, seed=seed, batch=batch
            )
            images = scoring.sampled_images(opened, spec, settings, facts["model_sha256"], cache, report)
            facts |= settings.describe()
        facts |= {"n": len(images), "extractor": extractor.name, "extractor_sha256": digest}
        fake = scoring.features_of(images, extract, digest, None, report)
        real = scoring.features_of(reference.images, extract, digest, cache, report)
        facts |= scoring.scores(featured, fake, real)
    if "bits" in wanted:
        facts["bits"] = _bits(opened, spec, reference.images[:n], variance, seed, t_stride, batch, curve)
    if as_json:
        print_json(facts)
    else:
        for name, value in _rows(facts):
            typer.echo(f"{name:22} {printable(value)}")


def _bits(
    model: Any, spec: Any, images: Any, variance: str | None, seed: int, stride: int, batch: int, curve: Path | None
) -> dict[str, Any]:
    from ddpm_export.files import replacing
    from ddpm_export.metrics.bits import bits_per_dimension, strided_times

    report = _lines()
    times = None if stride == 1 else strided_times(spec.num_train_timesteps, stride, seed=seed)
    bits = bits_per_dimension(
        model,
        spec,
        images,
        times=times,
        seed=seed,
        batch=batch,
        variance=variance,
        report=lambda done, all_: report(done, all_, "bits"),
    )
    if curve is not None:
        with replacing(curve) as beside:
            rows = zip(bits.times.tolist(), bits.terms_mean.tolist(), strict=True)
            beside.write_text("t,bits_per_dimension\n" + "".join(f"{t},{term!r}\n" for t, term in rows))
    return {
        "mean": bits.mean,
        "standard_error": bits.standard_error,
        "prior": bits.prior,
        "images": bits.num_images,
        "times": bits.num_times,
    }


def _images(path: Path, image_shape: tuple[int, int, int]) -> Any:
    import numpy as np

    from ddpm_export.datasets import image_folder
    from ddpm_export.errors import BadFileError

    if path.is_dir():
        return image_folder(path, image_shape).images
    channels, height, width = image_shape
    try:
        images = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as exc:
        raise BadFileError(f"{path}: not images. got {exc}, expected an .npy file or a folder. Do check it.") from exc
    if images.dtype != np.uint8 or images.shape[1:] != (height, width, channels):
        raise BadFileError(
            f"{path}: other images. got {images.dtype} {images.shape}, expected uint8 (N, {height}, {width}, "
            f"{channels}). Do sample them with ddpm-run --out x.npy."
        )
    return images


def _lines() -> Any:
    """Return a report of images done: a line on stderr every 10 s, with rate and time left."""
    doing, since, first, last = "", 0.0, 0, time.monotonic()

    def report(done: int, total: int, what: str) -> None:
        nonlocal doing, since, first, last
        now = time.monotonic()
        if what != doing:
            doing, since, first = what, now, done
        if now - last < 10.0 or now == since:
            return
        rate = (done - first) / (now - since)
        left = f", {(total - done) / rate:.0f} s left" if rate > 0 else ""
        print(f"{what}: {done} of {total}, {rate:.1f}/s{left}", file=sys.stderr, flush=True)
        last = now

    return report


def _rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for name, value in facts.items():
        items = value.items() if isinstance(value, dict) else [("", value)]
        for part, item in items:
            label = f"{name}.{part}" if part else name
            rows.append((label, f"{item:.5g}" if isinstance(item, float) else str(item)))
    return rows


main = entry_point(evaluate)
