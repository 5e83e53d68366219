"""Models by their name on the hub, into the cache of huggingface_hub, and from there where no network is."""

import importlib
import re
from pathlib import Path
from typing import Any

from ddpm_export.errors import BadFileError, EnvironmentProblem, first_line, several, shown
from ddpm_export.importers.folders import (
    AUTOENCODERS,
    CLASSES,
    INDEX,
    MODEL,
    NETWORKS,
    SCHEDULER,
    pick_weights,
    read_json,
)

NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w.-][\w./-]*)?", re.ASCII)
FILE_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".json", ".zip", ".onnx", ".ts", ".pt2")
PLACES = ("", *(f"{name}/" for name in ("scheduler", *NETWORKS, *AUTOENCODERS)))
CONFIGS = tuple(place + name for place in PLACES for name in (INDEX, MODEL, SCHEDULER))


def is_hub_name(path: str | Path) -> bool:
    """Return whether a path at which nothing lies reads like `owner/name` or `owner/name@revision`.

    A name with a file's ending, or in a folder that exists, is a mistyped path.
    """
    text = path if isinstance(path, str) else path.as_posix()  # ./owner/name is a path, and Path drops its ./
    if NAME.fullmatch(text) is None:
        return False
    return not text.endswith(FILE_SUFFIXES) and not Path(text.split("/")[0]).exists()


def download(path: str | Path) -> tuple[Path, str]:
    """Return the folder of a network or its pipeline in the cache, and its commit.

    Fetches only configurations and the weights to be read, and nothing that is in the cache already. Raises
    BadFileError where the hub has no such model, EnvironmentProblem where neither hub nor cache has it.
    """
    name, _, revision = Path(path).as_posix().partition("@")
    try:
        hub, utils = importlib.import_module("huggingface_hub"), importlib.import_module("huggingface_hub.utils")
    except ModuleNotFoundError as exc:
        raise EnvironmentProblem(
            f"{path} does not exist here, and huggingface_hub, which would look on the hub, is not installed. Check "
            "the path, or run: pip install 'ddpm-export[diffusers]'."
        ) from exc
    was_quiet = utils.are_progress_bars_disabled()
    utils.disable_progress_bars()  # nothing below the command prints
    try:
        folder = _snapshot(hub, path, name, revision or None)
    finally:
        if not was_quiet:
            utils.enable_progress_bars()
    return folder, folder.name


def _snapshot(hub: Any, path: str | Path, name: str, revision: str | None) -> Path:
    try:
        # model_info: to list the tree, huggingface_hub tries five times before it reports that there is no network
        names = [file.rfilename for file in hub.HfApi().model_info(name, revision=revision).siblings or ()]
        folder = Path(hub.snapshot_download(name, revision=revision, allow_patterns=[n for n in names if n in CONFIGS]))
        wanted = _wanted(path, folder, names)
        return Path(hub.snapshot_download(name, revision=revision, allow_patterns=wanted))
    except BadFileError:
        raise
    except (hub.utils.RepositoryNotFoundError, hub.utils.RevisionNotFoundError, hub.utils.HFValidationError) as exc:
        raise BadFileError(
            f"{path} does not exist here, and the hub has no such model: {first_line(exc)}. A name on the hub is "
            "owner/name or owner/name@revision."
        ) from exc
    except Exception as exc:  # no network, HF_HUB_OFFLINE, a hub that is down, a full disk: the cache may have it
        return _cached(hub, path, name, revision, exc)


def _cached(hub: Any, path: str | Path, name: str, revision: str | None, problem: Exception) -> Path:
    try:
        found = hub.snapshot_download(name, revision=revision, local_files_only=True, allow_patterns=list(CONFIGS))
        folder = Path(found)
        _wanted(path, folder, [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()])
    except Exception as exc:  # not in the cache, or not all of it
        raise EnvironmentProblem(
            f"{path} does not exist here, and the hub does not answer: {first_line(problem)}. Check the path, or go "
            "online once."
        ) from exc
    return folder


def _wanted(path: str | Path, folder: Path, names: list[str]) -> list[str]:
    """Return which of a model's files are needed, by its configurations, which are in the folder already."""
    place = next((f"{name}/" for name in NETWORKS if f"{name}/{MODEL}" in names), "")
    config = read_json(folder / place / MODEL) if f"{place}{MODEL}" in names else {}
    kind = config.get("_class_name")
    if kind not in CLASSES or any(name.startswith("text_encoder") for name in names):
        # refused before gigabytes of another model arrive
        raise BadFileError(
            f"{path} must be a {several(CLASSES)} that is told no text, but {place}{MODEL} says {shown(kind)}."
        )
    wanted = [name for name in names if name in CONFIGS] + _weights(path, place, names)
    for name in AUTOENCODERS:
        wanted += _weights(path, f"{name}/", names) if f"{name}/{MODEL}" in names else []
    return wanted


def _weights(path: str | Path, place: str, names: list[str]) -> list[str]:
    """Return the files of the weights in a folder of a model, of all its files by name."""
    try:
        weights = pick_weights([n.removeprefix(place) for n in names if n.startswith(place)])
    except BadFileError as exc:
        raise BadFileError(f"In {path}, {exc}") from exc
    if weights is None:
        raise BadFileError(f"{path} has no weights on the hub, only {several(names)}.")
    ending = ".safetensors" if ".safetensors" in weights else ".bin"
    shards = [n for n in names if n.startswith(place) and "-of-" in n and n.endswith(ending)]
    return [place + weights] + (shards if weights.endswith(".json") else [])
