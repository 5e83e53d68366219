"""Files replaced whole or not at all. The one home of write beside, fsync, replace."""

import contextlib
import errno
import hashlib
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path
from stat import S_IMODE, S_ISREG
from typing import BinaryIO

from ddpm_export.errors import BadFileError, EnvironmentProblem, UsageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def cache_folder() -> Path:
    """Return this user's cache folder, which may not exist yet; raises EnvironmentProblem without a home folder."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ddpm-export"
    except RuntimeError as exc:
        raise EnvironmentProblem("This user has no home folder. Set XDG_CACHE_HOME to a folder.") from exc


def open_plain(path: str | Path) -> BinaryIO:
    """Open a plain file for reading; raises OSError for anything else, such as a pipe, without waiting for it."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if S_ISREG(os.fstat(handle).st_mode):
        return os.fdopen(handle, "rb")
    os.close(handle)
    raise OSError("it is not a file")


def read_bounded(path: Path, most: int) -> bytes:
    """Return the content of a plain file of at most `most` bytes; raises BadFileError for any other file."""
    try:
        with open_plain(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > most:
                raise BadFileError(f"{path} must have at most {most} bytes, got {size}.")
            return file.read(most)
    except OSError as exc:
        raise BadFileError(f"{path} cannot be read: {exc.strerror or exc}.") from exc


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; on success it is synced and renamed, on any error removed.

    The next writer of `path` reuses what a killed process left. Raises EnvironmentProblem where the folder cannot be
    written or the disk is full.
    """
    path = Path(path)
    beside: Path | None = None
    handle: int | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():  # a device such as /dev/null would be replaced, too
            raise FileExistsError(errno.EEXIST, "it is not a file")
        beside, handle = _claimed(path)
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        if S_IMODE(beside.stat().st_mode) != 0o666 & ~umask:  # a confined process may not change modes
            beside.chmod(0o666 & ~umask)
        beside.replace(path)
        beside = None
        with contextlib.suppress(OSError):  # some file systems refuse to sync a folder
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as exc:
        raise EnvironmentProblem(
            f"{path} cannot be written: {exc.strerror or exc}. Free space, or choose another place."
        ) from exc
    finally:
        if beside is not None:
            beside.unlink(missing_ok=True)
        if handle is not None:
            os.close(handle)


def _claimed(path: Path) -> tuple[Path, int | None]:
    """Return an empty file beside `path`, with its suffix, and the handle whose lock keeps other writers away."""
    for number in itertools.count():
        beside = path.with_name(f".{path.stem}.ddpm-{number}.part{path.suffix}")
        try:
            handle, is_new = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
        except FileExistsError:
            if fcntl is None:
                continue
            try:
                handle, is_new = os.open(beside, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK), False
            except OSError:  # a folder, a link, or another user's
                continue
        if fcntl is None:
            os.close(handle)  # Windows renames nothing that is open
            return beside, None
        if _is_kept(handle, beside, is_new):
            os.truncate(handle, 0)
            return beside, handle
        os.close(handle)
    raise AssertionError  # it counts for ever


def clear_unfinished(folder: Path, wait_s: float = 2.0) -> None:
    """Remove what writers in or below a folder that were killed have left, once they have ended; others' files stay."""
    until = time.monotonic() + wait_s
    for beside in folder.rglob(".*.ddpm-*.part*") if fcntl is not None else ():
        with contextlib.suppress(OSError):
            handle = os.open(beside, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                while not (is_kept := _is_kept(handle, beside, False)) and time.monotonic() < until:
                    time.sleep(0.02)
                if is_kept:
                    beside.unlink()
            finally:
                os.close(handle)


def _is_kept(handle: int, beside: Path, is_new: bool) -> bool:
    """Lock a file for this process; return whether it is locked and still has its name."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system that locks nothing
        return is_new
    found = os.fstat(handle)
    try:  # its writer may have renamed it since it was opened
        return S_ISREG(found.st_mode) and os.path.samestat(found, os.stat(beside, follow_symlinks=False))
    except OSError:
        return False


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Lock a folder, made where it is missing, for this process until the block or the process ends.

    Raises UsageError where another process holds it, EnvironmentProblem where it cannot be made. Without locks, as on
    Windows, every process is let in.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY) if fcntl is not None else None
    except OSError as exc:
        raise EnvironmentProblem(f"{folder} cannot be written: {exc.strerror or exc}. Choose another folder.") from exc
    if handle is None:
        yield
        return
    try:
        with contextlib.suppress(OSError):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                raise UsageError(
                    f"{folder} is being written by another process. Wait for it, stop it, or choose another folder."
                ) from exc
        yield
    finally:
        os.close(handle)


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()
