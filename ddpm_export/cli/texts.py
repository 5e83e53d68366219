"""The values of compact options: numbers, a sampler with its knobs, guidance, limits, inputs. Knows no command."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ddpm_export.errors import BadFileError, UsageError, first_line, pair_of, shown

if TYPE_CHECKING:
    from ddpm_export.model.guidance import Guidance
    from ddpm_export.model.spec import ModelSpec

KNOBS = {"grid": str, "eta": float, "variance": str, "order": int}
ENGINES = ("process", "ray")
LIMITS = re.compile(r"(?P<timeout>\d+(\.\d+)?)s(,(?P<memory>\d+(\.\d+)?)GiB)?|(?P<only_memory>\d+(\.\d+)?)GiB")


class Limits(NamedTuple):
    """How long a process may run, and how much memory it may use."""

    timeout_s: float
    memory_gib: float


class Engine(NamedTuple):
    """What makes a set of images: this process, or workers of Ray."""

    is_ray: bool = False
    workers: int | None = None
    address: str | None = None


def numbers_from_text(option: str, text: str | None) -> list[int] | None:
    """Return the integers of an option such as 980,960,0; raises UsageError for anything else."""
    try:
        return None if text is None else [int(item) for item in text.split(",")]
    except ValueError as exc:
        raise UsageError(
            f"{option} must be integers separated by commas, such as 980,960,0, got {shown(text)}."
        ) from exc


def steps_from_text(text: str | None) -> dict[str, Any]:
    """Return num_steps or times: 50 is a number of steps; 980,960,0 and 980, (with its comma) are times."""
    if text is None:
        return {}
    try:
        numbers = [int(item) for item in text.removesuffix(",").split(",")]
    except ValueError as exc:
        raise UsageError(
            f"--steps must be a number such as 50, or times such as 980,960,0, got {shown(text)}."
        ) from exc
    return {"times": numbers} if "," in text else {"num_steps": numbers[0]}


def sampler_from_text(text: str | None) -> dict[str, Any]:
    """Return a sampler and its knobs from text such as ddim:eta=1 or unipc:order=2,grid=karras."""
    if text is None:
        return {}
    name, settings = _named("--sampler", text, KNOBS, "ddim:eta=1 or unipc:order=2,grid=karras")
    chosen: dict[str, Any] = {"sampler": name}
    for key, value in settings.items():
        try:
            chosen[key] = KNOBS[key](value)
        except ValueError as exc:
            raise UsageError(f"{key} of --sampler must be a number, got {shown(value)}.") from exc
    return chosen


def engine_from_text(text: str | None) -> Engine:
    """Return the engine that text such as process or ray:workers=4,address=auto names."""
    if text is None:
        return Engine()
    name, settings = _named("--engine", text, ("workers", "address"), "process or ray:workers=4")
    if name not in ENGINES or (name == "process" and settings):
        raise UsageError(f"--engine must be process or ray, such as ray:workers=4, got {shown(text)}.")
    workers = settings.get("workers", "1")
    if not workers.isascii() or not workers.isdigit() or int(workers) < 1:
        raise UsageError(f"workers of --engine must be a number of at least 1, got {shown(workers)}.")
    return Engine(name == "ray", int(workers) if "workers" in settings else None, settings.get("address"))


def _named(option: str, text: str, known: Sequence[str] | dict[str, Any], example: str) -> tuple[str, dict[str, str]]:
    """Return the name and the settings of NAME:KEY=VALUE,KEY=VALUE."""
    name, colon, rest = text.partition(":")
    settings: dict[str, str] = {}
    for setting in rest.split(",") if colon else ():
        key, _, value = setting.partition("=")
        if not name or not value or key not in known or key in settings:
            raise UsageError(
                f"{option} must be a name, optionally with {', '.join(known)} after a colon, such as {example}, got "
                f"{shown(text)}."
            )
        settings[key] = value
    return name, settings


def guidance_from_text(spec: "ModelSpec", text: str | None) -> "Guidance | float | None":
    """Return the guidance of text such as 2, 2@300-700, or @300-700 for the model's own scale."""
    if text is None:
        return None
    scale, at, interval = text.partition("@")
    try:
        number = float(scale) if scale or not at else None
        if not at:
            return number
        low, high = map(float, interval.split("-"))
    except ValueError as exc:
        raise UsageError(
            f"--guidance must be a scale such as 2, or 2@300-700 at some times, got {shown(text)}."
        ) from exc
    from ddpm_export.model.guidance import Guidance

    if number is None:
        if spec.defaults.guidance is None:
            raise UsageError(f"--guidance {text} needs a scale, such as 2{text}: the model has no default.")
        number = spec.defaults.guidance.scale
    return Guidance(number, (low, high))


def limits_from_text(text: str, usual: Limits) -> Limits:
    """Return the limits of text such as 600s,16GiB; either may be left out."""
    found = LIMITS.fullmatch(text)
    if found is None:
        raise UsageError(f"--untrusted takes limits such as 600s,16GiB, got {shown(text)}.")
    memory = found["memory"] or found["only_memory"]
    return Limits(
        usual.timeout_s if found["timeout"] is None else float(found["timeout"]),
        usual.memory_gib if memory is None else float(memory),
    )


def labels_from_text(spec: "ModelSpec", text: str | None) -> str | list[str] | None:
    """Return the labels of text: a class, whose name may have commas, or several separated by commas."""
    if text is None or (spec.label is not None and text in spec.label.classes):
        return text
    return [item.strip() for item in text.split(",")]


def inputs_from_settings(spec: "ModelSpec", settings: Sequence[str]) -> dict[str, Any]:
    """Return inputs by name from NAME=VALUE: numbers, a .npy's array, or a picture as (C, H, W) in [-1, 1].

    Raises UsageError for any other text, BadFileError for a file that cannot be read.
    """
    import numpy as np

    from ddpm_export.images.read import read_array, read_image
    from ddpm_export.process.pixels import from_uint8

    known = {entry.name: entry for entry in spec.asked_inputs}
    inputs: dict[str, Any] = {}
    for setting in settings:
        name, text = pair_of("--input", setting)
        entry = known.get(name)
        if Path(text).suffix.lower() == ".npy":
            inputs[name] = read_array(Path(text))
        elif entry is not None and entry.kind == "image":
            if entry.shape[0] not in (1, 3):
                raise UsageError(
                    f"--input {name} has {entry.shape[0]} channels and must be an .npy, got {shown(text)}."
                )
            inputs[name] = from_uint8(read_image(text, entry.shape[0])[None])[0]
        elif entry is not None and entry.kind == "label":
            inputs[name] = labels_from_text(spec, text)
        else:
            try:
                numbers = np.array([float(item) for item in text.split(",")])
            except ValueError as exc:
                raise UsageError(f"--input {name} must be numbers or an .npy, got {shown(text)}.") from exc
            size = 1 if entry is None else entry.shape[0]
            inputs[name] = numbers.reshape(-1, size) if len(numbers) % size == 0 else numbers
    return inputs


def options_from_settings(config: Path | None, settings: Sequence[str]) -> dict[str, Any]:
    """Return the object of a JSON file, changed by KEY=VALUE settings; a dot in a key goes one level down.

    Values are JSON, or else text. Raises BadFileError for a file without an object, UsageError for other settings.
    """
    options: Any = {}
    if config is not None:
        try:
            options = json.loads(config.read_text(encoding="utf-8"))
            if not isinstance(options, dict):
                raise ValueError(f"a JSON {type(options).__name__}")
        except (OSError, ValueError, RecursionError) as exc:
            raise BadFileError(f"{config} must contain a JSON object: {first_line(exc)}.") from exc
    for setting in settings:
        key, text = pair_of("--set", setting)
        *parents, leaf = key.split(".")
        place = options
        for parent in parents:
            place = place.setdefault(parent, {}) if isinstance(place, dict) else None
        if not leaf or not isinstance(place, dict):
            raise UsageError(f"--set must be given as KEY=VALUE, got {shown(setting)}.")
        try:
            place[leaf] = json.loads(text)
        except (ValueError, RecursionError):
            place[leaf] = text  # a bare word
    found: dict[str, Any] = options
    return found
