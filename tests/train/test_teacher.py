"""Learning what another network predicts, guided by a weaker one."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from ddpm_export.errors import BadFileError, ConfigError, UsageError
from ddpm_export.importers.checkpoint import load_torch_file
from ddpm_export.importers.load import load_checkpoint
from ddpm_export.system.files import sha256_of
from train.loop import train
from train.teacher import Teacher, taught

pytestmark = pytest.mark.torch
GUIDED = {"autoguidance__scale": 3, "autoguidance__until": 8, "autoguidance__gone": 12}
THREE = {"network__num_classes": 3, "label_dropout": 0.5}


def silent(_progress):
    pass


@pytest.fixture(scope="module")
def labelled(toy_dataset):
    return dataclasses.replace(toy_dataset, labels=np.arange(40) % 3, classes=("a", "b", "c"))


@pytest.fixture(scope="module")
def networks(toy_config, toy_dataset, labelled, tmp_path_factory):
    """Two checkpoints: of a network with classes, and of a smaller one without."""
    folder = tmp_path_factory.mktemp("teachers")
    small = toy_config(network__blocks_per_level=1, steps=2, network__dropout=0)
    strong = train(toy_config(**THREE, seed=1, bf16="false"), labelled, folder / "strong", "cpu", silent)
    return strong, train(small, toy_dataset, folder / "weak", "cpu", silent)


def asked(path, *inputs):
    with torch.no_grad():
        return load_checkpoint(path).network.eval()(*inputs)


def test_a_teacher_leads_away_from_the_weaker_network_and_less_and_less_at_late_times(toy_config, networks):
    strong, weak = networks
    config = toy_config(**THREE, **GUIDED, bf16="false")
    t, y = torch.tensor([0, 8, 9, 11, 12, 19]), torch.tensor([0, 1, 2, 3, 0, 1])
    x_t = torch.randn(6, 1, 8, 8, generator=torch.manual_seed(0))
    wanted = Teacher(strong, weak, config, "cpu")(x_t, t, y)
    scales = torch.tensor([3, 3, 2.5, 1.5, 1, 1])[:, None, None, None]
    of_strong, of_weak = asked(strong, x_t, t, y), asked(weak, x_t, t)
    torch.testing.assert_close(wanted, of_weak + scales * (of_strong - of_weak), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(wanted[:4], of_strong[:4], atol=1e-3)
    torch.testing.assert_close(Teacher(strong, None, config, "cpu")(x_t, t, y), of_strong, rtol=1e-5, atol=1e-6)


def test_a_teacher_leads_away_more_and_more_at_early_times_where_that_is_said(toy_config, networks):
    strong, weak = networks
    config = toy_config(**THREE, **GUIDED, autoguidance__since=4, bf16="false")
    t, y = torch.tensor([0, 1, 2, 4, 8, 9]), torch.tensor([0, 1, 2, 3, 0, 1])
    x_t = torch.randn(6, 1, 8, 8, generator=torch.manual_seed(0))
    scales = torch.tensor([1, 1.5, 2, 3, 3, 2.5])[:, None, None, None]
    of_strong, of_weak = asked(strong, x_t, t, y), asked(weak, x_t, t)
    wanted = Teacher(strong, weak, config, "cpu")(x_t, t, y)
    torch.testing.assert_close(wanted, of_weak + scales * (of_strong - of_weak), rtol=1e-5, atol=1e-6)


COMPILED = pytest.param("true", marks=pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler"))


@pytest.mark.parametrize("compile_", ["false", COMPILED])
def test_who_is_its_teacher_has_nothing_to_learn_and_others_come_nearer(
    toy_config, labelled, networks, tmp_path, compile_
):
    """Data, its noise and the label that is dropped decide where the two are compared, not what is learned."""
    strong, _ = networks
    chosen = {**THREE, "bf16": "false", "network__dropout": 0, "compile": compile_, "learning_rate": 0.003}
    config = taught(toy_config(**chosen, steps=1), strong, None)
    teacher = Teacher(strong, None, config, "cpu")
    train(config, labelled, tmp_path / "same", "cpu", silent, start=strong, teacher=teacher)
    assert losses(tmp_path / "same") == [pytest.approx(0.0, abs=1e-11)]
    config = taught(toy_config(**chosen, steps=30), strong, None)
    train(config, labelled, tmp_path / "fresh", "cpu", silent, teacher=teacher)
    first, *_, last = losses(tmp_path / "fresh")
    assert last < 0.1 * first


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_training_goes_on_with_the_same_teachers_to_the_same_bits(run, networks, toy_config, tmp_path):
    weak = networks[1]
    guided = [f"--set={name.replace('__', '.')}={value}" for name, value in GUIDED.items()]
    taught_by = ["--teacher", weak, "--weaker", weak, *guided]
    assert run(*taught_by, out=tmp_path / "whole")[0] == 0
    assert run(*taught_by, "--steps", 3, out=tmp_path / "halves")[0] == 0
    code, _, err = run(out=tmp_path / "halves")
    assert code == 2
    assert "teacher '' (before: " in err
    assert run(*taught_by, out=tmp_path / "halves")[0] == 0
    whole, halves = (tmp_path / name / "checkpoint.pt" for name in ("whole", "halves"))
    assert sha256_of(whole) == sha256_of(halves)
    stored = load_torch_file(whole)["config"]
    assert (stored["teacher"], stored["weaker"]) == (sha256_of(weak), sha256_of(weak))
    assert stored["autoguidance"] == {"scale": 3, "until": 8, "gone": 12}
    assert run(out=tmp_path / "of data")[0] == 0
    stored = load_torch_file(tmp_path / "of data" / "checkpoint.pt")["config"]
    assert not {"teacher", "weaker", "autoguidance"} & stored.keys()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"prediction": "v"}, r"whose prediction must be the same\.$"),
        ({"schedule": "cosine"}, "whose schedule must be the same"),
        ({"num_train_timesteps": 30}, "whose num_train_timesteps must be the same"),
        ({"network__image_shape": [1, 16, 16]}, r"whose network\.image_shape must be the same"),
        ({"network__num_classes": 2}, r"whose network\.num_classes must be the same"),
        ({"network__num_classes": 0}, r"whose network\.num_classes must be the same"),
    ],
)
def test_who_cannot_teach(toy_config, networks, changes, says):
    with pytest.raises(ConfigError, match=says):
        Teacher(networks[0], None, toy_config(**{**THREE, **changes}), "cpu")


@pytest.mark.parametrize(
    ("contents", "says"),
    [
        ({"a": torch.ones(1)}, "is not a checkpoint of this trainer"),
        ({"format": "ddpm-export-checkpoint/1", "config": {}}, "does not fit this trainer: 'ema'"),
        ({"format": "ddpm-export-checkpoint/1", "config": {"steps": 0}, "ema": {}}, "does not fit this trainer: steps"),
    ],
)
def test_what_is_no_teacher(toy_config, tmp_path, contents, says):
    torch.save(contents, tmp_path / "t.pt")
    with pytest.raises(BadFileError, match=says):
        Teacher(tmp_path / "t.pt", None, toy_config(), "cpu")


def test_a_weaker_network_needs_a_teacher_and_a_scale(toy_config, networks):
    strong, weak = networks
    with pytest.raises(UsageError, match="Say that too"):
        taught(toy_config(**GUIDED), None, weak)
    for config, weaker in ((toy_config(), weak), (toy_config(**GUIDED), None)):
        with pytest.raises(ConfigError, match="belong together"):
            taught(config, strong, weaker)


def test_teachers_that_a_configuration_names_are_those_that_are_given(toy_config, labelled, networks, tmp_path):
    strong, weak = networks
    named = taught(toy_config(**THREE, **GUIDED), strong, weak)
    assert taught(named, strong, weak) == named
    for other in ((strong, strong), (weak, weak), (None, None)):
        with pytest.raises(ConfigError, match="of the configuration is the SHA-256 of the checkpoint"):
            taught(dataclasses.replace(named, autoguidance={} if other[1] is None else named.autoguidance), *other)
    teacher = Teacher(strong, weak, named, "cpu")
    for config, given in ((named, None), (toy_config(**THREE), teacher)):
        with pytest.raises(ConfigError, match="both or neither"):
            train(config, labelled, tmp_path, "cpu", silent, teacher=given)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changes",
    [
        {"autoguidance__scale": 3},
        {**GUIDED, "autoguidance__more": 1},
        {**GUIDED, "autoguidance__until": 12},
        {**GUIDED, "autoguidance__until": -1},
        {**GUIDED, "autoguidance__since": -1},
        {**GUIDED, "autoguidance__since": 9},
        {**GUIDED, "autoguidance__scale": 101},
        {**GUIDED, "autoguidance__gone": "nan"},
    ],
)
def test_autoguidance_that_is_none(toy_config, changes):
    with pytest.raises(ConfigError, match=r"^autoguidance"):
        toy_config(**changes)
