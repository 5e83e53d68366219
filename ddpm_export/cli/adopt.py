"""`ddpm-adopt`: write files of a network that no importer knows: anyone's .onnx, or your own class."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddpm_export.cli.console import entry_point
from ddpm_export.cli.help import HELP, HOW, SAFETY, WHAT, WHERE, what
from ddpm_export.cli.options import Config, Network, Settings, Untrusted, limits_of
from ddpm_export.cli.texts import options_from_settings
from ddpm_export.cli.writing import Defaults, Output, write_files
from ddpm_export.errors import BadFileError, UsageError, printable, shown
from ddpm_export.sandbox.child import confine, is_child

if TYPE_CHECKING:
    from ddpm_export.exporting.foreign import ForeignNetwork
    from ddpm_export.importers.checkpoint import Checkpoint
    from ddpm_export.importers.paths import Path as GaussianPath
    from ddpm_export.model.inputs import Input
    from ddpm_export.model.spec import ModelSpec

EXAMPLES = {
    WHAT: "ddpm-adopt theirs.onnx --set x_t=sample --set t=timestep --schedule linear --out unet.onnx",
    HOW: "ddpm-adopt weights.pt --network package.module:Class --schedule linear --shape 3,32,32 --steps 100",
    WHERE: "ddpm-adopt theirs.onnx --set x_t=sample --set t=timestep --schedule linear --format sampler",
    SAFETY: "ddpm-adopt theirs.onnx --set x_t=sample --set t=timestep --schedule linear --debug",
    HELP: "ddpm-adopt --install-completion",
}


def adopt(
    file: Annotated[
        str, typer.Argument(help="An .onnx, whose inputs --set names; or weights, whose class --network names.")
    ],
    *,
    network: Network = None,
    weights: Annotated[
        str | None, what("With --network: ema (averaged) or raw (of the last step). [default: ema]")
    ] = None,
    config: Config = None,
    settings: Settings = None,
    schedule: Annotated[
        str | None,
        what(
            "The schedule: betas such as linear,beta_end=0.01, or sigmas such as karras,sigma_min=0.002,sigma_max=80."
        ),
    ] = None,
    shape: Annotated[
        str | None, what("C,H,W of pictures, such as 1,28,28, or another shape, such as 16,2. [default: the .onnx's]")
    ] = None,
    timesteps: Annotated[int, what("T, the number of training timesteps.")] = 1000,
    prediction: Annotated[
        str | None, what("What it predicts: eps, x_0 or v. [default: eps; x_0 if it takes a sigma]")
    ] = None,
    clip: Annotated[
        str | None, what("The bound on x_0, or none. [default: 1; none with a path or a preconditioner]")
    ] = None,
    inputs: Annotated[
        list[str] | None,
        what(
            "An input other than x_t and t, such as y:label:10:none=10, scale:vector:5, "
            "mask:image:3,28,28:none=0 or x_0_prev:previous. Repeatable.",
            "--input",
        ),
    ] = None,
    defaults: Defaults,
    output: Output,
    untrusted: Untrusted = None,
) -> None:
    """Write files of a network that no importer knows, as you describe it; each is proven like an export.

    An .onnx needs no torch, and is read, run and proven in a separate process, whose limits --untrusted sets. --network
    imports your module and runs it.

    Exit codes: 0 done, 2 usage, 3 bad file, 4 the file does not reproduce its network, 5 environment, 6 not
    finite, 130 interrupted.
    """
    path, is_onnx = Path(file), Path(file).suffix == ".onnx"
    if not is_onnx and network is None:
        raise UsageError(f"{file} needs --network MODULE:CLASS. For a known layout use ddpm-export.")
    limits = limits_of(untrusted)
    if network is None and is_child():
        reads = [Path(name) for name in (config, *(defaults.plans or [])) if name is not None]
        confine(path, **limits._asdict(), reads=reads, writes=[output.folder(file)], scratch=True)
    from ddpm_export.exporting import export as exporting
    from ddpm_export.importers.load import load_network
    from ddpm_export.importers.paths import path_from_options

    if is_onnx and not exporting.is_foreign(path) and path.is_file():
        raise UsageError(f"{file} is already a file of ddpm-export. Use ddpm-export or ddpm-run.")
    paths = output.paths(file, "unet")
    options = options_from_settings(config, settings or [])
    for flag, value in (("--network", network), ("--weights", weights)):
        if is_onnx and value is not None:
            raise UsageError(f"{flag} does not apply to an .onnx, such as {file}.")
    gaussian_path, _ = path_from_options(options)
    usual = "eps" if gaussian_path is None else gaussian_path.form.prediction
    if is_onnx:
        found, time = exporting.foreign_shape_and_time(path, options)
        shape = shape or (None if found is None else ",".join(map(str, found)))
        usual = usual if time == "t" else "x_0"
    spec = spec_of(file, schedule, shape, timesteps, prediction or usual, clip, inputs or [], gaussian_path)
    loaded: Checkpoint | ForeignNetwork
    if network is None:
        loaded = exporting.load_onnx(file, spec, options)
    else:
        weights = weights or "ema"
        print(f"note: running the code of {printable(network)}", file=sys.stderr)
        steps = defaults.steps_to_import()
        loaded = load_network(file, network, spec, arguments=options, weights=weights, steps=steps)
    has_loop = "loop" in options
    write_files(file, loaded, paths, output, defaults, weights, write=exporting.export_all, imported=has_loop)


def spec_of(
    checkpoint: str,
    schedule: str | None,
    shape: str | None,
    timesteps: int,
    prediction: str,
    clip: str | None,
    inputs: list[str],
    gaussian_path: "GaussianPath | None" = None,
) -> "ModelSpec":
    """Return the spec of a network that cannot describe itself, as the options describe it."""
    from ddpm_export.model.spec import INPUTS, SHAPE, ModelSpec
    from ddpm_export.process.schedules import alphas_cumprod_from_betas, betas_from_name

    if gaussian_path is not None and schedule is not None:
        raise UsageError(f"--schedule does not apply beside {gaussian_path.name}, which has levels of its own.")
    for option, value, example in (("--schedule", schedule, "linear"), ("--shape", shape, "1,28,28")):
        if value is None and not (option == "--schedule" and gaussian_path is not None):
            raise UsageError(f"{checkpoint} does not contain its {option[2:]}. Add {option} {example}.")
    schedule_name, *settings = str(schedule).split(",")
    parameters = options_from_settings(None, settings)
    try:
        state_shape = tuple(int(size) for size in str(shape).split(","))
        bound = None if (clip or ("1" if gaussian_path is None else "none")) == "none" else float(clip or 1.0)
    except ValueError as exc:
        raise UsageError(
            f"--shape and --clip must be numbers such as 1,28,28 and 1, got {shape!r} and {clip!r}."
        ) from exc
    if gaussian_path is None:
        alphas_cumprod = tuple(
            alphas_cumprod_from_betas(betas_from_name(schedule_name, timesteps, **parameters)).tolist()
        )
        levels: dict[str, Any] = {"schedule": {"name": schedule_name, **parameters}}
    else:
        alphas_cumprod, levels = gaussian_path.alphas_cumprod(timesteps), {"path": asdict(gaussian_path)}
    try:
        return ModelSpec(
            name=Path(checkpoint).stem,
            prediction=prediction,
            state_shape=state_shape,
            alphas_cumprod=alphas_cumprod,
            clip_x_0=bound,
            source=levels,
            inputs=tuple(input_from_text(text, state_shape) for text in inputs),
            requires=(*((INPUTS,) if inputs else ()), *((SHAPE,) if len(state_shape) != 3 else ())),
        )
    except BadFileError as exc:  # the options are wrong, not a file
        raise UsageError(str(exc)) from exc


def input_from_text(text: str, state_shape: tuple[int, ...]) -> "Input":
    """Return the input that a text such as y:label:cat,dog:none=2 declares; the spec checks its values."""
    from ddpm_export.model.inputs import MAX_CLASSES, Input

    parts = text.split(":")
    try:
        none = float(parts.pop().removeprefix("none=")) if parts[-1].startswith("none=") else None
        if parts[1:] == ["previous"]:
            return Input(parts[0], "previous", state_shape, none)
        name, kind, items = parts
        if kind != "label":
            return Input(name, kind, tuple(int(size) for size in items.split(",")), none)
    except ValueError as exc:
        raise UsageError(
            "--input must look like y:label:10:none=10, scale:vector:5, mask:image:3,28,28:none=0 or "
            f"x_0_prev:previous, got {shown(text)}."
        ) from exc
    is_count = items.isascii() and items.isdecimal()
    classes = range(min(int(items), MAX_CLASSES + 1)) if is_count and len(items) < 10 else items.split(",")
    return Input(name, kind, (), none if none is None or none % 1 else int(none), tuple(map(str, classes)))


main = entry_point(adopt, EXAMPLES)
