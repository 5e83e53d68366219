"""What the ablation says: its table beside the study's, which of the study's conclusions hold, the chart, the sheet.

Knows scores as JSON values and pictures as arrays; trains and scores nothing. The study is docs/ablation.md's.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ddpm_export.images.write import grid
from ddpm_export.process.schedules import SCHEDULES
from ddpm_export.system.files import replacing

from .config import CHOICES, TrainConfig
from .pages import markdown_from_table

LOSSES = CHOICES["loss"]
STUDY = {  # its Inception Scores, by (schedule, loss); huber with delta 1 is its smooth-L1
    (schedule, loss): score
    for loss, scores in {
        "l1": (3.3707, 1.614, 3.6521, 3.304),
        "l2": (3.3808, 2.6078, 3.4592, 3.3833),
        "huber": (3.4503, 2.1523, 3.878, 3.6121),
    }.items()
    for schedule, score in zip(("linear", "cosine", "quadratic", "sigmoid"), scores, strict=True)
}
STUDY_REAL, STUDY_LONGEST = 4.0885, 4.1842  # the real test set; huber and quadratic after 20 epochs
# Okabe and Ito 2008: told apart by the colour-blind, and each has a marker of its own besides
COLOURS = dict(zip(SCHEDULES, ("#0072B2", "#D55E00", "#009E73", "#CC79A7"), strict=True))
MARKERS = dict(zip(LOSSES, ("o", "s", "^"), strict=True))
DPI = 110

Values = Mapping[tuple[str, str], float]


class Cell(NamedTuple):
    """One training: a schedule, a loss and a seed."""

    schedule: str
    loss: str
    seed: int

    @property
    def name(self) -> str:
        """Return the name of its folder."""
        return f"{self.schedule}-{self.loss}" + (f"-seed{self.seed}" if self.seed else "")


class Result(NamedTuple):
    """What is known of a cell: its scores, and why it failed; both None before it was trained and scored."""

    scores: dict[str, Any] | None
    failed: dict[str, Any] | None


class _Metric(NamedTuple):
    """One column: how to read it from scores, and how to print it; sign is 1 where more is better, else -1."""

    title: str
    value: Callable[[dict[str, Any]], float]
    error: Callable[[dict[str, Any]], float] | None
    digits: int
    sign: int


METRICS = {
    "is": _Metric("IS", lambda s: s["is"]["mean"], lambda s: s["is"]["std"], 3, 1),
    "fid": _Metric("FID", lambda s: s["fid"], None, 2, -1),
    "kid": _Metric("KID x 1000", lambda s: 1e3 * s["kid"]["mean"], lambda s: 1e3 * s["kid"]["standard_error"], 2, -1),
    "bits": _Metric("bits/dim", lambda s: s["bits"]["mean"], lambda s: s["bits"]["standard_error"], 3, -1),
}


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Return Spearman's correlation of two rows of numbers: 1 where they have the same order, -1 the opposite one.

    Needs two numbers; ties are ranked as they come.
    """
    ranks = [np.argsort(np.argsort(values)) for values in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


def verdicts(values: Values) -> list[tuple[str, bool, str]]:
    """Return (what the study found, whether it holds, what is so here) for scores of all cells, more being better."""
    best, worst = max(values, key=lambda cell: values[cell]), min(values, key=lambda cell: values[cell])

    def schedule_under(pick: Callable[..., str], loss: str) -> str:
        return pick(SCHEDULES, key=lambda schedule: values[schedule, loss])

    worst_schedules = {loss: schedule_under(min, loss) for loss in LOSSES}
    best_schedules = {loss: schedule_under(max, loss) for loss in LOSSES}
    over_l1 = [s for s in SCHEDULES if values[s, "huber"] > values[s, "l1"]]
    over_l2 = [s for s in SCHEDULES if values[s, "huber"] > values[s, "l2"]]
    return [
        ("the best is quadratic with huber", best == ("quadratic", "huber"), " with ".join(best)),
        ("the worst is cosine with l1", worst == ("cosine", "l1"), " with ".join(worst)),
        (
            "cosine is the worst schedule under every loss",
            set(worst_schedules.values()) == {"cosine"},
            ", ".join(f"{loss}: {schedule}" for loss, schedule in worst_schedules.items()),
        ),
        (
            "quadratic is the best schedule under every loss",
            set(best_schedules.values()) == {"quadratic"},
            ", ".join(f"{loss}: {schedule}" for loss, schedule in best_schedules.items()),
        ),
        ("huber beats l1 with every schedule", over_l1 == list(SCHEDULES), f"with {', '.join(over_l1) or 'none'}"),
        (
            "huber beats l2 with every schedule but cosine",
            over_l2 == [s for s in SCHEDULES if s != "cosine"],
            f"with {', '.join(over_l2) or 'none'}",
        ),
    ]


def markdown(
    results: Mapping[Cell, Result],
    real: dict[str, Any] | None,
    config: TrainConfig,
    seeds: int,
    num_steps: int,
    pictures: str,
) -> str:
    """Return all that is measured as Markdown: table, ratios, correlations, verdicts, pictures below `pictures`.

    num_steps: of DDIM, that the images were made by.
    """
    scored = {name: _means(results, metric) for name, metric in METRICS.items()}
    count = len(scored["is"])
    parts = [markdown_from_table("Twelve cells", _columns(), _rows(results, real))]
    parts.append("\n".join(f"- {note}" for note in _notes(results, real, config, seeds, num_steps)))
    if count == len(STUDY):
        parts.append(_comparison(scored, real))
        parts.append(markdown_from_table("The study's findings, and whether they hold here", *_verdict_table(scored)))
    else:
        parts.append(f"Scored so far: {count} of {len(STUDY)} cells; the study's conclusions need all of them.")
    parts.append(f"![Inception Score beside the study's, and FID, of each cell]({pictures}/chart.png)")
    parts.append(f"![Sixteen samples of each cell, from the same noise]({pictures}/samples.png)")
    return "\n\n".join(parts)


def _columns() -> list[str]:
    return ["schedule, loss", "IS of the study", *(metric.title for metric in METRICS.values())]


def _rows(results: Mapping[Cell, Result], real: dict[str, Any] | None) -> list[list[str]]:
    rows = []
    for schedule, loss in STUDY:
        mine = [result for cell, result in results.items() if cell[:2] == (schedule, loss)]
        rows.append([f"{schedule}, {loss}", f"{STUDY[schedule, loss]:.3f}", *_scores_as_text(mine)])
    if real is not None:
        rows.append(["real test images", f"{STUDY_REAL:.3f}", *_scores_as_text([Result(real["scores"], None)])])
    return rows


def _scores_as_text(results: list[Result]) -> list[str]:
    """Return the columns of a cell: value and its error, of several seeds the mean and the range."""
    found = [result.scores for result in results if result.scores is not None and result.failed is None]
    if not found:
        failed = [f"failed ({result.failed['stage']})" for result in results if result.failed is not None]
        return [(failed or ["not scored"])[0], *["-"] * (len(METRICS) - 1)]
    # real images have no bits
    return [_as_text(metric, found) if name in found[0] else "-" for name, metric in METRICS.items()]


def _as_text(metric: _Metric, scores: list[dict[str, Any]]) -> str:
    values = [metric.value(entry) for entry in scores]
    mean = f"{np.mean(values):.{metric.digits}f}"
    if len(values) > 1:
        return f"{mean} ({min(values):.{metric.digits}f} to {max(values):.{metric.digits}f})"
    return mean if metric.error is None else f"{mean} ± {metric.error(scores[0]):.{metric.digits}f}"


def _means(results: Mapping[Cell, Result], metric: _Metric) -> dict[tuple[str, str], float]:
    """Return the metric of the cells that have one, the mean over seeds, in the study's order."""
    means = {}
    for key in STUDY:
        mine = [result for cell, result in results.items() if cell[:2] == key and result.failed is None]
        values = [metric.value(result.scores) for result in mine if result.scores is not None]
        if values:
            means[key] = float(np.mean(values))
    return means


def _notes(
    results: Mapping[Cell, Result], real: dict[str, Any] | None, config: TrainConfig, seeds: int, num_steps: int
) -> list[str]:
    n = "" if real is None else f" of {real['of']['n']:,} images by {num_steps} steps of DDIM, seed 0,"
    notes = [
        f"`python -m train.ablation --config {config.name} --seeds {seeds}`: predicts {config.prediction}, "
        f"T = {config.num_train_timesteps}, {config.steps:,} steps of {config.batch_size} a cell. Every cell sees the "
        "same images in the same order, the same t and the same noise. The exported, averaged weights are scored.",
        f"IS, FID and KID{n} against the training images. IS is the mean over 10 splits with its spread; KID has its "
        "standard error. Bits per dimension use fixed_small and the same test images, times and noise in every cell, "
        "so most of their error is common to all cells. Several seeds give the mean and the range.",
    ]
    for cell, result in results.items():
        if result.failed is not None:
            notes.append(f"{cell.name} failed in {result.failed['stage']}: {result.failed['reason']}")
    return notes


def _comparison(scored: Mapping[str, dict[tuple[str, str], float]], real: dict[str, Any] | None) -> str:
    own = scored["is"]
    lines = []
    if real is not None:
        best = max(own, key=lambda cell: own[cell])
        ratio = own[best] / METRICS["is"].value(real["scores"])
        lines.append(
            f"The best Inception Score, {own[best]:.3f} ({best[0]}, {best[1]}), is {ratio:.3f} of that of real test "
            f"images; the study's is {max(STUDY.values()) / STUDY_REAL:.3f} in its table and "
            f"{STUDY_LONGEST / STUDY_REAL:.3f} after 20 epochs."
        )
    study = [STUDY[cell] for cell in own]
    correlations = [
        f"{metric.title.removesuffix(' x 1000')} "
        f"{rank_correlation(study, [metric.sign * scored[name][cell] for cell in own]):.2f}"
        for name, metric in METRICS.items()
    ]
    lines.append(
        "Spearman's correlation of the study's Inception Score with our scores over the cells (1 is the same order): "
        f"{', '.join(correlations)}."
    )
    return "\n".join(lines)


def _verdict_table(scored: Mapping[str, dict[tuple[str, str], float]]) -> tuple[list[str], list[list[str]]]:
    judged = {
        name: verdicts({cell: METRICS[name].sign * value for cell, value in scored[name].items()})
        for name in ("is", "fid", "bits")
    }
    rows = []
    for number, (claim, _, _) in enumerate(judged["is"]):
        answers = [judged[name][number] for name in judged]
        rows.append([claim, *(f"{'yes' if holds else 'no'} ({here})" for _, holds, here in answers)])
    return ["the study, by IS", *(f"here, by {METRICS[name].title}" for name in judged)], rows


def draw_chart(path: Path, results: Mapping[Cell, Result], real: dict[str, Any] | None) -> None:
    """Write the Inception Score beside the study's, and the FID of each cell, as PNG."""
    own, fid = (_means(results, METRICS[name]) for name in ("is", "fid"))
    figure = Figure(figsize=(9.0, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for cell, value in own.items():
        left.plot(STUDY[cell], value, MARKERS[cell[1]], color=COLOURS[cell[0]], markersize=8)
    if real is not None:
        left.axhline(METRICS["is"].value(real["scores"]), color="0.4", linestyle="--", linewidth=1.0)
        left.axvline(STUDY_REAL, color="0.4", linestyle="--", linewidth=1.0)
    left.set(
        xlabel="the study's Inception Score", ylabel="ours, by our extractor", title="Inception Score (dashed: real)"
    )
    for cell, value in fid.items():
        place = list(SCHEDULES).index(cell[0]) + 0.15 * (LOSSES.index(cell[1]) - 1)
        right.plot(place, value, MARKERS[cell[1]], color=COLOURS[cell[0]], markersize=8)
    if real is not None:
        right.axhline(METRICS["fid"].value(real["scores"]), color="0.4", linestyle="--", linewidth=1.0)
    right.set(ylabel="FID, lower is better", title="FID (dashed: real test images)", yscale="log" if fid else "linear")
    right.set_xticks(range(len(SCHEDULES)), list(SCHEDULES))
    right.set_xlim(-0.5, len(SCHEDULES) - 0.5)
    handles = [Line2D([], [], marker="o", linestyle="", color=colour, label=name) for name, colour in COLOURS.items()]
    handles += [Line2D([], [], marker=m, linestyle="", color="0.3", label=name) for name, m in MARKERS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    for axes in (left, right):
        axes.grid(visible=True, which="both", alpha=0.3)
    _save(figure, path)


def draw_samples(path: Path, images: Mapping[Cell, Any]) -> None:
    """Write one sheet: a row a loss, a column a schedule, each a grid of images, uint8 (N, H, W, C); None is blank."""
    figure = Figure(figsize=(8.6, 6.9), layout="constrained")
    for axes, (row, column) in zip(
        figure.subplots(len(LOSSES), len(SCHEDULES)).flat, np.ndindex(len(LOSSES), len(SCHEDULES)), strict=True
    ):
        cell = Cell(list(SCHEDULES)[column], LOSSES[row], 0)
        axes.set_title(f"{cell.schedule}, {cell.loss}", fontsize=10)
        axes.set_axis_off()
        if images.get(cell) is None:
            axes.text(0.5, 0.5, "not trained", ha="center", va="center", color="0.4")
        else:
            axes.imshow(grid(images[cell]).squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as beside:
        figure.savefig(beside, dpi=DPI)
