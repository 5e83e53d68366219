"""`python -m train.ablation`: every schedule with every loss, trained, exported and scored alike (docs/ablation.md).

A cell is a folder: its training's checkpoint lies below --runs, what is kept of it below --out. Whatever is there
already is not done again, so a run that was cut off goes on, cell by cell and within one.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ddpm_export.cli.console import entry_point
from ddpm_export.cli.options import Debug
from ddpm_export.cli.progress import phases, progress
from ddpm_export.errors import BadFileError, DdpmExportError, UsageError, first_line, pair_of
from ddpm_export.exporting.export import export
from ddpm_export.importers.load import load_checkpoint
from ddpm_export.model.spec import ModelSpec
from ddpm_export.process.schedules import SCHEDULES, alphas_cumprod_from_betas, betas_from_name
from ddpm_export.runtimes.onnx import Extractor, open_extractor
from ddpm_export.runtimes.opening import open_model
from ddpm_export.sampling.request import Request, request_for
from ddpm_export.scoring import scores as scoring
from ddpm_export.scoring.datasets.dataset import Dataset
from ddpm_export.scoring.datasets.readers import open_dataset
from ddpm_export.scoring.metrics.bits import bits_per_dimension, strided_times
from ddpm_export.system.files import cache_folder, sha256_of
from ddpm_export.system.processor import cores

from .ablation_page import Cell, Result, draw_chart, draw_samples, markdown
from .config import CHOICES, TrainConfig, load_config
from .pages import copy_file, write_between_marks, write_json

STAGES = ("train", "score", "report")
ROOT = Path(__file__).parents[1]
POLL_S = 1.0
METRICS = ("is", "fid", "kid")
NUM_STEPS, SEED = 50, 0  # of DDIM without noise; the seed of images and of bits, not of the training
BITS_IMAGES, T_STRIDE = 100, 10
SHOWN = 16  # images of a cell on the sheet
KEPT = ("log.jsonl", "samples.png")  # of a training, beside its exported model


def ablate(
    config: Annotated[str, typer.Option(metavar="NAME", help="Of train/configs, or a path.")] = "ablation",
    out: Annotated[Path, typer.Option(help="Exported cells, their logs, samples and scores.")] = Path("ablation"),
    runs: Annotated[Path, typer.Option(help="Checkpoints of the trainings.")] = Path("runs/ablation"),
    page: Annotated[Path, typer.Option(help="The page whose numbers are rewritten.")] = Path("docs/ablation.md"),
    cells: Annotated[str | None, typer.Option(help="Train and score only these, such as linear-l2,cosine-l1.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each cell, with seeds 0, 1, ...")] = 1,
    stages: Annotated[str, typer.Option(help="Some of train,score,report.")] = "train,score,report",
    jobs: Annotated[int, typer.Option(min=1, help="Trainings at a time, which share the cores.")] = 1,
    n: Annotated[int, typer.Option(min=10, help="Images that a score is of.")] = 2000,
    extractor: Annotated[Path, typer.Option(help="See docs/scoring.md.")] = Path("exported/extractor.onnx"),
    data: Annotated[Path | None, typer.Option(help="The data set's files.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Where samples and features are kept.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a config field of every cell.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Train, export and score four schedules with three losses, and write the table.

    A cell that fails is shown as failed, with its reason, and tried again by the next call.

    Exit codes: 0 done, else that of the first cell that failed; 2 usage, 3 bad file, 5 environment, 130 interrupted.
    """
    chosen = _known(stages.split(","), STAGES, "--stages")
    every = [Cell(s, loss, seed) for seed in range(seeds) for s in SCHEDULES for loss in CHOICES["loss"]]
    wanted = None if cells is None else _known(cells.split(","), [cell.name for cell in every], "--cells")
    picked = [cell for cell in every if wanted is None or cell.name in wanted]
    configs = {cell: _config(config, set_ or [], cell) for cell in every}
    if "train" in chosen:
        waiting = [cell for cell in picked if not (out / cell.name / "unet.onnx").exists()]
        arguments = ["--config", config, *_repeated("--set", set_ or [])]
        if data is not None:
            arguments += ["--data", str(data)]
        _train({cell: configs[cell].steps for cell in waiting}, arguments, out, runs, jobs)
    judge = _Judge(configs[every[0]], extractor, data, cache_folder() if cache is None else cache, n)
    if "score" in chosen:
        judge.score_real(out / "real.json")  # first: what is wrong with extractor or data is no cell's failure
        for cell in picked:
            if (out / cell.name / "unet.onnx").exists():
                with _told(out / cell.name, "score"):
                    judge.score(configs[cell], out / cell.name)
    results = {cell: _result(out / cell.name) for cell in every}
    if "report" in chosen:
        folder = page.parent / page.stem
        real = _json(out / "real.json")
        draw_chart(folder / "chart.png", results, real)
        draw_samples(folder / "samples.png", {c: judge.shown(out / c.name) for c in every if c.seed == 0})
        num_steps = _num_steps(configs[every[0]].num_train_timesteps)
        text = markdown(results, real, configs[every[0]], seeds, num_steps, folder.name)
        write_between_marks(page, text)
        print(text)
    failed = [result.failed for cell, result in results.items() if cell in picked and result.failed is not None]
    if failed:
        raise typer.Exit(failed[0]["exit_code"])


def _known(names: list[str], known: Any, option: str) -> list[str]:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(f"{option} must name some of {', '.join(known)}, got {', '.join(unknown)}.")
    return names


def _repeated(option: str, values: list[str]) -> list[str]:
    return [part for value in values for part in (option, value)]


def _assignments(cell: Cell) -> list[str]:
    return [f"schedule={cell.schedule}", f"loss={cell.loss}", f"seed={cell.seed}"]


def _config(name: str, settings: list[str], cell: Cell) -> TrainConfig:
    """Return the cell's configuration: what it cannot be is refused before anything is trained."""
    changes = {}
    for setting in [*settings, *_assignments(cell)]:
        key, value = pair_of("--set", setting)
        changes[key] = value
    return load_config(name, changes)


# --- training ---------------------------------------------------------------------------------------------------------


def _train(steps: dict[Cell, int], arguments: list[str], out: Path, runs: Path, jobs: int) -> None:
    """Train cells, each in a process of its own, and export each as it ends.

    On an interrupt every process is asked to stop, which writes its checkpoint, and is waited for.
    """
    waiting, running = list(steps), {}
    done = dict.fromkeys(steps, 0)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(max(1, cores() // jobs)),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
    }
    with progress(sum(steps.values()), "training") as advance:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    cell = waiting.pop(0)
                    running[cell] = _start(cell, arguments, runs, environment)
                time.sleep(POLL_S)
                for cell, process in list(running.items()):
                    done[cell] = _last_step(runs / cell.name / "log.jsonl")
                    if process.poll() is not None:
                        del running[cell]
                        with _told(out / cell.name, "train"):
                            _refuse_failure(process.returncode, runs / f"{cell.name}.log")
                            _keep(runs / cell.name, out / cell.name)
                advance(", ".join(cell.name for cell in running), sum(done.values()))
        finally:
            for process in running.values():
                process.send_signal(signal.SIGTERM)
            for process in running.values():
                process.wait()


def _start(cell: Cell, arguments: list[str], runs: Path, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    runs.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "train", *arguments, *_repeated("--set", _assignments(cell))]
    with (runs / f"{cell.name}.log").open("wb") as log:
        # in a session of its own: a terminal's Ctrl-C reaches only this process, which then asks each to stop, once
        return subprocess.Popen(
            [*command, "--out", str(runs / cell.name)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )


def _last_step(log: Path) -> int:
    try:
        return int(json.loads(log.read_text(encoding="utf-8").splitlines()[-1])["step"])
    except (OSError, ValueError, KeyError, IndexError):  # none yet, or the line being written
        return 0


class _CellFailed(DdpmExportError):
    """A training ended with another code than 0."""

    def __init__(self, reason: str, exit_code: int) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


def _refuse_failure(code: int, log: Path) -> None:
    if code == 0:
        return
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    inputs = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    raise _CellFailed(inputs[-1] if inputs else f"training ended with code {code}", code if code > 0 else 1)


def _keep(run: Path, folder: Path) -> None:
    """Export a finished training's averaged weights, and keep its log and samples beside them."""
    for name in KEPT:
        if (run / name).exists():
            copy_file(run / name, folder / name)
    export(load_checkpoint(run / "checkpoint.pt"), folder / "unet.onnx")


@contextmanager
def _told(folder: Path, stage: str) -> Iterator[None]:
    """Write why a cell failed to its failed.json, and remove that once a stage has gone well."""
    path = folder / "failed.json"
    try:
        yield
    except DdpmExportError as exc:
        write_json(path, {"stage": stage, "exit_code": exc.exit_code, "reason": str(exc)})
        print(f"{folder.name}: failed: {exc}", file=sys.stderr)
    else:
        path.unlink(missing_ok=True)


# --- scoring ----------------------------------------------------------------------------------------------------------


class _Judge:
    """Score every cell with one extractor, one reference set and one set of noises; opens them when first needed."""

    def __init__(self, config: TrainConfig, extractor: Path, data: Path | None, cache: Path, n: int) -> None:
        self.config, self.extractor, self.data, self.cache, self.n = config, extractor, data, cache, n

    def score(self, config: TrainConfig, folder: Path) -> None:
        """Write a cell's scores.json, unless it is of this model, extractor and these settings already."""
        model, spec = _open_cell(folder, config)
        settings = self._settings(spec, self.n)
        digest = sha256_of(folder / "unet.onnx")
        facts = {"model_sha256": digest, **settings.describe(), **self._facts(), "bits": self._bits_facts()}
        if (_json(folder / "scores.json") or {}).get("of") == facts:
            return
        with phases() as show:

            def report(done: int, total: int, what: str) -> None:
                show(done, total, f"{folder.name}: {what}")

            images = scoring.sampled_images(model, spec, settings, digest, self.cache, report)
            scores = self._scores(images, report)
            test = self._dataset(train=False).images[: self._bits_facts()["images"]]
            bits = bits_per_dimension(
                model,
                spec,
                test,
                times=strided_times(spec.num_train_timesteps, T_STRIDE, seed=SEED),
                seed=SEED,
                variance="fixed_small",
                report=lambda done, total: report(done, total, "bits"),
            )
        write_json(folder / "scores.json", {"of": facts, "scores": {**scores, "bits": scoring.bits_as_json(bits)}})

    def score_real(self, path: Path) -> None:
        """Write the scores of as many test images, which say how near to the training images real ones come."""
        facts = {"samples": f"{self.config.dataset} test", **self._facts()}
        if (_json(path) or {}).get("of") == facts:
            return
        with phases() as report:
            scores = self._scores(self._dataset(train=False).images[: self.n], report)
        write_json(path, {"of": facts, "scores": scores})

    def shown(self, folder: Path) -> Any:
        """Return the first images of a cell, uint8 (16, H, W, C), of the same noise in all cells; None without it."""
        path = folder / "unet.onnx"
        if not path.exists():
            return None
        model, spec = open_model(path)
        settings = self._settings(spec, SHOWN)
        with phases() as report:
            return scoring.sampled_images(model, spec, settings, sha256_of(path), self.cache, report)

    @cached_property
    def _opened(self) -> tuple[Extractor, str]:
        extract = open_extractor(self.extractor, self.config.network.image_shape, "cpu", None)
        return extract, sha256_of(self.extractor)

    def _settings(self, spec: ModelSpec, n: int) -> Request:
        num_steps = _num_steps(spec.num_train_timesteps)
        return request_for(spec, n=n, num_steps=num_steps, sampler="ddim", eta=0.0, seed=SEED, batch=scoring.CHUNK)

    def _facts(self) -> dict[str, Any]:
        return {"n": self.n, "extractor_sha256": self._opened[1], "reference": f"{self.config.dataset} train"}

    def _bits_facts(self) -> dict[str, Any]:
        return {"images": min(self.n, BITS_IMAGES), "t_stride": T_STRIDE, "variance": "fixed_small"}

    def _scores(self, images: Any, report: Callable[[int, int, str], None]) -> dict[str, Any]:
        extract, digest = self._opened
        fake = scoring.features_of(images, extract, digest, self.cache, report)
        reference = np.asarray(self._dataset(train=True).images)
        real = scoring.features_of(reference, extract, digest, self.cache, report)
        return scoring.scores(METRICS, fake, real)

    def _dataset(self, *, train: bool) -> Dataset:
        shape = self.config.network.image_shape
        return open_dataset(self.config.dataset, self.data, image_shape=shape, train=train)


def _num_steps(T: int) -> int:
    return min(NUM_STEPS, T)


def _open_cell(folder: Path, config: TrainConfig) -> tuple[Any, ModelSpec]:
    """Open a cell's model; a file that was put into another cell's folder is refused by its schedule."""
    model, spec = open_model(folder / "unet.onnx")
    betas = betas_from_name(config.schedule, config.num_train_timesteps, **config.schedule_parameters)
    a = alphas_cumprod_from_betas(betas)
    if len(a) != spec.num_train_timesteps or not np.allclose(spec.alphas_cumprod, a, rtol=1e-9):
        raise BadFileError(
            f"{folder / 'unet.onnx'} has another schedule than {config.schedule} of {len(a)} steps. Remove "
            "it, and train the cell again."
        )
    return model, spec


def _result(folder: Path) -> Result:
    kept = _json(folder / "scores.json")
    return Result(None if kept is None else kept["scores"], _json(folder / "failed.json"))


def _json(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError(f"a JSON {type(values).__name__}")
    except ValueError as exc:
        raise BadFileError(f"{path} is damaged: {first_line(exc)}. Delete it.") from exc
    return values


main = entry_point(ablate)

if __name__ == "__main__":
    main()
