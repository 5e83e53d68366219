"""Make the images of a request, write them, and say in a line or in JSON what was made: what run and edit share."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ddpm_export.cli.console import print_json
from ddpm_export.cli.progress import progress
from ddpm_export.errors import UsageError, printable

if TYPE_CHECKING:
    from ddpm_export.cli.options import Runtime
    from ddpm_export.runtimes.opened import DenoiserFile, OneCallFile
    from ddpm_export.sampling.request import Request

DEFAULT_OUT = Path("samples.png")


def make_images(
    opened: "DenoiserFile | OneCallFile",
    request: "Request",
    model: Path,
    out: Path,
    place: Path,
    runtime: "Runtime",
    *,
    as_json: bool,
    in_rows: bool = False,
    in_line: bool = False,
) -> None:
    """Write a request's images to `out`, which lies at `place` until a parent has taken it, and report them."""
    from ddpm_export.images.write import open_output
    from ddpm_export.sampling.generate import pictures
    from ddpm_export.system.files import sha256_of

    spec = opened.spec
    is_one_run = spec.graph in ("sampler", "edit")
    if is_one_run and out.suffix.lower() in (".gif", ".webp"):
        raise UsageError(
            f"--out must end in .png or .npy or be a folder for a one-call {spec.graph}, which shows no steps, got "
            f"{printable(out.name)!r}. Run the slice, or the .onnx that the file was made from."
        )
    text = {"model": spec.name, "model_sha256": sha256_of(model), **request.describe()}
    since = time.perf_counter()
    with (
        open_output(
            place,
            request.numbers,
            spec.picture_shape,
            request.num_rows,
            text,
            request.label_names,
            in_rows=in_rows,
            in_line=in_line,
        ) as output,
        progress(request.num_batches if is_one_run else request.evaluations, "sampling") as advance,
    ):
        for numbers, row, images in pictures(opened, request, output.wants):
            if images is not None:
                output.add(numbers, row.i, images)
            advance(f"images {numbers[0]}-{numbers[-1]}, t = {row.t:g}")
    seconds = time.perf_counter() - since
    if as_json:
        made: dict[str, Any] = {"out": str(out), "n": request.n, "first": request.first, "provider": runtime.provider}
        print_json({**text, **made, "seconds": round(seconds, 3)})
    else:
        how = f"{request.steps.name or request.steps.sampler}, {request.num_rows} steps, seed {request.seed}"
        typer.echo(f"{printable(str(out))}: {request.n} image{'s' if request.n > 1 else ''} ({how}) in {seconds:.1f} s")
