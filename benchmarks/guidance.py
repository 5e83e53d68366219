"""Guidance by the quality of images: every scale, with and without intervals of times, judged by one extractor or more.

Samples and features lie in the cache, so that a run that was cut off goes on, and another extractor samples nothing.
"""

import argparse
import itertools
from pathlib import Path
from typing import Any

from benchmarks.report import Report, Table, parser, run
from ddpm_export.cli.progress import phases
from ddpm_export.errors import UsageError
from ddpm_export.measuring.timing import machine
from ddpm_export.model.guidance import Guidance
from ddpm_export.runtimes.onnx import open_extractor
from ddpm_export.runtimes.opening import open_model
from ddpm_export.sampling.request import request_for
from ddpm_export.scoring import scores as scoring
from ddpm_export.scoring.datasets.dataset import Dataset
from ddpm_export.scoring.datasets.readers import open_dataset
from ddpm_export.system.files import cache_folder, replacing, sha256_of

__all__ = ["measure"]

SEED, BATCH = 0, 20
REAL = "real test images"
METRICS = ("is", "fid", "kid")
Scores = dict[str, dict[str, Any]]  # by extractor


def measure(arguments: argparse.Namespace) -> Report:
    """Sample every case, score it and as many test images, and draw the chart if asked."""
    conditions = machine()
    model, spec = open_model(arguments.model)
    if not spec.takes_guidance or spec.label is None:
        raise UsageError(f"{arguments.model} must be a model that takes guidance.")
    names, cases = spec.label.classes, _cases(arguments.scales, arguments.interval or [])
    cache = cache_folder() if arguments.cache is None else Path(arguments.cache)
    digest = sha256_of(arguments.model)
    train, test = (open_dataset("fashion-mnist", image_shape=spec.picture_shape, train=part) for part in (True, False))
    with phases() as report:
        sampled: dict[str, tuple[Any, Any]] = {}
        for case in cases:
            settings = request_for(
                spec,
                n=arguments.n,
                num_steps=arguments.steps,
                sampler=arguments.sampler,
                grid=arguments.grid,
                seed=SEED,
                batch=BATCH,
                guidance=case,
            )
            images = scoring.sampled_images(model, spec, settings, digest, cache, report)
            sampled[str(case)] = images, settings.inputs_of(settings.numbers)[spec.label.name]
        sampled[REAL] = test.images[: arguments.n], _labels_of(test, names, arguments.n)
        rows: dict[str, Scores] = {name: {} for name in sampled}
        for extractor in map(Path, arguments.extractor or ["exported/extractor.onnx"]):
            extract, its_digest = open_extractor(extractor, spec.picture_shape, "cpu", None), sha256_of(extractor)
            real = scoring.features_of(train.images[: arguments.reference], extract, its_digest, cache, report)
            classed = real[1].shape[1] == len(names)  # a judge of other classes cannot say which of ours it sees
            metrics = (*METRICS, *(("accuracy",) if classed else ()))
            for name, (images, labels) in sampled.items():
                fake = scoring.features_of(images, extract, its_digest, cache, report)
                rows[name][extractor.stem] = scoring.scores(metrics, fake, real, scoring.Labels(labels, None, names))
    if arguments.chart:
        _draw_chart(arguments.chart, rows, cases)
    stated = ("n", "scales", "sampler", "steps", "grid", "reference")
    inputs = [f"--{name} {value}" for name in stated if (value := getattr(arguments, name)) is not None]
    inputs += [f"--{name} {value}" for name in ("interval", "extractor") for value in getattr(arguments, name) or ()]
    command = f"python -m benchmarks.guidance {' '.join(inputs)}"
    return Report(command, conditions, [_table(rows)], _notes(rows, cases), {"rows": rows})


def _cases(scales: str, intervals: list[str]) -> list[Guidance]:
    try:
        numbers = [float(scale) for scale in scales.split(",")]
        ranges = [tuple(map(float, interval.split(","))) for interval in intervals]
        pairs = [(low, high) for low, high in ranges]
    except ValueError as exc:
        raise UsageError("--scales must be numbers, and --interval two times, with commas between them.") from exc
    everywhere = [Guidance(scale) for scale in numbers]
    return everywhere + [
        Guidance(scale, pair) for pair, scale in itertools.product(pairs, numbers) if scale not in (0.0, 1.0)
    ]


def _labels_of(dataset: Dataset, names: tuple[str, ...], n: int) -> Any:
    if dataset.labels is None or dataset.classes != names:
        raise UsageError(f"The model's classes must be those of {dataset.name}.")
    return dataset.labels[:n]


def _table(rows: dict[str, Scores]) -> Table:
    extractors = list(rows[REAL])
    columns = ["guidance"]
    for extractor in extractors:
        asked = ["class seen"] if "accuracy" in rows[REAL][extractor] else []
        columns += [f"{extractor}: {name}" for name in (*asked, "Inception Score", "FID", "KID x 1000")]
    lines = []
    for name, scores in rows.items():
        line = [name]
        for found in scores.values():
            line += [f"{found['accuracy']['mean']:.1%}"] if "accuracy" in found else []
            kid = found["kid"]
            line += [f"{found['is']['mean']:.3f}", f"{found['fid']:.4f}"]
            line += [f"{1e3 * kid['mean']:.2f} ± {1e3 * kid['standard_error']:.2f}"]
        lines.append(line)
    return Table("Guidance", columns, lines)


def _notes(rows: dict[str, Scores], cases: list[Guidance]) -> list[str]:
    notes = []
    for extractor in rows[REAL]:
        best = min(map(str, cases), key=lambda name: rows[name][extractor]["fid"])
        notes.append(f"By {extractor}, guidance {best} has the lowest FID.")
    return notes


def _draw_chart(path: Path, rows: dict[str, Scores], cases: list[Guidance]) -> None:
    """Write, as PNG, FID over the share of classes that are seen, and the Inception Score over the scale."""
    from matplotlib.figure import Figure

    extractor = next((name for name, found in rows[REAL].items() if "accuracy" in found), None)
    if extractor is None:
        raise UsageError("--chart needs an extractor with a logit for each class of the model.")
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    by_interval: dict[Any, list[Guidance]] = {}
    for case in cases:
        by_interval.setdefault(case.interval, []).append(case)
    for (interval, mine), style in zip(by_interval.items(), itertools.cycle(("o-", "s--", "^-.", "D:"))):
        found = [rows[str(case)][extractor] for case in mine]
        seen, fid = [entry["accuracy"]["mean"] for entry in found], [entry["fid"] for entry in found]
        label = "all times" if interval is None else f"t {interval[0]:g} to {interval[1]:g}"
        left.plot(seen, fid, style, label=label)
        for case, x, y in zip(mine, seen, fid, strict=True):
            left.annotate(f"{case.scale:g}", (x, y), xytext=(4, 4), textcoords="offset points", fontsize=8)
        right.plot([case.scale for case in mine], [entry["is"]["mean"] for entry in found], style, label=label)
    real = rows[REAL][extractor]
    left.plot(real["accuracy"]["mean"], real["fid"], "k*", label=REAL)
    right.axhline(real["is"]["mean"], color="0.4", linestyle="--", linewidth=1.0, label=REAL)
    left.set(xlabel="share in which the class asked for is seen", ylabel="FID, lower is better", yscale="log")
    right.set(xlabel="guidance", ylabel="Inception Score")
    for axes in (left, right):
        axes.grid(visible=True, alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(fontsize=8)
    with replacing(path) as beside:
        figure.savefig(beside, dpi=110, format="png")


def _options() -> argparse.ArgumentParser:
    options = parser("Guidance by the quality of images.")
    options.add_argument("--extractor", action="append", help="repeatable, see docs/scoring.md [the package's]")
    options.add_argument("--scales", default="0,1,1.5,2,3,4,6", help="[%(default)s]")
    options.add_argument("--interval", action="append", help="times for each scale once more, as 100,800; repeatable")
    options.add_argument("--n", type=int, default=2000, help="images of a row [%(default)s]")
    options.add_argument("--steps", type=int, help="[the model's]")
    options.add_argument("--sampler", help="[the model's]")
    options.add_argument("--grid", help="how the times lie, as in `ddpm-run --grid` [the default]")
    options.add_argument("--reference", type=int, help="so many training images, the first ones [all]")
    options.add_argument("--cache", help="where images and features are kept [the user's cache]")
    options.add_argument("--chart", type=Path, help="write a PNG: FID over the share of classes seen")
    return options


if __name__ == "__main__":
    run(measure, _options())
