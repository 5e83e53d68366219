"""`ddpm-eval`: how good the images of an exported model are, by a named extractor and a named reference set."""

from pathlib import Path
from typing import Annotated, Any

from ddpm_export.cli.console import entry_point
from ddpm_export.cli.help import HELP, HOW, SAFETY, WHAT, WHERE, how, what, where
from ddpm_export.cli.options import Model
from ddpm_export.cli.progress import phases
from ddpm_export.cli.scores import (
    Report,
    ScoreOptions,
    dataset_of,
    metrics_from_text,
    open_judge,
    open_samples,
    print_facts,
)
from ddpm_export.errors import UsageError

CODED = ("bits", "rate", "likelihood")  # of the network and the reference; the others are of images
STRIP_IMAGES, STRIP_TIMES = 8, 11
IMAGES = 1000
EXAMPLES = {
    WHAT: "ddpm-eval exported/unet.onnx --n 1000 --data fashion-mnist:test --metrics fid,kid",
    HOW: "ddpm-eval exported/unet.onnx --n 1000 --sampler ddim --steps 50",
    WHERE: "ddpm-eval exported/unet.onnx --metrics bits --n 100 --t-stride 10 --curve bits.csv --json",
    SAFETY: "ddpm-eval exported/unet.ts --n 1000 --trust",
    HELP: "ddpm-eval --install-completion",
}


def evaluate(
    model: Model,
    *,
    metrics: Annotated[
        str, what("Some of is,fid,kid,pr,accuracy,class_fid,bits,rate,likelihood; see docs/scoring.md.")
    ] = "is,fid,kid",
    n: Annotated[
        int | None,
        what(
            "How many images to sample; for bits, rate and likelihood, how many of the reference to code. "
            "[default: 1000, or all of --samples]"
        ),
    ] = None,
    samples: Annotated[
        str | None,
        what(
            "Score these instead: an .npy of uint8 (N,H,W,C), a folder, a set of ddpm-dataset, or a data set such as "
            "fashion-mnist:test."
        ),
    ] = None,
    options: ScoreOptions,
    t_stride: Annotated[int, how("For bits and rate: the spacing of the times used; 1 uses all T.")] = 1,
    curve: Annotated[Path | None, where("For bits and rate: a .csv of the terms, rate and distortion over t.")] = None,
    strip: Annotated[Path | None, where("For rate: a .png of the first images emerging as bits arrive.")] = None,
) -> None:
    """Score an exported model: Inception Score, FID, KID, precision and recall, bits per dimension. Needs no torch.

    For models with classes: also accuracy, whether the extractor sees the requested class, and FID by class.

    Images and features are kept, so an interrupted run continues where it stopped.

    Exit codes: 0 done, 2 usage, 3 bad file, 4 model refused, 5 environment, 6 not finite, 130 interrupted.
    """
    from ddpm_export.runtimes.opening import open_model
    from ddpm_export.sampling.request import request_for
    from ddpm_export.scoring import scores as scoring
    from ddpm_export.system.files import sha256_of

    wanted = metrics_from_text(metrics, (*scoring.METRICS, *scoring.CLASS_METRICS, *CODED))
    if curve is not None and curve.suffix != ".csv":
        raise UsageError(f"--curve must end in .csv, got {str(curve)!r}.")
    if strip is not None and (strip.suffix != ".png" or "rate" not in wanted):
        raise UsageError(f"--strip must end in .png and needs --metrics rate, got {str(strip)!r}.")
    source, runtime = options.source, options.runtime
    opened, spec = open_model(model, **vars(runtime))
    reference = source.opened(spec.picture_shape)
    facts: dict[str, Any] = {"reference": ""}  # its place is first; how many are broken is known after reading
    digest = sha256_of(model)
    featured = tuple(name for name in wanted if name not in CODED)
    coded = _first(reference.images, n, "the reference") if len(featured) < len(wanted) else None
    if samples is None or coded is not None:
        facts |= {"model": spec.name, "model_sha256": digest}
    asked = options.asked(spec)
    with phases() as report:
        if featured:
            judge = open_judge(options, spec.picture_shape, report)
            if samples is not None:
                scored = open_samples(samples, spec.picture_shape)
                count = len(scored.images if n is None else _first(scored.images, n, "--samples"))
                facts |= {"samples": samples}
            else:
                request = request_for(spec, n=IMAGES if n is None else n, **asked)
                images = scoring.sampled_images(opened, spec, request, digest, judge.cache, report, runtime.provider)
                scored, count = dataset_of(images, request), request.n
                facts |= request.describe()
            facts |= {"n": count, **judge.describe(), **judge.scores(featured, scored, count, reference)}
        if coded is not None:
            facts |= _coded(wanted, opened, spec, coded, asked, t_stride, curve, report)
            if strip is not None:
                _save_strip(strip, opened, spec, coded[:STRIP_IMAGES], options.seed)
    facts["reference"] = source.describe(reference)
    print_facts(facts, as_json=options.as_json)


def _coded(
    wanted: tuple[str, ...],
    model: Any,
    spec: Any,
    images: Any,
    asked: dict[str, Any],
    stride: int,
    curve: Path | None,
    report: Report,
) -> dict[str, Any]:
    """Return the cost of coding images with the network: its bound, over time, or by the probability flow."""
    from ddpm_export.scoring import scores as scoring
    from ddpm_export.scoring.metrics.bits import bits_per_dimension, strided_times
    from ddpm_export.scoring.metrics.likelihood import flow_bits
    from ddpm_export.system.files import replacing

    facts: dict[str, Any] = {}
    numbers = {"seed": asked["seed"], "batch": asked["batch"]}
    if "likelihood" in wanted:
        steps = {} if asked.get("num_steps") is None else {"num_steps": asked["num_steps"]}
        found = flow_bits(
            model, spec, images, **numbers, **steps, report=lambda done, total: report(done, total, "likelihood")
        )
        facts["likelihood"] = scoring.likelihood_as_json(found)
    if {"bits", "rate"} & set(wanted):
        bits = bits_per_dimension(
            model,
            spec,
            images,
            times=None if stride == 1 else strided_times(spec.num_train_timesteps, stride, seed=asked["seed"]),
            variance=asked.get("variance"),
            **numbers,
            report=lambda done, total: report(done, total, "bits"),
        )
        facts |= {"bits": scoring.bits_as_json(bits)} if "bits" in wanted else {}
        facts |= {"rate": scoring.rate_as_json(bits, spec)} if "rate" in wanted else {}
        if curve is not None:
            with replacing(curve) as beside:
                beside.write_text(scoring.curve_from_bits(bits, spec))
    return facts


def _save_strip(path: Path, model: Any, spec: Any, images: Any, seed: int) -> None:
    """Write a row for each image: at the right the image itself, before it its prediction at falling times."""
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
    """Return the first n images; without n the first thousand, or all where there are fewer."""
    n = min(IMAGES, len(images)) if n is None else n
    if not 1 <= n <= len(images):
        raise UsageError(f"--n must be between 1 and {len(images)}, the number of images in {whose}, got {n}.")
    return images[:n]


main = entry_point(evaluate, EXAMPLES)
