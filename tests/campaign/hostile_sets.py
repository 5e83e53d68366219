"""Hostile sets of pictures: files that are no shards, and records and manifests that no reader takes."""

import functools
import gzip
import json
import os
import tempfile
from pathlib import Path

from models import mix_model

from .cases import BAD, REFUSED, Case, evaluate, family, files_of_eval, later
from .hostile_data import folder_of

MAKE = ("dataset", "make", "m.onnx", "--n", "4", "--steps", "2", "--seed", "0", "--format", "tar", "--shards", "2")
SHARD, SET, RECORD = "set/00000-of-00002.tar", "set/.records/set.json", "set/.records/00000.json"
MANIFEST = "set/manifest.json"
GIB = 2**30


@functools.cache
def sound_set():
    """Return the files of a set of four pictures in two shards, by name, its model among them."""
    from ddpm_export.runtimes.opening import open_file
    from ddpm_export.sets.job import begin, finish, make_here

    with tempfile.TemporaryDirectory() as folder:
        model, out = Path(folder, "m.onnx"), Path(folder, "set")
        model.write_bytes(mix_model())
        opened = open_file(model)
        asked = {"n": 4, "num_steps": 2, "seed": 0}
        job = begin(model, opened.spec, out, asked, format="tar", shards=2)
        make_here(job, opened)
        finish(job)
        return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def made(name, files, codes=BAD):
    """Go on with a set."""
    return Case(f"{name}, make", {**sound_set(), **files}, (*MAKE, "--out", "set"), codes)


def scored(name, files, codes=BAD):
    """Score the pictures of a set."""
    arguments = ["set" if word == "s.npy" else word for word in evaluate("data")]
    return Case(f"{name}, eval", {**files_of_eval(), **folder_of(), **sound_set(), **files}, tuple(arguments), codes)


def sparse(size):
    def write(path):
        path.touch()
        os.truncate(path, size)

    return write


def link(target):
    return lambda path: path.symlink_to(target)


PLACES = {
    "a pipe": os.mkfifo,
    "a device": link("/dev/zero"),
    "8 GiB of nothing": sparse(8 * GIB),
    "a folder": lambda path: path.mkdir(),
    "itself": lambda path: path.symlink_to(path.name),
    "no bytes": b"",
}


@family("files that are no shards")
def no_shards(noise):
    places = {**PLACES, "gzip of 4 GiB": later(lambda: gzip.compress(bytes(GIB // 8), 1) * 32), "no tar": b"x" * 10240}
    yield made("a sound set", {}, frozenset({0}))
    yield scored("a sound set", {}, frozenset({0}))
    for name, content in places.items():
        yield scored(name, {SHARD: content}, REFUSED)


@family("records of a set in places that are no files")
def no_records(noise):
    for name, content in PLACES.items():
        codes = {0, 2, 3} if name == "itself" else BAD  # a link to itself counts as missing: the shard is made again
        yield made(f"set.json is {name}", {SET: content}, codes)
        yield made(f"a record is {name}", {RECORD: content}, codes)
        yield scored(f"the manifest is {name}", {MANIFEST: content})


VALUES = ([], {}, -1, 2.5, "", "../x", None, True, 10**30, [[]], {"a": []}, "\x1b[2J", float("nan"))


def changes(values, noise):
    """Yield values of JSON with one of them left out or replaced, at any depth."""
    for key in values:
        yield f"without {key}", {name: value for name, value in values.items() if name != key}
        for value in noise.sample(VALUES, 4):
            if value != values[key]:
                yield f"{key} is {value!r:.20}", {**values, key: value}
        if isinstance(values[key], list) and isinstance(values[key][0], dict):
            for name, entry in changes(values[key][0], noise):
                yield f"in {key}, {name}", {**values, key: [entry, *values[key][1:]]}
            yield f"{key} twice", {**values, key: values[key] * 2}


@family("records of a set that say what cannot be")
def records(noise):
    for place, case in ((SET, made), (RECORD, made), (MANIFEST, scored)):
        values = json.loads(sound_set()[place])
        for text in (b"[]", b"1", b"null", b"{", b"\xff", b"[" * 100_000, b"1" * 100_000):
            yield case(f"{place} is {text[:5]!r}", {place: text})
        for name, changed in changes(values, noise):
            # what a seed or a model are called may be anything, and another set is one of usage
            yield case(f"{place} {name}", {place: json.dumps(changed).encode()}, REFUSED | {0})
