import dataclasses
import json
import re
from pathlib import Path

import pytest

from ddpm_export.errors import BadFileError, ConfigError, UsageError
from train.config import CONFIG_FOLDER, TrainConfig, config_from_dict, load_config

pytestmark = pytest.mark.torch
POLICIES = {"push-t", "two-ways"}  # of another kind: tests/train/test_policies.py
NAMES = sorted({path.stem for path in CONFIG_FOLDER.glob("*.json")} - POLICIES)


@pytest.mark.parametrize("name", NAMES)
def test_a_config_names_only_fields_and_survives_json(name):
    config = load_config(name)
    assert config.name == name
    assert config_from_dict(json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_set_changes_any_field():
    changes = {
        "steps": "1e4",
        "learning_rate": "1",
        "network.dropout": "0.5",
        "network.image_shape": "[3, 32, 32]",
        "schedule": "cosine",
        "schedule_parameters.offset": "0.01",
        "compile": "true",
    }
    config = load_config("fashion-mnist-small", changes)
    assert (config.steps, config.learning_rate, config.compile) == (10_000, 1.0, True)
    assert type(config.steps) is int
    assert type(config.learning_rate) is float
    assert (config.network.dropout, config.network.image_shape) == (0.5, (3, 32, 32))
    assert (config.schedule, config.schedule_parameters) == ("cosine", {"offset": 0.01})


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("stepps", "1"),
        ("network.width", "1"),
        ("steps.more", "1"),
        ("network", "3"),
        ("steps", "many"),
        ("steps", "1.5"),
        ("steps", "NaN"),
        ("steps", "Infinity"),
        ("steps", "true"),
        ("steps", "0"),
        ("steps", "1" + "0" * 400),
        ("warmup_steps", "1" + "0" * 400),
        ("seed", "-1"),
        ("seed", "1" + "0" * 40),
        ("steps", "[" * 100_000),
        ("warmup_steps", "-1"),
        ("cooldown_steps", "-1"),
        ("cooldown_steps", "1" + "0" * 400),
        ("picture_every", "-1"),
        ("learning_rate", "NaN"),
        ("learning_rate", "0"),
        ("learning_rate", "1e38"),
        ("learning_rate", '"0.1"'),
        ("ema_halflife_images", "Infinity"),
        ("bf16", "1"),
        ("loss", "l3"),
        ("times", "normal"),
        ("times_parameters.mean", "0"),
        ("loss", "2"),
        ("prediction", "x"),
        ("variance", "learned"),
        ("schedule", "constant"),
        ("schedule_parameters.beta_start", "2"),
        ("schedule_parameters.slope", "2"),
        ("schedule_parameters.beta_start", "small"),
        ("num_train_timesteps", "0"),
        ("network.image_shape", "28"),
        ("network.image_shape", "[1, 28]"),
        ("network.image_shape", "[1, 28, 27]"),
        ("network.image_shape", "[0, 28, 28]"),
        ("network.groups", "0"),
        ("network.groups", "5"),
        ("network.base_channels", "7"),
        ("network.dropout", "1"),
        ("network.head_channels", "20"),
        ("network.channel_multipliers", "[]"),
        ("network.attention_levels", "[3]"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(key, text):
    with pytest.raises(UsageError, match=r"must .*got |has no field|names no field") as refused:
        load_config("fashion-mnist-small", {key: text})
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(("name", "text"), [("std", "0"), ("std", "NaN"), ("mean", "21"), ("shift", "1")])
def test_parameters_of_log_normal_times_are_named_and_within_bounds(name, text):
    with pytest.raises(ConfigError, match=r"^times_parameters.* must be .*got "):
        load_config("fashion-mnist-small", {"times": "log_normal", f"times_parameters.{name}": text})


@pytest.mark.parametrize("text", ["", "[1]", "{", "3", "[" * 100_000])
def test_a_file_that_is_no_config(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(BadFileError, match="fashion-mnist-small"):
        load_config(str(tmp_path / "c.json"))


def test_unknown_fields_are_named_with_their_place():
    with pytest.raises(ConfigError, match=r"has no field network\.depth, only"):
        config_from_dict({"network": {"depth": 1}})


def test_resumable_fields_exist():
    assert set(TrainConfig.RESUMABLE) < {field.name for field in dataclasses.fields(TrainConfig)}


def test_the_documentation_lists_every_field():
    text = (Path(__file__).parents[2] / "docs" / "training-fields.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.]+)` \| `(.*?)` \| (yes|no) \|", text, flags=re.MULTILINE)
    wanted = []
    for name, value in dataclasses.asdict(TrainConfig()).items():
        resumable = "yes" if name in TrainConfig.RESUMABLE else "no"
        inner = {f"network.{key}": v for key, v in value.items()} if name == "network" else {name: value}
        wanted += [(key, json.dumps(v), resumable) for key, v in inner.items()]
    assert rows == wanted
