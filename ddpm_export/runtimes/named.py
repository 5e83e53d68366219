"""Models by their names: the files that ship, in the package, a clone, a folder of the user's or the cache."""

import hashlib
import os
from pathlib import Path

from ddpm_export import __version__
from ddpm_export.errors import BadFileError, EnvironmentProblem
from ddpm_export.system.download import downloaded
from ddpm_export.system.files import cache_folder, replacing, sha256_of

# the denoiser and its stages, as paths in a clone; a package, a user's folder and the cache have the same ones
NAMED = {
    "fashion-mnist": ("exported/unet.onnx",),
    "fashion-mnist-fast": ("exported/unet.fast.onnx",),
    "emoji": ("emoji/unet.onnx", "emoji/unet.after.onnx", "emoji/unet.encode.onnx"),
}
HOME_VARIABLE = "DDPM_EXPORT_HOME"
SUMS = "SHA256SUMS"
MAX_BYTES = 2**24
TIMEOUT_S = 60.0
PACKAGE = Path(__file__).parents[1]


def model_path(model: str | Path, home: str | None = None) -> Path:
    """Return the file of a named model, such as "emoji", downloaded once if need be, or else the path as it is.

    Its files come from the folder in the environment variable DDPM_EXPORT_HOME, else from the package or its clone,
    else from the clone that is the working folder, else from the user's cache, into which they are downloaded from
    `home`, the repository by default. Each must have the SHA-256 that ships. Raises BadFileError for another,
    EnvironmentProblem where a file cannot be had.
    """
    name, own = os.fspath(model), os.environ.get(HOME_VARIABLE)
    if name not in NAMED:
        return Path(model)
    places, cache = NAMED[name], cache_folder() / __version__
    folder = Path(places[0]).parent
    lines = shipped(f"{folder}/{SUMS}").read_text(encoding="utf-8").splitlines()
    sums = {f"{folder}/{file}": digest for digest, file in map(str.split, lines)}
    for base in (*([Path(own)] if own else []), PACKAGE, PACKAGE.parent, Path(), cache):
        if all((base / place).is_file() for place in places):
            for place in places:
                if (digest := sha256_of(base / place)) != sums[place]:
                    raise _other(base / place, sums[place], digest)
            return base / places[0]
    for place in places:
        _download(name, f"{home or _repository()}/raw/v{__version__}/{place}", cache / place, sums[place], own)
    return cache / places[0]


def shipped(place: str, in_clone: str | None = None) -> Path:
    """Return a file that ships, of the package or else of its clone, where it may have another place.

    Raises EnvironmentProblem where neither has it.
    """
    for path in (PACKAGE / place, PACKAGE.parent / (in_clone or place)):
        if path.is_file():
            return path
    raise EnvironmentProblem(f"{place} is missing from the package. Reinstall ddpm-export.")


def _other(place: object, wanted: str, digest: str) -> BadFileError:
    return BadFileError(f"{place} must have SHA-256 {wanted}, got {digest}. Get the file elsewhere.")


def _download(name: str, url: str, path: Path, wanted: str, own: str | None) -> None:
    """Write what lies at an address to a path, if it is what is wanted; own: the user's folder of such files."""
    if path.is_file() and sha256_of(path) == wanted:
        return
    try:
        content = downloaded(url, MAX_BYTES, TIMEOUT_S)
    except OSError as exc:
        folder = Path(own) / path.parent.name if own else path.parent
        files = ", ".join(Path(place).name for place in NAMED[name])
        raise EnvironmentProblem(
            f"{name} is not on this machine, and {url} cannot be downloaded: {exc}. Go online once, or put "
            f"{files} into {folder}."
        ) from exc
    if (digest := hashlib.sha256(content).hexdigest()) != wanted:
        raise _other(url, wanted, digest)
    with replacing(path) as beside:
        beside.write_bytes(content)


def _repository() -> str:
    """Return the address of the repository, of which pyproject.toml alone knows."""
    from importlib import metadata

    try:
        urls = metadata.metadata("ddpm-export").get_all("Project-URL") or []
    except metadata.PackageNotFoundError:  # sources that nobody installed
        urls = []
    return next((url.partition(", ")[2] for url in urls if url.startswith("Repository, ")), "")
