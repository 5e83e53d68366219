"""`ddpm-run`: sample images from an exported model."""

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddpm_export.cli.console import (
    Address,
    Debug,
    Engine,
    Eta,
    Grid,
    GuidanceInterval,
    GuidanceScale,
    Inputs,
    Json,
    Label,
    Memory,
    Mixed,
    Order,
    PlanName,
    Provider,
    Sampler,
    Threads,
    Timeout,
    Trust,
    Workers,
    entry_point,
    guidance_from_options,
    inputs_from_options,
    is_on_ray,
    labels_from_text,
    numbers_from_text,
    phases,
    print_json,
    progress,
)
from ddpm_export.errors import UsageError, printable
from ddpm_export.sandbox.child import MEMORY_GIB, TIMEOUT_S, confine

if TYPE_CHECKING:
    from ddpm_export.model.spec import ModelSpec


OF_EACH = 10


def run(
    model: Annotated[Path, typer.Argument(help="An exported model, such as exported/unet.onnx, or a one-call file.")],
    n: Annotated[
        int | None,
        typer.Option(help="How many images, with --image of each picture. [default: 16; 1 of a picture; 10 a class]"),
    ] = None,
    label: Label = None,
    each_label: Annotated[
        bool, typer.Option("--each-label", help="A row of images with its name for each class, or each of --label.")
    ] = False,
    guidance: GuidanceScale = None,
    guidance_interval: GuidanceInterval = None,
    inputs: Inputs = None,
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
    plan: PlanName = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same images. [default: a fresh one, printed]")] = None,
    first: Annotated[int, typer.Option(help="Number of the first image; image 7 is the same in any run.")] = 0,
    batch: Annotated[int, typer.Option(help="Images at a time: memory and speed, never the images.")] = 16,
    image: Annotated[Path | None, typer.Option(help="A picture to begin with, or a folder of them.")] = None,
    mask: Annotated[Path | None, typer.Option(help="Of --image: white is made, black is kept, grey blends.")] = None,
    measure: Annotated[
        str | None, typer.Option(help="Of --image: average:K, grey or mask, which what is made shares with it.")
    ] = None,
    strength: Annotated[
        float | None, typer.Option(help="Of --image: how much noise it is made anew from, above 0 to 1.")
    ] = None,
    returns: Annotated[int, typer.Option(help="With --mask or --measure: go back and on again, so often.")] = 0,
    jump: Annotated[int, typer.Option(help="With --returns: so many steps at a time.")] = 1,
    invert: Annotated[bool, typer.Option("--invert", help="Of --image: write its noise to an .npy.")] = False,
    noise: Annotated[Path | None, typer.Option("--from", help="Noise to begin with, as --invert writes it.")] = None,
    between: Annotated[
        tuple[Path, Path] | None, typer.Option(help="From one picture to another, with --strength. [default of --n: 9]")
    ] = None,
    between_seeds: Annotated[
        tuple[int, int] | None, typer.Option(help="From the image of one seed to that of another.")
    ] = None,
    provider: Provider = "cpu",
    threads: Threads = None,
    out: Annotated[Path, typer.Option(help="x.png (grid), x.gif, x.webp (the denoising), x.npy, or a folder.")] = Path(
        "samples.png"
    ),
    untrusted: Annotated[
        bool, typer.Option("--untrusted", help="Open the file in a process of its own, with limits (SECURITY.md).")
    ] = False,
    format: Annotated[  # noqa: A002
        str | None,
        typer.Option("--as", help="Many images, in --out DIR as parquet, tar (WebDataset), npy or png (docs/many.md)."),
    ] = None,
    shards: Annotated[int | None, typer.Option(help="With --as: how many files. [default: 1000 images each]")] = None,
    engine: Engine = None,
    workers: Workers = None,
    address: Address = None,
    mixed: Mixed = False,
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
        reads = [path for path in (image, mask, noise, *(between or ())) if path is not None]
        reads += [path for path in (Path(setting.partition("=")[2]) for setting in inputs or []) if path.is_file()]
        fully = provider == "cpu"
        bound = confine(model, timeout_s=timeout, memory_gib=memory, out=out, reads=reads, fully=fully)
        place = bound.place or out
    elif (timeout, memory) != (TIMEOUT_S, MEMORY_GIB):
        raise UsageError("--timeout and --memory apply only with --untrusted.")
    from ddpm_export.images.write import open_output
    from ddpm_export.runtimes.opening import open_file
    from ddpm_export.sampling.generate import pictures
    from ddpm_export.sampling.request import request_for
    from ddpm_export.system.files import sha256_of

    opened = open_file(model, provider, threads=threads, trust=trust)
    spec = opened.spec
    labels = labels_from_text(spec, label)
    settled: dict[str, Any] = {
        "label": labels,
        "guidance": guidance_from_options(spec, guidance, guidance_interval),
        "inputs": inputs_from_options(spec, inputs or []),
        "num_steps": steps,
        "times": numbers_from_text("--times", times),
        "sampler": sampler,
        "eta": eta,
        "variance": variance,
        "plan": plan,
        "seed": seed,
        "first": first,
        "batch": batch,
        "grid": grid,
        "order": order,
    }
    files: dict[str, Any] = {"image": image, "mask": mask, "between": between, "x_T": noise}
    wanted: dict[str, Any] = {"measure": measure, "strength": strength, "seeds": between_seeds}
    said = [name for name, value in {**files, **wanted}.items() if value is not None]
    is_given = bool(said or returns)
    engines = {"--shards": shards, "--engine": engine, "--workers": workers, "--address": address, "--mixed": mixed}
    if format is not None:
        if is_given or invert or each_label or untrusted:
            raise UsageError(
                "--as does not apply to what begins with a picture, nor with --invert, --each-label or --untrusted."
            )
        kept: dict[str, Any] = {
            "shards": shards,
            "provider": provider,
            "threads": threads,
            "trust": trust,
            "mixed": mixed,
        }
        kept |= {"format": format}
        _make_set(opened, model, out, as_json, (engine, workers, address), {**settled, "n": n}, **kept)
        return
    needless = [name for name, value in engines.items() if value]
    if needless:
        raise UsageError(f"{needless[0]} applies only with --as.")
    about = {"model": spec.name, "model_sha256": sha256_of(model)}
    if invert and said != ["image"]:
        raise UsageError("--invert needs --image, and nothing else of a picture besides.")
    if each_label and is_given:
        raise UsageError("--each-label does not apply to what begins with a picture.")
    if is_given:
        from ddpm_export.sampling.given_files import given_from_files

        given = given_from_files(spec, **files, any_size=measure is not None)
        if invert:
            if out.suffix != ".npy":
                raise UsageError(f"--out must end in .npy for --invert, got {printable(out.name)!r}.")
            errors = _invert(opened, given["images"], settled, place)
            if as_json:
                print_json({**about, "out": str(out), "n": len(errors), "rmse": errors})
            else:
                several = f"{len(errors)} picture{'s' if len(errors) > 1 else ''}"
                far = f"RMSE on the way back {sum(errors) / len(errors):.2f} levels of 255"
                typer.echo(f"{printable(str(out))}: noise of {several}, {far}")
            return
        settings = request_for(spec, **given, **wanted, returns=returns, jump=jump, n=n, **settled)
    else:
        n = _of_each(spec, labels, n) if each_label else n
        settings = request_for(spec, n=n, **settled)
    at_once = spec.graph in ("sampler", "edit")
    if at_once and out.suffix.lower() in (".gif", ".webp"):
        raise UsageError(
            f"--out must end in .png or .npy or be a folder for a one-call {spec.graph}, which shows no steps, got "
            f"{printable(out.name)!r}. Run the slice, or the .onnx that the file was made from."
        )
    text = {**about, **settings.describe()}
    since = time.perf_counter()
    with (
        open_output(
            place,
            settings.numbers,
            spec.picture_shape,
            settings.num_rows,
            text,
            settings.label_names,
            in_rows=each_label,
            in_line=between is not None or between_seeds is not None,
        ) as output,
        progress(settings.num_batches if at_once else settings.evaluations, "sampling") as advance,
    ):
        for numbers, row, images in pictures(opened, settings, output.wants):
            if images is not None:
                output.add(numbers, row.i, images)
            advance(f"images {numbers[0]}-{numbers[-1]}, t = {row.t:g}")
    seconds = time.perf_counter() - since
    if as_json:
        print_json(
            {
                **text,
                "out": str(out),
                "n": settings.n,
                "first": first,
                "provider": provider,
                "seconds": round(seconds, 3),
            }
        )
    else:
        how = f"{settings.steps.name or settings.steps.sampler}, {settings.num_rows} steps, seed {settings.seed}"
        typer.echo(
            f"{printable(str(out))}: {settings.n} image{'s' if settings.n > 1 else ''} ({how}) in {seconds:.1f} s"
        )


def _make_set(
    opened: Any,
    model: Path,
    out: Path,
    as_json: bool,
    engine: tuple[str | None, int | None, str | None],
    asked: dict[str, Any],
    **how: Any,
) -> None:
    """Make what is missing of a set of pictures in a folder, by an engine, its workers and its address; tell of it."""
    from ddpm_export.sets.job import begin, finish, make_here, maker, missing
    from ddpm_export.system.files import sole_writer

    _, workers, address = engine
    on_ray = is_on_ray(*engine)
    since = time.perf_counter()
    with sole_writer(out):
        job = begin(model, opened.spec, out, asked, **how)
        shards = missing(job)
        todo = sum(len(job.numbers_of(shard)) for shard in shards)
        with progress(todo, "images") as advance:
            done = 0

            def report(count: int) -> None:
                nonlocal done
                done += count
                advance(done=done)

            if on_ray:
                from ddpm_export.sets.on_ray import make_on_ray

                make_on_ray(
                    partial(maker, job),
                    shards,
                    workers=workers,
                    address=address,
                    report=lambda shard: report(len(job.numbers_of(shard))),
                )
            else:
                make_here(job, opened, report)
        manifest = finish(job)
    seconds = time.perf_counter() - since
    if as_json:
        files = {"out": str(out), "files": len(manifest.pop("files")), "made": todo, "seconds": round(seconds, 3)}
        print_json({**manifest, **files})
    else:
        found = f", {manifest['n'] - todo} of them found there" if todo < manifest["n"] else ""
        typer.echo(
            f"{printable(str(out))}: {manifest['n']} images in {manifest['shards']} shards{found}, in {seconds:.1f} s, "
            f"digest {manifest['digest'][:16]}"
        )


def _invert(opened: Any, images: Any, settled: dict[str, Any], place: Path) -> list[float]:
    """Write the noise that leads to pictures; return how far from each it leads, in levels."""
    from ddpm_export.images.write import save_array
    from ddpm_export.sampling.edit import invert

    with phases() as report:
        x_T, rmse = invert(opened, images, report=lambda done, all_: report(done, all_, "inverting"), **settled)
    save_array(place, x_T)
    errors: list[float] = rmse.tolist()
    return errors


def _of_each(spec: "ModelSpec", labels: str | list[str] | None, n: int | None) -> int:
    """Return how many images there are of all labels together, equally many of each."""
    if spec.label is None:
        raise UsageError("--each-label does not apply to a network that is told no class.")
    count = len(spec.label.classes if labels is None else spec.label.cycle_of(labels))
    if n is not None and n % count:
        raise UsageError(f"--n must be a multiple of {count}, the number of labels, with --each-label, got {n}.")
    return OF_EACH * count if n is None else n


main = entry_point(run)
