"""`ddpm-export`: write a checkpoint as files that run without torch, each proven against it."""

from typing import Annotated

import typer

from ddpm_export.cli.console import entry_point
from ddpm_export.cli.help import HELP, HOW, SAFETY, WHAT, WHERE, what
from ddpm_export.cli.options import Config, Settings
from ddpm_export.cli.texts import options_from_settings
from ddpm_export.cli.writing import Defaults, Output, write_files
from ddpm_export.errors import UsageError

EXAMPLES = {
    WHAT: "ddpm-export results/model-10.pt --set image_size=64",
    HOW: "ddpm-export checkpoint.pt --plans dpmpp_2m:5,10,20 --plan dpmpp_2m-10 --guidance 2@300-700",
    WHERE: "ddpm-export checkpoint.pt --format onnx --format sampler --storage float16 --out models",
    SAFETY: "ddpm-export checkpoint.pt --debug",
    HELP: "ddpm-export --install-completion",
}


def export(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="A checkpoint: a file, a folder of diffusers, or a model's name on the hub. For sampler, slice, edit, "
            "triton and --storage also an exported .onnx, without torch."
        ),
    ],
    *,
    weights: Annotated[str | None, what("ema (averaged) or raw (of the last step). [default: ema]")] = None,
    config: Config = None,
    settings: Settings = None,
    defaults: Defaults,
    output: Output,
) -> None:
    """Export a checkpoint; a file takes its name only once it has reproduced the network within 1e-5.

    One-call files (sampler, slice, edit) reproduce the images of ddpm-run within one level (docs/format.md, section 5).

    It reads checkpoints of python -m train, diffusers, denoising-diffusion-pytorch, guided- and improved-diffusion and
    ddpm-torch (docs/importing.md). For your own class or anyone's .onnx, use ddpm-adopt.

    Exit codes: 0 done, 2 usage, 3 bad file, 4 the file does not reproduce its network, 5 environment, 6 not
    finite, 130 interrupted.
    """
    from ddpm_export.exporting.export import export_all, is_foreign
    from ddpm_export.exporting.formats import FORMATS
    from ddpm_export.importers.load import load_checkpoint
    from ddpm_export.runtimes.named import NAMED, model_path

    path = model_path(checkpoint)
    if is_foreign(path):
        raise UsageError(f"{checkpoint} is an .onnx of another project. Use ddpm-adopt.")
    if path.suffix != ".onnx":
        paths = output.paths(checkpoint, "unet")
        steps, options = defaults.steps_to_import(), options_from_settings(config, settings or [])
        loaded = load_checkpoint(checkpoint, weights=weights or "ema", options=options, steps=steps)
        write_files(checkpoint, loaded, paths, output, defaults, weights or "ema", write=export_all, imported=True)
        return
    paths = output.paths("" if checkpoint in NAMED else checkpoint, path.stem)
    given = {"--weights": weights, "--config": config, "--set": settings or None, "--plans": defaults.plans}
    flags = [name for name, value in given.items() if value is not None]
    if set(output.names) & set(FORMATS):  # the others take new defaults
        flags += defaults.given
    if flags:
        raise UsageError(f"{flags[0]} does not apply to an exported file, such as {checkpoint}.")
    write_files(checkpoint, path, paths, output, defaults, write=export_all)


main = entry_point(export, EXAMPLES)
