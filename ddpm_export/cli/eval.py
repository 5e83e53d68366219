"""`ddpm-eval`: how good the images of an exported model are, by an extractor and a reference set that are named."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ddpm_export.cli.console import Debug, Json, Provider, Threads, Trust, entry_point, phases, print_json, printable
from ddpm_export.errors import UsageError

__all__ = ["main"]

EXTRACTOR = Path("exported/extractor.onnx")
SPLITS = ("train", "test")
IMAGES = 1000


def evaluate(
    model: Annotated[Path, typer.Argument(help="An exported model, such as exported/unet.onnx.")],
    data: Annotated[str, typer.Option(help="The reference: fashion-mnist, or a folder of images.")] = "fashion-mnist",
    split: Annotated[str, typer.Option(help="Of fashion-mnist: train (60,000 images) or test (10,000).")] = "train",
    extractor: Annotated[
        Path, typer.Option(help="ONNX with outputs features and logits (docs/scoring.md).")
    ] = EXTRACTOR,
    metrics: Annotated[str, typer.Option(help="Some of is,fid,kid,pr,bits.")] = "is,fid,kid",
    n: Annotated[
        int | None,
        typer.Option(
            help="How many images to sample; of bits, how many of the reference to code. [default: 1000, or all of "
            "--samples]"
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps, 1 to T. [default: the model's]")] = None,
    sampler: Annotated[str | None, typer.Option(help="ddim or ddpm. [default: the model's]")] = None,
    eta: Annotated[float | None, typer.Option(help="Noise that ddim adds, 0 (none) to 1 (as ddpm).")] = None,
    variance: Annotated[str | None, typer.Option(help="Of ddpm: fixed_small, fixed_large or learned.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same images.")] = 0,
    samples: Annotated[
        str | None,
        typer.Option(
            help="Score these instead: an .npy of uint8 (N,H,W,C), a folder of images, or fashion-mnist:test (or "
            ":train), which shows how near real images come."
        ),
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
    import numpy as np

    from ddpm_export import scoring
    from ddpm_export.datasets import open_dataset
    from ddpm_export.files import cache_folder, sha256_of
    from ddpm_export.generation import settings_for
    from ddpm_export.runtimes import open_model
    from ddpm_export.runtimes.onnx import open_extractor

    wanted = tuple(dict.fromkeys(metrics.split(",")))
    unknown = sorted(set(wanted) - {*scoring.METRICS, "bits"})
    if unknown:
        raise UsageError(
            f"--metrics: unknown. got {', '.join(unknown)}, expected some of {', '.join(scoring.METRICS)}, bits. Do "
            "correct it."
        )
    if split not in SPLITS:
        raise UsageError(f"--split: unknown. got {split!r}, expected train or test. Do pick one.")
    if curve is not None and curve.suffix != ".csv":
        raise UsageError(f"--curve: not a table. got {str(curve)!r}, expected a name that ends in .csv. Do rename it.")
    opened, spec = open_model(model, provider, threads=threads, trust=trust)
    cache = cache_folder() if cache is None else cache
    named = data == "fashion-mnist"
    reference = open_dataset(
        data if named else "folder", None if named else data, image_shape=spec.image_shape, train=split == "train"
    )
    real_images = np.asarray(reference.images)
    told = f"{reference.name}{f' {split}' if named else ''}, {len(real_images)} images"
    facts: dict[str, Any] = {"reference": f"{told}, {len(reference.broken)} broken" if reference.broken else told}
    digest = sha256_of(model)
    if samples is None or "bits" in wanted:
        facts |= {"model": spec.name, "model_sha256": digest}
    featured = tuple(name for name in wanted if name != "bits")
    with phases() as report:
        if featured:
            extract, its_digest = open_extractor(extractor, spec.image_shape, provider, threads), sha256_of(extractor)
            if samples is not None:
                images = _first(_images(samples, spec.image_shape), n)
                facts |= {"samples": samples}
            else:
                settings = settings_for(
                    spec,
                    n=IMAGES if n is None else n,
                    num_steps=steps,
                    sampler=sampler,
                    eta=eta,
                    variance=variance,
                    seed=seed,
                    batch=batch,
                )
                images = scoring.sampled_images(opened, spec, settings, digest, cache, report)
                facts |= settings.describe()
            facts |= {"n": len(images), "extractor": extractor.name, "extractor_sha256": its_digest}
            fake = scoring.features_of(images, extract, its_digest, None, report)
            real = scoring.features_of(real_images, extract, its_digest, cache, report)
            facts |= scoring.scores(featured, fake, real)
        if "bits" in wanted:
            coded = real_images[: IMAGES if n is None else n]
            facts["bits"] = _bits(opened, spec, coded, variance, seed, t_stride, batch, curve, report)
    if as_json:
        print_json(facts)
    else:
        for name, value in _rows(facts):
            typer.echo(f"{name:22} {printable(value)}")


def _bits(
    model: Any,
    spec: Any,
    images: Any,
    variance: str | None,
    seed: int,
    stride: int,
    batch: int,
    curve: Path | None,
    report: Callable[[int, int, str], None],
) -> dict[str, Any]:
    from ddpm_export.files import replacing
    from ddpm_export.metrics.bits import bits_per_dimension, strided_times
    from ddpm_export.scoring import bits_as_json

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
    return bits_as_json(bits)


def _first(images: Any, n: int | None) -> Any:
    if n is not None and not 1 <= n <= len(images):
        raise UsageError(
            f"--n: out of range. got {n}, expected 1 to {len(images)}, as many as --samples has. Do change it."
        )
    return images[:n]


def _images(samples: str, image_shape: tuple[int, int, int]) -> Any:
    import numpy as np

    from ddpm_export.datasets import open_dataset
    from ddpm_export.errors import BadFileError

    if samples in (f"fashion-mnist:{part}" for part in SPLITS):
        return open_dataset("fashion-mnist", image_shape=image_shape, train=samples.endswith(":train")).images
    path = Path(samples)
    if path.is_dir():
        return np.asarray(open_dataset("folder", path, image_shape=image_shape).images)
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


def _rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for name, value in facts.items():
        items = value.items() if isinstance(value, dict) else [("", value)]
        for part, item in items:
            label = f"{name}.{part}" if part else name
            rows.append((label, f"{item:.5g}" if isinstance(item, float) else str(item)))
    return rows


main = entry_point(evaluate)
