"""Where an ONNX file keeps its weights, and its metadata: read from the protobuf, before any runtime opens the file.

ONNX Runtime below 1.24 follows a location out of the model's folder, so a hostile file could read any other, and takes
the location `*/_ORT_MEM_ADDR_/*` to mean that the offset is an address in memory.
"""

import hashlib
import json
import mmap
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from ddpm_export.errors import BadFileError, several, shown
from ddpm_export.model.codec import METADATA_KEY

WEIGHTS_SHA256 = "weights_sha256"  # the key beside the spec's; readers that only sample pass over it

# onnx.proto: the fields of a message that lead to tensors, by number, and what message each is
LEADS = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
}
# what protobuf merges where it comes twice, so that the entries of two tensors would be read as those of a third
ONCE = {
    ("Model", 7),
    ("Training", 1),
    ("Training", 2),
    ("Attribute", 5),
    ("Attribute", 6),
    ("Sparse", 1),
    ("Sparse", 2),
}
# operators whose patterns RE2 writes to the terminal as they are where they do not parse: no network matches text
PATTERNS = (b"RegexFullMatch", b"Tokenizer")
OP_TYPE = ("Node", 4)
MAX_DEPTH = 64
# onnx.proto's; ONNX Runtime also knows prepacked_*, bytes that its kernels trust
KEYS = {b"location", b"offset", b"length", b"checksum"}
# what no file name has on every system: separators, drives, streams, URLs, bytes that are
# no UTF-8, and the tags of ONNX Runtime for memory
UNSAFE = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|\ud800-\udfff]')
METADATA_PROPS = 14  # of Model


class _MatchesText(Exception):
    """A node matches text by a pattern; its operator is the argument."""


def check_external_data(path: Path) -> list[Path]:
    """Return the files that hold weights, sorted by their names as the model says them.

    Raises BadFileError if one lies outside the model's folder, is no regular file or ends before its weights do, if a
    tensor does not say exactly once where its weights are, if a node matches text by a pattern, or if the file is no
    protobuf.
    """
    folder = path.parent.resolve()
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
            tensors = set(_external_tensors(raw, 0, len(raw), "Model", 0))
    except _MatchesText as exc:
        raise BadFileError(
            f"{path}: its operator {exc} matches text, which no image model needs. Do not use this file unless you "
            "made it."
        ) from exc
    except (OSError, ValueError, IndexError) as exc:  # an empty file cannot be mapped
        raise _no_protobuf(path, exc) from exc
    sizes: dict[str, int | None] = {}
    for entries in sorted(tensors):
        place = dict(entries)
        if len(place) < len(entries) or not {b"location"} <= place.keys() <= KEYS:
            keys = several(_text(key) for key, _ in entries)
            raise _unsafe(path, f"do not say plainly where they are: one tensor has the entries {keys}")
        location = place[b"location"].decode("utf-8", "surrogateescape")
        if location not in sizes:
            sizes[location] = _size_within(path, folder, location)
        size = sizes[location]
        begin, length = (place.get(key, b"0") for key in (b"offset", b"length"))
        if not all(number.isdigit() and len(number) < 20 for number in (begin, length)):
            raise _unsafe(path, f"have length {_text(length)} and offset {_text(begin)}, which must be integers from 0")
        if size is not None and int(begin) + int(length) > size:
            raise BadFileError(
                f"{path}: its weights go beyond the end of {shown(location)}, to byte {int(begin) + int(length)} of "
                f"{size}. Copy all of its files again."
            )
    return [folder / location for location in sorted(sizes)]


def _size_within(path: Path, folder: Path, location: str) -> int | None:
    """Return how long the file at a location is, None where there is none; a runtime says so when it opens it."""
    target = folder / location
    parts = location.split("/")
    try:
        is_plain = bool(parts[0]) and ".." not in parts and UNSAFE.search(location) is None
        # Windows drops dots and spaces at the end of a name
        is_plain = is_plain and all(part == "." or part == part.rstrip(". ") for part in parts)
        inside = is_plain and target.resolve().is_relative_to(folder)
        is_there, is_file = target.exists(), target.is_file()
    except (OSError, RuntimeError, ValueError):  # links in a circle, or a name that no system has
        inside = is_there = is_file = False
    if not inside:
        raise _unsafe(path, f"lie outside the model's folder, in {shown(location, 200)}")
    if is_there and not is_file:  # a pipe would have us wait for ever
        raise _unsafe(path, f"lie in {shown(location)}, which is not a file")
    return target.stat().st_size if is_file else None


def _text(value: bytes) -> str:
    return shown(value.decode("ascii", "replace"), 30)


def _unsafe(path: Path, problem: str) -> BadFileError:
    return BadFileError(f"{path}: its weights {problem}. Do not use this file unless you made it.")


def check_weights(path: Path) -> str | None:
    """Return the SHA-256 that a file of ours promises of its graph and weights, None where it promises none.

    Raises BadFileError where they have another, as after a flipped bit or an edit, and as `check_external_data`.
    """
    try:
        values = json.loads(metadata_of(path).get(METADATA_KEY, ""))
    except (ValueError, RecursionError):  # whoever reads the spec says so
        return None
    promised = values.get(WEIGHTS_SHA256) if isinstance(values, dict) else None
    if promised is None:
        return None
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
            found = digest_of_weights(raw, check_external_data(path))
    except OSError as exc:
        raise BadFileError(f"{path}: its weights cannot be read: {exc.strerror}. Copy all of its files.") from exc
    if found != promised:
        raise BadFileError(
            f"{path}: its graph or weights are not those that were exported: SHA-256 {found}, not {shown(promised)}. "
            "Copy or export it again."
        )
    return found


def digest_of_weights(raw: "mmap.mmap | bytes", files: Iterable[Path]) -> str:
    """Return the SHA-256 of a model's bytes without its metadata_props, followed by those of files of weights.

    What is left out are the fields 14 of the model itself, tags and lengths with them (docs/format.md, section 1).
    Raises ValueError or IndexError for bytes that are no protobuf, OSError for a file that cannot be read.
    """
    digest, since = hashlib.sha256(), 0
    for number, start, _, end in _fields(raw, 0, len(raw)):
        if number == METADATA_PROPS:
            digest.update(raw[since:start])
            since = end
    digest.update(raw[since:])
    for path in files:
        with path.open("rb") as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
    return digest.hexdigest()


def metadata_of(path: Path) -> dict[str, str]:
    """Return the metadata of an ONNX file; raises BadFileError if it is no protobuf, or its metadata no text."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
            entries = [(a, b) for number, _, a, b in _fields(raw, 0, len(raw)) if number == METADATA_PROPS]
            pairs = [{number: raw[a:b].decode() for number, _, a, b in _fields(raw, *entry)} for entry in entries]
    except (OSError, ValueError, IndexError) as exc:
        raise _no_protobuf(path, exc) from exc
    return {pair.get(1, ""): pair.get(2, "") for pair in pairs}


def _no_protobuf(path: Path, exc: Exception) -> BadFileError:
    if isinstance(exc, OSError):
        return BadFileError(f"{path}: it cannot be read: {exc.strerror}.")
    return BadFileError(f"{path}: not an ONNX file: {str(exc)!r}. Export or copy it again.")


def _external_tensors(
    raw: mmap.mmap, start: int, end: int, message: str, depth: int
) -> Iterator[tuple[tuple[bytes, bytes], ...]]:
    """Yield the entries (key, value) of every tensor whose numbers are said to lie elsewhere."""
    if depth > MAX_DEPTH:
        raise ValueError("graphs nested too deep")
    entries, seen = [], set()
    for field, _, begin, stop in _fields(raw, start, end):
        lead = LEADS[message].get(field)
        if (message, field) in ONCE and field in seen:
            raise ValueError("a field twice that has one value")
        seen.add(field)
        if (message, field) == OP_TYPE and raw[begin:stop] in PATTERNS:
            raise _MatchesText(raw[begin:stop].decode())
        if lead == "Entry":
            pairs = [(number, raw[a:b]) for number, _, a, b in _fields(raw, begin, stop) if number in (1, 2)]
            if len(pairs) > len(dict(pairs)):
                raise ValueError("a field twice that has one value")
            entries.append((dict(pairs).get(1, b""), dict(pairs).get(2, b"")))
        elif lead is not None:
            yield from _external_tensors(raw, begin, stop, lead, depth + 1)
    if entries:
        yield tuple(entries)


def _fields(raw: "mmap.mmap | bytes", at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (number, start, begin, end) of the length-delimited fields of a message, whose content begins at `begin`.

    The others lead nowhere.
    """
    while at < end:
        start = at
        tag, at = _varint(raw, at)
        wire = tag & 7
        if not 8 <= tag < 2**32:  # protobuf cuts a tag to 32 bits, and would see another field than is seen here
            raise ValueError("a field number out of range")
        if wire == 0:
            _, at = _varint(raw, at)
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        elif wire == 2:
            size, at = _varint(raw, at)
            if at + size > end:
                raise ValueError("a field ends beyond its message")
            yield tag >> 3, start, at, at + size
            at += size
        else:
            raise ValueError(f"wire type {wire}")
    if at != end:
        raise ValueError("a field ends beyond its message")


def _varint(raw: "mmap.mmap | bytes", at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than 10 bytes")
