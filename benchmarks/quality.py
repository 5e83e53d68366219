"""Samplers and steps by the quality of the shipped model's images, and by the time a picture takes.

Samples lie in the cache, hundred by hundred, and every finished row in a JSON file: a run that was cut off goes on.
Images do not depend on the machine's load, times do: those are measured anew with every run.
"""

import argparse
import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx

from benchmarks.report import Report, Table, markdown_from_reports, parser, run
from ddpm_export.cli.progress import phases
from ddpm_export.errors import BadFileError, UsageError
from ddpm_export.measuring.timing import Timings, interleaved, machine, warm_up
from ddpm_export.model.spec import PLAN, TIMES, Defaults, ModelSpec
from ddpm_export.model.spec_json import json_from_spec
from ddpm_export.process.equations import Model
from ddpm_export.runtimes.onnx import Extractor, open_extractor
from ddpm_export.runtimes.opening import open_model
from ddpm_export.sampling.generate import sample
from ddpm_export.sampling.request import Request, request_for
from ddpm_export.scoring import scores as scoring
from ddpm_export.scoring.datasets.readers import open_dataset
from ddpm_export.system.files import cache_folder, replacing, sha256_of
from train.pages import write_between_marks

__all__ = ["measure", "sha256_of_images"]

SAMPLERS: dict[str, dict[str, Any]] = {
    "ddim, eta 0": {"sampler": "ddim", "eta": 0.0},
    "ddim, eta 1": {"sampler": "ddim", "eta": 1.0},
    "ddpm, fixed_large": {"sampler": "ddpm", "variance": "fixed_large"},
}
SLOW_FROM = 250  # steps from which on a row is of --n-slow images, by KID alone: FID needs thousands
SEED, BATCH = 0, 20  # images at a time: the fastest here, whole hundreds of which are kept
EAGER_STEPS = 50  # at which eager PyTorch and the exported file are compared
TIMED_STEPS = 5  # of the calls that are timed
BATCHES = (1, 16)
ROUNDS = 7
# Okabe and Ito 2008: told apart by the colour-blind
STYLES = dict(zip(SAMPLERS, (("#0072B2", "o-"), ("#009E73", "s--"), ("#D55E00", "^-.")), strict=True))

Rows = dict[str, dict[str, Any]]


class Case(NamedTuple):
    """One row: a sampler, its steps, and how many images it is judged by."""

    sampler: str
    num_steps: int
    n: int

    @property
    def label(self) -> str:
        """Return the row's name in the results file."""
        return f"{self.sampler}, {self.num_steps} steps, {self.n} images"

    def settings(self, spec: ModelSpec) -> Request:
        """Return the settings of its images; the same seed in every row."""
        return request_for(spec, n=self.n, num_steps=self.num_steps, seed=SEED, batch=BATCH, **SAMPLERS[self.sampler])


def measure(arguments: argparse.Namespace) -> Report:
    """Judge every case, real images, and the export's own effect; time the samplers; rewrite a page if asked."""
    conditions = machine()
    model, spec = open_model(arguments.model)
    cases = _cases(arguments)
    real = {n: f"real test images, {n}" for n in sorted({case.n for case in cases})}
    effect = Case("ddim, eta 0", min(EAGER_STEPS, spec.num_train_timesteps), arguments.n)
    with phases() as report:
        judge = _Judge(arguments, spec, report)
        for n, label in real.items():
            judge.row(label, functools.partial(judge.of_real, n, n == arguments.n))
        for case in [effect, *cases]:
            judge.row(case.label, functools.partial(judge.of_samples, model, case))
        judge.row(_eager(effect), functools.partial(judge.of_eager, model, effect, arguments.checkpoint))
    seconds = _seconds_a_step(model, spec, min(TIMED_STEPS, spec.num_train_timesteps))
    found = Report(
        f"python -m benchmarks.quality --n {arguments.n} --n-slow {arguments.n_slow} --steps {arguments.steps}",
        conditions,
        [_case_table(judge.rows, cases, real, seconds), _effect_table(judge.rows, effect)],
        _notes(judge.rows, cases, arguments),
        {"rows": judge.rows, "seconds_a_step": seconds},
    )
    if arguments.write is not None:
        page: Path = arguments.write
        _draw_chart(page.parent / page.stem / "chart.png", judge.rows, cases, real, seconds)
        picture = f"![KID over steps, and over the time an image takes]({page.stem}/chart.png)"
        write_between_marks(page, f"{markdown_from_reports([asdict(found)])}\n\n{picture}")
    return found


def _cases(arguments: argparse.Namespace) -> list[Case]:
    try:
        steps = sorted({int(count) for count in arguments.steps.split(",")})
    except ValueError as exc:
        raise UsageError(f"--steps must be numbers with commas between them, got {arguments.steps!r}.") from exc
    counts = {count: arguments.n_slow if count >= SLOW_FROM else arguments.n for count in steps}
    return [Case(sampler, count, n) for sampler in SAMPLERS for count, n in counts.items()]


def _eager(case: Case) -> str:
    return f"eager PyTorch, {case.label}"


class _Judge:
    """Judge images by one extractor against the training images; rows in the results file are taken from it."""

    def __init__(self, arguments: argparse.Namespace, spec: ModelSpec, report: Callable[[int, int, str], None]) -> None:
        self.spec, self.report = spec, report
        self.cache = cache_folder() if arguments.cache is None else Path(arguments.cache)
        extractor = Path(arguments.extractor)
        self.extract: Extractor = open_extractor(extractor, spec.state_shape, "cpu", None)
        self.extractor_sha256, self.model_sha256 = sha256_of(extractor), sha256_of_images(arguments.model, spec)
        self.path = Path(arguments.results)
        self.of = {"model_sha256": self.model_sha256, "extractor_sha256": self.extractor_sha256, "seed": SEED}
        self.rows: Rows = self._kept()
        self.train, self.test = (
            open_dataset("fashion-mnist", image_shape=spec.state_shape, train=part).images for part in (True, False)
        )
        self.reference: Any = None

    def row(self, label: str, found: Callable[[], dict[str, Any]]) -> None:
        """Fill in a row, unless it is there, and keep all rows."""
        if label not in self.rows:
            self.rows[label] = found()
            with replacing(self.path) as beside:
                beside.write_text(json.dumps({"of": self.of, "rows": self.rows}, indent=1, sort_keys=True) + "\n")

    def of_samples(self, model: Model, case: Case) -> dict[str, Any]:
        """Return the scores of a case's images."""
        images = self._samples(model, case, self.model_sha256)
        return self._scores(images, fid=case.num_steps < SLOW_FROM)

    def of_real(self, n: int, fid: bool) -> dict[str, Any]:
        """Return the scores of the first n test images: what no sampler can be expected to fall below."""
        return self._scores(self.test[:n], fid=fid)

    def of_eager(self, model: Model, case: Case, checkpoint: str) -> dict[str, Any]:
        """Return the scores of the same images made by the checkpoint's own network, and how many pixels are equal."""
        from ddpm_export.exporting.export import eager_model
        from ddpm_export.importers.load import load_checkpoint

        network = eager_model(load_checkpoint(checkpoint))
        theirs = self._samples(network, case, f"eager {sha256_of(checkpoint)}")
        levels = np.abs(theirs.astype(int) - self._samples(model, case, self.model_sha256))
        equal = {"equal_pixels": float((levels == 0).mean()), "largest_difference": int(levels.max())}
        return {**self._scores(theirs, fid=True), **equal}

    def _samples(self, model: Model, case: Case, digest: str) -> Any:
        def inputs(done: int, total: int, _what: str) -> None:
            self.report(done, total, case.label)

        return scoring.sampled_images(model, self.spec, case.settings(self.spec), digest, self.cache, inputs)

    def _scores(self, images: Any, fid: bool) -> dict[str, Any]:
        if self.reference is None:
            self.reference = self._features(self.train)
        return scoring.scores(("fid", "kid") if fid else ("kid",), self._features(images), self.reference)

    def _features(self, images: Any) -> Any:
        return scoring.features_of(images, self.extract, self.extractor_sha256, self.cache, self.report)

    def _kept(self) -> Rows:
        if not self.path.exists():
            return {}
        try:
            values = json.loads(self.path.read_text(encoding="utf-8"))
            return dict(values["rows"]) if values["of"] == self.of else {}
        except (ValueError, KeyError, TypeError) as exc:
            raise BadFileError(f"{self.path} is damaged: {exc!r}. Delete it.") from exc


def sha256_of_images(path: str, spec: ModelSpec) -> str:
    """Return the digest of what images follow from: graph, weights and process, but not the file's defaults and plans.

    Rows override those, and which are best is what the rows are for: a file that follows them keeps its rows.
    """
    proto = onnx.load(path)
    del proto.metadata_props[:]
    requires = tuple(name for name in spec.requires if name not in (TIMES, PLAN))
    process = replace(
        spec, name="", defaults=Defaults(num_steps=1), golden=None, source={}, plans={}, requires=requires
    )
    return hashlib.sha256(proto.SerializeToString(deterministic=True) + json_from_spec(process).encode()).hexdigest()


def _seconds_a_step(model: Model, spec: ModelSpec, num_steps: int) -> dict[str, dict[int, float]]:
    """Return the median seconds of a step by sampler and batch: of a whole run, not of the network alone."""
    calls = {
        (name, batch): _run_of(
            model, request_for(spec, n=batch, num_steps=num_steps, seed=SEED, batch=batch, **how), spec
        )
        for name, how in SAMPLERS.items()
        for batch in BATCHES
    }
    for call in calls.values():
        warm_up(call)
    timings: Timings = interleaved({f"{name} {batch}": call for (name, batch), call in calls.items()}, ROUNDS)
    return {
        name: {batch: timings.median_ms(f"{name} {batch}") / 1e3 / num_steps for batch in BATCHES} for name in SAMPLERS
    }


def _run_of(model: Model, settings: Request, spec: ModelSpec) -> Callable[[], None]:
    def call() -> None:
        for _ in sample(model, spec, settings):
            pass

    return call


# --- the report -------------------------------------------------------------------------------------------------------


def _case_table(rows: Rows, cases: list[Case], real: dict[int, str], seconds: dict[str, dict[int, float]]) -> Table:
    columns = ["sampler", "steps", "images", "KID x 1000", "FID", *(f"ms an image, batch {size}" for size in BATCHES)]
    lines = []
    for case in cases:
        times = [f"{1e3 * seconds[case.sampler][size] * case.num_steps / size:.1f}" for size in BATCHES]
        lines.append([case.sampler, str(case.num_steps), str(case.n), *_scores_as_text(rows[case.label]), *times])
    lines += [["real test images", "-", str(n), *_scores_as_text(rows[label]), "-", "-"] for n, label in real.items()]
    return Table("Samplers and steps", columns, lines)


def _scores_as_text(scores: dict[str, Any]) -> list[str]:
    return [_kid_as_text(scores), f"{scores['fid']:.2f}" if "fid" in scores else "-"]


def _kid_as_text(scores: dict[str, Any]) -> str:
    return f"{1e3 * scores['kid']['mean']:.2f} ± {1e3 * scores['kid']['standard_error']:.2f}"


def _effect_table(rows: Rows, effect: Case) -> Table:
    exported, eager = rows[effect.label], rows[_eager(effect)]
    equal = f"{eager['equal_pixels']:.4%}, others by at most {eager['largest_difference']}"
    return Table(
        f"What the export changes: {effect.label}, the same seed",
        ["network", "KID x 1000", "FID", "pixels equal to the exported file's"],
        [
            ["exported, ONNX Runtime", *_scores_as_text(exported), "-"],
            ["eager PyTorch", *_scores_as_text(eager), equal],
        ],
    )


def _notes(rows: Rows, cases: list[Case], arguments: argparse.Namespace) -> list[str]:
    notes = [
        f"{Path(arguments.model).name} (SHA-256 {sha256_of(arguments.model)[:12]}) by {Path(arguments.extractor).name} "
        f"(SHA-256 {sha256_of(arguments.extractor)[:12]}) against the 60,000 training images, seed {SEED}. KID has its "
        "standard error. FID depends on the number of images and is left out where there are few.",
        f"An image's time is a step's times the number of steps: {TIMED_STEPS} steps of each sampler and batch took "
        f"turns ({ROUNDS} rounds, medians), including what a run does outside the network.",
    ]
    for n in sorted({case.n for case in cases}, reverse=True):
        notes.append(_cheapest_as_text(rows, [case for case in cases if case.n == n]))
    return notes


def _cheapest_as_text(rows: Rows, cases: list[Case]) -> str:
    """Return which case is best, and which with the fewest steps is within two errors."""
    kids = {case: rows[case.label]["kid"] for case in cases}
    best = min(cases, key=lambda case: kids[case]["mean"])

    def is_as_good(case: Case) -> bool:
        error = np.hypot(kids[case]["standard_error"], kids[best]["standard_error"])
        return bool(kids[case]["mean"] - kids[best]["mean"] <= 2.0 * error)

    cheapest = min(filter(is_as_good, cases), key=lambda case: (case.num_steps, kids[case]["mean"]))
    inputs = f"Of {cases[0].n} images each, {_named(best)} has the lowest KID"
    return inputs + ("." if cheapest == best else f"; {_named(cheapest)} is within two standard errors of it.")


def _named(case: Case) -> str:
    return f"{case.sampler} with {case.num_steps} steps"


def _draw_chart(
    path: Path, rows: Rows, cases: list[Case], real: dict[int, str], seconds: dict[str, dict[int, float]]
) -> None:
    """Write KID over the steps and over the time of a picture at the larger batch, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    size = BATCHES[-1]
    for sampler, (colour, style) in STYLES.items():
        mine = [case for case in cases if case.sampler == sampler]
        kids = [rows[case.label]["kid"] for case in mine]
        mean, error = ([1e3 * kid[name] for kid in kids] for name in ("mean", "standard_error"))
        steps = np.array([case.num_steps for case in mine])
        for axes, x in ((left, steps), (right, 1e3 * seconds[sampler][size] * steps / size)):
            axes.errorbar(x, mean, error, fmt=style, color=colour, label=sampler, capsize=2, linewidth=1.5)
    floor = 1e3 * rows[real[max(real)]]["kid"]["mean"]
    low, high = left.dataLim.intervaly  # with the error bars; the scale's own margins would cut a point or add a decade
    left.set_ylim(min(low, floor) - 0.3, 1.5 * high)
    for axes in (left, right):
        axes.axhline(floor, color="0.4", linestyle="--", linewidth=1.0, label="real test images")
        axes.set(xscale="log", yscale="symlog")  # linear within 1 of 0: the unbiased KID of real images may be negative
        axes.grid(visible=True, alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    counts = sorted({case.num_steps for case in cases})
    left.set_xticks(counts, [str(count) for count in counts], minor=False)
    left.minorticks_off()
    left.set(xlabel="steps", ylabel="KID x 1000, lower is better", title="by steps")
    right.set(xlabel=f"ms an image, batch {size}", title="by time")
    left.legend(fontsize=8)
    with replacing(path) as beside:
        figure.savefig(beside, dpi=110)


def _options() -> argparse.ArgumentParser:
    options = parser("Samplers and steps by the quality of their images.", checkpoint=True)
    options.add_argument("--extractor", default="exported/extractor.onnx", help="see docs/scoring.md [%(default)s]")
    options.add_argument("--n", type=int, default=2000, help="images of a row [%(default)s]")
    options.add_argument("--n-slow", type=int, default=300, help=f"the same from {SLOW_FROM} steps on [%(default)s]")
    options.add_argument("--steps", default="5,10,20,50,100,250,1000", help="[%(default)s]")
    options.add_argument(
        "--results", default="docs/benchmarks-samplers/results.json", help="finished rows [%(default)s]"
    )
    options.add_argument("--cache", help="where images and features are kept [the user's cache]")
    options.add_argument(
        "--write", type=Path, metavar="PAGE", help="rewrite this page between its marks, and its chart"
    )
    return options


if __name__ == "__main__":
    run(measure, _options())
