"""`python -m train.ship RUN`: make the folder that ships from a finished training, with its card and digests."""

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from torch import Tensor

from ddpm_export.cli.console import entry_point
from ddpm_export.cli.options import Debug
from ddpm_export.cli.progress import progress
from ddpm_export.cli.texts import guidance_from_text
from ddpm_export.exporting.export import Report, export
from ddpm_export.exporting.plans import with_plans
from ddpm_export.images.write import open_output
from ddpm_export.importers.checkpoint import load_torch_file, save_checkpoint
from ddpm_export.importers.load import load_checkpoint
from ddpm_export.model.defaults import with_defaults
from ddpm_export.model.guidance import Guidance
from ddpm_export.model.spec import ModelSpec
from ddpm_export.process.pixels import to_uint8
from ddpm_export.runtimes.opened import Network
from ddpm_export.runtimes.opening import open_model
from ddpm_export.sampling.generate import sample
from ddpm_export.sampling.request import Request, request_for
from ddpm_export.scoring.datasets.dataset import Dataset
from ddpm_export.scoring.datasets.readers import open_dataset
from ddpm_export.system.files import sha256_of

from .config import CONFIG_FOLDER, load_config
from .pages import copy_file, write_text
from .pictures import draw_loss

ROOT = Path(__file__).parents[1]
CARD_WIDTH = 120
PAPERS = {"fashion-mnist": "Xiao et al. 2017", "cifar10": "Krizhevsky 2009", "stanford-cars": "Krause et al. 2013"}
GRIDS: dict[str, dict[str, Any]] = {
    "ddim-50": {"sampler": "ddim", "num_steps": 50, "eta": 0.0},
    "ddpm-1000": {"sampler": "ddpm", "num_steps": 1000},
}
OF_LATENTS = {"ddim-50": GRIDS["ddim-50"], "sde-24": {"sampler": "dpmpp_2m_sde", "num_steps": 24, "grid": "quadratic"}}
OF_EACH_CLASS = 10  # of a grid more, where there are classes
RESUMED_WITH = ("network", "optimizer")  # three quarters of a checkpoint, which only the same training needs
DIGITS = 12  # of a digest that a page names, at least
NO_LONGER = ", which no longer ships"


def ship(
    run: Annotated[Path, typer.Argument(help="The folder that `python -m train --out` wrote.")],
    out: Annotated[Path, typer.Option(help="The folder that ships.")] = Path("exported"),
    seed: Annotated[int, typer.Option(help="Of the grids of samples.")] = 0,
    sampler: Annotated[str | None, typer.Option(help="What the files name as their defaults.")] = None,
    steps: Annotated[int | None, typer.Option(help="Of that sampler.")] = None,
    eta: Annotated[float | None, typer.Option(help="Of that sampler.")] = None,
    guidance: Annotated[
        str | None, typer.Option(help="What the files name as their default, such as 2 or 2@300-700.")
    ] = None,
    plans: Annotated[
        Path | None, typer.Option(help="A file of `python -m train.tune`, whose plans they carry.")
    ] = None,
    plan: Annotated[str | None, typer.Option(help="The default, one of those plans, instead of --sampler.")] = None,
    start: Annotated[Path | None, typer.Option(help="The checkpoint that the training began with.")] = None,
    note: Annotated[str, typer.Option(help="A sentence for the card on how the training went.")] = "",
    data: Annotated[Path | None, typer.Option(help="The data set's files, where training was told of them.")] = None,
    storage: Annotated[
        str, typer.Option(help="Of the weights, float32 or float16, also of the checkpoint.")
    ] = "float32",
    debug: Debug = False,
) -> None:
    """Export a training, sample two grids, one more of classes, and write a model card and SHA-256 digests.

    The folder gets one ONNX file and the averaged weights, from which `ddpm-export` makes any other format.

    What this clone says of the model in `exported/` follows: tests/golden/full_image.json, and digests in its pages.
    """
    contents = load_torch_file(run / "checkpoint.pt")
    began = None if start is None else load_torch_file(start)  # before it is replaced
    out.mkdir(parents=True, exist_ok=True)
    before = _digests(out)
    kept = {k: v for k, v in contents.items() if k not in RESUMED_WITH}
    save_checkpoint(out / "checkpoint.pt", **(kept if storage == "float32" else _halved(kept)))
    checkpoint = load_checkpoint(out / "checkpoint.pt")
    spec = checkpoint.spec if plans is None else with_plans(checkpoint.spec, [str(plans)])
    guided = guidance_from_text(spec, guidance)
    spec = with_defaults(spec, plan=plan, sampler=sampler, num_steps=steps, eta=eta, guidance=guided)
    checkpoint = replace(checkpoint, spec=spec)
    if plans is not None:
        copy_file(plans, out / "plans.json")
    print("exporting unet.onnx", file=sys.stderr)
    report = export(checkpoint, out / "unet.onnx", storage=storage)

    model, spec = open_model(out / "unet.onnx")
    dataset = _training_set(contents, data)
    background = 255 if (dataset.images == 255).mean() > (dataset.images == 0).mean() else 0
    shares = {"training set": _share_of(background, dataset.images)}
    grids = OF_LATENTS if spec.stages else GRIDS
    for name, how in grids.items():
        settings = request_for(spec, n=64, seed=seed, **how)
        shares[name] = _share_of(background, _sampled(model, spec, settings, out, name))
    if spec.label is not None:
        count = OF_EACH_CLASS * len(spec.label.classes)
        settings = request_for(spec, n=count, seed=seed, **grids[next(iter(grids))])
        _sampled(model, spec, settings, out, "classes", in_rows=True)
    copy_file(run / "log.jsonl", out / "log.jsonl")
    draw_loss(out / "loss.png", out / "log.jsonl")
    write_text(
        out / "README.md",
        _card(contents, began, checkpoint, dataset, report, background, shares, seed, note, data is not None),
    )
    endings = {".onnx", ".pt", ".png", ".json", ".jsonl"}
    shipped = sorted(p for p in out.iterdir() if p.suffix in endings)
    write_text(out / "SHA256SUMS", "".join(f"{sha256_of(path)}  {path.name}\n" for path in shipped))
    if out.resolve() == ROOT / "exported":
        golden = [sys.executable, "tests/golden/make.py", "full_image.json"]
        subprocess.run(golden, cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}, check=True)
        pages = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("examples/*/README.md"))]
        for page in say_what_no_longer_ships(pages, before - _digests(out)):
            print(f"{page.relative_to(ROOT)}: has numbers of the model before", file=sys.stderr)
    print(f"{out}: ready")


def _halved(value: Any) -> Any:
    """Return contents of a checkpoint whose tensors of floats are float16."""
    if isinstance(value, dict):
        return {key: _halved(entry) for key, entry in value.items()}
    return value.half() if isinstance(value, Tensor) and value.is_floating_point() else value


def _digests(out: Path) -> set[str]:
    """Return the SHA-256 of what the folder ships."""
    with suppress(FileNotFoundError):
        return {line.split()[0] for line in (out / "SHA256SUMS").read_text(encoding="utf-8").splitlines()}
    return set()


def say_what_no_longer_ships(pages: Iterable[Path], digests: set[str]) -> Iterator[Path]:
    """Write behind each of these digests, or their first DIGITS and more, that it no longer ships; yield such pages."""
    found = re.compile(rf"\b[0-9a-f]{{{DIGITS},64}}\b(?!{NO_LONGER})")
    for page in pages:
        text = page.read_text(encoding="utf-8")
        inputs = found.sub(
            lambda match: match[0] + (NO_LONGER if any(entry.startswith(match[0]) for entry in digests) else ""), text
        )
        if inputs != text:
            write_text(page, inputs)
            yield page


def _sampled(
    model: Network, spec: ModelSpec, settings: Request, out: Path, name: str, *, in_rows: bool = False
) -> NDArray[np.uint8]:
    """Return the images of the settings, which then lie in a grid in `out` as well; in_rows: with a row a class."""
    done = []
    text = {"model_sha256": sha256_of(out / "unet.onnx"), **settings.describe()}
    with (
        open_output(
            out / f"samples-{name}.png",
            settings.numbers,
            spec.picture_shape,
            settings.num_rows,
            text,
            settings.label_names,
            in_rows=in_rows,
        ) as output,
        progress(settings.evaluations, name) as advance,
    ):
        for numbers, state in sample(model, spec, settings):
            if output.wants(state.row.i):
                done.append(to_uint8(model.decode(state.x)))
                output.add(numbers, state.row.i, done[-1])
            advance(f"t = {state.row.t:g}")
    return np.concatenate(done)


def _training_set(contents: dict[str, Any], data: Path | None) -> Dataset:
    return open_dataset(contents["config"]["dataset"], data, image_shape=_picture_shape(contents))


def _picture_shape(contents: dict[str, Any]) -> tuple[int, int, int]:
    """Return the shape of the pictures that a checkpoint's training saw, of latents those of the autoencoder."""
    latents = contents.get("autoencoder")
    channels, height, width = (
        contents["config"]["network"]["image_shape"] if latents is None else latents["config"]["picture_shape"]
    )
    return channels, height, width


def _share_of(background: int, images: Any) -> tuple[float, float]:
    distance = abs(np.asarray(images, np.int16) - background)
    return float((distance == 0).mean()), float((distance <= 3).mean())


def _card(
    contents: dict[str, Any],
    began: dict[str, Any] | None,
    checkpoint: Any,
    dataset: Dataset,
    report: Report,
    background: int,
    shares: dict[str, tuple[float, float]],
    seed: int,
    note: str,
    told_of_data: bool,
) -> str:
    config, step = contents["config"], int(contents["step"])
    label = checkpoint.spec.label
    parameters = sum(p.numel() for p in checkpoint.network.parameters())
    images = step * config["batch_size"]
    of_background = "\n".join(f"| {name} | {exact:.1%} | {near:.1%} |" for name, (exact, near) in shares.items())
    where = " --data DATA" if told_of_data else ""
    paper = PAPERS.get(dataset.name)
    data = dataset.name if paper is None else f"{dataset.name} ({paper})"
    start = "" if began is None else _start(began, images)
    training = _item(
        f"- **Training**: {start}{step:,} steps of {config['batch_size']} ({images:,} images, "
        f"{images / len(dataset.images):.1f} epochs); schedule {config['schedule']}, "
        f"T = {config['num_train_timesteps']}, prediction {config['prediction']}, loss {config['loss']}, "
        f"seed {config['seed']}. {_teachers(config)}"
        f"The EMA weights are exported (half-life {config['ema_halflife_images']:,.0f} images). "
        f"{note}"
    )
    made = textwrap.fill(
        f"Trained, in the end, by `python -m train {_config_options(config)}{where}"
        f"{'' if began is None else ' --start START'} --out RUN`; "
        f"shipped by `python -m train.ship RUN{where}{_ship_options(checkpoint.spec, began)}`. Digests: `SHA256SUMS`.",
        width=CARD_WIDTH,
        break_on_hyphens=False,
    )
    shape = "x".join(map(str, _picture_shape(contents)))
    if "autoencoder" in contents:
        latent = "x".join(map(str, config["network"]["image_shape"]))
        decoding = f"{sum(p.numel() for p in checkpoint.stages['after'].parameters()):,}"
        shape = f"{shape} images from latents of {latent}; besides the decoder's {decoding},"
    else:
        shape += " images,"
    stages = "".join(
        f"| `{report.path.stem}.{name}.onnx` | onnx | its stage `{name}`, proven as well |\n"
        for name in checkpoint.stages
    )
    kind, labels, classes, strength, by_class = "Unconditional", "No labels used.", "", "", ""
    if label is not None:
        kind, labels = "Class-conditional", "Its labels are used."
        strength = f", guidance {checkpoint.spec.defaults.guidance or Guidance()}, the classes in turn"
        classes = "\n" + _item(f"- **Classes**: {', '.join(label.classes)}. {_guidance(config, checkpoint.spec)}")
        by_class = "\n\nA row for each class, 50 steps of DDIM:\n\n![samples of each class](samples-classes.png)"
    second, stated = "ddpm-1000", "1000 steps of ancestral sampling (ddpm, fixed_small)"
    if "autoencoder" in contents:
        second, stated = "sde-24", "24 steps of dpmpp_2m_sde on a quadratic grid"
    samples = textwrap.fill(
        f"64 samples each, seed {seed}{strength}: 50 steps of DDIM, then {stated}.", width=CARD_WIDTH
    )
    return f"""# Model card: {config["name"]}

{kind} {shape} {parameters:,} parameters.

- **Data**: {data}, {len(dataset.images):,} training images, licence {dataset.license or "not stated"}. {labels}
- **Licence** of the weights: MIT, as the project.
{training}{classes}
- **Not for** anything but trying out sampling: a small network after a short training.

```json
{json.dumps(config, indent=2, sort_keys=True)}
```

| file | format | largest relative error against eager PyTorch |
|---|---|---|
| `{report.path.name}` | {report.format} | {report.proof.error:.1e} |
{stages}| `checkpoint.pt` | EMA weights, step, config: what another training begins with (`--start`) | |

## Samples

{samples}

![50 DDIM steps](samples-ddim-50.png) ![{stated}](samples-{second}.png){by_class}

| share of pixels and channels | at exactly {background}, the background | within 3 of it |
|---|---|---|
{of_background}

## Loss

![loss](loss.png)

{made}
"""


def _item(text: str) -> str:
    return textwrap.fill(text, width=CARD_WIDTH, subsequent_indent="  ")


def _start(began: dict[str, Any], images: int) -> str:
    """Say what a training began with."""
    config, step = began["config"], int(began["step"])
    first = step * config["batch_size"]
    return (
        f"begun with the averaged weights of a training `{config['name']}` of {step:,} steps of {config['batch_size']} "
        f"({first:,} images), so {first + images:,} images in both. Then "
    )


def _teachers(config: dict[str, Any]) -> str:
    """Say what a training learned from, where that is not the data alone."""
    if not config.get("teacher"):
        return ""
    stated = f"What it learned to predict is what another network predicts, of the checkpoint {config['teacher'][:16]}"
    if config.get("weaker"):
        scale, until, gone = (f"{config['autoguidance'][name]:g}" for name in ("scale", "until", "gone"))
        since = config["autoguidance"].get("since")
        early = f"; below t = {since:g} less, too, and once at 0" if since else ""
        stated += (
            f", led away from a weaker one's predictions, of {config['weaker'][:16]}: {scale} times their difference "
            f"up to t = {until}, from there less, and once at {gone}{early} (autoguidance, Karras et al. 2024)"
        )
    return f"{stated}. "


def _guidance(config: dict[str, Any], spec: ModelSpec) -> str:
    """Say which class an image is of where nothing is said, and how strongly it follows it."""
    if not spec.takes_guidance:
        return "Where none is said, image k is of class k mod K. It was always told a class, and takes no guidance."
    strength = "1, which is none," if spec.defaults.guidance is None else str(spec.defaults.guidance)
    return (
        f"Where none is said, image k is of class k mod K. For {config['label_dropout']:.0%} of the images it was told "
        f"`none` in place of the class, so that it takes guidance: {strength} by default."
    )


def _ship_options(spec: ModelSpec, began: dict[str, Any] | None) -> str:
    """Return the options that give a file its plans, defaults and guidance, and the card what it began with."""
    options = " --plans PLANS" if spec.plans else ""
    options += "" if spec.defaults.plan is None else f" --plan {spec.defaults.plan}"
    guidance = spec.defaults.guidance
    if guidance is not None:
        options += f" --guidance {guidance.scale:g}"
        options += "" if guidance.interval is None else "@{:g}-{:g}".format(*guidance.interval)
    return options + ("" if began is None else " --start START")


def _config_options(config: dict[str, Any]) -> str:
    """Return the options that give a training's configuration: a file of ours by its name, and what differs from it."""
    if not (CONFIG_FOLDER / f"{config['name']}.json").exists():
        return "--config FILE"  # a user's own, which holds the fields that the card shows
    named = _flat(asdict(load_config(config["name"])))
    changed = {field: value for field, value in _flat(config).items() if named.get(field) != value}
    files = "".join(
        f" --{name} {name.upper()}" for name in ("teacher", "weaker", "autoencoder") if changed.pop(name, "")
    )
    changes = "".join(f" --set {field}={json.dumps(value)}" for field, value in sorted(changed.items()))
    return f"--config {config['name']}{files}{changes}"


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in json.loads(json.dumps(config)).items():  # lists for tuples, as in a checkpoint
        fields |= {f"{name}.{inner}": v for inner, v in value.items()} if isinstance(value, dict) else {name: value}
    return fields


main = entry_point(ship)

if __name__ == "__main__":
    main()
