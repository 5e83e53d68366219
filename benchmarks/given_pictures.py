"""The pictures of docs/editing-methods.md, from the first test images of Fashion-MNIST and the exported file.

`--only filled` makes one of them; `--write PAGE` puts the tables of inversion and of coding between their marks.
"""

import argparse
import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import MODEL
from ddpm_export.images.read import read_image
from ddpm_export.images.write import save_images
from ddpm_export.model.spec import GUIDANCE, INPUTS, ModelSpec
from ddpm_export.process.equations import Model
from ddpm_export.runtimes.opening import open_model
from ddpm_export.sampling.edit import edit, invert
from ddpm_export.system.files import replacing
from train.pages import markdown_from_table, write_between_marks

__all__ = ["PICTURES"]

GREY_LEVEL = 96  # of what is not shown
SEED, WAYS = 0, 8
INVERTED_STEPS = (10, 25, 50, 100, 250)
HOW: dict[str, Any] = {"sampler": "ddim", "num_steps": 20, "seed": SEED}
REPAINT: dict[str, Any] = {**HOW, "eta": 1.0, "num_steps": 15, "returns": 4}


def filled(model: Any, images: Any, mask: Any) -> Any:
    """Return a row for each picture: the known part, eight completions, and the picture."""
    made = edit(model, images, mask=mask, n=WAYS, **REPAINT)
    ways = made.reshape(-1, WAYS, *images.shape[1:])
    known = np.broadcast_to(mask[..., None] == 0, images.shape[1:])
    if not (ways[:, :, known] == images[:, None, known]).all():
        raise SystemExit("error: known pixels have changed.")
    return _rows(np.where(known, images, GREY_LEVEL), *ways.swapaxes(0, 1), images)


def methods(model: Any, images: Any, mask: Any) -> Any:
    """Return a row a method, five pictures of two ways: replacement, eta 0 and 1, with returns, DDNM."""
    chosen = images[[0, 1, 4, 6, 15]]
    how: list[dict[str, Any]] = [
        {**HOW, "eta": 0.0},
        {**HOW, "eta": 1.0},
        REPAINT,
        {**HOW, "eta": 1.0, "measure": "mask"},
    ]
    return np.concatenate([edit(model, chosen, mask=mask, n=2, **entry) for entry in how])


def averaged(model: Any, images: Any, _mask: Any) -> Any:
    """Return a row a picture: its means of 4 x 4 pixels, four pictures that have these, and itself."""
    chosen = images[:6]
    means = chosen.reshape(-1, 7, 4, 7, 4, 1).mean(axis=(2, 4)).round().astype(np.uint8)
    made = edit(model, chosen, measure="average:4", n=4, **{**HOW, "eta": 1.0})
    return _rows(
        means.repeat(4, axis=1).repeat(4, axis=2), *made.reshape(-1, 4, *images.shape[1:]).swapaxes(0, 1), chosen
    )


def strengths(model: Any, images: Any, _mask: Any) -> Any:
    """Return a row a picture: itself, then made again from strengths 0.2 to 1."""
    chosen = images[[0, 1, 4, 6]]
    return _rows(chosen, *(edit(model, chosen, strength=share / 10, **HOW) for share in (2, 3, 4, 5, 6, 7, 8, 10)))


def between(model: Any, images: Any, _mask: Any) -> Any:
    """Return a row a strength, 0.25, 0.5, 0.75 and 1: from one picture to another."""
    rows = [edit(model, images[[9, 0]], between=True, strength=share / 4, **HOW) for share in (1, 2, 3, 4)]
    return np.concatenate(rows)


def seeds(model: Any, _images: Any, _mask: Any) -> Any:
    """Return rows from the image of one seed to that of another."""
    return np.concatenate([edit(model, seeds=pair, **{**HOW, "seed": None}) for pair in ((7, 11), (2, 5))])


def inverted(model: Any, images: Any, _mask: Any) -> Any:
    """Return a row a number of steps: pictures that went to noise and back."""
    chosen = images[:8]
    rows = []
    for num_steps in (10, 50, 250):
        x_T = invert(model, chosen, num_steps=num_steps).x_T
        rows.append(edit(model, x_T=x_T, num_steps=num_steps))
    return np.concatenate([chosen, *rows])


PICTURES: dict[str, tuple[Callable[[Any, Any, Any], Any], int]] = {  # and how many columns
    "filled": (filled, WAYS + 2),
    "methods": (methods, 10),
    "averaged": (averaged, 6),
    "strengths": (strengths, 9),
    "between": (between, 9),
    "seeds": (seeds, 9),
    "inverted": (inverted, 8),
}


def _without_classes(model: Model, spec: ModelSpec) -> tuple[Model, ModelSpec]:
    """Return the network without a class, since pictures of all classes are given to it."""
    label = spec.label
    if label is None:
        return model, spec
    requires = tuple(name for name in spec.requires if name not in (INPUTS, GUIDANCE))
    plain = replace(spec, inputs=(), requires=requires, defaults=replace(spec.defaults, guidance=None))
    return lambda x_t, t: model(x_t, t, **{label.name: label.batch_of("none", len(x_t))}), plain


def _rows(*columns: Any) -> Any:
    """Return images row by row, column k of every row from the k-th array."""
    return np.stack(columns, axis=1).reshape(-1, *columns[0].shape[1:])


def inversion_table(model: Any, images: Any) -> str:
    """Return the error of going to noise and back over the number of steps, as Markdown."""
    rows = []
    for num_steps in INVERTED_STEPS:
        x_T, rmse = invert(model, images, num_steps=num_steps)
        rows.append(
            [str(num_steps), f"{rmse.mean():.2f}", f"{rmse.max():.2f}", f"{x_T.mean():.2f}", f"{x_T.std():.2f}"]
        )
    columns = ["steps", "RMSE, mean", "RMSE, worst", "mean of the noise", "its deviation"]
    return markdown_from_table(f"To noise and back, {len(images)} pictures, levels of 255", columns, rows)


def rate_tables(found: dict[str, Any]) -> str:
    """Return the tables of rate, distortion and a coder's cost, of what `ddpm-eval --metrics rate --json` says."""
    rate = found["rate"]

    def asked(name: str) -> str:
        return f"{rate[name]:.2f} ± {rate[f'{name}_error']:.2f}"

    total = markdown_from_table(
        f"Bits per dimension, {rate['images']} test images",
        ["model", "rate, L_1 + ... + L_T", "distortion, L_0", "RMSE in levels"],
        [
            ["this model, Fashion-MNIST", asked("L_1:T"), asked("L_0"), asked("rmse")],
            ["Ho et al. 2020, CIFAR-10", "1.78", "1.97", "0.95"],
        ],
    )
    coder = markdown_from_table(
        "What a coder of samples would cost, bits per dimension",
        ["messages", "they carry", "they take", "bits of the largest", "in groups of 16 bits", "those and L_0"],
        [
            [
                str(cost["messages"]),
                *(f"{cost[name]:.2f}" for name in ("kl", "cost")),
                f"{cost['largest']:.0f}",
                f"{cost['in_groups']:.2f}",
                f"{cost['in_groups'] + cost['lossless']:.2f}",
            ]
            for cost in rate["coder"]
        ],
    )
    return f"{total}\n\n{coder}"


def draw_rate(curve: Path, picture: Path) -> None:
    """Draw rate against distortion, and both over t, from the .csv of `ddpm-eval --curve`."""
    from matplotlib.figure import Figure

    with curve.open(encoding="utf-8", newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    t, rate, rate_error, rmse, rmse_error = (
        np.array([row[name] for row in rows]) for name in ("t", "rate", "rate_error", "rmse", "rmse_error")
    )
    figure = Figure(figsize=(9.6, 3.0), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for axes, x, y, error, names in (
        (left, t, rate, rate_error, ("t", "rate, bits per dimension")),
        (middle, t, rmse, rmse_error, ("t", "distortion, RMSE in levels")),
        (right, rate, rmse, rmse_error, ("rate, bits per dimension", "distortion, RMSE in levels")),
    ):
        axes.plot(x, y, color="#0072B2", linewidth=1.5)
        axes.fill_between(x, y - error, y + error, color="#0072B2", alpha=0.25, linewidth=0)
        axes.set(xlabel=names[0], ylabel=names[1])
        axes.set_ylim(bottom=0.0)
        axes.grid(visible=True, alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in (left, middle):
        axes.invert_xaxis()  # as the bits arrive
    with replacing(picture) as beside:
        figure.savefig(beside, format="png", dpi=110)


def main() -> None:
    """Make what is asked for."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", default=MODEL, help="an exported .onnx file [%(default)s]")
    options.add_argument("--folder", type=Path, default=Path("docs/given"), help="where pictures go [%(default)s]")
    options.add_argument("--only", choices=[*PICTURES, "tables", "rate"], help="one of them [all]")
    options.add_argument("--threads", type=int, help="CPU threads [one a core]")
    options.add_argument("--write", type=Path, metavar="PAGE", help="put the tables between the marks of this page")
    arguments = options.parse_args()
    folder: Path = arguments.folder
    model = _without_classes(*open_model(arguments.model, threads=arguments.threads))
    images = np.stack([read_image(path, 1) for path in sorted((folder / "pictures").glob("*.png"))])
    mask = read_image(folder / "right-half.png", 1)[..., 0]
    for name, (make, columns) in PICTURES.items():
        if arguments.only in (None, name):
            save_images(folder / f"{name}.png", make(model, images, mask), columns=columns)
            print(folder / f"{name}.png", flush=True)
    if arguments.only in (None, "rate"):
        draw_rate(folder / "rate.csv", folder / "rate.png")
        if arguments.write is not None:
            found = json.loads((folder / "rate.json").read_text(encoding="utf-8"))
            write_between_marks(arguments.write, rate_tables(found), *marks("rate"))
    if arguments.only in (None, "tables") and arguments.write is not None:
        write_between_marks(arguments.write, inversion_table(model, images), *marks("inversion"))


def marks(name: str) -> tuple[str, str]:
    """Return what a table stands between in the page."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


if __name__ == "__main__":
    main()
