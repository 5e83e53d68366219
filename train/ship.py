"""`python -m train.ship RUN`: make the folder that ships from a finished training, with its card and digests."""

import json
import shutil
import sys
import textwrap
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ddpm_export.cli.console import Debug, entry_point, progress
from ddpm_export.datasets import Dataset, open_dataset
from ddpm_export.exporting import FORMATS, export_all, load_checkpoint
from ddpm_export.exporting.checkpoint import load_torch_file
from ddpm_export.files import replacing, sha256_of
from ddpm_export.generation import sample, settings_for, with_defaults
from ddpm_export.images import save_images, to_uint8
from ddpm_export.runtimes import open_model
from train.config import CONFIG_FOLDER, load_config
from train.pictures import draw_loss

__all__ = ["main"]

CARD_WIDTH = 120
PAPERS = {
    "fashion-mnist": "Xiao et al. 2017",
    "cifar10": "Krizhevsky 2009",
    "stanford-cars": "Krause et al. 2013",
}
GRIDS: dict[str, dict[str, Any]] = {
    "ddim-50": {"sampler": "ddim", "num_steps": 50, "eta": 0.0},
    "ddpm-1000": {"sampler": "ddpm", "num_steps": 1000},
}


def ship(
    run: Annotated[Path, typer.Argument(help="The folder that `python -m train --out` wrote.")],
    out: Annotated[Path, typer.Option(help="The folder that ships.")] = Path("exported"),
    seed: Annotated[int, typer.Option(help="Of the two grids of 64 samples.")] = 0,
    sampler: Annotated[str | None, typer.Option(help="What the files name as their defaults.")] = None,
    steps: Annotated[int | None, typer.Option(help="Of that sampler.")] = None,
    eta: Annotated[float | None, typer.Option(help="Of that sampler.")] = None,
    note: Annotated[str, typer.Option(help="A sentence for the card on how the training went.")] = "",
    data: Annotated[Path | None, typer.Option(help="The data set's files, where training was told of them.")] = None,
    only_onnx: Annotated[bool, typer.Option("--only-onnx", help="No other format.")] = False,
    debug: Debug = False,
) -> None:
    """Export a training, sample two grids, and write a model card and SHA-256 digests."""
    contents = load_torch_file(run / "checkpoint.pt")
    checkpoint = load_checkpoint(run / "checkpoint.pt")
    checkpoint = replace(checkpoint, spec=with_defaults(checkpoint.spec, sampler=sampler, num_steps=steps, eta=eta))
    with replacing(out / "checkpoint.pt") as beside:
        shutil.copyfile(run / "checkpoint.pt", beside)
    paths = {name: out / f"unet{FORMATS[name].ending}" for name in (["onnx"] if only_onnx else FORMATS)}
    print(f"exporting {', '.join(paths)}", file=sys.stderr)
    reports = {report.format: report for report in export_all(checkpoint, paths)}

    model, spec = open_model(out / "unet.onnx")
    dataset = _training_set(contents["config"], data)
    background = 255 if (dataset.images == 255).mean() > (dataset.images == 0).mean() else 0
    shares = {"training set": _share_of(background, dataset.images)}
    for name, how in GRIDS.items():
        settings = settings_for(spec, n=64, seed=seed, **how)
        done = []
        with progress(settings.evaluations, name) as advance:
            for _, state in sample(model, spec, settings):
                if state.row.i == settings.num_rows:
                    done.append(to_uint8(state.x))
                advance(f"t = {state.row.t:g}")
        images = np.concatenate(done)
        shares[name] = _share_of(background, images)
        text = {"model_sha256": sha256_of(out / "unet.onnx"), "n": 64, "first": 0, **settings.describe()}
        save_images(out / f"samples-{name}.png", images, text)
    with replacing(out / "log.jsonl") as beside:
        shutil.copyfile(run / "log.jsonl", beside)
    draw_loss(out / "loss.png", out / "log.jsonl")
    _write(
        out / "README.md",
        _card(contents, checkpoint, dataset, reports, background, shares, seed, note, data is not None),
    )
    shipped = sorted(p for p in out.iterdir() if p.suffix in {".onnx", ".ts", ".pt2", ".pt", ".png", ".jsonl"})
    _write(out / "SHA256SUMS", "".join(f"{sha256_of(path)}  {path.name}\n" for path in shipped))
    print(f"{out}: ready")


def _training_set(config: dict[str, Any], data: Path | None) -> Dataset:
    return open_dataset(config["dataset"], data, image_shape=tuple(config["network"]["image_shape"]))


def _share_of(background: int, images: Any) -> tuple[float, float]:
    distance = abs(np.asarray(images, np.int16) - background)
    return float((distance == 0).mean()), float((distance <= 3).mean())


def _write(path: Path, text: str) -> None:
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def _card(
    contents: dict[str, Any],
    checkpoint: Any,
    dataset: Dataset,
    reports: dict[str, Any],
    background: int,
    shares: dict[str, tuple[float, float]],
    seed: int,
    note: str,
    told_of_data: bool,
) -> str:
    config, step = contents["config"], int(contents["step"])
    parameters = sum(p.numel() for p in checkpoint.network.parameters())
    images = step * config["batch_size"]
    rows = "\n".join(
        f"| `unet{FORMATS[name].ending}` | {name} | {_worst(report):.1e} |" for name, report in reports.items()
    )
    of_background = "\n".join(f"| {name} | {exact:.1%} | {near:.1%} |" for name, (exact, near) in shares.items())
    where = " --data DATA" if told_of_data else ""
    paper = PAPERS.get(dataset.name)
    data = dataset.name if paper is None else f"{dataset.name} ({paper})"
    training = textwrap.fill(
        f"- **Training**: {step:,} steps of {config['batch_size']} ({images:,} images, "
        f"{images / len(dataset.images):.1f} epochs); schedule {config['schedule']}, "
        f"T = {config['num_train_timesteps']}, prediction {config['prediction']}, loss {config['loss']}, "
        f"seed {config['seed']}. The EMA weights are exported (half-life {config['ema_halflife_images']:,.0f} images). "
        f"{note}",
        width=CARD_WIDTH,
        subsequent_indent="  ",
    )
    made = textwrap.fill(
        f"Trained, in the end, by `python -m train {_config_options(config)}{where} --out RUN`; "
        f"shipped by `python -m train.ship RUN{where}`. Digests: `SHA256SUMS`.",
        width=CARD_WIDTH,
        break_on_hyphens=False,
    )
    return f"""# Model card: {config["name"]}

Unconditional {"x".join(map(str, config["network"]["image_shape"]))} images, {parameters:,} parameters.

- **Data**: {data}, {len(dataset.images):,} training images, licence {dataset.license or "not stated"}. No labels used.
- **Licence** of the weights: MIT, as the project.
{training}
- **Not for** anything but trying out sampling: a small network after a short training.

```json
{json.dumps(config, indent=2, sort_keys=True)}
```

| file | format | largest relative error against eager PyTorch |
|---|---|---|
{rows}
| `checkpoint.pt` | network, EMA, optimiser, step, config: goes on with `python -m train` | |

## Samples

64 samples each, seed {seed}: 50 steps of DDIM, then 1000 steps of ancestral sampling (ddpm, fixed_small).

![50 DDIM steps](samples-ddim-50.png) ![1000 ancestral steps](samples-ddpm-1000.png)

| share of pixels and channels | at exactly {background}, the background | within 3 of it |
|---|---|---|
{of_background}

## Loss

![loss](loss.png)

{made}
"""


def _config_options(config: dict[str, Any]) -> str:
    """Return the options that give a training's configuration: a file of ours by its name, and what differs from it."""
    if not (CONFIG_FOLDER / f"{config['name']}.json").exists():
        return "--config FILE"  # a user's own, which holds the fields that the card shows
    named = _flat(asdict(load_config(config["name"])))
    changed = {field: value for field, value in _flat(config).items() if named.get(field) != value}
    changes = "".join(f" --set {field}={json.dumps(value)}" for field, value in sorted(changed.items()))
    return f"--config {config['name']}{changes}"


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in json.loads(json.dumps(config)).items():  # lists for tuples, as in a checkpoint
        fields |= {f"{name}.{inner}": v for inner, v in value.items()} if isinstance(value, dict) else {name: value}
    return fields


def _worst(report: Any) -> float:
    return float(report.proof.error)


main = entry_point(ship)

if __name__ == "__main__":
    main()
