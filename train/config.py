"""Training configurations: small JSON files beside this one, every field of which `--set` can change."""

import dataclasses
import json
import os
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from ddpm_export.errors import BadFileError, ConfigError, first_line, several, shown
from ddpm_export.importers.checkpoint import load_own_checkpoint
from ddpm_export.importers.unet import UNetConfig
from ddpm_export.process.schedules import betas_from_name

from .losses import TIMES

MAX_COUNT = 2**53
CONFIG_FOLDER = Path(__file__).parent / "configs"
CHOICES = {
    "loss": ("l1", "l2", "huber"),
    "prediction": ("eps", "x_0", "v"),
    "variance": ("fixed_small", "fixed_large"),
    "times": tuple(TIMES),
}

AUTOGUIDANCE = ("scale", "until", "gone")


@dataclass(frozen=True)
class TrainConfig:
    """Hold everything a training follows from, besides the data.

    Lengths are in optimiser steps, `ema_halflife_images` in images. The learning rate rises over `warmup_steps`, stays
    until `constant_steps` and then falls as 1/sqrt(step) (Karras et al. 2024, eq. 67), so that no end need be known;
    where one is, it falls to zero in a line over the last `cooldown_steps` of `steps` (Hägele et al. 2024).
    `label_dropout` is the share of images trained as of no class (Ho and Salimans 2022, algorithm 1); without
    `network.num_classes` there are no labels to drop.
    `teacher` and `weaker` are SHA-256 of checkpoints that are learned from in place of data, and `autoguidance` says
    how far beyond the teacher: by `scale` from the time `since`, where that is said up to it in a line from not at all
    at 0, to the time `until`, from there in a line to not at all at `gone`. `autoencoder` is the SHA-256 of the
    checkpoint of `train.autoencoder` whose latents are trained on, network.image_shape their shape.
    """

    name: str = "unnamed"
    dataset: str = "fashion-mnist"
    network: UNetConfig = field(default_factory=UNetConfig)
    schedule: str = "linear"
    schedule_parameters: dict[str, float] = field(default_factory=dict)
    num_train_timesteps: int = 1000
    prediction: str = "eps"
    loss: str = "l2"
    times: str = "uniform"
    times_parameters: dict[str, float] = field(default_factory=dict)
    teacher: str = ""
    weaker: str = ""
    autoencoder: str = ""
    autoguidance: dict[str, float] = field(default_factory=dict)
    variance: str = "fixed_small"
    label_dropout: float = 0.1
    horizontal_flips: bool = False
    batch_size: int = 128
    steps: int = 10_000
    learning_rate: float = 1e-3
    warmup_steps: int = 500
    constant_steps: int = 10_000
    cooldown_steps: int = 0
    gradient_norm_max: float = 1.0
    ema_halflife_images: float = 100_000.0
    ema_rampup_ratio: float = 0.1
    bf16: bool = True
    channels_last: bool = True
    compile: bool = False
    seed: int = 0
    log_every: int = 50
    checkpoint_every: int = 500
    picture_every: int = 1000

    # What may differ when a training goes on: how long and how fast, never what the weights mean.
    RESUMABLE = (
        "steps", "times", "times_parameters", "learning_rate", "warmup_steps", "constant_steps", "cooldown_steps",
        "gradient_norm_max", "ema_halflife_images", "ema_rampup_ratio", "bf16", "channels_last", "compile", "log_every",
        "checkpoint_every", "picture_every",
    )  # fmt: skip

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}.")
        at_least_1 = ("steps", "batch_size", "log_every", "checkpoint_every", "constant_steps")
        check_at_least_1(self, at_least_1)
        for name in ("seed", "warmup_steps", "cooldown_steps", "picture_every"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be at least 0, got {shown(getattr(self, name))}.")
        for name in (*at_least_1, "warmup_steps", "cooldown_steps"):
            if getattr(self, name) > MAX_COUNT:  # floats are computed from them
                raise ConfigError(f"{name} must be at most 2^53, got {shown(getattr(self, name))}.")
        if self.seed >= 2**63:
            raise ConfigError(f"seed must be below 2^63, got {shown(self.seed)}.")
        for name in ("learning_rate", "gradient_norm_max", "ema_halflife_images", "ema_rampup_ratio"):
            if not 0 < getattr(self, name) <= 1e37:  # beyond it a step of Adam leaves float32
                raise ConfigError(f"{name} must be a positive number up to 1e37, got {getattr(self, name)}.")
        if not 0.0 <= self.label_dropout < 1.0:
            raise ConfigError(f"label_dropout must be at least 0 and below 1, got {self.label_dropout}.")
        unknown = sorted(set(self.times_parameters) - set(TIMES[self.times]))
        if unknown:
            known = several(TIMES[self.times], 5) or "none"
            raise ConfigError(f"times_parameters of {self.times} must be {known}, got {shown(unknown[0])}.")
        if not all(abs(value) <= 20 for value in self.times_parameters.values()):
            raise ConfigError(f"times_parameters must be between -20 and 20, got {shown(self.times_parameters)}.")
        if not self.times_parameters.get("std", 1.0) >= 0.1:
            raise ConfigError(f"times_parameters.std must be at least 0.1, got {self.times_parameters['std']}.")
        options = self.autoguidance
        if options and set(options) - {"since"} != set(AUTOGUIDANCE):
            raise ConfigError(
                f"autoguidance must have {', '.join(AUTOGUIDANCE)} and may have since, got {several(sorted(options))}."
            )
        if options and not (
            0 <= options.get("since", 0) <= options["until"] < options["gone"] and 0 <= options["scale"] <= 100
        ):
            raise ConfigError(
                "autoguidance must have a scale of 0 to 100 and 0 <= since <= until < gone, got "
                f"{', '.join(f'{name} {value:g}' for name, value in options.items())}."
            )
        betas_from_name(self.schedule, self.num_train_timesteps, **self.schedule_parameters)


def check_at_least_1(config: Any, names: Iterable[str]) -> None:
    """Raise ConfigError for the first of these counts that is below 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise ConfigError(f"{name} must be at least 1, got {shown(getattr(config, name))}.")


def resumed_contents(path: Path, config: Any, resumable: Collection[str]) -> dict[str, Any]:
    """Return what a checkpoint holds of a training with this configuration, a dataclass.

    resumable: the fields that may differ. Raises ConfigError where another does, BadFileError for another file.
    """
    contents = load_own_checkpoint(path, " Choose another --out.")
    now, before = (json.loads(json.dumps(values)) for values in (asdict(config), contents.get("config", {})))
    if differing := [name for name in now if name not in resumable and now[name] != before.get(name)]:
        raise ConfigError(f"{path} was trained with another {', '.join(differing)}. Choose another --out.")
    return contents


def load_config(name: str, changes: dict[str, str] | None = None) -> TrainConfig:
    """Read a configuration as `read_config` does; raises ConfigError for unknown fields and values that do not fit."""
    return config_from_dict(read_config(name, changes))


def read_config(name: str, changes: dict[str, str] | None = None) -> dict[str, Any]:
    """Read `configs/<name>.json`, or a file by its path, and apply `--set` changes: dotted field -> value as text.

    Raises BadFileError for a file that is none, ConfigError for a change within what is no group.
    """
    path = CONFIG_FOLDER / f"{name}.json"
    if not os.path.exists(path):  # unlike Path, it takes a name that is too long for one that is not there
        path = Path(name)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError(f"a JSON {type(values).__name__}")
    except (OSError, ValueError, RecursionError) as exc:
        known = ", ".join(sorted(p.stem for p in CONFIG_FOLDER.glob("*.json")))
        raise BadFileError(
            f"{name} must be one of {known} or a JSON file with a training configuration: {first_line(exc)}."
        ) from exc
    for key, text in (changes or {}).items():
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = text  # a bare word is a string
        *parents, leaf = key.split(".")
        place = values
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ConfigError(f"--set {key} names no field: {parent!r} is no group.")
        place[leaf] = value
    return {"name": path.stem, **values}


def config_from_dict(values: dict[str, Any]) -> TrainConfig:
    """Build a configuration from plain JSON values; missing fields take their defaults, unknown ones are refused."""
    made: TrainConfig = dataclass_from_dict(TrainConfig, values, "")
    return made


def dataclass_from_dict(cls: type[Any], values: Any, prefix: str) -> Any:
    """Return a dataclass of a configuration from JSON values; raises ConfigError, which names the place, for others."""
    hints = get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]
    if not isinstance(values, dict):
        raise ConfigError(f"{prefix or 'The configuration'} must be a group of fields, got {shown(values)}.")
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise ConfigError(
            f"The configuration has no field {several(prefix + u for u in unknown)}, only {', '.join(names)}."
        )
    converted = {}
    for name, value in values.items():
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            converted[name] = dataclass_from_dict(hint, value, f"{prefix}{name}.")  # type: ignore[arg-type]
        else:
            converted[name] = _converted(value, hint, prefix + name)
    return cls(**converted)


def _converted(value: Any, hint: Any, where: str) -> Any:
    origin = getattr(hint, "__origin__", hint)
    if origin is tuple and isinstance(value, (list, tuple)) and all(type(v) is int for v in value):
        fixed = None if Ellipsis in hint.__args__ else len(hint.__args__)
        if fixed in (None, len(value)):
            return tuple(value)
    elif origin is dict and isinstance(value, dict) and all(type(v) in (int, float) for v in value.values()):
        return dict(value)
    elif origin is float and type(value) in (int, float):
        return float(value)
    elif origin is int and (type(value) is int or (type(value) is float and value.is_integer())):
        return int(value)  # 1e5 is how people write it
    elif origin in (bool, str) and type(value) is origin:
        return value
    raise ConfigError(f"{where} must be {hint}, got {shown(value)}.")
