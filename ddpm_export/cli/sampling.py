"""Make the images of a request, write them, and report them in a line or as JSON: what run and edit share."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ddpm_export.cli.console import print_json
from ddpm_export.cli.options import Choices, Confinable, Json, Numbers, Out
from ddpm_export.cli.progress import progress
from ddpm_export.errors import UsageError, printable

if TYPE_CHECKING:
    from ddpm_export.runtimes.opened import DenoiserFile, OneCallFile


@dataclass(frozen=True)
class ImageOptions:
    """The options of every command that writes images."""

    choices: Choices
    numbers: Numbers
    runtime: Confinable
    out: Out = Path("samples.png")
    as_json: Json = False


def opened_model(
    model: Path, out: Path, choices: Choices, runtime: Confinable, files: Mapping[str, Any], *, any_size: bool = False
) -> "tuple[Path, DenoiserFile | OneCallFile, dict[str, Any]]":
    """Return where to write, the model, and the keywords of a request that choices and files give.

    files, any_size: as of `given_from_files`.
    """
    paths = [path for value in files.values() if value for path in (value if isinstance(value, list) else [value])]
    place = runtime.bound(model, out, [*choices.paths, *paths])
    opened = runtime.opened(model)
    from ddpm_export.sampling.given_files import given_from_files

    asked = choices.asked(opened.spec)
    return place, opened, asked | given_from_files(opened.spec, **files, any_size=any_size)


def make_images(
    opened: "DenoiserFile | OneCallFile",
    model: Path,
    place: Path,
    options: ImageOptions,
    asked: Mapping[str, Any],
    *,
    in_rows: bool = False,
    in_line: bool = False,
) -> None:
    """Write the images of a request to `place`, from where a parent moves them to `options.out`, and report them."""
    from ddpm_export.images.write import open_output
    from ddpm_export.sampling.generate import pictures
    from ddpm_export.sampling.request import request_for
    from ddpm_export.system.files import sha256_of

    spec, out = opened.spec, options.out
    request = request_for(spec, **asked, **vars(options.numbers))
    is_one_run = spec.graph in ("sampler", "edit")
    if is_one_run and out.suffix.lower() in (".gif", ".webp"):
        raise UsageError(
            f"--out must end in .png or .npy or be a folder for a one-call {spec.graph}, which shows no steps, got "
            f"{printable(out.name)!r}. Run the slice, or the .onnx the file was made from."
        )
    text = {"model": spec.name, "model_sha256": sha256_of(model), **request.describe()}
    since = time.perf_counter()
    where = (place, request.numbers, spec.result_shape, request.num_rows, text, request.label_names)
    with (
        open_output(*where, is_picture=spec.is_picture, in_rows=in_rows, in_line=in_line) as output,
        progress(request.num_batches if is_one_run else request.evaluations, "sampling") as advance,
    ):
        for numbers, row, images in pictures(opened, request, output.wants):
            if images is not None:
                output.add(numbers, row.i, images)
            advance(f"images {numbers[0]}-{numbers[-1]}, t = {row.t:g}")
    seconds = time.perf_counter() - since
    if options.as_json:
        made = {"out": str(out), "n": request.n, "first": request.first, "provider": options.runtime.provider}
        print_json({**text, **made, "seconds": round(seconds, 3)})
    else:
        steps = f"{request.steps.name or request.steps.sampler}, {request.num_rows} steps, seed {request.seed}"
        typer.echo(
            f"{printable(str(out))}: {request.n} image{'s' if request.n > 1 else ''} ({steps}) in {seconds:.1f} s"
        )
