"""What a set of pictures is, which of its shards are missing, and how one is made. Knows no engine."""

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
    """Say how a set is made, in a few kilobytes that travel to whoever makes a shard of it.

    model, out: absolute paths, which a worker opens for itself. asked: the arguments of `request_for`. about: what the
    set is, as its manifest says it. mixed: whether machines of another kind may take part.
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
        """Return where the record of a shard lies, which is written once its file is there."""
        return Path(self.out, KEPT, f"{shard:05d}.json")

    def content_of(self, shard: int) -> Content:
        """Return what goes into a shard."""
        about = self.about
        text = {name: about[name] for name in ("model", "model_sha256")} | about["settings"]
        shape = tuple(about["image_shape"])
        return Content(self.numbers_of(shard), shape, text, about.get("classes", ()), about.get("labels", ()))


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
    """Return the job of a set in a folder: a new one, or the one that is there, which must be the same.

    asked: what `request_for` takes. format: one of FORMATS, npy where it is None. shards: how many files, None for
    `per_shard` pictures each. A set that was begun goes on with its own format, shards and seed where none is given.
    Raises UsageError for values that are not those of the set that is there, for a folder of other things, and, unless
    mixed, on another kind of machine: its pictures may differ by a level.
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
    if format != "npy" and spec.picture_shape[0] not in (1, 3):
        raise UsageError(
            f"format must be npy for images of {spec.picture_shape[0]} channels, got {format!r}.", "format"
        )
    request = request_for(spec, **asked)
    shards = -(-request.n // per_shard) if shards is None else shards
    if not 1 <= shards <= request.n:
        raise UsageError(f"--shards must be between 1 and {request.n}, the number of images, got {shards}.")
    about = _about(model, spec, request, format, shards, provider)
    if found is not None:
        _refuse_another(out, found, about, mixed)
    elif out.is_dir() and any(entry.name != KEPT for entry in out.iterdir()):
        raise UsageError(f"{out} is not empty, and holds no set of pictures. Choose another --out.")
    else:
        write_record(place, about)
    asked = {**asked, "seed": request.seed}
    return Job(str(model.resolve()), str(out.resolve()), asked, found or about, threads, trust, mixed)


def _about(
    model: Path,
    spec: ModelSpec,
    request: Request,
    format: str,  # noqa: A002
    shards: int,
    provider: str,
) -> dict[str, Any]:
    about: dict[str, Any] = {
        "model": spec.name,
        "model_sha256": sha256_of(model),
        "settings": request.describe(),
        "first": request.first,
        "n": request.n,
        "shards": shards,
        "format": format,
        "image_shape": list(spec.picture_shape),
        "machine": machine_of(model, provider),
    }
    label = request.label
    if label is not None:
        about["classes"] = [label.name_of(value) for value in range(label.num_labels)]
        about["labels"] = request.inputs[label.name].tolist()
    about = json.loads(json.dumps(about))  # as it will be read again
    return about


def machine_of(model: str | Path, provider: str) -> dict[str, str]:
    """Return what the last bit of a picture may depend on besides model and settings."""
    packages = ("torch",) if Path(model).suffix in (".ts", ".pt2") else ("onnxruntime", "onnxruntime-gpu")
    found = (entry for name in packages for entry in metadata.distributions(name=name))
    runtime = next((f"{entry.name} {entry.version}" for entry in found), packages[0])
    return {"version": __version__, "provider": provider, "runtime": runtime, "instructions": instructions()}


def _refuse_another(out: Path, found: dict[str, Any], about: dict[str, Any], mixed: bool) -> None:
    flat, asked = ({**values, **values["settings"]} for values in (found, about))
    for name in dict.fromkeys([*asked, *flat]):
        was, now = flat.get(name), asked.get(name)
        if name in ("settings", "machine") or was == now:
            continue
        raise UsageError(f"{out} holds a set with {name} {shown(was)}, not {shown(now)}. Choose another --out.")
    if found["machine"] != about["machine"] and not mixed:
        raise UsageError(_other_machine(str(out), found["machine"], about["machine"]))


def _other_machine(what: str, was: dict[str, str], now: dict[str, str]) -> str:
    of = ("; ".join(f"{name} {side[name]}" for name in was if was[name] != now[name]) for side in (was, now))
    return (
        f"{what} was begun with {next(of)}, here it is {next(of)}, where pictures may differ by a level. Go on with "
        "--mixed, or choose another folder."
    )


def opened_for(job: Job) -> tuple[Opened, Request]:
    """Open the model of a job, in the process that makes shards of it, and settle what they follow from.

    Raises BadFileError where another file lies at its place, EnvironmentProblem on another kind of machine.
    """
    if sha256_of(job.model) != job.about["model_sha256"]:
        raise BadFileError(f"{job.model} is not the file that the set was begun with. Put that in its place.")
    provider = job.about["machine"]["provider"]
    here = machine_of(job.model, provider)
    if here != job.about["machine"] and not job.mixed:
        raise EnvironmentProblem(_other_machine(job.out, job.about["machine"], here))
    opened = open_file(job.model, provider, threads=job.threads, trust=job.trust)
    return opened, request_for(opened.spec, **job.asked)


def missing(job: Job) -> list[int]:
    """Return the shards that are still to be made: those without a record, or whose file is not as it says."""
    return [shard for shard in range(job.about["shards"]) if record_of(job, shard) is None]


def record_of(job: Job, shard: int) -> dict[str, Any] | None:
    """Return the record of a shard: number, size, digest, machine. None without one, or where its file is another."""
    place = job.place_of_record(shard)
    if not place.exists():
        return None
    record = read_record(place, RECORD)
    return (
        record if record["shard"] == shard and record["bytes"] == size_of(Path(job.out, job.name_of(shard))) else None
    )


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
    """Make all that is missing in this process, one shard after another; report is told of each batch.

    opened: the job's model, as whoever began the job has opened it.
    """
    request = request_for(opened.spec, **job.asked)
    for shard in missing(job):
        _make(job, opened, request, shard, report)


def maker(job: Job, threads: int) -> Callable[[int], dict[str, Any]]:
    """Open the model, on so many threads unless the job says how many; return what makes a shard by its number."""
    return partial(_make, job, *opened_for(replace(job, threads=job.threads or threads)))


def finish(job: Job) -> dict[str, Any]:
    """Write the manifest of a set of which nothing is missing, and return it; raises BadFileError where something is.

    It says what the set is, the digest of all of it, its files with theirs, and the kinds of machines that made it.
    """
    records = [record_of(job, shard) for shard in range(job.about["shards"])]
    machines: list[dict[str, str]] = []
    files: list[dict[str, Any]] = []
    for shard, record in enumerate(records):
        if record is None:
            raise BadFileError(
                f"{job.out}: shard {shard} was made elsewhere, and is not here. Workers need a folder that all "
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
