"""`ddpm-dataset`: make a set of many images in shards, on this machine or on a cluster, and score it."""

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddpm_export.cli.console import APP, print_json, script_of
from ddpm_export.cli.help import HELP, HOW, SAFETY, WHAT, WHERE, add_command, safety, what, where
from ddpm_export.cli.options import Choices, Json, Model, N, Numbers, Runtime
from ddpm_export.cli.progress import phases, progress
from ddpm_export.cli.scores import ScoreOptions, dataset_of, metrics_from_text, open_judge, print_facts
from ddpm_export.cli.texts import engine_from_text
from ddpm_export.errors import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ddpm_export.cli.texts import Engine

EngineText = Annotated[
    str | None,
    where(
        "process (this one), ray (a worker per core), ray:workers=4, or ray:address=auto (a running cluster). "
        "[default: process]",
        "--engine",
        metavar="NAME[:KEY=VALUE]",
    ),
]
Mixed = Annotated[bool, safety("Let machines of different kinds make one set.", "--mixed")]


def make(
    model: Model,
    *,
    out: Annotated[Path, where("The folder to write to; a set already there is continued.")],
    n: N = None,
    choices: Choices,
    numbers: Numbers,
    format: Annotated[  # noqa: A002
        str | None, where("parquet, tar (WebDataset), npy or png. [default: npy]")
    ] = None,
    shards: Annotated[int | None, where("Number of files. [default: one per 1000 images]")] = None,
    engine: EngineText = None,
    runtime: Runtime,
    mixed: Mixed = False,
    as_json: Json = False,
) -> None:
    """Make a set of images in shards, each complete or missing; interrupted, it continues where it stopped."""
    from ddpm_export.sets.job import begin, finish, make_here, maker, missing
    from ddpm_export.system.files import sole_writer

    chosen = engine_from_text(engine)
    opened = runtime.opened(model)
    asked = {**choices.asked(opened.spec), **vars(numbers), "n": n}
    since = time.perf_counter()
    with sole_writer(out):
        job = begin(model, opened.spec, out, asked, format=format, shards=shards, mixed=mixed, **vars(runtime))
        todo = missing(job)
        images, done = sum(len(job.numbers_of(shard)) for shard in todo), 0
        with progress(images, "images") as advance:

            def report(count: int) -> None:
                nonlocal done
                done += count
                advance(done=done)

            if chosen.is_ray:
                _work(chosen, out, partial(maker, job), todo, lambda shard: report(len(job.numbers_of(shard))))
            else:
                make_here(job, opened, report)
        manifest = finish(job)
    seconds = time.perf_counter() - since
    if as_json:
        files = {"out": str(out), "files": len(manifest.pop("files")), "made": images, "seconds": round(seconds, 3)}
        print_json({**manifest, **files})
    else:
        found = f", {manifest['n'] - images} of them already there" if images < manifest["n"] else ""
        typer.echo(
            f"{printable(str(out))}: {manifest['n']} images in {manifest['shards']} shards{found}, in {seconds:.1f} s, "
            f"digest {manifest['digest'][:16]}"
        )


def score(
    model: Model,
    *,
    metrics: Annotated[str, what("Some of is,fid,kid,pr,accuracy,class_fid.")] = "is,fid,kid",
    n: Annotated[int, what("Number of images.")] = 1000,
    options: ScoreOptions,
    out: Annotated[
        Path | None, where("The folder of the set, which ddpm-dataset make may have begun. [default: in --cache]")
    ] = None,
    engine: EngineText = None,
    mixed: Mixed = False,
) -> None:
    """Complete a set and its features, shard by shard, and score it as ddpm-eval does."""
    from ddpm_export.sampling.request import request_for
    from ddpm_export.scoring.datasets.readers import open_dataset
    from ddpm_export.scoring.scores import CHUNK, CLASS_METRICS, METRICS
    from ddpm_export.scoring.set_features import Scoring, features_of_set, folder_of_set, scorer, unscored
    from ddpm_export.sets.job import begin, finish
    from ddpm_export.system.files import sha256_of, sole_writer

    wanted = metrics_from_text(metrics, (*METRICS, *CLASS_METRICS))
    chosen, runtime = engine_from_text(engine), options.runtime
    source = options.source
    spec = runtime.opened(model).spec
    reference = source.opened(spec.picture_shape)
    asked = {**options.asked(spec), "n": n}
    request = request_for(spec, **asked)
    with phases() as report:
        judge = open_judge(options, spec.picture_shape, report)
        if out is None:
            out = folder_of_set(judge.cache, model, request, runtime.provider, mixed)
        with sole_writer(out):
            job = begin(model, spec, out, asked, per_shard=CHUNK, mixed=mixed, **vars(runtime))
            scoring = Scoring(job, str(judge.path.resolve()), judge.sha256)
            todo = unscored(scoring)
            done = n - sum(len(job.numbers_of(shard)) for shard in todo)

            def made(shard: int) -> None:
                nonlocal done
                done += len(job.numbers_of(shard))
                report(done, n, "sampling")

            _work(chosen, out, partial(scorer, scoring), todo, made)
            features = features_of_set(scoring, finish(job))
        images = open_dataset("shards", out, image_shape=spec.picture_shape).images
        facts: dict[str, Any] = {"reference": "", "model": spec.name, "model_sha256": sha256_of(model)}
        facts |= {**request.describe(), "n": n, **judge.describe()}
        facts |= judge.scores(wanted, dataset_of(images, request), n, reference, features)
    facts["reference"] = source.describe(reference)
    print_facts(facts, as_json=options.as_json)


def _work(
    engine: "Engine",
    out: Path,
    begin: "Callable[[int], Callable[[int], Any]]",
    todo: "Sequence[int]",
    report: "Callable[[int], None]",
) -> None:
    """Make the shards `todo` in `out`; begin: called with a number of threads, returns what makes one."""
    if engine.is_ray:
        from ddpm_export.sets.on_ray import make_on_ray
        from ddpm_export.system.files import clear_unfinished

        try:
            make_on_ray(begin, todo, workers=engine.workers, address=engine.address, report=report)
        except BaseException:  # an interrupt kills workers while they write
            clear_unfinished(out)
            raise
    elif todo:
        from ddpm_export.system.processor import cores

        make_shard = begin(cores())
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
