"""`ddpm-dataset`: make a set of many images in shards, on this machine or on a cluster, and score it."""

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddpm_export.cli.console import APP, print_json, script_of
from ddpm_export.cli.help import HELP, HOW, SAFETY, WHAT, WHERE, add_command
from ddpm_export.cli.options import Choices, Debug, Json, N, Numbers, Runtime
from ddpm_export.cli.progress import phases, progress
from ddpm_export.cli.scores import (
    Cache,
    Data,
    Extractor,
    dataset_of,
    metrics_from_text,
    open_judge,
    print_facts,
    source_from_text,
)
from ddpm_export.cli.texts import engine_from_text
from ddpm_export.errors import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ddpm_export.cli.texts import Engine

Model = Annotated[Path, typer.Argument(help="An exported model, such as exported/unet.onnx, or a one-call file.")]
EngineText = Annotated[
    str | None,
    typer.Option(
        "--engine",
        metavar="NAME[:KEY=VALUE]",
        help="process (this one), ray (a worker per core), ray:workers=4, or ray:address=auto (a running cluster). "
        "[default: process]",
        rich_help_panel=WHERE,
    ),
]
Mixed = Annotated[
    bool,
    typer.Option("--mixed", help="Let machines of different kinds make one set.", rich_help_panel=SAFETY),
]


def make(
    model: Model,
    *,
    out: Annotated[
        Path, typer.Option(help="The folder of the set. A set that is there is continued.", rich_help_panel=WHERE)
    ],
    n: N = None,
    choices: Choices,
    numbers: Numbers,
    format: Annotated[  # noqa: A002
        str | None,
        typer.Option(help="parquet, tar (WebDataset), npy or png. [default: npy]", rich_help_panel=WHERE),
    ] = None,
    shards: Annotated[
        int | None, typer.Option(help="How many files. [default: 1000 images in each]", rich_help_panel=WHERE)
    ] = None,
    engine: EngineText = None,
    runtime: Runtime,
    mixed: Mixed = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make a set of images in shards, each complete or missing; interrupted, it continues where it stopped."""
    from ddpm_export.sets.job import begin, finish, make_here, maker, missing
    from ddpm_export.system.files import sole_writer

    chosen = engine_from_text(engine)
    opened = runtime.opened(model)
    asked = {**choices.asked(opened.spec), **numbers.asked(), "n": n}
    since = time.perf_counter()
    with sole_writer(out):
        job = begin(model, opened.spec, out, asked, format=format, shards=shards, mixed=mixed, **runtime.asked())
        todo = missing(job)
        images = sum(len(job.numbers_of(shard)) for shard in todo)
        with progress(images, "images") as advance:
            done = 0

            def report(count: int) -> None:
                nonlocal done
                done += count
                advance(done=done)

            if chosen.is_ray:
                _on_ray(chosen, partial(maker, job), todo, lambda shard: report(len(job.numbers_of(shard))))
            else:
                make_here(job, opened, report)
        manifest = finish(job)
    seconds = time.perf_counter() - since
    if as_json:
        files = {"out": str(out), "files": len(manifest.pop("files")), "made": images, "seconds": round(seconds, 3)}
        print_json({**manifest, **files})
    else:
        found = f", {manifest['n'] - images} of them found there" if images < manifest["n"] else ""
        typer.echo(
            f"{printable(str(out))}: {manifest['n']} images in {manifest['shards']} shards{found}, in {seconds:.1f} s, "
            f"digest {manifest['digest'][:16]}"
        )


def score(
    model: Model,
    *,
    metrics: Annotated[
        str, typer.Option(help="Some of is,fid,kid,pr,accuracy,class_fid.", rich_help_panel=WHAT)
    ] = "is,fid,kid",
    n: Annotated[int, typer.Option(help="Number of images.", rich_help_panel=WHAT)] = 1000,
    data: Data = "fashion-mnist",
    extractor: Extractor = None,
    choices: Choices,
    seed: Annotated[int, typer.Option(help="The same seed gives the same images.", rich_help_panel=WHAT)] = 0,
    batch: Annotated[int, typer.Option(help="Images at a time.", rich_help_panel=WHERE)] = 64,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The folder of the set, which ddpm-dataset make may have begun. [default: in --cache]",
            rich_help_panel=WHERE,
        ),
    ] = None,
    cache: Cache = None,
    engine: EngineText = None,
    runtime: Runtime,
    mixed: Mixed = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make what is missing of a set and of its features, shard by shard, and score it as ddpm-eval does."""
    from ddpm_export.sampling.request import request_for
    from ddpm_export.scoring.datasets.readers import open_dataset
    from ddpm_export.scoring.scores import CHUNK, CLASS_METRICS, METRICS
    from ddpm_export.scoring.set_features import Scoring, features_of_set, folder_of_set, scorer, unscored
    from ddpm_export.sets.job import begin, finish
    from ddpm_export.system.files import sha256_of, sole_writer

    wanted = metrics_from_text(metrics, (*METRICS, *CLASS_METRICS))
    chosen, source = engine_from_text(engine), source_from_text("--data", data)
    spec = runtime.opened(model).spec
    reference = source.opened(spec.picture_shape)
    asked = {**choices.asked(spec), "n": n, "seed": seed, "batch": batch}
    request = request_for(spec, **asked)
    with phases() as report:
        judge = open_judge(extractor, spec.picture_shape, runtime.provider, runtime.threads, cache, report)
        if out is None:
            out = folder_of_set(judge.cache, model, request, runtime.provider, mixed)
        with sole_writer(out):
            job = begin(model, spec, out, asked, per_shard=CHUNK, mixed=mixed, **runtime.asked())
            scoring = Scoring(job, str(judge.path.resolve()), judge.sha256)
            todo = unscored(scoring)
            done = n - sum(len(job.numbers_of(shard)) for shard in todo)

            def made(shard: int) -> None:
                nonlocal done
                done += len(job.numbers_of(shard))
                report(done, n, "sampling")

            if chosen.is_ray:
                _on_ray(chosen, partial(scorer, scoring), todo, made)
            elif todo:
                _in_turn(partial(scorer, scoring), todo, made)
            features = features_of_set(scoring, finish(job))
        images = open_dataset("shards", out, image_shape=spec.picture_shape).images
        facts: dict[str, Any] = {"reference": "", "model": spec.name, "model_sha256": sha256_of(model)}
        facts |= {**request.describe(), "n": n, **judge.describe()}
        facts |= judge.scores(wanted, dataset_of(images, request), n, reference, features)
    facts["reference"] = source.describe(reference)
    print_facts(facts, as_json=as_json)


def _on_ray(
    engine: "Engine",
    begin_in_worker: "Callable[[int], Callable[[int], Any]]",
    todo: "Sequence[int]",
    report: "Callable[[int], None]",
) -> None:
    from ddpm_export.sets.on_ray import make_on_ray

    make_on_ray(begin_in_worker, todo, workers=engine.workers, address=engine.address, report=report)


def _in_turn(
    begin_here: "Callable[[int], Callable[[int], Any]]", todo: "Sequence[int]", report: "Callable[[int], None]"
) -> None:
    from ddpm_export.system.processor import cores

    make_shard = begin_here(cores())
    for shard in todo:
        make_shard(shard)
        report(shard)


app = typer.Typer(
    **APP,
    help="Make sets of many images in shards, and score them (docs/many.md).\n\n"
    "Exit codes: 0 done, 2 usage, 3 bad file, 4 model refused, 5 environment, 6 not finite, 130 interrupted.",
    epilog="Example: ddpm-dataset make exported/unet.onnx --n 1000000 --seed 7 --out million --format parquet",
)
for function in (make, score):
    line = f"ddpm-dataset {function.__name__} exported/unet.onnx --n 10000 --out many"
    add_command(
        app,
        function,
        function.__name__,
        {
            WHAT: f"{line} --label sneaker,bag",
            HOW: f"{line} --sampler ddim --steps 50",
            WHERE: f"{line} --engine ray:workers=2",
            SAFETY: f"{line} --engine ray:address=auto --mixed",
            HELP: f"ddpm-dataset {function.__name__} --help",
        },
    )
main = script_of(app)
