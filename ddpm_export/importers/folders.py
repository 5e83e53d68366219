"""Folders as diffusers writes them: JSON beside weights, whole or in shards. Trusts nothing in them; knows no hub."""

import importlib
import json
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from ddpm_export.errors import BadFileError, first_line, not_installed, several, shown
from ddpm_export.importers.apart import TorchFile

MODEL, INDEX, SCHEDULER = "config.json", "model_index.json", "scheduler_config.json"
WEIGHTS = "diffusion_pytorch_model"
CLASSES = ("UNet2DModel", "UNet2DConditionModel", "DiTTransformer2DModel")  # of diffusers, that have an importer
POLICY, PROCESSORS = "model.safetensors", ("policy_preprocessor.json", "policy_postprocessor.json")  # of lerobot
TARGET = "_target_"  # of a configuration of hydra, as diffusion_policy has
NETWORKS = ("unet", "transformer")  # the folders of a pipeline that may hold one
AUTOENCODERS = ("vae", "vqvae")  # the folders of a pipeline that may hold one
ENDINGS = (".safetensors", ".bin")  # the first is preferred
MAX_JSON_BYTES = 2**24  # an index of shards names every tensor


class Folder(NamedTuple):
    """What is in a folder: its name, the weights by name, the JSON objects by file name, the files of the weights.

    autoencoder: the configuration and the weights of the folder `vae` or `vqvae` of a pipeline; None without one.
    """

    name: str
    state: dict[str, Any]
    config: dict[str, Any]
    files: list[Path]
    autoencoder: tuple[dict[str, Any], dict[str, Any]] | None = None


def read_folder(folder: Path) -> Folder:
    """Return a pipeline's UNet, or a lone UNet, and its scheduler's configuration where there is one; or a policy.

    Where a pipeline has no folder `unet`, its parts lie side by side. Raises BadFileError for any other folder, and
    for files that are missing, broken or hostile.
    """
    if (folder / MODEL).is_file() and (folder / POLICY).is_file():
        return _read_policy(folder)
    real = folder.resolve()
    pipeline = real.parent if real.name in NETWORKS and (real.parent / INDEX).is_file() else folder
    config = {INDEX: read_json(pipeline / INDEX)} if (pipeline / INDEX).is_file() else {}
    inner = next((folder / name for name in NETWORKS if (folder / name).is_dir()), None)
    model = inner if config and inner is not None else folder
    if not (model / MODEL).is_file():
        raise BadFileError(
            f"{folder} is not a folder that diffusers wrote: it has no {MODEL}{f' in {model.name}' if config else ''}. "
            f"Name a folder with {INDEX} and unet/{MODEL}, or with {MODEL} beside its weights."
        )
    config[MODEL] = read_json(model / MODEL)
    for place in (pipeline / "scheduler" / SCHEDULER, pipeline / SCHEDULER):
        if place.is_file():
            config[SCHEDULER] = read_json(place)
            break
    state, files = _read_weights(model)
    autoencoder = None
    for name in AUTOENCODERS if pipeline != model else ():
        if (pipeline / name / MODEL).is_file():
            weights, more = _read_weights(pipeline / name)
            autoencoder, files = (read_json(pipeline / name / MODEL), weights), files + more
    return Folder(pipeline.resolve().name, state, config, files, autoencoder)


def pick_weights(names: Collection[str]) -> str | None:
    """Return which of these files of a folder has the weights, or is the index of their shards; None without any.

    Plain weights are preferred to variants such as fp16, safetensors to bin, one file to shards.
    Raises BadFileError, without the path, where there are several variants and no plain ones.
    """
    endings = "|".join(map(re.escape, ENDINGS))
    pattern = re.compile(rf"{WEIGHTS}(?:\.([\w-]+))?({endings})(\.index(?:\.([\w-]+))?\.json)?")
    matches = [match for match in map(pattern.fullmatch, names) if match and "-of-" not in match[0]]
    candidates = [(m[1] or m[4] or "", ENDINGS.index(m[2]), bool(m[3]), m[0]) for m in matches]
    variants = sorted({variant for variant, *_ in candidates})
    if len(variants) > 1 and variants[0]:
        raise BadFileError(f"the weights must be plain {WEIGHTS}{ENDINGS[0]} or one variant, got {several(variants)}.")
    return min(candidates)[-1] if candidates else None


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file. Raises BadFileError for whatever else is there."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_JSON_BYTES + 1)
        values = json.loads(text) if len(text) <= MAX_JSON_BYTES else None
        reason = f"more than {MAX_JSON_BYTES} bytes" if values is None else type(values).__name__
    except (OSError, ValueError, RecursionError) as exc:
        values, reason = None, str(getattr(exc, "strerror", None) or exc)[:200]
    if not isinstance(values, dict):
        raise BadFileError(f"{path} must hold a JSON object, got {reason}.")
    return values


def load_safetensors(path: Path) -> dict[str, Any]:
    """Return the tensors of a .safetensors file, on the CPU.

    Raises BadFileError for a file that is missing or broken, EnvironmentProblem without the package.
    """
    try:
        load_file = importlib.import_module("safetensors.torch").load_file
    except ModuleNotFoundError as exc:
        raise not_installed("safetensors", "export") from exc
    if not os.path.isfile(path):
        raise BadFileError(f"{path} does not exist.")
    try:
        tensors: dict[str, Any] = load_file(path)
    except Exception as exc:  # SafetensorError, OSError and torch's own: one translation for all
        raise BadFileError(f"{path} is damaged: {first_line(exc)}. Copy it again.") from exc
    return tensors


def load_weights(path: Path) -> Any:
    """Return what is in a .safetensors file, or in one of torch.save, which a child reads."""
    if path.suffix == ENDINGS[0]:
        return load_safetensors(path)
    with TorchFile(path) as file:
        return file.contents()


def _read_weights(model: Path) -> tuple[dict[str, Any], list[Path]]:
    """Return the tensors of a model's folder by name, and the files they are from."""
    try:
        name = pick_weights([path.name for path in model.iterdir()])
    except BadFileError as exc:
        raise BadFileError(f"In {model}, {exc}") from exc
    except OSError as exc:
        raise BadFileError(f"{model} cannot be read: {exc.strerror}.") from exc
    if name is None:
        raise BadFileError(
            f"{model} has no weights: neither {WEIGHTS}{ENDINGS[0]} or {ENDINGS[1]} nor an index of shards. Copy the "
            "whole folder."
        )
    if not name.endswith(".json"):
        return _load(model / name), [model / name]
    places = read_json(model / name).get("weight_map")
    if not isinstance(places, dict) or not all(map(_is_plain_name, places.values())):
        raise BadFileError(
            f"{model / name} must have a weight_map from tensors to files beside it, got {shown(places)}."
        )
    state: dict[str, Any] = {}
    files = [model / shard for shard in sorted(set(places.values()))]
    for file in files:
        tensors = _load(file)
        strays = sorted({str(key) for key in tensors} ^ {key for key, shard in places.items() if shard == file.name})
        if strays:
            raise BadFileError(
                f"{file} and its index must name the same tensors, but only one of them has {several(strays, 1)}. Copy "
                "the whole folder."
            )
        state.update(tensors)
    return state, files


def _read_policy(folder: Path) -> Folder:
    """Return a policy as lerobot writes it: its weights, and its processors with their statistics, by file.

    Or one of diffusion_policy, taken out of its checkpoint: its weights, its statistics among them.
    """
    config, files = {MODEL: read_json(folder / MODEL)}, [folder / POLICY]
    state: dict[str, Any] = {POLICY: load_safetensors(folder / POLICY)}
    for name in () if TARGET in config[MODEL] else PROCESSORS:  # one of diffusion_policy has them in its weights
        if not (folder / name).is_file():
            raise BadFileError(
                f"{folder} has no {name}, so the statistics of observations and actions are missing. Save the policy "
                "with lerobot 0.4 or later; of an older one make it with lerobot's migrate_policy_normalization."
            )
        config[name], state[name] = read_json(folder / name), {}
        steps = config[name].get("steps")
        if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
            raise BadFileError(f"{folder / name} must have a list of steps, got {shown(steps)}.")
        for file in (step["state_file"] for step in steps if step.get("state_file") is not None):
            if not _is_plain_name(file):
                raise BadFileError(f"{folder / name} must name files beside it, got {shown(file)}.")
            files.append(folder / file)
            state[name] |= load_safetensors(folder / file)
    return Folder(folder.resolve().name, state, config, files)


def _load(file: Path) -> dict[str, Any]:
    contents = load_weights(file)
    if not isinstance(contents, dict):
        raise BadFileError(f"{file} must hold tensors by name, got {type(contents).__name__}.")
    return contents


def _is_plain_name(name: Any) -> bool:
    """Return whether a name stays in its folder and is a file of weights."""
    return isinstance(name, str) and re.fullmatch(r"[\w-][\w.-]*", name) is not None and name.endswith(ENDINGS)
