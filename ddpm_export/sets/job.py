"""What a set of pictures is, which of its shards are missing, and how they are made. Knows no engine."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from ddpm_export import __version__
from ddpm_export.errors import BadFileError, EnvironmentProblem, UsageError, shown
from ddpm_export.model.spec import ModelSpec
from ddpm_export.runtimes.opened import DenoiserFile, OneCallFile
from ddpm_export.runtimes.opening import open_file
from ddpm_export.sampling.generate import pictures
from ddpm_export.sampling.request import Request, request_for
from ddpm_export.sets.formats import FORMATS, Content, Pixels, digest_of, hexadecimal, read_shard, size_of
from ddpm_export.sets.records import MANIFEST, RECORD, SET, read_record, write_record
from ddpm_export.system.files import sha256_of
from ddpm_export.system.processor import instructions

KEPT = ".records"  # hidden: readers of data sets look at the other files of a folder
PER_SHARD = 1000

Opened = DenoiserFile | OneCallFile
Report = Callable[[int], None]  # how many more pictures are done


@dataclass(frozen=True)
class Job:
    """How a set is made, in a few kilobytes that are sent to every worker.

    model, out: absolute paths. asked: the arguments of `request_for`. about: what the set is, as in its manifest.
    mixed: whether machines of another kind may take part.
    """

    model: str
    out: str
    asked: Mapping[str, Any]
    about: Mapping[str, Any]
    threads: int | None = None
    trust: bool = False
    mixed: bool = False

    def numbers_of(self, shard: int) -> range:
        """Return the numbers of a shard's pictures: shards are as equal in size as they can be."""
        n, first, shards = (self.about[name] for name in ("n", "first", "shards"))
        return range(first + n * shard // shards, first + n * (shard + 1) // shards)

    def name_of(self, shard: int) -> str:
        """Return the name of a shard's file, or folder."""
        return f"{shard:05d}-of-{self.about['shards']:05d}{FORMATS[self.about['format']].ending}"

    def place_of_record(self, shard: int) -> Path:
        """Return the path of a shard's record, which is written once its file is there."""
        return Path(self.out, KEPT, f"{shard:05d}.json")

    def content_of(self, shard: int) -> Content:
        """Return what goes into a shard."""
        about = self.about
        text = {name: about[name] for name in ("model", "model_sha256")} | about["settings"]
        shape = tuple(about["image_shape"])
        return Content(
            self.numbers_of(shard), shape, text, about.get("classes", ()), about.get("labels", ()), "dtype" not in about
        )


def begin(
    model: Path,
    spec: ModelSpec,
    out: Path,
    asked: Mapping[str, Any],
    *,
    format: str | None = None,  # noqa: A002
    shards: int | None = None,
    per_shard: int = PER_SHARD,
    provider: str = "cpu",
    threads: int | None = None,
    trust: bool = False,
    mixed: bool = False,
) -> Job:
    """Return the job of a set in a folder: a new one, or the same as the one already there.

    asked: the arguments of `request_for`. format: one of FORMATS, npy by default. shards: how many files, by default
    one for each `per_shard` pictures. A set already there keeps its format, shards and seed where none is given. Raises
    UsageError for other values than that set's, for a folder of other things, and, unless mixed, on another kind of
    machine, whose pictures may differ by a level.
    """
    place = out / KEPT / "set.json"
    found = read_record(place, SET) if place.exists() else None
    if found is not None:
        format = found["format"] if format is None else format  # noqa: A001
        shards = found["shards"] if shards is None else shards
        asked = {**asked, "seed": found["settings"]["seed"] if asked.get("seed") is None else asked["seed"]}
    format = "npy" if format is None else format  # noqa: A001
    if format not in FORMATS:
        raise UsageError(f"format must be one of {', '.join(FORMATS)}, got {format!r}.", "format")
    if spec.is_picture and format != "npy" and spec.picture_shape[0] not in (1, 3):
        raise UsageError(
            f"format must be npy for images of {spec.picture_shape[0]} channels, got {format!r}.", "format"
        )
    if not spec.is_picture and format not in ("npy", "parquet"):
        raise UsageError(
            f"format must be npy or parquet for numbers of shape {spec.state_shape}, got {format!r}.", "format"
        )
    request = request_for(spec, **asked)
    shards = -(-request.n // per_shard) if shards is None else shards
    if not 1 <= shards <= request.n:
        raise UsageError(f"shards must be between 1 and {request.n}, the number of images, got {shards}.", "shards")
    about = _about(model, spec, request, format, shards, provider)
    if found is not None:
        _refuse_another(out, found, about, mixed)
    elif out.is_dir() and any(entry.name != KEPT for entry in out.iterdir()):
        raise UsageError(f"out must be an empty folder or a set of pictures, got {str(out)!r}.", "out")
    else:
        write_record(place, about)
    asked = {**asked, "seed": request.seed}
    return Job(str(model.resolve()), str(out.resolve()), asked, found or about, threads, trust, mixed)


def _about(
    model: Path, spec: ModelSpec, request: Request, file_format: str, shards: int, provider: str
) -> dict[str, Any]:
    about: dict[str, Any] = {
        "model": spec.name,
        "model_sha256": sha256_of(model),
        "settings": request.describe(),
        "first": request.first,
        "n": request.n,
        "shards": shards,
        "format": file_format,
        "image_shape": list(spec.result_shape),
        "machine": machine_of(model, provider),
    }
    if not spec.is_picture:
        about["dtype"] = "float32"
    label = request.label
    if label is not None:
        about["classes"] = [label.name_of(value) for value in range(label.num_labels)]
        about["labels"] = request.inputs[label.name].tolist()
    read: dict[str, Any] = json.loads(json.dumps(about))  # as it will be read again
    return read


def machine_of(model: str | Path, provider: str) -> dict[str, str]:
    """Return what the last bit of a picture may depend on other than model and settings."""
    packages = ("torch",) if Path(model).suffix in (".ts", ".pt2") else ("onnxruntime", "onnxruntime-gpu")
    found = (entry for name in packages for entry in metadata.distributions(name=name))
    runtime = next((f"{entry.name} {entry.version}" for entry in found), packages[0])
    return {"version": __version__, "provider": provider, "runtime": runtime, "instructions": instructions()}


def _refuse_another(out: Path, found: dict[str, Any], about: dict[str, Any], mixed: bool) -> None:
    flat, asked = ({**values, **values["settings"]} for values in (found, about))
    for name in dict.fromkeys([*asked, *flat]):
        was, now = flat.get(name), asked.get(name)
        if name not in ("settings", "machine") and was != now:
            raise UsageError(
                f"out {str(out)!r} has a set with {name} {shown(was)}, not {shown(now)}. Choose another folder.",
                name,
                "out",
            )
    if found["machine"] != about["machine"] and not mixed:
        raise UsageError(_other_machine(out, found["machine"], about["machine"]), "mixed", "out")


def _other_machine(out: str | Path, was: dict[str, str], now: dict[str, str]) -> str:
    then, here = (", ".join(f"{name} {side[name]}" for name in was if was[name] != now[name]) for side in (was, now))
    return (
        f"out {str(out)!r} was begun with {then}; with {here}, as here, pictures may differ by a level. Continue with "
        "mixed, or choose another folder."
    )


def opened_for(job: Job) -> tuple[Opened, Request]:
    """Open the model of a job in the process that makes its shards, and return it with the request.

    Raises BadFileError where the model has changed, EnvironmentProblem on another kind of machine.
    """
    if sha256_of(job.model) != job.about["model_sha256"]:
        raise BadFileError(f"{job.model} is not the file that the set was begun with. Restore that file.")
    provider = job.about["machine"]["provider"]
    here = machine_of(job.model, provider)
    if here != job.about["machine"] and not job.mixed:
        raise EnvironmentProblem(_other_machine(job.out, job.about["machine"], here), "mixed", "out")
    opened = open_file(job.model, provider, threads=job.threads, trust=job.trust)
    return opened, request_for(opened.spec, **job.asked)


def missing(job: Job) -> list[int]:
    """Return the shards still to be made: those without a record, or whose file differs from it."""
    return [shard for shard in range(job.about["shards"]) if record_of(job, shard) is None]


def record_of(job: Job, shard: int) -> dict[str, Any] | None:
    """Return the record of a shard: number, size, digest, machine; None where it is missing or its file differs."""
    place = job.place_of_record(shard)
    record = read_record(place, RECORD) if place.exists() else None
    if record is None or record["shard"] != shard or record["bytes"] != size_of(Path(job.out, job.name_of(shard))):
        return None
    return record


def pictures_of(job: Job, record: Mapping[str, Any]) -> Pixels:
    """Return the pictures of a shard by its record, uint8 (N, H, W, C); raises BadFileError where they were changed."""
    shard = record["shard"]
    path = Path(job.out, job.name_of(shard))
    return read_shard(path, job.about["format"], job.content_of(shard), record["bytes"], record["digest"])


def _make(job: Job, opened: Opened, request: Request, shard: int, report: Report = lambda _: None) -> dict[str, Any]:
    """Write a shard, then its record, and return the record."""
    content = job.content_of(shard)
    numbers, path, digest = content.numbers, Path(job.out, job.name_of(shard)), 0
    part = request.part(numbers)
    with FORMATS[job.about["format"]].write(path, content) as add:
        for batch, _, pixels in pictures(opened, part, lambda i: i == part.num_rows):
            if pixels is not None:
                labels = content.labels_of(batch)
                add(batch, pixels, labels)
                digest += digest_of(batch, pixels, labels)
                report(len(batch))
    record: dict[str, Any] = {"shard": shard, "bytes": size_of(path), "digest": hexadecimal(digest)}
    record["machine"] = machine_of(job.model, job.about["machine"]["provider"])
    write_record(job.place_of_record(shard), record)
    return record


def make_here(job: Job, opened: Opened, report: Report = lambda _: None) -> None:
    """Make all missing shards in this process; opened: the job's model. report: called after each batch."""
    request = request_for(opened.spec, **job.asked)
    for shard in missing(job):
        _make(job, opened, request, shard, report)


def maker(job: Job, threads: int) -> Callable[[int], dict[str, Any]]:
    """Open the model, on the job's threads or else these; return a function that makes a shard by its number."""
    return partial(_make, job, *opened_for(replace(job, threads=job.threads or threads)))


def finish(job: Job) -> dict[str, Any]:
    """Write the manifest of a complete set, and return it; raises BadFileError where a shard is missing.

    It has what the set is, its digest, its files with theirs, and the kinds of machines that made it.
    """
    machines: list[dict[str, str]] = []
    files: list[dict[str, Any]] = []
    for shard in range(job.about["shards"]):
        record = record_of(job, shard)
        if record is None:
            raise BadFileError(
                f"{job.out}: shard {shard} was made elsewhere and is missing here. Workers need a folder that all "
                "machines share."
            )
        if record["machine"] not in machines:
            machines.append(record["machine"])
        numbers = job.numbers_of(shard)
        file = {"name": job.name_of(shard), "first": numbers.start, "n": len(numbers), "bytes": record["bytes"]}
        files.append({**file, "digest": record["digest"]})
    digest = hexadecimal(sum(int(file["digest"], 16) for file in files))
    manifest = {**job.about, "digest": digest, "machines": machines, "files": files}
    manifest.pop("machine")
    write_record(Path(job.out, MANIFEST), manifest)
    return manifest
