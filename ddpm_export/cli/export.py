"""`ddpm-export`: write a checkpoint as files that run without torch, each proven against it."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ddpm_export.cli.console import (
    Config,
    Debug,
    GuidanceInterval,
    Json,
    Network,
    Settings,
    entry_point,
    guidance_from_options,
    numbers_from_text,
    options_from_settings,
    print_json,
    progress,
)
from ddpm_export.errors import BadFileError, UsageError, printable, shown

if TYPE_CHECKING:
    from ddpm_export.exporting.export import Report
    from ddpm_export.exporting.foreign import ForeignNetwork
    from ddpm_export.model.inputs import Input
    from ddpm_export.model.spec import ModelSpec


STORED_ENDINGS = {"float16": ".float16", "int8": ".int8-weights"}  # .int8 is what computes in such integers


def export(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="A checkpoint: a file, a folder of diffusers, or a model's name on the hub. Without torch: an .onnx "
            "of others, whose inputs --set names, and for sampler, slice, edit and --storage an exported .onnx."
        ),
    ],
    formats: Annotated[
        list[str],
        typer.Option(
            "--format",
            help="onnx, torchscript or pt2; sampler (a whole trajectory in one call), slice (steps of one, for "
            "progress) or edit (given a picture); triton (for inference servers, in the folder --out); repeatable.",
        ),
    ] = ["onnx"],  # noqa: B006
    storage: Annotated[
        str,
        typer.Option(
            help="float32, or float16 or int8: half or a quarter of the size, weights rounded, all computed in float32."
        ),
    ] = "float32",
    precision: Annotated[
        str,
        typer.Option(help="float32, or int8: convolutions of an .onnx in 8-bit integers, other pictures by a little."),
    ] = "float32",
    calibrate: Annotated[
        int | None, typer.Option(help="Of int8: evaluations that its ranges are found over. [default: 256]")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="ema (averaged) or raw (of the last step). [default: ema]")
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            help="What the file is sampled with where its user says nothing: ddim, ddpm, or another, which it then "
            "carries as a plan. [default: ddim]"
        ),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(
            help="How many steps; several, such as 50,20,10, of a scheduler of diffusers, whose own steps the file "
            "carries. [default: 50, or as many as the checkpoint's own project takes]"
        ),
    ] = None,
    eta: Annotated[float | None, typer.Option(help="Of ddim, 0 to 1. [default: 0]")] = None,
    times: Annotated[
        str | None, typer.Option(help="The steps' own times, falling, such as 980,960,0; in place of --steps.")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="How strongly a class is followed where its user says nothing. [default: 1]")
    ] = None,
    guidance_interval: GuidanceInterval = None,
    grid: Annotated[
        str | None,
        typer.Option(help="Where the times of --steps and --plans lie: uniform, quadratic, log_snr or karras."),
    ] = None,
    opens: Annotated[
        str | None,
        typer.Option(
            "--open",
            help="Of sampler, slice and edit: the choices that the file leaves to its user, all or some of "
            "steps,eta,times,plan,guidance. [default: none; they are fixed to the file's defaults]",
        ),
    ] = None,
    plans: Annotated[
        list[str] | None,
        typer.Option(
            help="Samplers that the file carries as plans, such as dpmpp_2m:5,10,20, or a file of plans, such as "
            "tuned.json; repeatable."
        ),
    ] = None,
    config: Config = None,
    settings: Settings = None,
    network: Network = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            help="With --network and an .onnx of others: its betas, such as linear,beta_end=0.01, or the sigmas of "
            "karras,sigma_min=0.002,sigma_max=80."
        ),
    ] = None,
    image_shape: Annotated[
        str | None, typer.Option(help="With the same: C,H,W, such as 1,28,28. [default: what the .onnx says]")
    ] = None,
    timesteps: Annotated[int | None, typer.Option(help="With the same: T. [default: 1000]")] = None,
    prediction: Annotated[
        str | None, typer.Option(help="With the same: eps, x_0 or v. [default: eps; x_0 of what is told a sigma]")
    ] = None,
    clip: Annotated[
        str | None, typer.Option(help="With the same: the bound on x_0, or none. [default: 1, the range of images]")
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            help="With the same: what it is told by name besides x_t and t, such as y:label:10:none=10, "
            "scale:vector:5, mask:image:3,28,28:none=0 or x_0_prev:previous; repeatable.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="A file x.onnx, x.ts or x.pt2, or a folder, for unet.onnx, unet.ts, unet.pt2, unet.sampler.onnx, "
            "unet.slice.onnx and unet.edit.onnx. [default: the checkpoint's folder; the current one for a name on the "
            "hub]"
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Export a checkpoint; a file takes its name only once it has reproduced the network within 1e-5.

    One-call files (sampler, slice, edit) reproduce pictures of ddpm-run within one level (docs/format.md, section 5).

    Checkpoints of python -m train, diffusers, denoising-diffusion-pytorch, guided- and improved-diffusion and
    ddpm-torch are known (docs/importing.md); --network takes your own class, --set x_t=NAME any .onnx.

    Exit codes: 0 done, 2 usage, 3 bad file, 4 the file does not reproduce its network, 5 environment, 6 not
    finite, 130 interrupted.
    """
    from ddpm_export.exporting import export as exporting
    from ddpm_export.exporting.formats import FORMATS, ONE_CALL_FORMATS, SERVED_FORMATS
    from ddpm_export.exporting.plans import with_plans
    from ddpm_export.importers import load
    from ddpm_export.importers.checkpoint import Checkpoint
    from ddpm_export.model.defaults import with_defaults

    is_foreign = exporting.is_foreign(Path(checkpoint))
    is_exported = Path(checkpoint).suffix == ".onnx" and not is_foreign
    if precision not in ("float32", "int8"):
        raise UsageError(f"--precision must be float32 or int8, got {precision!r}.")
    if precision == "float32" and calibrate is not None:
        raise UsageError("--calibrate applies to --precision int8 only. Add it, or leave --calibrate out.")
    is_int8 = precision == "int8"
    paths = _paths(
        list(dict.fromkeys(formats)),
        out or _folder_of(checkpoint),
        {name: format.ending for name, format in FORMATS.items()},  # noqa: A001
        {name: format.ending for name, format in ONE_CALL_FORMATS.items()},  # noqa: A001
        list(SERVED_FORMATS),
        (Path(checkpoint).stem if is_exported else "unet") + (".int8" if is_int8 else STORED_ENDINGS.get(storage, "")),
    )
    options = options_from_settings(config, settings or [])
    counts = numbers_from_text("--steps", steps)
    chosen = [value for value in (sampler, times, eta, None if plans and steps is None else grid) if value is not None]
    asked: dict[str, object] = {
        "--schedule": schedule,
        "--image-shape": image_shape,
        "--timesteps": timesteps,
        "--prediction": prediction,
        "--clip": clip,
        "--input": inputs or None,
    }
    loaded: Checkpoint | ForeignNetwork | Path
    if is_exported:
        asked |= {"--weights": weights, "--config": config, "--set": settings or None, "--network": network}
        asked |= {"--plans": plans}
        if not set(formats) <= {*ONE_CALL_FORMATS, *SERVED_FORMATS}:  # those choose a plan now
            asked |= {"--sampler": sampler, "--steps": steps, "--eta": eta, "--times": times, "--grid": grid}
            asked |= {"--guidance": guidance, "--guidance-interval": guidance_interval}
        given = [name for name, value in asked.items() if value is not None]
        if given:
            raise UsageError(f"{given[0]} does not apply to an exported file, such as {checkpoint}.")
        loaded = Path(checkpoint)
    elif is_foreign:
        for name, value in (("--weights", weights), ("--network", network)):
            if value is not None:
                raise UsageError(f"{name} does not apply to an .onnx, such as {checkpoint}.")
        shape, time = exporting.foreign_shape_and_time(Path(checkpoint), options)
        image_shape = image_shape or (None if shape is None else ",".join(map(str, shape)))
        usual = "eps" if time == "t" else "x_0"
        T = 1000 if timesteps is None else timesteps
        spec = _spec(checkpoint, schedule, image_shape, T, prediction or usual, clip or "1", inputs or [])
        loaded = exporting.load_onnx(checkpoint, spec, options)
    elif network is None:
        given = [name for name, value in asked.items() if value is not None]
        if given:
            raise UsageError(
                f"{given[0]} does not apply without --network. Use --set and the names of the checkpoint's own project "
                "(docs/importing.md)."
            )
        # whoever chooses other steps leaves those of the checkpoint's own project behind
        own = () if chosen else counts
        loaded = load.load_checkpoint(checkpoint, weights=weights or "ema", options=options, steps=own)
        counts = counts if chosen else None
    else:
        # what is given is what is meant, 0 too
        T = 1000 if timesteps is None else timesteps
        spec = _spec(checkpoint, schedule, image_shape, T, prediction or "eps", clip or "1", inputs or [])
        print(f"note: running the code of {printable(network)}", file=sys.stderr)
        loaded = load.load_network(checkpoint, network, spec, arguments=options, weights=weights or "ema")
    notes: list[str] = []

    def with_chosen(spec: "ModelSpec", of_steps: str | None = grid) -> "ModelSpec":
        return with_defaults(
            spec,
            sampler=sampler,
            num_steps=None if counts is None else load.only_one(counts),
            times=numbers_from_text("--times", times),
            eta=eta,
            grid=of_steps,
            guidance=guidance_from_options(spec, guidance, guidance_interval),
        )

    if not isinstance(loaded, Path):
        spec = with_plans(loaded.spec, plans or [], grid=grid)
        # beside --plans a grid may be of the plans only
        of_steps = None if plans and sampler is None and steps is None else grid
        loaded = replace(loaded, spec=with_chosen(spec, of_steps))
        if not isinstance(loaded, Checkpoint):
            loaded = loaded.beginning_with_noise()
        notes += loaded.notes
    _print_notes(notes)
    reports: list[Report] = []
    with progress(len(paths), "exporting") as advance:
        evaluations = (256 if calibrate is None else calibrate) if is_int8 else None
        named = "all" if opens == "all" else () if opens is None else tuple(opens.split(","))
        for report in exporting.export_all(
            loaded, paths, storage=storage, calibrate=evaluations, opens=named, defaults=with_chosen
        ):
            reports.append(report)
            advance(str(report.path))
    _print_notes(new := list(dict.fromkeys(note for report in reports for note in report.notes)))
    if as_json:
        print_json(
            {
                "checkpoint": checkpoint,
                "weights": weights or "ema" if isinstance(loaded, Checkpoint) else None,
                "importer": None if isinstance(loaded, Path) else loaded.spec.source.get("importer"),
                "notes": notes + new,
                "files": [r.to_json() for r in reports],
            }
        )
        return
    _print_table(reports)
    if any(not getattr(report.proof, "relative", True) for report in reports):
        print(
            "note: the network gives only zeros somewhere, as an untrained one does; errors there are absolute.",
            file=sys.stderr,
        )


def _folder_of(checkpoint: str) -> Path:
    path = Path(checkpoint)
    if path.is_dir():
        return path
    return path.parent if path.exists() else Path()


def _spec(
    checkpoint: str,
    schedule: str | None,
    image_shape: str | None,
    timesteps: int,
    prediction: str,
    clip: str,
    inputs: list[str],
) -> "ModelSpec":
    """Return the spec of a network of one's own, or of a foreign .onnx, by what the options say of it."""
    from ddpm_export.model.spec import INPUTS, Defaults, ModelSpec
    from ddpm_export.process.schedules import alphas_cumprod_from_betas, betas_from_name

    for option, value, example in (("--schedule", schedule, "linear"), ("--image-shape", image_shape, "1,28,28")):
        if value is None:
            raise UsageError(f"{checkpoint} needs {option}, which it cannot say itself. Add {option} {example}.")
    schedule_name, *settings = str(schedule).split(",")
    parameters = options_from_settings(None, settings)
    try:
        shape = tuple(int(size) for size in str(image_shape).split(","))
        bound = None if clip == "none" else float(clip)
    except ValueError as exc:
        raise UsageError(
            f"--image-shape and --clip must be such as 1,28,28 and 1, got {image_shape!r} and {clip!r}."
        ) from exc
    betas = betas_from_name(schedule_name, timesteps, **parameters)
    try:
        return ModelSpec(
            name=Path(checkpoint).stem,
            prediction=prediction,
            image_shape=shape,  # type: ignore[arg-type]  # checked there
            alphas_cumprod=tuple(alphas_cumprod_from_betas(betas).tolist()),
            clip_x_0=bound,
            defaults=Defaults(num_steps=min(Defaults.num_steps, timesteps)),
            source={"schedule": {"name": schedule_name, **parameters}},
            inputs=tuple(_input(text, shape) for text in inputs),
            requires=(INPUTS,) if inputs else (),
        )
    except BadFileError as exc:  # here it is what was typed that is wrong
        raise UsageError(str(exc)) from exc


def _input(text: str, image_shape: tuple[int, ...]) -> "Input":
    """Return the input that a text declares, such as y:label:cat,dog:none=2; what it may not be, the spec refuses."""
    from ddpm_export.model.inputs import MAX_CLASSES, Input

    parts = text.split(":")
    try:
        none = float(parts.pop().removeprefix("none=")) if parts[-1].startswith("none=") else None
        if parts[1:] == ["previous"]:
            return Input(parts[0], "previous", image_shape, none)
        name, kind, items = parts
        if kind != "label":
            return Input(name, kind, tuple(int(size) for size in items.split(",")), none)
    except ValueError as exc:
        raise UsageError(
            "--input must be such as y:label:10:none=10, scale:vector:5, mask:image:3,28,28:none=0 or "
            f"x_0_prev:previous, got {shown(text)}."
        ) from exc
    is_count = items.isascii() and items.isdecimal()
    classes = range(min(int(items), MAX_CLASSES + 1)) if is_count and len(items) < 10 else items.split(",")
    return Input(name, kind, (), none if none is None or none % 1 else int(none), tuple(map(str, classes)))


def _print_notes(notes: list[str]) -> None:
    for note in notes:
        print(f"note: {printable(note)}", file=sys.stderr)


def _paths(
    formats: list[str], out: Path, suffixes: dict[str, str], one_call: dict[str, str], served: list[str], name: str
) -> dict[str, Path]:
    """Return where each format goes; raises UsageError for an unknown one and for one file that should be several."""
    suffixes = {**suffixes, **one_call}
    for format in formats:  # noqa: A001
        if format not in (*suffixes, *served):
            raise UsageError(f"--format must be one of {', '.join((*suffixes, *served))}, got {format!r}.")
    if set(formats) & set(served):
        if len(formats) > 1 or out.suffix in suffixes.values():
            raise UsageError(f"--format {' '.join(formats)} must be by itself, and --out a folder, got {str(out)!r}.")
        return {formats[0]: out}
    if out.suffix not in suffixes.values() or out.is_dir():
        return {format: out / f"{name}{suffixes[format]}" for format in formats}  # noqa: A001
    if len(formats) == 1 and formats[0] in one_call and out.suffix == ".onnx":
        return {formats[0]: out}  # called as its owner likes
    if [suffixes[format] for format in formats] != [out.suffix]:  # noqa: A001
        raise UsageError(
            f"--out {out} is one file, of another format than --format {' '.join(formats)}. Name a folder."
        )
    return {formats[0]: out}


def _print_table(reports: "list[Report]") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from ddpm_export.exporting.proof import Proof

    table = Table(box=None, pad_edge=False)
    for title in ("file", "size", "largest error", "at", "equal pixels", "SHA-256"):
        table.add_column(title, overflow="fold")
    if any(report.rounding for report in reports):
        table.add_column(f"cost of {reports[0].storage}", overflow="fold")
    for report in reports:
        proof, cost = report.proof, report.rounding
        relative = ""
        if isinstance(proof, Proof):
            relative = "" if proof.relative else " (absolute)"
            at, runs = f"t={proof.t}, batch {proof.batch}", f"after {proof.num_steps} steps"
        else:
            at, runs = proof.at, f"in {len(proof.draws)} draws"
        rounding = f"{cost.equal_share:.2%} equal pixels after {cost.num_steps} steps, others within " if cost else ""
        table.add_row(
            escape(printable(str(report.path))),
            f"{report.num_bytes / 1e6:.1f} MB",
            f"{proof.error:.1e}{relative}",
            at,
            f"{proof.equal_share:.2%} {runs}, others within {proof.max_level_difference}",
            report.sha256[:16],
            *([f"{rounding}{cost.max_level_difference}"] if cost else []),
        )
    Console(width=None if sys.stdout.isatty() else 160).print(table)


main = entry_point(export)
