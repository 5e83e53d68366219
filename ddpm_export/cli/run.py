"""`ddpm-run`: sample images from an exported model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ddpm_export.cli.console import entry_point
from ddpm_export.cli.help import HOW, SAFETY, WHAT, WHERE
from ddpm_export.cli.options import Choices, Confinable, Debug, Json, N, Numbers, Out
from ddpm_export.cli.sampling import DEFAULT_OUT, make_images
from ddpm_export.errors import UsageError

if TYPE_CHECKING:
    from ddpm_export.model.spec import ModelSpec

OF_EACH = 10
EXAMPLES = {
    WHAT: "ddpm-run exported/unet.onnx --n 9 --label sneaker,bag --seed 7",
    HOW: "ddpm-run exported/unet.onnx --sampler ddim:eta=1 --steps 50 --guidance 2@300-700",
    WHERE: "ddpm-run exported/unet.onnx --out denoising.gif --batch 4 --threads 2",
    SAFETY: "ddpm-run theirs.onnx --untrusted 60s,4GiB",
    "Help": "ddpm-run --install-completion",
}


def run(
    model: Annotated[Path, typer.Argument(help="An exported model, such as exported/unet.onnx, or a one-call file.")],
    *,
    n: N = None,
    choices: Choices,
    each_label: Annotated[
        bool,
        typer.Option(
            "--each-label",
            help="A row of images for each class, or for each of --label, with its name. [default of --n: 10 a row]",
            rich_help_panel=WHAT,
        ),
    ] = False,
    noise: Annotated[
        Path | None,
        typer.Option("--from", help="Noise to start from, as ddpm-edit invert writes it.", rich_help_panel=WHAT),
    ] = None,
    numbers: Numbers,
    runtime: Confinable,
    out: Out = DEFAULT_OUT,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Sample images from an exported diffusion model, without torch.

    Exit codes: 0 done, 2 usage, 3 bad file, 4 model refused, 5 environment, 6 not finite, 130 interrupted.
    """
    place = runtime.bound(model, out, [*choices.paths, *([noise] if noise else [])])
    from ddpm_export.sampling.request import request_for

    opened = runtime.opened(model)
    spec = opened.spec
    asked = {**choices.asked(spec), **numbers.asked()}
    if noise is not None:
        if each_label:
            raise UsageError("--each-label does not apply with --from.")
        from ddpm_export.sampling.given_files import given_from_files

        asked |= given_from_files(spec, x_T=noise)
    if each_label:
        n = _of_each(spec, asked["label"], n)
    request = request_for(spec, n=n, **asked)
    make_images(opened, request, model, out, place, runtime, as_json=as_json, in_rows=each_label)


def _of_each(spec: "ModelSpec", labels: str | list[str] | None, n: int | None) -> int:
    """Return how many images there are of all labels together, equally many of each."""
    if spec.label is None:
        raise UsageError("--each-label does not apply: the model has no classes.")
    count = len(spec.label.classes if labels is None else spec.label.cycle_of(labels))
    if n is not None and n % count:
        raise UsageError(f"--n must be a multiple of {count}, the number of labels, with --each-label, got {n}.")
    return OF_EACH * count if n is None else n


main = entry_point(run, EXAMPLES)
