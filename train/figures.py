"""`python -m train.figures`: the pictures of docs/figures.md: data, schedules, both processes, copies, the loss.

The network is the exported file, run by the samplers that it is used with: this module itself needs no torch.
"""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ddpm_export.cli.console import entry_point
from ddpm_export.cli.options import Debug
from ddpm_export.cli.progress import phases
from ddpm_export.errors import UsageError
from ddpm_export.model.denoiser import denoiser
from ddpm_export.model.spec import ModelSpec
from ddpm_export.model.steps import plan
from ddpm_export.process.equations import Array, Model, noised
from ddpm_export.process.noise import noise_stream
from ddpm_export.process.pixels import from_uint8, to_uint8
from ddpm_export.process.rows import Row
from ddpm_export.process.schedules import SCHEDULES, alphas_cumprod_from_betas, betas_from_name, log_snr
from ddpm_export.process.walk import walk
from ddpm_export.runtimes.opening import open_model
from ddpm_export.sampling.request import request_for
from ddpm_export.scoring.datasets.dataset import Dataset
from ddpm_export.scoring.datasets.readers import open_dataset
from ddpm_export.scoring.metrics.bits import bits_per_dimension, strided_times
from ddpm_export.scoring.scores import CHUNK, sampled_images
from ddpm_export.system.files import cache_folder, replacing, sha256_of

DPI = 100
GAP = 1  # pixels between pictures
SEED = 0
T_STRIDE = 10
LOSS_IMAGES = 64
# Okabe and Ito 2008: told apart by the colour-blind
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
STYLES = dict(zip(SCHEDULES, zip((BLUE, ORANGE, GREEN, PINK), ("-", "--", "-.", ":"), strict=True), strict=True))

Pixels = NDArray[np.uint8]
Report = Callable[[int, int, str], None]


# --- the data ---------------------------------------------------------------------------------------------------------


def draw_data(data: Dataset) -> Figure:
    """Show ten images of each class, how many images the classes have, and how often each pixel value occurs."""
    figure = Figure(figsize=(9.0, 4.4), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1.0, 1.1])
    labels = np.zeros(len(data.images), dtype=np.int64) if data.labels is None else data.labels
    kinds, counts = np.unique(labels, return_counts=True)
    rows = [data.images[labels == kind][:10] for kind in kinds]
    rows = [row for row in rows if len(row) == 10]
    axes = left.subplots()
    height = data.images.shape[1]
    axes.imshow(_strip(rows), cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
    names = [str(kind) if data.classes is None else data.classes[kind] for kind in kinds]
    axes.set_yticks(_centres(len(rows), height), names[: len(rows)])
    axes.set(xticks=[], title="ten of each class")
    axes.tick_params(length=0)
    balance, pixels = right.subplots(2, 1)
    balance.bar(names, counts, color=BLUE)
    balance.set(ylabel="images", title=f"{len(data.images):,} images by class")
    balance.tick_params(axis="x", rotation=45, labelsize=8)
    shares = np.bincount(data.images.reshape(-1), minlength=256) / data.images.size
    pixels.semilogy(100.0 * shares, color=BLUE, linewidth=1.0)
    pixels.set(xlabel="pixel value", ylabel="share of pixels (%)", title=f"{shares[0]:.1%} of all pixels are 0")
    _gridded([balance, pixels])
    return figure


# --- the processes ----------------------------------------------------------------------------------------------------


def draw_schedules(T: int) -> Figure:
    """Show beta, alphas_cumprod and the log signal-to-noise ratio of every schedule over T times."""
    figure = Figure(figsize=(9.0, 3.2), layout="constrained")
    betas_axes, alphas_axes, snr_axes = figure.subplots(1, 3)
    for name, (colour, style) in STYLES.items():
        betas = betas_from_name(name, T)
        a = alphas_cumprod_from_betas(betas)
        for axes, values in ((betas_axes, betas), (alphas_axes, a), (snr_axes, log_snr(a))):
            axes.plot(values, style, color=colour, label=name, linewidth=1.5)
    betas_axes.set(title="noise of a step", ylabel=r"$\beta_t$", yscale="log")
    alphas_axes.set(title="what is left of the image", ylabel=r"$\bar\alpha_t$")
    snr_axes.set(title="signal to noise", ylabel=r"$\log\, \bar\alpha_t / (1 - \bar\alpha_t)$")
    for axes in (betas_axes, alphas_axes, snr_axes):
        axes.set_xlabel("t")
    _gridded([betas_axes, alphas_axes, snr_axes])
    betas_axes.legend(fontsize=8)
    return figure


def draw_forward(data: Dataset, T: int) -> Figure:
    """Show one image on its way to noise under every schedule: the same noise, at eleven times."""
    times = np.linspace(0, T - 1, 11).astype(int)
    x_0 = from_uint8(data.images[:1])
    eps = noise_stream(SEED, [0], x_0.shape[1:])(0)
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    rows = []
    for name in SCHEDULES:
        a = alphas_cumprod_from_betas(betas_from_name(name, T))
        rows.append(np.concatenate([to_uint8(noised(x_0, eps, float(a[t]))) for t in times]))
    _film(figure, rows, list(SCHEDULES), [str(t) for t in times])
    figure.axes[0].set(title="q(x_t | x_0): one image, one noise", xlabel="t")
    return figure


def draw_reverse(model: Model, spec: ModelSpec, report: Report) -> Figure:
    """Show two images coming out of noise by all T steps of ddpm: x_t, and the x_0 predicted from it."""
    rows = plan(spec, sampler="ddpm", num_steps=spec.num_train_timesteps)
    noise = noise_stream(SEED, range(2), spec.state_shape)
    # after how many steps: evenly, but the last quarter, where details come, twice as dense
    total = len(rows.rows)
    shown = sorted({max(1, round(total * share)) for share in (0.001, 0.15, 0.3, 0.45, 0.6, 0.7, 0.8, 0.9, 0.96, 1.0)})
    columns: list[tuple[int, Pixels, Pixels]] = []
    for state in walk(denoiser(model, spec), noise, rows):
        if state.row.i in shown:
            columns.append((state.row.t, to_uint8(state.x), to_uint8(state.x_0)))
        report(state.row.i, total, "reverse process")
    figure = Figure(figsize=(9.0, 4.0), layout="constrained")
    rows = [np.stack([column[what][image] for column in columns]) for image in range(2) for what in (1, 2)]
    _film(figure, rows, [r"$x_{t-1}$", r"predicted $x_0$"] * 2, [str(column[0]) for column in columns])
    figure.axes[0].set(title=f"{spec.name}: {total} steps of ddpm, seed {SEED}", xlabel="after the step at t")
    return figure


def _film(figure: Figure, rows: list[Pixels], names: list[str], times: list[str]) -> None:
    """Put rows of pictures (N, H, W, C) into a figure, named at the left, their times below."""
    axes = figure.subplots()
    height, width = rows[0].shape[1:3]
    axes.imshow(_strip(rows), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_yticks(_centres(len(rows), height), names)
    axes.set_xticks(_centres(len(times), width), times)
    axes.tick_params(length=0)


def _strip(rows: list[Pixels]) -> Pixels:
    """Lay rows of pictures, each (N, H, W, C) uint8, below one another: (H', W') or, in colour, (H', W', 3).

    A grey line stands right of and below each.
    """
    framed = [np.pad(row, ((0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=160) for row in rows]
    page: Pixels = np.concatenate([np.concatenate(list(row), axis=1) for row in framed])
    return page[..., 0] if page.shape[2] == 1 else page


def _centres(count: int, size: int) -> list[float]:
    """Return where the middles of so many pictures of a strip lie, in its pixels."""
    return [(size + GAP) * k + size / 2.0 - 0.5 for k in range(count)]


# --- copies? ----------------------------------------------------------------------------------------------------------


def nearest_rows(queries: Array, rows: Array, k: int, block: int = 5000) -> tuple[NDArray[np.int64], Array]:
    """Return the k rows nearest to each query in Euclidean distance: indices and distances, (Q, k), nearest first.

    queries (Q, D) and rows (N, D), any real dtype; computed in float64, a block of rows at a time. N is at least k.
    """
    wide = queries.astype(np.float64)
    found = np.zeros((len(wide), 0), dtype=np.int64)
    squares = np.zeros((len(wide), 0))
    for start in range(0, len(rows), block):
        part = rows[start : start + block].astype(np.float64)
        away = np.square(wide).sum(axis=1)[:, None] + np.square(part).sum(axis=1) - 2.0 * wide @ part.T
        squares = np.concatenate([squares, away], axis=1)
        found = np.concatenate([found, np.broadcast_to(np.arange(start, start + len(part)), away.shape)], axis=1)
        order = np.argsort(squares, axis=1, kind="stable")[:, :k]
        squares, found = np.take_along_axis(squares, order, 1), np.take_along_axis(found, order, 1)
    return found, np.sqrt(np.maximum(squares, 0.0))


def draw_neighbours(samples: Pixels, train: Dataset, test: Dataset) -> Figure:
    """Show samples beside the training images nearest to them, and how near samples and test images come to these."""
    n = len(samples)
    rows = np.asarray(train.images).reshape(len(train.images), -1)
    indices, distances = nearest_rows(samples.reshape(n, -1), rows, 4)
    others = test.images[:n]
    _, of_test = nearest_rows(others.reshape(len(others), -1), rows, 1)
    pixels_rms = math.sqrt(rows.shape[1])
    figure = Figure(figsize=(9.0, 4.2), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1.0, 1.2])
    nearest_first = np.argsort(distances[:, 0], kind="stable")[:8]
    axes = left.subplots()
    shown = [np.concatenate([samples[k : k + 1], train.images[indices[k]]]) for k in nearest_first]
    axes.imshow(_strip(shown), cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
    width = samples.shape[2]
    axes.set_xticks(_centres(5, width), ["sample", "1st", "2nd", "3rd", "4th"])
    axes.set(yticks=[], title="the 8 samples nearest to the training set")
    axes.axvline(width, color=ORANGE, linewidth=2.0)
    axes.tick_params(length=0)
    axes = right.subplots()
    bins = np.linspace(0.0, max(distances[:, 0].max(), of_test.max()) / pixels_rms, 40)
    for values, name, colour in ((distances[:, 0], "samples", ORANGE), (of_test[:, 0], "test images", BLUE)):
        label = f"{len(values)} {name}, least {values.min() / pixels_rms:.1f}"
        axes.hist(values / pixels_rms, bins, histtype="step", linewidth=1.8, color=colour, label=label)
    axes.set(
        xlabel="root mean square difference, grey levels of 255", ylabel="images", title="to the nearest training image"
    )
    axes.legend(fontsize=8)
    _gridded([axes])
    return figure


# --- the loss ---------------------------------------------------------------------------------------------------------


def draw_loss_by_t(model: Model, spec: ModelSpec, test: Dataset, n: int, report: Report) -> Figure:
    """Show over t how far the model's eps, v and x_0 are off on test images, and its bits per dimension."""
    images = test.images[:n]
    T = spec.num_train_timesteps
    times = strided_times(T, min(T_STRIDE, T), seed=SEED)
    errors = _squared_errors(model, spec, images, times, report)
    bits = bits_per_dimension(
        model, spec, images, times=times, batch=n, report=lambda done, total: report(done, total, "bits")
    )
    figure = Figure(figsize=(9.0, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for (name, values), (colour, style) in zip(errors.items(), STYLES.values(), strict=False):
        left.loglog(1 + np.array(times), values, style, color=colour, label=name, linewidth=1.5)
    left.set(xlabel="t + 1", ylabel="mean squared error", title=f"{len(images)} test images")
    left.legend(fontsize=8)
    right.loglog(1 + bits.times, bits.terms_mean, color=BLUE, linewidth=1.5)
    error = f" ± {bits.standard_error:.2f}" if math.isfinite(bits.standard_error) else ""
    right.set(xlabel="t + 1", ylabel="bits per dimension", title=f"terms of the bound, {bits.mean:.2f}{error} in all")
    _gridded([left, right])
    return figure


def _squared_errors(
    model: Model, spec: ModelSpec, images: Pixels, times: Iterable[int], report: Report
) -> dict[str, list[float]]:
    """Return the mean squared error of eps, v and x_0 at each time; the noise at t is draw t + 1, as for bits."""
    x_0 = from_uint8(images)
    noise = noise_stream(SEED, range(len(images)), spec.state_shape)
    denoise = denoiser(model, spec)
    errors: dict[str, list[float]] = {"eps": [], "v": [], "x_0": []}
    chosen = list(times)
    for done, t in enumerate(chosen, start=1):
        a, eps = float(spec.alphas_cumprod[t]), noise(t + 1).astype(np.float64)
        found = denoise(noised(x_0, eps, a).astype(np.float32), Row(t + 1, t, a), None)
        # one error in three scales: given x_t, x_0 off by d is v off by d / sqrt(1 - a), eps by d sqrt(a / (1 - a))
        squared = float(np.square(found.x_0 - x_0).mean())
        for name, scale in (("eps", a / (1.0 - a)), ("v", 1.0 / (1.0 - a)), ("x_0", 1.0)):
            errors[name].append(scale * squared)
        report(done, len(chosen), "loss")
    return errors


# --- the command ------------------------------------------------------------------------------------------------------


def _gridded(many: Iterable[Any]) -> None:
    for axes in many:
        axes.grid(visible=True, which="major", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)


FIGURES = ("data", "schedules", "forward", "reverse", "neighbours", "loss")


def draw(
    out: Annotated[Path, typer.Option(help="Where the PNGs go.")] = Path("docs/figures"),
    model: Annotated[Path, typer.Option(help="An exported model.")] = Path("exported/unet.onnx"),
    data: Annotated[Path | None, typer.Option(help="The data set's files, or a folder of images.")] = None,
    dataset: Annotated[str, typer.Option(help="fashion-mnist or folder.")] = "fashion-mnist",
    only: Annotated[str, typer.Option(help="Some of them.")] = ",".join(FIGURES),
    n: Annotated[int, typer.Option(min=8, help="Samples whose nearest training images are looked for.")] = 200,
    cache: Annotated[Path | None, typer.Option(help="Where samples are kept. [default: the user's cache]")] = None,
    debug: Debug = False,
) -> None:
    """Draw the figures of docs/figures.md.

    Exit codes: 0 done, 2 usage, 3 bad file, 5 environment, 6 not finite, 130 interrupted.
    """
    wanted = only.split(",")
    unknown = [name for name in wanted if name not in FIGURES]
    if unknown:
        raise UsageError(f"--only must name some of {', '.join(FIGURES)}, got {', '.join(unknown)}.")
    opened, spec = open_model(model)
    train, test = (open_dataset(dataset, data, image_shape=spec.state_shape, train=part) for part in (True, False))
    settings = request_for(spec, n=n, seed=SEED, batch=CHUNK)
    with phases() as report:
        drawers: dict[str, Callable[[], Figure]] = {
            "data": lambda: draw_data(train),
            "schedules": lambda: draw_schedules(spec.num_train_timesteps),
            "forward": lambda: draw_forward(train, spec.num_train_timesteps),
            "reverse": lambda: draw_reverse(opened, spec, report),
            "neighbours": lambda: draw_neighbours(
                sampled_images(
                    opened, spec, settings, sha256_of(model), cache_folder() if cache is None else cache, report
                ),
                train,
                test,
            ),
            "loss": lambda: draw_loss_by_t(opened, spec, test, min(n, LOSS_IMAGES), report),
        }
        for name in wanted:
            figure = drawers[name]()
            with replacing(out / f"{name}.png") as beside:
                figure.savefig(beside, dpi=DPI)
            print(out / f"{name}.png")


main = entry_point(draw)

if __name__ == "__main__":
    main()
