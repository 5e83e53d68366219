"""Archives of torch, checked before anything reads them: one meaning, sound checksums, no bombs. Imports no torch."""

import os
import pickle
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ddpm_export.errors import BadFileError, first_line, several, shown

MAX_CODE_BYTES = 2**26
END_BYTES = 22  # of an archive's last record, where no comment follows it


def check_archive(path: str | Path, archive: zipfile.ZipFile) -> None:
    """Raise BadFileError for an archive that unpacks to far more than it is long, or with a wrong checksum.

    torch compresses nothing but code, and no two entries share their bytes. Also for one that two readers may read
    otherwise: of equal names zipfile takes the last entry and torch the first, whatever their case, and torch looks
    only into the folder of the first entry.
    """
    entries = archive.infolist()
    size = sum(entry.file_size for entry in entries)
    if size > os.path.getsize(path) + MAX_CODE_BYTES:
        raise BadFileError(f"{path} would unpack to {size} bytes, far more than its own size. Do not use this file.")
    names = Counter(entry.filename.casefold() for entry in entries)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise ambiguous(path, f"its archive has {shown(twice[0])} more than once, whatever the case of its letters")
    folders = sorted({name.partition("/")[0] for name in names})
    parts = {part for name in names for part in name.split("/")}
    if len(folders) != 1 or parts & {"", ".", ".."} or not all("/" in name and "\\" not in name for name in names):
        raise ambiguous(path, f"its archive must have plain names in one folder, got {several(map(shown, names), 2)}")
    with open(path, "rb") as file:
        file.seek(-END_BYTES, os.SEEK_END)
        is_at_end = file.read(4) == b"PK\x05\x06"
    if archive.comment or not is_at_end or min(entry.header_offset for entry in entries) > 0:
        raise ambiguous(path, "something lies before or behind its archive")
    broken = archive.testzip()
    if broken is not None:
        raise BadFileError(f"{path}: damaged: the checksum of {broken!r} is wrong. Copy the file again.")


def begins_as_archive(path: str | Path) -> bool:
    """Return whether a file is an archive from its first byte, as torch looks for it.

    Raises BadFileError where it only ends as one, as zipfile looks for it: each would read something else.
    """
    with open(path, "rb") as file:
        begins = file.read(4) == b"PK\x03\x04"
    if zipfile.is_zipfile(path) and not begins:
        raise ambiguous(path, "something lies before its archive")
    return begins


def ambiguous(path: str | Path, how: str) -> BadFileError:
    """Return the error for a file that two readers would read as two."""
    return BadFileError(f"{path} is ambiguous: {how}. Do not use this file unless you made it; then save it again.")


def refused_by_torch(path: str | Path, exc: Exception, unsafe: Sequence[str] = ()) -> BadFileError:
    """Return the one error for whatever torch met in a file, in our words: torch's own advise to load it unsafely.

    unsafe: the names of functions and classes that its pickle asks for and torch does not allow.
    """
    if unsafe:
        return BadFileError(
            f"{path} holds more than tensors and plain values: its pickle asks for {several(map(shown, unsafe), 3)}. "
            "Do not use this file unless you made it; then save its state dict alone with torch.save."
        )
    reasons = {
        pickle.UnpicklingError: "its pickle is damaged, or asks for more than tensors and plain values",
        EOFError: "it ends too early",
        MemoryError: "it needs more memory than there is",
        RecursionError: "it nests without end",
    }
    reason = next((text for kind, text in reasons.items() if isinstance(exc, kind)), "its contents do not fit together")
    return BadFileError(
        f"{path} cannot be loaded by torch, which ends with {type(exc).__name__}: {reason}. Copy it again, or save its "
        "state dict alone."
    )


def broken_file(path: Path, exc: Exception) -> BadFileError:
    """Return the one error for whatever zipfile met in a file."""
    return BadFileError(f"{path} is damaged: {first_line(exc)}. Export or copy it again.")
