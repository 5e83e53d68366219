"""Quality of solvers and tuned plans at few network evaluations: docs/benchmarks-few-evaluations.md.

First the distance of every solver on every grid to what 500 steps of DDIM give from the same noise, then KID by every
judge of those that come nearest, beside many steps with noise and without. All that was found lies in a JSON file,
images lie in the cache: a run that was cut off goes on.
"""

import argparse
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.quality import sha256_of_images
from benchmarks.report import Report, Table, markdown_from_reports, parser, run
from ddpm_export.cli.progress import phases
from ddpm_export.errors import BadFileError, UsageError
from ddpm_export.exporting.plans import with_plans
from ddpm_export.measuring.timing import interleaved, machine, warm_up
from ddpm_export.model.denoiser import denoiser
from ddpm_export.model.plans import json_from_plan
from ddpm_export.model.spec import ModelSpec
from ddpm_export.model.steps import plan
from ddpm_export.process.equations import Array, Model
from ddpm_export.process.noise import noise_stream
from ddpm_export.process.rows import Plan
from ddpm_export.process.schedules import GRIDS
from ddpm_export.process.walk import walk
from ddpm_export.runtimes.onnx import open_extractor
from ddpm_export.runtimes.opening import open_model
from ddpm_export.sampling.request import request_for
from ddpm_export.scoring import scores as scoring
from ddpm_export.scoring.datasets.readers import open_dataset
from ddpm_export.scoring.metrics.kernel import KernelPulls, kernel_difference, kernel_distance, kernel_pulls
from ddpm_export.system.files import cache_folder, replacing, sha256_of
from train.pages import write_between_marks

__all__ = ["Solver", "measure"]


class Solver(NamedTuple):
    """A solver by its name here and there, its knobs, and how it is drawn (colours of Okabe and Ito 2008)."""

    name: str
    sampler: str
    knobs: dict[str, Any]
    style: tuple[str, str]


SOLVERS = [
    Solver("ddim", "ddim", {"eta": 0.0}, ("#0072B2", "o-")),
    Solver("dpmpp_2m", "dpmpp_2m", {}, ("#E69F00", "s-")),
    Solver("dpmpp_3m", "dpmpp_3m", {}, ("#F0E442", "D-")),
    Solver("deis", "deis", {}, ("#56B4E9", "v-")),
    Solver("ipndm", "ipndm", {}, ("#009E73", "^-")),
    Solver("heun", "heun", {}, ("0.5", "x-")),
    Solver("unipc", "unipc", {}, ("#CC79A7", "<-")),
    Solver("unipc, order 2", "unipc", {"order": 2}, ("#CC79A7", ">--")),
]
TUNED, TUNED_STYLE = "tuned", ("#D55E00", "*-")
# judged without a distance, each on one grid; the posterior's variance is what DDPMPipeline takes
OTHERS: dict[str, dict[str, Any]] = {
    "ddim": {"sampler": "ddim", "grid": "uniform", "eta": 0.0},
    "ancestral": {"sampler": "ddpm", "grid": "uniform", "variance": "fixed_small"},
    "dpmpp_2m_sde": {"sampler": "dpmpp_2m_sde", "grid": "quadratic"},
}
LONG = ("ddim", "ancestral")  # of --slow-steps
NOISY = "dpmpp_2m_sde"  # of --noisy-steps: it draws noise in every step, and so has no limit
ANCHORS = (10, 20, 50)  # evaluations of DDIM that others are compared with, besides those of LONG
LIMIT = {"sampler": "ddim", "num_steps": 500, "eta": 0.0}  # what all solvers without noise go to
LIMIT_IMAGES = 32
SEED, BATCH = 0, 20
REFERENCE = 10_000  # training images that are compared with: more would not lower the error of 2,000 samples
SUBSETS = 20  # of 1,000; of 1,280 features a hundred take a minute a row
BATCHES, ROUNDS, TIMED = (1, 16), 5, 50  # steps of a longer row that are timed

Values = dict[str, Any]


class Case(NamedTuple):
    """One row: a solver on a grid, or a plan of the file (`grid` is None), at so many evaluations."""

    solver: str
    grid: str | None
    evaluations: int
    plan: Plan

    @property
    def digest(self) -> str:
        """Return what tells its rows from those of another plan of the same name."""
        return hashlib.sha256(json.dumps(json_from_plan(self.plan)).encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        """Return the row's name in the results file."""
        return f"{self.solver}, {self.grid}, {self.evaluations}" if self.grid else f"{self.solver}, {self.digest}"


def measure(arguments: argparse.Namespace) -> Report:
    """Find distances, choose, judge, and rewrite a page if asked."""
    conditions = machine()
    model, spec = open_model(arguments.model, threads=arguments.threads)
    spec = with_plans(spec, [str(path) for path in arguments.plans])
    counts = _counts(arguments.steps)
    found = _Found(Path(arguments.results), sha256_of_images(arguments.model, spec))
    cases = list(_all_cases(spec, counts))
    tuned = [Case(name, None, len(rows.rows), rows) for name, rows in spec.plans.items() if name.startswith(TUNED)]
    noisy_counts, slow_counts = (
        _counts(text) if text else [] for text in (arguments.noisy_steps, arguments.slow_steps)
    )
    noisy = [_other_case(spec, NOISY, steps) for steps in noisy_counts]
    long = [_other_case(spec, name, steps) for steps in slow_counts for name in LONG]
    judges = {path.stem: path for path in arguments.judges or [Path("exported/extractor.onnx")]}
    if not arguments.kept:
        with phases() as report:
            _find_distances(model, spec, [*cases, *tuned], found, report)
            chosen = [*tuned, *noisy, *_chosen(cases, found.distances, counts, arguments.best)]
            judge = _Judges(arguments, judges, model, spec, found, report)
            judge.of_real(arguments.n)
            for n, some in ((arguments.n, chosen), (arguments.n_slow, long)):
                for case in some:
                    judge.of_case(case, n)
            judge.compare([*chosen, *long], [case for case in _anchors(spec) if case in chosen] + long)
    judged = [
        case for case in [*cases, *tuned, *noisy, *long] if judges.keys() <= found.most("rows", case.label)[1].keys()
    ]
    if arguments.time:
        found.values["seconds"] = {}
        for label, seconds in _seconds_a_run(model, spec, judged).items():
            found.keep("seconds", label, seconds)
    names = list(judges)
    result = Report(
        f"python -m benchmarks.solvers --n {arguments.n} --steps {arguments.steps} --best {arguments.best}"
        + (" --kept" if arguments.kept else ""),
        conditions,
        [
            _table(found, judged, names),
            *(_difference_table(found, judged, [*_anchors(spec), *long], name) for name in names),
            _distance_table(found.distances, [case for case in cases if case.label in found.distances]),
        ],
        [
            f"{Path(arguments.model).name} (SHA-256 {sha256_of(arguments.model)[:12]}), seed {SEED}, against the first "
            f"{arguments.reference:,} training images. KID x 1000 with its standard error, by "
            + " and ".join(f"{name} (SHA-256 {sha256_of(path)[:8]})" for name, path in judges.items())
            + f". Levels: the root of the mean square of the distance to {LIMIT['num_steps']} steps of DDIM from the "
            f"same noise, {LIMIT_IMAGES} images.",
            "Differences of KID x 1000 are over the first images, which both rows have, with the error of pairs from "
            "the same noise. Below 0 is better.",
            *_note_of_times(found),
        ],
        found.values,
    )
    if arguments.write is not None:
        page: Path = arguments.write
        _draw_chart(page.parent / page.stem / "chart.png", found, judged, names)
        picture = f"![KID over evaluations and over time, by each judge]({page.stem}/chart.png)"
        write_between_marks(page, f"{markdown_from_reports([asdict(result)])}\n\n{picture}")
    return result


def _counts(text: str) -> list[int]:
    try:
        return sorted({int(count) for count in text.split(",")})
    except ValueError as exc:
        raise UsageError(f"--steps must be numbers with commas between them, got {text!r}.") from exc


def _all_cases(spec: ModelSpec, counts: list[int]) -> Iterator[Case]:
    """Yield every solver on every grid that costs one of these numbers of evaluations."""
    for evaluations in counts:
        for solver in SOLVERS:
            for grid in GRIDS:
                num_steps = (evaluations + 1) // 2 if solver.sampler == "heun" else evaluations
                rows = plan(spec, sampler=solver.sampler, num_steps=num_steps, grid=grid, **solver.knobs)
                if len(rows.rows) == evaluations:
                    yield Case(solver.name, grid, evaluations, rows)


def _other_case(spec: ModelSpec, name: str, steps: int) -> Case:
    how = OTHERS[name]
    return Case(name, how["grid"], steps, plan(spec, num_steps=steps, **how))


def _anchors(spec: ModelSpec) -> list[Case]:
    counts = [count for count in ANCHORS if count <= spec.num_train_timesteps]
    return [case for case in _all_cases(spec, counts) if (case.solver, case.grid) == ("ddim", "uniform")]


def _find_distances(model: Model, spec: ModelSpec, cases: list[Case], found: "_Found", report: Any) -> None:
    limit: list[Array] = []
    for done, case in enumerate(cases):
        if case.label not in found.distances:
            if not limit:
                limit.append(_ends(model, spec, plan(spec, **LIMIT), LIMIT_IMAGES))
            levels = 127.5 * (_ends(model, spec, case.plan, LIMIT_IMAGES) - limit[0])
            found.keep("distances", case.label, float(np.sqrt(np.mean(np.square(levels, dtype=np.float64)))))
        report(done + 1, len(cases), "distances")


def _ends(model: Model, spec: ModelSpec, rows: Plan, count: int) -> Array:
    numbers = range(count)
    denoise = denoiser(model, spec, **request_for(spec, seed=SEED).inputs_of(numbers))
    *_, state = walk(denoise, noise_stream(SEED, numbers, spec.state_shape), rows)
    return np.clip(state.x, -1.0, 1.0)


def _chosen(cases: list[Case], distances: Values, counts: list[int], best: int) -> list[Case]:
    """Return DDIM on even times, then of each solver its two nearest grids, but only the `best` nearest of all."""
    chosen = []
    for evaluations in counts:
        mine = [case for case in cases if case.evaluations == evaluations]
        chosen += [case for case in mine if (case.solver, case.grid) == ("ddim", "uniform")]
        nearest = sorted(mine, key=lambda case: distances[case.label])
        two = [
            case
            for case in nearest
            if case in [other for other in nearest if other.solver == case.solver][:2] and case not in chosen
        ]
        chosen += two[:best]
    return chosen


class _Found:
    """All that was found, in a file: distances by label, and rows by label and number of images."""

    def __init__(self, path: Path, model_sha256: str) -> None:
        self.path, self.of = path, {"model_sha256": model_sha256, "seed": SEED}
        self.values: Values = {"distances": {}, "rows": {}, "differences": {}, "seconds": {}}
        if path.exists():
            try:
                values = json.loads(path.read_text(encoding="utf-8"))
                if values["of"] == self.of:
                    self.values = {name: dict(values.get(name, {})) for name in self.values}
            except (ValueError, KeyError, TypeError) as exc:
                raise BadFileError(f"{path} is damaged: {exc!r}. Delete it.") from exc

    @property
    def distances(self) -> Values:
        """Return the distances by label."""
        result: Values = self.values["distances"]
        return result

    def most(self, kind: str, label: str) -> tuple[int, Values]:
        """Return the largest number of images with a value, and the value by judge; (0, {}) for none."""
        by_count = {}
        for name, value in self.values[kind].items():
            own, _, count = name.rpartition("; ")
            if own == label:
                by_count[int(count.removesuffix(" images"))] = value
        n = max(by_count, default=0)
        return n, by_count.get(n, {})

    def keep(self, kind: str, label: str, value: Any) -> None:
        """Add a value and write all."""
        self.values[kind][label] = value
        with replacing(self.path) as beside:
            beside.write_text(json.dumps({"of": self.of, **self.values}, indent=1, sort_keys=True) + "\n")


class _Judges:
    """Judge images by several extractors against training images."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        paths: dict[str, Path],
        model: Model,
        spec: ModelSpec,
        found: _Found,
        report: Any,
    ) -> None:
        self.model, self.spec, self.found, self.report = model, spec, found, report
        self.cache = cache_folder() if arguments.cache is None else Path(arguments.cache)
        self.extract = {
            name: open_extractor(path, spec.state_shape, "cpu", arguments.threads) for name, path in paths.items()
        }
        self.digests = {name: sha256_of(path) for name, path in paths.items()}
        self.model_sha256 = found.of["model_sha256"]
        train, self.test = (
            open_dataset("fashion-mnist", image_shape=spec.state_shape, train=part).images for part in (True, False)
        )
        self.train = train[: arguments.reference]

    def of_real(self, n: int) -> None:
        """Judge as many test images: what no sampler can be expected to fall below."""
        self._judged(f"real test images; {n} images", lambda: self.test[:n])

    def of_case(self, case: Case, n: int) -> None:
        """Judge n images of a case."""
        self._judged(f"{case.label}; {n} images", lambda: self._samples(case, n))

    def compare(self, cases: list[Case], anchors: list[Case]) -> None:
        """Find by how much each case's KID differs from each anchor's, over the images that both have."""
        for name in self.extract:
            pulls: dict[tuple[str, int], KernelPulls] = {}
            for done, (case, anchor) in enumerate(itertools.product(cases, anchors)):
                self.report(done, len(cases) * len(anchors), f"differences by {name}")
                n = min(self.found.most("rows", entry.label)[0] for entry in (case, anchor))
                label = f"{_less(case, anchor)}; {n} images"
                kept = dict(self.found.values["differences"].get(label, {}))
                if case == anchor or kept.get(name, {}).get("sha256") == self.digests[name]:
                    continue
                for entry in (case, anchor):
                    if (entry.label, n) not in pulls:
                        features = self._features(self._samples(entry, self.found.most("rows", entry.label)[0]), name)
                        pulls[entry.label, n] = kernel_pulls(features[:n], self._features(self.train, name))
                mean, error = kernel_difference(pulls[case.label, n], pulls[anchor.label, n])
                kept[name] = {"mean": mean, "standard_error": error, "sha256": self.digests[name]}
                self.found.keep("differences", label, kept)

    def _samples(self, case: Case, n: int) -> Any:
        spec = replace(self.spec, plans={case.digest: case.plan})  # the cache goes by the name
        settings = request_for(spec, n=n, plan=case.digest, seed=SEED, batch=BATCH)

        def inputs(done: int, total: int, _what: str) -> None:
            self.report(done, total, case.label)

        return scoring.sampled_images(self.model, spec, settings, self.model_sha256, self.cache, inputs)

    def _judged(self, label: str, images_of: Any) -> None:
        kids: Values = dict(self.found.values["rows"].get(label, {}))
        for name in self.extract:
            if kids.get(name, {}).get("sha256") == self.digests[name]:
                continue
            fake, real = (self._features(images, name) for images in (images_of(), self.train))
            kids[name] = {**kernel_distance(fake, real, subsets=SUBSETS)._asdict(), "sha256": self.digests[name]}
            self.found.keep("rows", label, kids)

    def _features(self, images: Any, name: str) -> Array:
        return scoring.features_of(images, self.extract[name], self.digests[name], self.cache, self.report)[0]


def _less(case: Case, anchor: Case) -> str:
    return f"{case.label} less {anchor.label}"


def _seconds_a_run(model: Model, spec: ModelSpec, cases: list[Case]) -> Values:
    """Return the median seconds of a run by row and batch, with classes and guidance; from TIMED steps where longer."""

    def timed(case: Case) -> Plan:
        if case.solver not in LONG or len(case.plan.rows) <= TIMED:
            return case.plan
        return _other_case(spec, case.solver, TIMED).plan

    parts = {case.label: timed(case) for case in cases}
    calls = {
        f"{label}; {batch}": partial(_ends, model, spec, rows, batch)
        for label, rows in parts.items()
        for batch in BATCHES
    }
    warm_up(partial(_ends, model, spec, _other_case(spec, "ddim", 2).plan, BATCHES[-1]))
    timings = interleaved(calls, ROUNDS)
    return {
        case.label: {
            str(batch): timings.median_ms(f"{case.label}; {batch}") / 1e3 * len(case.plan.rows) / len(rows.rows)
            for batch in BATCHES
        }
        for case, rows in zip(cases, parts.values(), strict=True)
    }


# --- the report -------------------------------------------------------------------------------------------------------


def _table(found: _Found, cases: list[Case], judges: list[str]) -> Table:
    batches = BATCHES if found.values["seconds"] else ()
    lines = []
    for case in sorted(cases, key=lambda case: case.evaluations):
        n, kids = found.most("rows", case.label)
        levels = f"{found.distances[case.label]:.1f}" if case.label in found.distances else "-"
        times = [f"{ms:.0f}" if ms else "-" for ms in (_ms_a_picture(found, case, batch) for batch in batches)]
        lines.append([*_named(case), str(n), levels, *(_kid_as_text(kids[name]) for name in judges), *times])
    n, kids = found.most("rows", "real test images")
    real = [_kid_as_text(kids[name]) if name in kids else "-" for name in judges]
    lines.append(["-", "real test images", "-", str(n), "-", *real, *("-" for _ in batches)])
    columns = ["evaluations", "solver", "grid", "images", "levels", *(f"KID x 1000, {name}" for name in judges)]
    return Table("Few evaluations", [*columns, *(f"ms an image, batch {batch}" for batch in batches)], lines)


def _named(case: Case) -> list[str]:
    return [str(case.evaluations), case.solver, case.grid or "-"]


def _note_of_times(found: _Found) -> list[str]:
    if not found.values["seconds"]:
        return []
    return [
        f"Times are of whole runs with the same classes and guidance, taking turns ({ROUNDS} rounds, medians); "
        f"beyond {TIMED} steps they are extrapolated from {TIMED}."
    ]


def _ms_a_picture(found: _Found, case: Case, batch: int) -> float | None:
    seconds = found.values["seconds"].get(case.label, {})
    return 1e3 * seconds[str(batch)] / batch if seconds else None


def _difference_table(found: _Found, cases: list[Case], anchors: list[Case], judge: str) -> Table:
    lines = []
    compared = [
        anchor for anchor in anchors if any(found.most("differences", _less(case, anchor))[0] for case in cases)
    ]
    for case in sorted(cases, key=lambda case: case.evaluations):
        cells = []
        for anchor in compared:
            n, kids = found.most("differences", _less(case, anchor))
            cells.append(f"{_kid_as_text(kids[judge])} ({n})" if judge in kids else "-")
        if set(cells) != {"-"}:
            lines.append([*_named(case), *cells])
    columns = [f"minus {anchor.solver} {anchor.evaluations}" for anchor in compared]
    title = f"Differences of KID x 1000 by {judge} (number of images)"
    return Table(title, ["evaluations", "solver", "grid", *columns], lines)


def _kid_as_text(kid: Values) -> str:
    return f"{1e3 * kid['mean']:.2f} ± {1e3 * kid['standard_error']:.2f}"


def _distance_table(distances: Values, cases: list[Case]) -> Table:
    counts = sorted({case.evaluations for case in cases})
    lines = []
    for solver in SOLVERS:
        for grid in GRIDS:
            found = {case.evaluations: distances[case.label] for case in cases if case[:2] == (solver.name, grid)}
            lines.append([solver.name, grid, *(f"{found[count]:.1f}" if count in found else "-" for count in counts)])
    return Table(
        f"Distance to {LIMIT['num_steps']} steps of DDIM in levels", ["solver", "grid", *map(str, counts)], lines
    )


def _draw_chart(path: Path, found: _Found, cases: list[Case], judges: list[str]) -> None:
    """Write KID over evaluations, and over the time of a picture, as PNG: of each solver its best row, and plans."""
    from matplotlib.figure import Figure

    batch = BATCHES[-1]
    measures: dict[str, Callable[[Case], float | None]] = {"network evaluations": lambda case: case.evaluations}
    if found.values["seconds"]:
        measures[f"ms an image, batch {batch}"] = lambda case: _ms_a_picture(found, case, batch)
    figure = Figure(figsize=(4.5 * len(judges), 3.8 * len(measures)), layout="constrained")
    panels = figure.subplots(len(measures), len(judges), squeeze=False)
    counts = sorted({case.evaluations for case in cases})
    styles = {
        TUNED: TUNED_STYLE,
        **{solver.name: solver.style for solver in SOLVERS},
        NOISY: ("#000000", "P-"),
        "ancestral": ("0.3", "p"),
    }
    for line, (measure_name, measured) in zip(panels, measures.items(), strict=True):
        for axes, judge in zip(line, judges, strict=True):
            for name, (colour, style) in styles.items():
                best: dict[float, Values] = {}
                for case in cases:
                    kid, x = found.most("rows", case.label)[1][judge], measured(case)
                    own = case.solver == name if case.grid else name == TUNED
                    if own and x is not None and (x not in best or kid["mean"] < best[x]["mean"]):
                        best[x] = kid
                if best:
                    xs = sorted(best)
                    mean, error = ([1e3 * best[x][what] for x in xs] for what in ("mean", "standard_error"))
                    axes.errorbar(xs, mean, error, fmt=style, color=colour, label=name, capsize=2, linewidth=1.3)
            floor = 1e3 * found.most("rows", "real test images")[1][judge]["mean"]
            axes.axhline(floor, color="0.4", linestyle="--", linewidth=1.0, label="real test images")
            # linear in KID: an unbiased one may be below 0
            axes.set(xscale="log", title=judge, xlabel=measure_name, ylabel="KID x 1000, lower is better")
            if measure_name == "network evaluations":
                axes.set_xticks(counts, [str(count) for count in counts], minor=False)
                axes.minorticks_off()
            axes.grid(visible=True, alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
    panels[0, 0].legend(fontsize=7)
    with replacing(path) as beside:
        figure.savefig(beside, dpi=110)


def _options() -> argparse.ArgumentParser:
    options = parser("Solvers and tuned plans at few evaluations, by the quality of their images.")
    options.add_argument(
        "--plans", type=Path, action="append", default=[], help="a file of plans, as train.tune writes"
    )
    options.add_argument("--judges", type=Path, nargs="+", help="extractors [exported/extractor.onnx]")
    options.add_argument("--n", type=int, default=2000, help="images of a row [%(default)s]")
    options.add_argument("--n-slow", type=int, default=300, help="images of a row of --slow-steps [%(default)s]")
    options.add_argument("--slow-steps", default="250,1000", help="of DDIM and of ancestral sampling [%(default)s]")
    options.add_argument(
        "--noisy-steps", default="10,24,50", help=f"of {NOISY} on {OTHERS[NOISY]['grid']} times [%(default)s]"
    )
    options.add_argument("--steps", default="3,4,5,6,8,10,15,20,50", help="evaluations [%(default)s]")
    options.add_argument(
        "--best", type=int, default=16, help="rows of each number of steps, besides DDIM [%(default)s]"
    )
    options.add_argument("--reference", type=int, default=REFERENCE, help="training images [%(default)s]")
    options.add_argument("--kept", action="store_true", help="only tell what lies in --results, and compute nothing")
    options.add_argument("--time", action="store_true", help="time the rows, on an idle machine")
    options.add_argument("--threads", type=int, help="of ONNX Runtime [all]")
    options.add_argument(
        "--results", default="docs/benchmarks-few-evaluations/results.json", help="what was found [%(default)s]"
    )
    options.add_argument("--cache", help="where images and features are kept [the user's cache]")
    options.add_argument(
        "--write", type=Path, metavar="PAGE", help="rewrite this page between its marks, and its chart"
    )
    return options


if __name__ == "__main__":
    run(measure, _options())
