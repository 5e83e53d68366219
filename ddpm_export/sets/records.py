"""The JSON of a set: what it is, the record of each shard, and the manifest of a complete set. Knows no format."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddpm_export.errors import BadFileError
from ddpm_export.model.codec import Form, anything, array, choice, integer, mapping, read_json, record, text
from ddpm_export.system.files import read_bounded, replacing

MANIFEST = "manifest.json"  # of a complete set
MAX_BYTES = 2**26
MAX_NUMBER = 2**32
MAX_SHARDS = 2**20
NAMES = ("parquet", "tar", "npy", "png")
REMEDY = "Delete the set and make it again."

SHA256 = text(64, "[0-9a-f]{64}", "64 hexadecimal digits")
MACHINE = mapping(text(200), 16)
ABOUT = {
    "model": text(200),
    "model_sha256": SHA256,
    "settings": mapping(anything, 64),
    "first": integer(0, MAX_NUMBER),
    "n": integer(1, MAX_NUMBER),
    "shards": integer(1, MAX_SHARDS),
    "format": choice(NAMES),
    "image_shape": array(integer(1, 2**16), 1, 4),
}
OPTIONAL = {
    "dtype": choice(("float32",)),  # of numbers that are no pictures
    "classes": array(text(1000), 1, 2**13),
    "labels": array(integer(0, 2**13), 1, 2**20),
}
SET: Form = record({**ABOUT, "machine": MACHINE}, OPTIONAL)
RECORD: Form = record(
    {"shard": integer(0, MAX_SHARDS), "bytes": integer(0, 2**63), "digest": SHA256, "machine": MACHINE}
)
FILE: Form = record(
    {
        "name": text(200, r"[0-9]{5,7}-of-[0-9]{5,7}(\.parquet|\.tar|\.npy)?", "the name of a shard"),
        "first": integer(0, MAX_NUMBER),
        "n": integer(1, MAX_NUMBER),
        "bytes": integer(0, 2**63),
        "digest": SHA256,
    }
)
WHOLE: Form = record(
    {**ABOUT, "digest": SHA256, "machines": array(MACHINE, 1, 2**12), "files": array(FILE, 1, MAX_SHARDS)}, OPTIONAL
)


def read_record(path: Path, form: Form) -> dict[str, Any]:
    """Return a record; raises BadFileError for one that is missing, too large, no plain file or not of this form."""
    values: dict[str, Any] = read_json(read_bounded(path, MAX_BYTES), form, str(path), REMEDY)
    labels, classes = values.get("labels"), values.get("classes")
    if (labels is None) != (classes is None) or (labels and classes and max(labels) >= len(classes)):
        raise BadFileError(f"{path} cannot be used: every label must have a class. {REMEDY}")
    return values


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a complete set; raises BadFileError as `read_record`, and where its files leave gaps."""
    path = folder / MANIFEST
    manifest = read_record(path, WHOLE)
    files, begin = manifest["files"], manifest["first"]
    problem = None
    for file in files:
        if file["first"] != begin:
            problem = problem or f"{file['name']} must begin at {begin}"
        begin += file["n"]
    if begin != manifest["first"] + manifest["n"] or len(files) != manifest["shards"]:
        problem = problem or "its files must hold all of its images"
    if len({file["name"] for file in files}) < len(files):
        problem = problem or "its files must have different names"
    if problem:
        raise BadFileError(f"{path} cannot be used: {problem}. {REMEDY}")
    return manifest


def write_record(path: Path, values: Mapping[str, Any]) -> None:
    """Write a record, whole or not at all."""
    with replacing(path) as beside:
        beside.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
