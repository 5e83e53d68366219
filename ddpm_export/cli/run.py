"""`ddpm-run`: sample images from an exported model."""

import time
from pathlib import Path
from typing import Annotated

import typer

from ddpm_export.child import MEMORY_GIB, TIMEOUT_S, confine
from ddpm_export.cli.console import (
    Debug,
    Eta,
    Grid,
    Json,
    Memory,
    Order,
    Provider,
    Sampler,
    Threads,
    Timeout,
    Trust,
    entry_point,
    print_json,
    printable,
    progress,
    times_from_text,
)
from ddpm_export.errors import UsageError

__all__ = ["main"]


def run(
    model: Annotated[Path, typer.Argument(help="An exported model, such as exported/unet.onnx, or a one-call file.")],
    n: Annotated[int, typer.Option(help="How many images.")] = 16,
    steps: Annotated[int | None, typer.Option(help="Denoising steps, 1 to T. [default: the model's]")] = None,
    times: Annotated[
        str | None, typer.Option(help="The steps' own times, falling, such as 980,960,0; in place of --steps.")
    ] = None,
    grid: Grid = None,
    sampler: Sampler = None,
    eta: Eta = None,
    variance: Annotated[
        str | None, typer.Option(help="Of ddpm: fixed_small, fixed_large for many steps, or learned.")
    ] = None,
    order: Order = None,
    plan: Annotated[
        str | None, typer.Option(help="A plan that the model carries, in place of sampler, steps and times.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same images. [default: a fresh one, printed]")] = None,
    first: Annotated[int, typer.Option(help="Number of the first image; image 7 is the same in any run.")] = 0,
    batch: Annotated[int, typer.Option(help="Images at a time: memory and speed, never the images.")] = 16,
    provider: Provider = "cpu",
    threads: Threads = None,
    out: Annotated[Path, typer.Option(help="x.png (grid), x.gif, x.webp (the denoising), x.npy, or a folder.")] = Path(
        "samples.png"
    ),
    untrusted: Annotated[
        bool, typer.Option("--untrusted", help="Open the file in a process of its own, with limits (SECURITY.md).")
    ] = False,
    timeout: Timeout = TIMEOUT_S,
    memory: Memory = MEMORY_GIB,
    trust: Trust = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Sample images from an exported diffusion model, without torch.

    Exit codes: 0 done, 2 usage, 3 bad file, 4 model refused, 5 environment, 6 not finite, 130 interrupted.
    """
    place = out
    if untrusted:
        if trust:
            raise UsageError("--untrusted and --trust contradict each other.")
        fully = provider == "cpu"
        place = confine(model, timeout_s=timeout, memory_gib=memory, out=out, fully=fully).place or out
    from ddpm_export.files import sha256_of
    from ddpm_export.generation import pictures, settings_for
    from ddpm_export.images import open_output
    from ddpm_export.runtimes import open_file

    opened = open_file(model, provider, threads=threads, trust=trust)
    spec = opened.spec
    settings = settings_for(
        spec,
        n=n,
        num_steps=steps,
        times=times_from_text(times),
        sampler=sampler,
        eta=eta,
        variance=variance,
        plan=plan,
        seed=seed,
        first=first,
        batch=batch,
        grid=grid,
        order=order,
    )
    at_once = spec.graph == "sampler"
    if at_once and out.suffix.lower() in (".gif", ".webp"):
        raise UsageError(
            f"--out must end in .png or .npy or be a folder for a one-call sampler, which shows no steps, got "
            f"{printable(out.name)!r}. Run the slice, or the .onnx that the file was made from."
        )
    text = {"model": spec.name, "model_sha256": sha256_of(model), **settings.describe()}
    since = time.perf_counter()
    with (
        open_output(place, settings.numbers, spec.picture_shape, settings.num_rows, text) as output,
        progress(len(settings.batches) if at_once else settings.evaluations, "sampling") as advance,
    ):
        for numbers, row, images in pictures(opened, settings, output.wants):
            if images is not None:
                output.add(numbers, row.i, images)
            advance(f"images {numbers[0]}-{numbers[-1]}, t = {row.t:g}")
    seconds = time.perf_counter() - since
    if as_json:
        print_json(
            {**text, "out": str(out), "n": n, "first": first, "provider": provider, "seconds": round(seconds, 3)}
        )
    else:
        how = f"{settings.plan_name or settings.sampler}, {settings.num_rows} steps, seed {settings.seed}"
        typer.echo(f"{printable(str(out))}: {n} image{'s' if n > 1 else ''} ({how}) in {seconds:.1f} s")


main = entry_point(run)
