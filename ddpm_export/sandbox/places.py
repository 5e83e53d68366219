"""Where a child may write: a folder of its own beside the output, from which the parent takes what was made."""

import os
import re
from contextlib import suppress
from pathlib import Path

from ddpm_export.errors import BadFileError, EnvironmentProblem

PICTURE = re.compile(r"\d{6,}\.(png|npy)")


def place_for(out: Path) -> Path:
    """Return a place in a new folder, beside an output or within an existing folder, that the parent moves to it."""
    try:
        if out.exists() and not (out.is_file() or out.is_dir()):  # a device such as /dev/null would be replaced, too
            raise FileExistsError(None, "something that is not a file")
        within = out if out.is_dir() else out.parent
        within.mkdir(parents=True, exist_ok=True)
        place = folder_in(within, out.stem) / (out.name or "pictures")
        if out.is_dir():
            place.mkdir()
    except OSError as exc:
        raise EnvironmentProblem(f"{out} cannot be written: {exc.strerror or exc}. Choose another `out`.") from exc
    return place


def folder_in(within: Path, stem: str) -> Path:
    """Make a folder of a child's own for this stem, and clear away those of the killed. Raises OSError."""
    import tempfile

    _clear_after_killed(within, stem)
    folder = Path(tempfile.mkdtemp(prefix=f".{stem}.ddpm-", suffix=".part", dir=within))
    share(folder)
    return folder


def share(folder: Path) -> int:
    """Keep a folder from being cleared away while this process lives, or the handle that is returned is open."""
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    with suppress(OSError):  # a file system that locks nothing
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return handle


def _clear_after_killed(within: Path, stem: str) -> None:
    """Remove what parents and children that were killed left of this output: folders that nobody keeps."""
    import fcntl
    import shutil

    for folder in within.iterdir():
        if re.fullmatch(rf"\.{re.escape(stem)}\.ddpm-[a-z0-9_]{{8}}\.part", folder.name):
            try:
                handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            except OSError:
                continue
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            except OSError:  # somebody keeps it, or the file system locks nothing
                pass
            finally:
                os.close(handle)


def take(what: str, place: Path, out: Path) -> None:
    """Move what a child has made to where it belongs: regular files only, and in a folder only pictures."""
    from ddpm_export.system.files import replacing

    made = {place: out}
    if place.is_dir() and not place.is_symlink():
        made = {path: out / path.name for path in sorted(place.iterdir()) if PICTURE.fullmatch(path.name)}
    for path, target in made.items():
        if path.is_symlink() or not path.is_file():
            raise BadFileError(f"{what}: its process ended without a picture. Do not use this file unless you made it.")
        with replacing(target) as beside:
            path.replace(beside)
