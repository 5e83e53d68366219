"""Solvers and tuned plans at few network evaluations, by the quality of their images: docs/solvers.md.

First the distance of every solver on every grid to what 500 steps of DDIM give from the same noise, then KID by every
judge of those that come nearest. All that was found lies in a JSON file, images lie in the cache: a run that was cut
off goes on.
"""

import argparse
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.quality import sha256_of_images
from benchmarks.report import Report, Table, markdown_from_reports, parser, run
from benchmarks.timing import machine
from ddpm_export import scoring
from ddpm_export.cli.console import phases
from ddpm_export.datasets import open_dataset
from ddpm_export.diffusion import Array, Model, denoiser
from ddpm_export.errors import BadFileError, UsageError
from ddpm_export.files import cache_folder, replacing, sha256_of
from ddpm_export.generation import settings_for, with_plans
from ddpm_export.metrics import kernel_distance
from ddpm_export.noise import noise_stream
from ddpm_export.plans import Plan, json_from_plan
from ddpm_export.runtimes import open_model
from ddpm_export.runtimes.onnx import open_extractor
from ddpm_export.samplers import plan, walk
from ddpm_export.schedules import GRIDS
from ddpm_export.spec import ModelSpec
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
LIMIT = {"sampler": "ddim", "num_steps": 500, "eta": 0.0}  # what all solvers without noise go to
LIMIT_IMAGES = 32
SEED, BATCH = 0, 20
REFERENCE = 10_000  # training images that are compared with: more would not lower the error of 2,000 samples
SUBSETS = 20  # of 1,000; of 1,280 features a hundred take a minute a row

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
    judges = {path.stem: path for path in arguments.judges or [Path("exported/extractor.onnx")]}
    if arguments.kept:
        judged = found.rows(arguments.n)
        tuned, chosen = (
            [case for case in some if judges.keys() <= judged.get(case.label, {}).keys()] for some in (tuned, cases)
        )
        cases = [case for case in cases if case.label in found.distances]
    else:
        with phases() as report:
            _find_distances(model, spec, cases, found, report)
            chosen = _chosen(cases, found.distances, counts, arguments.best)
            judge = _Judges(arguments, judges, model, spec, found, report)
            judge.of_real()
            for case in [*tuned, *chosen]:
                judge.of_case(case)
    rows = found.rows(arguments.n)
    names = list(judges)
    result = Report(
        f"python -m benchmarks.solvers --n {arguments.n} --steps {arguments.steps} --best {arguments.best}"
        + (" --kept" if arguments.kept else ""),
        conditions,
        [_table(rows, tuned, chosen, found.distances, names, arguments.n), _distance_table(found.distances, cases)],
        [
            f"{Path(arguments.model).name} (SHA-256 {sha256_of(arguments.model)[:12]}), seed {SEED}, against the first "
            f"{arguments.reference:,} training images. KID x 1000 with its standard error, by "
            + " and ".join(f"{name} (SHA-256 {sha256_of(path)[:8]})" for name, path in judges.items())
            + f". Levels: the root of the mean square of the distance to {LIMIT['num_steps']} steps of DDIM from the "
            f"same noise, {LIMIT_IMAGES} images.",
        ],
        {"rows": rows, "distances": found.distances},
    )
    if arguments.write is not None:
        page: Path = arguments.write
        _draw_chart(page.parent / page.stem / "chart.png", rows, [*chosen, *tuned], names)
        picture = f"![KID over evaluations, by each judge]({page.stem}/chart.png)"
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


def _find_distances(model: Model, spec: ModelSpec, cases: list[Case], found: "_Found", report: Any) -> None:
    limit: list[Array] = []
    for done, case in enumerate(cases):
        if case.label not in found.distances:
            if not limit:
                limit.append(_ends(model, spec, plan(spec, **LIMIT)))
            levels = 127.5 * (_ends(model, spec, case.plan) - limit[0])
            found.keep("distances", case.label, float(np.sqrt(np.mean(np.square(levels, dtype=np.float64)))))
        report(done + 1, len(cases), "distances")


def _ends(model: Model, spec: ModelSpec, rows: Plan) -> Array:
    *_, state = walk(denoiser(model, spec), noise_stream(SEED, range(LIMIT_IMAGES), spec.state_shape), rows)
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
        self.values: Values = {"distances": {}, "rows": {}}
        if path.exists():
            try:
                values = json.loads(path.read_text(encoding="utf-8"))
                if values["of"] == self.of:
                    self.values = {name: dict(values[name]) for name in self.values}
            except (ValueError, KeyError, TypeError) as exc:
                raise BadFileError(f"{path} is damaged: {exc!r}. Delete it.") from exc

    @property
    def distances(self) -> Values:
        """Return the distances by label."""
        result: Values = self.values["distances"]
        return result

    def rows(self, n: int) -> Values:
        """Return KID by judge, by label, of n images and of those rows that have no other number."""
        own = {label: kids for label, kids in self.values["rows"].items() if label.endswith(f"; {n} images")}
        return {label.rpartition(";")[0]: kids for label, kids in own.items()}

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
        self.model, self.spec, self.found, self.report, self.n = model, spec, found, report, arguments.n
        self.cache = cache_folder() if arguments.cache is None else Path(arguments.cache)
        self.extract = {
            name: open_extractor(path, spec.image_shape, "cpu", arguments.threads) for name, path in paths.items()
        }
        self.digests = {name: sha256_of(path) for name, path in paths.items()}
        self.model_sha256 = found.of["model_sha256"]
        train, self.test = (
            open_dataset("fashion-mnist", image_shape=spec.image_shape, train=part).images for part in (True, False)
        )
        self.train = train[: arguments.reference]

    def of_real(self) -> None:
        """Judge as many test images: what no sampler can be expected to fall below."""
        self._judged("real test images", lambda: self.test[: self.n])

    def of_case(self, case: Case) -> None:
        """Judge a case's images."""
        self._judged(case.label, lambda: self._samples(case))

    def _samples(self, case: Case) -> Any:
        spec = replace(self.spec, plans={case.digest: case.plan})  # the cache goes by the name
        settings = settings_for(spec, n=self.n, plan=case.digest, seed=SEED, batch=BATCH)

        def told(done: int, total: int, _what: str) -> None:
            self.report(done, total, case.label)

        return scoring.sampled_images(self.model, spec, settings, self.model_sha256, self.cache, told)

    def _judged(self, label: str, images_of: Any) -> None:
        label = f"{label}; {self.n} images"
        kids: Values = dict(self.found.values["rows"].get(label, {}))
        for name, extract in self.extract.items():
            if kids.get(name, {}).get("sha256") == self.digests[name]:
                continue
            fake, real = (
                scoring.features_of(images, extract, self.digests[name], self.cache, self.report)[0]
                for images in (images_of(), self.train)
            )
            kids[name] = {**kernel_distance(fake, real, subsets=SUBSETS)._asdict(), "sha256": self.digests[name]}
            self.found.keep("rows", label, kids)


# --- what is told -----------------------------------------------------------------------------------------------------


def _table(rows: Values, tuned: list[Case], chosen: list[Case], distances: Values, judges: list[str], n: int) -> Table:
    lines = []
    for case in sorted([*tuned, *chosen], key=lambda case: case.evaluations):
        levels = f"{distances[case.label]:.1f}" if case.label in distances else "-"
        kids = [_kid_as_text(rows[case.label][name]) for name in judges]
        lines.append([str(case.evaluations), case.solver, case.grid or "-", levels, *kids])
    lines.append(
        ["-", "real test images", "-", "-", *(_kid_as_text(rows["real test images"][name]) for name in judges)]
    )
    columns = ["evaluations", "solver", "grid", "levels", *(f"KID x 1000, {name}" for name in judges)]
    return Table(f"Few evaluations, {n} images a row", columns, lines)


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


def _draw_chart(path: Path, rows: Values, cases: list[Case], judges: list[str]) -> None:
    """Write KID over evaluations as PNG: of each solver its best row, and the tuned plans."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(judges), 3.8), layout="constrained")
    counts = sorted({case.evaluations for case in cases})
    styles = {TUNED: TUNED_STYLE, **{solver.name: solver.style for solver in SOLVERS}}
    for axes, judge in zip(np.atleast_1d(figure.subplots(1, len(judges))), judges, strict=True):
        for name, (colour, style) in styles.items():
            best: dict[int, Values] = {}
            for case in cases:
                kid = rows[case.label][judge]
                if (case.solver == name or (case.grid is None and name == TUNED)) and (
                    case.evaluations not in best or kid["mean"] < best[case.evaluations]["mean"]
                ):
                    best[case.evaluations] = kid
            if best:
                x = sorted(best)
                mean, error = ([1e3 * best[count][what] for count in x] for what in ("mean", "standard_error"))
                axes.errorbar(x, mean, error, fmt=style, color=colour, label=name, capsize=2, linewidth=1.3)
        floor = 1e3 * rows["real test images"][judge]["mean"]
        axes.axhline(floor, color="0.4", linestyle="--", linewidth=1.0, label="real test images")
        axes.set(xscale="log", yscale="symlog" if judge == judges[0] else "log", title=judge)
        axes.set(xlabel="network evaluations", ylabel="KID x 1000, lower is better")
        axes.set_xticks(counts, [str(count) for count in counts], minor=False)
        axes.minorticks_off()
        axes.grid(visible=True, alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=7)
    with replacing(path) as beside:
        figure.savefig(beside, dpi=110)


def _options() -> argparse.ArgumentParser:
    options = parser("Solvers and tuned plans at few evaluations, by the quality of their images.")
    options.add_argument(
        "--plans", type=Path, action="append", default=[], help="a file of plans, as train.tune writes"
    )
    options.add_argument("--judges", type=Path, nargs="+", help="extractors [exported/extractor.onnx]")
    options.add_argument("--n", type=int, default=2000, help="images of a row [%(default)s]")
    options.add_argument("--steps", default="3,4,5,6,8,10,15,20,50", help="evaluations [%(default)s]")
    options.add_argument(
        "--best", type=int, default=16, help="rows of each number of steps, besides DDIM [%(default)s]"
    )
    options.add_argument("--reference", type=int, default=REFERENCE, help="training images [%(default)s]")
    options.add_argument("--kept", action="store_true", help="only tell what lies in --results, and compute nothing")
    options.add_argument("--threads", type=int, help="of ONNX Runtime [all]")
    options.add_argument("--results", default="docs/solvers/results.json", help="what was found [%(default)s]")
    options.add_argument("--cache", help="where images and features are kept [the user's cache]")
    options.add_argument(
        "--write", type=Path, metavar="PAGE", help="rewrite this page between its marks, and its chart"
    )
    return options


if __name__ == "__main__":
    run(measure, _options())
