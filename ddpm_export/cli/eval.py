"""`ddpm-eval`: how good the images of an exported model are, by an extractor and a reference set that are named."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from ddpm_export.cli.console import (
    Address,
    Debug,
    Engine,
    Eta,
    Grid,
    GuidanceInterval,
    GuidanceScale,
    Inputs,
    Json,
    Label,
    Mixed,
    Order,
    PlanName,
    Provider,
    Sampler,
    Threads,
    Trust,
    Workers,
    entry_point,
    guidance_from_options,
    inputs_from_options,
    is_on_ray,
    labels_from_text,
    phases,
    print_json,
)
from ddpm_export.errors import UsageError, first_line, printable, several

if TYPE_CHECKING:
    from ddpm_export.model.spec import ModelSpec
    from ddpm_export.sampling.request import Request
    from ddpm_export.scoring.datasets.dataset import Dataset


SPLITS = ("train", "test")
CODED = ("bits", "rate", "likelihood")  # of the network and the reference; the others are of images
STRIP_IMAGES, STRIP_TIMES = 8, 11
IMAGES = 1000
CHUNK = 1000  # images that are looked at together for their labels


def evaluate(
    model: Annotated[Path, typer.Argument(help="An exported model, such as exported/unet.onnx.")],
    data: Annotated[
        str, typer.Option(help="The reference: fashion-mnist, a folder of images, or NAME:PLACE, such as cifar10:DIR.")
    ] = "fashion-mnist",
    split: Annotated[
        str | None, typer.Option(help="Of data sets that have both: train or test. [default: train]")
    ] = None,
    extractor: Annotated[
        Path | None,
        typer.Option(
            help="ONNX with outputs features and logits (docs/scoring.md). [default: the package's, for 1x28x28]"
        ),
    ] = None,
    metrics: Annotated[str, typer.Option(help="Some of is,fid,kid,pr,accuracy,class_fid,bits,rate.")] = "is,fid,kid",
    n: Annotated[
        int | None,
        typer.Option(
            help="How many images to sample; of bits and rate, how many of the reference to code. [default: 1000, or "
            "all of --samples; of bits and rate, 1000 or as many as there are]"
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps, 1 to T. [default: the model's]")] = None,
    grid: Grid = None,
    sampler: Sampler = None,
    eta: Eta = None,
    variance: Annotated[str | None, typer.Option(help="Of ddpm: fixed_small, fixed_large or learned.")] = None,
    order: Order = None,
    plan: PlanName = None,
    label: Label = None,
    guidance: GuidanceScale = None,
    guidance_interval: GuidanceInterval = None,
    inputs: Inputs = None,
    seed: Annotated[int, typer.Option(help="Same seed, same images.")] = 0,
    samples: Annotated[
        str | None,
        typer.Option(
            help="Score these instead: an .npy of uint8 (N,H,W,C), a folder of images or of shards (ddpm-run --as), or "
            "a data set such as fashion-mnist:test or cifar10:DIR:test, which shows how near real images come."
        ),
    ] = None,
    t_stride: Annotated[int, typer.Option(help="Of bits and rate: one time in so many, 1 for all T.")] = 1,
    curve: Annotated[
        Path | None, typer.Option(help="Of bits and rate: write terms, rate and distortion over t to this .csv file.")
    ] = None,
    strip: Annotated[
        Path | None, typer.Option(help="Of rate: write what is seen of the first images as bits arrive to this .png.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Images at a time: memory and speed, never the images.")] = 64,
    cache: Annotated[
        Path | None, typer.Option(help="Where images and features are kept. [default: the user's cache]")
    ] = None,
    engine: Engine = None,
    workers: Workers = None,
    address: Address = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Of --engine ray: the folder of the set, begun there or by ddpm-run --as. [default: in --cache]"
        ),
    ] = None,
    mixed: Mixed = False,
    provider: Provider = "cpu",
    threads: Threads = None,
    trust: Trust = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Score an exported model: Inception Score, FID, KID, precision and recall, bits per dimension. Needs no torch.

    Of a model with classes also whether the extractor sees the class that was asked for, and FID by class.

    Images and features are kept: what was cut off goes on where it was.

    Exit codes: 0 done, 2 usage, 3 bad file, 4 model refused, 5 environment, 6 not finite, 130 interrupted.
    """
    from ddpm_export.runtimes.onnx import open_extractor
    from ddpm_export.runtimes.opening import open_model
    from ddpm_export.sampling.request import request_for
    from ddpm_export.scoring import scores as scoring
    from ddpm_export.system.files import cache_folder, replacing, sha256_of

    wanted = tuple(dict.fromkeys(metrics.split(",")))
    known = (*scoring.METRICS, *scoring.CLASS_METRICS, *CODED)
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        raise UsageError(f"--metrics must be some of {', '.join(known)}, got {', '.join(unknown)}.")
    if split not in (None, *SPLITS):
        raise UsageError(f"--split must be train or test, got {split!r}.")
    if curve is not None and curve.suffix != ".csv":
        raise UsageError(f"--curve must end in .csv, got {str(curve)!r}.")
    on_ray = is_on_ray(engine, workers, address)
    if not on_ray and (out is not None or mixed):
        raise UsageError(f"{'--mixed' if out is None else '--out'} applies only with --engine ray.")
    if engine is not None and (samples is not None or set(wanted) <= set(CODED)):
        raise UsageError(
            "--engine applies only to images that are sampled, not to --samples or bits, rate, likelihood."
        )
    if strip is not None and (strip.suffix != ".png" or "rate" not in wanted):
        raise UsageError(f"--strip must end in .png and belongs to --metrics rate, got {str(strip)!r}.")
    source = _source("--data", data, split)
    opened, spec = open_model(model, provider, threads=threads, trust=trust)
    cache = cache_folder() if cache is None else cache
    reference = _opened(source, spec.picture_shape)
    facts: dict[str, Any] = {"reference": ""}  # its place is first; what of it is broken is known once it is read
    digest = sha256_of(model)
    is_coded = not set(wanted).isdisjoint(CODED)
    if samples is None or is_coded:
        facts |= {"model": spec.name, "model_sha256": digest}
    featured = tuple(name for name in wanted if name not in CODED)
    coded = _first(reference.images, n, "the reference") if is_coded else None
    fake = None
    with phases() as report:
        if featured:
            extractor = scoring.shipped_extractor() if extractor is None else extractor
            extract, its_digest = open_extractor(extractor, spec.picture_shape, provider, threads), sha256_of(extractor)
            if samples is not None:
                scored = _samples(samples, spec.picture_shape)
                images = scored.images if n is None else _first(scored.images, n, "--samples")
                facts |= {"samples": samples}
            else:
                how: dict[str, Any] = {
                    "n": IMAGES if n is None else n,
                    "num_steps": steps,
                    "sampler": sampler,
                    "eta": eta,
                    "variance": variance,
                    "seed": seed,
                    "batch": batch,
                    "grid": grid,
                    "order": order,
                    "plan": plan,
                    "label": labels_from_text(spec, label),
                    "guidance": guidance_from_options(spec, guidance, guidance_interval),
                    "inputs": inputs_from_options(spec, inputs or []),
                }
                settings = request_for(spec, **how)
                if on_ray:
                    kept = {"provider": provider, "threads": threads, "trust": trust, "mixed": mixed}
                    if out is None:
                        from ddpm_export.scoring.set_features import folder_of_set

                        out = folder_of_set(cache, model, settings, provider, mixed)
                    images, fake = _on_ray(
                        model, spec, out, extractor, its_digest, (workers, address), report, how, **kept
                    )
                else:
                    images = scoring.sampled_images(opened, spec, settings, digest, cache, report, provider)
                scored = _as_dataset(images, settings)
                facts |= settings.describe()
            facts |= {"n": len(images), "extractor": extractor.name, "extractor_sha256": its_digest}
            if fake is None:
                fake = scoring.features_of(images, extract, its_digest, None, report, provider)
            real = scoring.features_of(reference.images, extract, its_digest, cache, report, provider)
            labels = None
            if set(featured) & set(scoring.CLASS_METRICS):
                names = scored.classes or ()
                asked, its_own = (_labels_of(one, names) for one in (scored, reference))
                labels = scoring.Labels(None if asked is None else asked[: len(images)], its_own, names)
            facts |= scoring.scores(featured, fake, real, labels)
        if coded is not None and "likelihood" in wanted:
            facts["likelihood"] = _likelihood(opened, spec, coded, seed, steps, batch, report)
        if coded is not None and not {"bits", "rate"}.isdisjoint(wanted):
            bits = _bits(opened, spec, coded, variance, seed, t_stride, batch, report)
            facts |= {"bits": scoring.bits_as_json(bits)} if "bits" in wanted else {}
            facts |= {"rate": scoring.rate_as_json(bits, spec)} if "rate" in wanted else {}
            if curve is not None:
                with replacing(curve) as beside:
                    beside.write_text(scoring.curve_from_bits(bits, spec))
            if strip is not None:
                _save_strip(strip, opened, spec, coded[:STRIP_IMAGES], seed)
    facts["reference"] = _told(reference, source)
    if as_json:
        print_json(facts)
    else:
        for name, value in _rows(facts):
            typer.echo(f"{name:22} {printable(value)}")


def _on_ray(
    model: Path,
    spec: "ModelSpec",
    out: Path,
    extractor: Path,
    extractor_sha256: str,
    where: tuple[int | None, str | None],
    report: Callable[[int, int, str], None],
    asked: dict[str, Any],
    **kept: Any,
) -> tuple[Any, Any]:
    """Make what is missing of a set and its features, by workers at an address; return images, and their features."""
    from ddpm_export.scoring.datasets.readers import open_dataset
    from ddpm_export.scoring.scores import CHUNK
    from ddpm_export.scoring.set_features import Scoring, features_of_set, scorer, unscored
    from ddpm_export.sets.job import begin, finish
    from ddpm_export.sets.on_ray import make_on_ray
    from ddpm_export.system.files import sole_writer

    workers, address = where
    with sole_writer(out):
        job = begin(model, spec, out, asked, per_shard=CHUNK, **kept)
        scoring = Scoring(job, str(extractor.resolve()), extractor_sha256)
        todo = unscored(scoring)
        done = job.about["n"] - sum(len(job.numbers_of(shard)) for shard in todo)

        def made(shard: int) -> None:
            nonlocal done
            done += len(job.numbers_of(shard))
            report(done, job.about["n"], "sampling")

        make_on_ray(partial(scorer, scoring), todo, workers=workers, address=address, report=made)
        features = features_of_set(scoring, finish(job))
    return open_dataset("shards", out, image_shape=spec.picture_shape).images, features


class Source(NamedTuple):
    """A data set by its name, the place where it lies, and which part of it."""

    name: str
    place: str | None
    split: str | None


def _source(option: str, text: str, split: str | None = None) -> Source:
    """Return what NAME[:PLACE][:SPLIT], such as cifar10:DIR:test, or the path of a folder says of a data set."""
    from ddpm_export.scoring.datasets.readers import READERS

    name, _, place = text.partition(":")
    if name not in READERS:
        name, place = "folder", text
    elif place.rpartition(":")[2] in SPLITS:
        place, _, said = place.rpartition(":")
        if split not in (None, said):
            raise UsageError(f"--split {split} contradicts {option} {text}.")
        split = said
    reader = READERS[name]
    if split is not None and not reader.has_splits:
        what = "a folder of images" if name == "folder" else f"the data set {name}"
        raise UsageError(f"--split does not apply to {what}, which has one part only.")
    if reader.needs_place and not place:
        raise UsageError(f"{option} {name} needs the place where it lies. Write {name}:PLACE.")
    return Source(name, place or None, split or "train" if reader.has_splits else None)


def _opened(source: Source, image_shape: tuple[int, int, int]) -> "Dataset":
    from ddpm_export.scoring.datasets.readers import open_dataset

    return open_dataset(source.name, source.place, image_shape=image_shape, train=source.split != "test")


def _told(reference: "Dataset", source: Source) -> str:
    told = f"{reference.name}{f' {source.split}' if source.split else ''}, {len(reference.images)} images"
    return f"{told}, {len(reference.broken)} broken" if reference.broken else told


def _bits(
    model: Any,
    spec: Any,
    images: Any,
    variance: str | None,
    seed: int,
    stride: int,
    batch: int,
    report: Callable[[int, int, str], None],
) -> Any:
    from ddpm_export.scoring.metrics.bits import bits_per_dimension, strided_times

    return bits_per_dimension(
        model,
        spec,
        images,
        times=None if stride == 1 else strided_times(spec.num_train_timesteps, stride, seed=seed),
        seed=seed,
        batch=batch,
        variance=variance,
        report=lambda done, all_: report(done, all_, "bits"),
    )


def _likelihood(
    model: Any,
    spec: Any,
    images: Any,
    seed: int,
    steps: int | None,
    batch: int,
    report: Callable[[int, int, str], None],
) -> dict[str, Any]:
    from ddpm_export.scoring.metrics.likelihood import flow_bits
    from ddpm_export.scoring.scores import likelihood_as_json

    chosen = {} if steps is None else {"num_steps": steps}
    how = {"seed": seed, "batch": batch, **chosen}
    found = flow_bits(model, spec, images, **how, report=lambda done, all_: report(done, all_, "likelihood"))
    return likelihood_as_json(found)


def _save_strip(path: Path, model: Any, spec: Any, images: Any, seed: int) -> None:
    """Write images from top to bottom: the image itself at the right, what is seen at falling times before it."""
    import numpy as np

    from ddpm_export.images.write import save_images
    from ddpm_export.process.pixels import to_uint8
    from ddpm_export.scoring.metrics.rate import progressive

    T = spec.num_train_timesteps
    times = tuple(dict.fromkeys(np.linspace(T - 1, 0, STRIP_TIMES).round().astype(int).tolist()))
    shown = [to_uint8(found) for found in progressive(model, spec, images, times, seed=seed)]
    pages = np.stack([*shown, images], axis=1)  # (N, K + 1, H, W, C)
    save_images(path, np.concatenate(list(pages)), columns=pages.shape[1])


def _first(images: Any, n: int | None, whose: str) -> Any:
    """Return the first n images, where n is None the first thousand or as many as there are."""
    n = min(IMAGES, len(images)) if n is None else n
    if not 1 <= n <= len(images):
        raise UsageError(f"--n must be between 1 and {len(images)}, the images of {whose}, got {n}.")
    return images[:n]


def _as_dataset(images: Any, settings: "Request") -> "Dataset":
    """Return sampled images with the classes that they were asked to be."""
    from ddpm_export.scoring.datasets.dataset import Dataset

    label = settings.label
    if label is None:
        return Dataset("samples", images, None, None)
    return Dataset("samples", images, settings.inputs_of(settings.numbers)[label.name], None, classes=label.classes)


def _labels_of(dataset: "Dataset", names: tuple[str, ...]) -> Any:
    """Return the labels of a data set, (N,), None where it has none; raises UsageError for those of other classes."""
    import numpy as np

    if dataset.labels is None or not names:
        return None
    if dataset.classes != names:
        raise UsageError(
            f"The classes of {dataset.name} must be {several(names)}, those of the images, got "
            f"{several(dataset.classes or ['none'])}."
        )
    parts = np.array_split(np.arange(len(dataset.images)), 1 + len(dataset.images) // CHUNK)
    return np.concatenate([dataset.batch(part)[1] for part in parts])  # of what is seen where one is broken


def _samples(samples: str, image_shape: tuple[int, int, int]) -> "Dataset":
    import os
    from dataclasses import replace

    import numpy as np

    from ddpm_export.errors import BadFileError
    from ddpm_export.model.inputs import NO_CLASS
    from ddpm_export.scoring.datasets.dataset import Dataset
    from ddpm_export.scoring.datasets.readers import READERS
    from ddpm_export.scoring.datasets.sharded import is_sharded

    path = Path(samples)
    if is_sharded(path):
        made = _opened(Source("shards", samples, None), image_shape)
        if made.classes and made.classes[-1] == NO_CLASS:  # a value of the label, but no class that images are of
            return replace(made, classes=made.classes[:-1])
        return made
    if samples.partition(":")[0] in READERS or path.is_dir():
        return _opened(_source("--samples", samples), image_shape)
    channels, height, width = image_shape
    try:  # mapped: a header may claim more than any memory holds
        images = np.lib.format.open_memmap(path, mode="r") if os.path.isfile(path) else None
    except Exception as exc:  # a hostile header raises nearly anything
        raise BadFileError(f"{path} is neither an .npy file nor a folder of images: {first_line(exc)}.") from exc
    if images is None:
        raise BadFileError(f"{path} is neither an .npy file nor a folder of images.")
    if images.dtype != np.uint8 or images.shape[1:] != (height, width, channels) or not len(images):
        raise BadFileError(
            f"{path} must hold uint8 (N, {height}, {width}, {channels}), got {images.dtype} {images.shape}. Make it "
            "with ddpm-run --out x.npy."
        )
    return Dataset(path.name, images, None, None)


def _rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for name, value in facts.items():
        if isinstance(value, dict):
            rows += [(f"{name}.{part}", told) for part, told in _rows(value)]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            rows += [(name, "  ".join(f"{part} {told}" for part, told in _rows(one))) for one in value]
        else:
            rows.append((name, f"{value:.5g}" if isinstance(value, float) else str(value)))
    return rows


main = entry_point(evaluate)
