"""The features of a set's pictures, in a file for each shard, made by its worker. Knows no engine."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_export.errors import BadFileError
from ddpm_export.images.write import save_array
from ddpm_export.runtimes.onnx import open_extractor
from ddpm_export.sampling.request import Request
from ddpm_export.scoring.scores import Scored, features_of, kept, key_of
from ddpm_export.sets.job import Job, machine_of, maker, pictures_of, record_of
from ddpm_export.system.files import sha256_of

KEPT = ".features"  # hidden, as records are


@dataclass(frozen=True)
class Scoring:
    """Tell a worker how to make and score a shard. extractor: the absolute path of its file."""

    job: Job
    extractor: str
    extractor_sha256: str

    def place_of(self, shard: int, digest: str) -> Path:
        """Return the path of a shard's features, by the digest of its pictures."""
        return Path(self.job.out, KEPT, self.extractor_sha256[:32], f"{shard:05d}-{digest[:16]}.npy")


def folder_of_set(cache: Path, model: Path, request: Request, provider: str, mixed: bool) -> Path:
    """Return the folder in the cache of a scored set, by all that determines its pictures, including the machine."""
    made_by = {"model": sha256_of(model), "machine": machine_of(model, provider), "mixed": mixed}
    return cache / "sets" / key_of({**made_by, **request.describe(), "first": request.first, "n": request.n})


def unscored(scoring: Scoring) -> list[int]:
    """Return the shards without pictures or features."""
    records = (record_of(scoring.job, shard) for shard in range(scoring.job.about["shards"]))
    return [
        shard
        for shard, record in enumerate(records)
        if record is None or not scoring.place_of(shard, record["digest"]).is_file()
    ]


def scorer(scoring: Scoring, threads: int) -> Callable[[int], None]:
    """Open model and extractor; return a function that makes the features of a shard, and the shard if it is missing.

    threads: for both, unless the job has a number. Raises as `opened_for` and `open_extractor`, BadFileError where the
    extractor has changed.
    """
    job, path = scoring.job, Path(scoring.extractor)
    if sha256_of(path) != scoring.extractor_sha256:
        raise BadFileError(f"{path} has changed since scoring began. Restore it.")
    make, provider = maker(job, threads), job.about["machine"]["provider"]
    extract = open_extractor(path, tuple(job.about["image_shape"]), provider, job.threads or threads)

    def score(shard: int) -> None:
        record = record_of(job, shard) or make(shard)
        features, logits = features_of(pictures_of(job, record), extract, "", None, lambda *_: None)
        columns = [("features", np.float32, features.shape[1:]), ("logits", np.float32, logits.shape[1:])]
        rows = np.empty(len(features), columns)
        rows["features"], rows["logits"] = features, logits
        save_array(scoring.place_of(shard, record["digest"]), rows)

    return score


def features_of_set(scoring: Scoring, manifest: Mapping[str, Any]) -> Scored:
    """Return (features (N, D), logits (N, K)) float32 of a complete scored set, in the order of its images.

    manifest: as `finish` returns it. Raises BadFileError where features are damaged.
    """
    files = enumerate(manifest["files"])
    rows = np.concatenate([kept(scoring.place_of(shard, file["digest"]), (file["n"],), None) for shard, file in files])
    return np.ascontiguousarray(rows["features"]), np.ascontiguousarray(rows["logits"])
