"""Files replaced whole or not at all. The one home of write beside, fsync, replace."""

import contextlib
import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ddpm_export.errors import EnvironmentProblem, UsageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["cache_folder", "replacing", "sha256_of", "sole_writer"]


def cache_folder() -> Path:
    """Return where this user keeps what can be made or fetched again; it may not be there yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ddpm-export"


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; on success it is synced and takes the name, on any error it is removed.

    Raises EnvironmentProblem where the folder cannot be written or the disk is full.
    """
    path = Path(path)
    beside: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():  # a device such as /dev/null would be replaced, too
            raise FileExistsError(errno.EEXIST, "something that is not a file")
        # the suffix stays last: Pillow and others choose a format by it
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=f".part{path.suffix}", dir=path.parent)
        os.close(handle)
        beside = Path(name)
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
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


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Keep a folder, made where it is missing, for this process until the end, however it ends.

    Raises UsageError where another process keeps it, EnvironmentProblem where it cannot be made. Windows, and file
    systems that lock nothing, let every process in.
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
