"""Training with classes: what the network is told, and that a training without classes is what it always was."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from representative import representative

import train.loop as train_loop
from ddpm_export.errors import BadFileError, ConfigError, UsageError
from ddpm_export.exporting.export import export
from ddpm_export.importers.checkpoint import load_torch_file
from ddpm_export.importers.load import load_checkpoint
from ddpm_export.importers.unet import UNet
from ddpm_export.model.denoiser import denoiser
from ddpm_export.model.inputs import Input
from ddpm_export.model.steps import plan
from ddpm_export.process.noise import noise_stream
from ddpm_export.process.pixels import to_uint8
from ddpm_export.process.walk import walk
from ddpm_export.runtimes.opening import open_model
from ddpm_export.runtimes.torch_archive import model_from_module
from ddpm_export.scoring.datasets.dataset import Dataset
from ddpm_export.scoring.datasets.folders import picture_folder
from ddpm_export.system.files import sha256_of
from train.config import config_from_dict
from train.distributed import ALONE, World
from train.loop import _Draws, _Order, _stored, check_classes, spec_from_config, train
from train.pictures import draw_samples

pytestmark = pytest.mark.torch
ROOT = Path(__file__).parents[2]
CLASSES = ("dark", "middling", "bright")
THREE = {"network__num_classes": 3}


def silent(_progress):
    pass


@pytest.fixture(scope="session")
def labelled(toy_dataset):
    """The toy's images, with classes that have nothing to do with them."""
    return dataclasses.replace(toy_dataset, labels=np.arange(40) % 3, classes=CLASSES)


def old_seed(*numbers):
    return int.from_bytes(hashlib.sha256(" ".join(map(str, numbers)).encode()).digest()[:8], "little") >> 1


def old_training(config, images, steps):
    """The training of release 0.1.0, written out: float32, one process, flips, no dropout; eps, l2."""
    torch.manual_seed(config.seed)
    network = UNet(config.network)
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate, betas=(0.9, 0.99))
    betas = torch.linspace(1e-4, 0.02, config.num_train_timesteps, dtype=torch.float64)
    alphas = torch.cumprod(1 - betas, 0).float()
    order = np.random.default_rng([config.seed, 0]).permutation(len(images))
    for step in range(steps):
        chosen = order[step * config.batch_size : (step + 1) * config.batch_size]
        x_0 = torch.from_numpy(images[chosen].transpose(0, 3, 1, 2).copy()).float() / 127.5 - 1.0
        torch.manual_seed(old_seed(config.seed, step))
        flips = torch.rand(len(chosen), 1, 1, 1) < 0.5
        t = torch.randint(0, config.num_train_timesteps, (len(chosen),))
        eps = torch.randn(x_0.shape)
        x_0 = torch.where(flips, x_0.flip(3), x_0)
        a = alphas[t][:, None, None, None]
        loss = torch.nn.functional.mse_loss(network(torch.sqrt(a) * x_0 + torch.sqrt(1 - a) * eps, t), eps)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.gradient_norm_max)
        optimizer.param_groups[0]["lr"] = config.learning_rate * min(1.0, (step + 1) / config.warmup_steps)
        optimizer.step()
    return network.state_dict()


@pytest.mark.parametrize("with_labels", [False, True])
def test_without_classes_every_bit_is_as_in_the_first_release(toy_config, toy_dataset, labelled, with_labels, tmp_path):
    changes = {"bf16": "false", "channels_last": "false", "horizontal_flips": "true", "network__dropout": 0}
    config = toy_config(**changes, steps=4)
    path = train(config, labelled if with_labels else toy_dataset, tmp_path, "cpu", silent)
    trained = load_torch_file(path)["network"]
    expected = old_training(config, toy_dataset.images, 4)
    assert trained.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in trained.items())


def test_without_classes_a_checkpoint_says_what_it_said_before():
    before = json.loads((ROOT / "tests" / "data" / "config-without-classes.json").read_text())
    assert _stored(config_from_dict(before)) == before


def test_classes_change_neither_flips_nor_t_nor_eps(toy_config):
    plain, conditional = (toy_config(horizontal_flips="true", **more) for more in ({}, THREE))
    for step in range(3):
        a, b = (_Draws(config, step, slice(None), 0) for config in (plain, conditional))
        for name in ("flips", "t", "eps"):
            assert torch.equal(getattr(a, name), getattr(b, name))
        assert a.unlabelled is None


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_so_many_labels_are_dropped(toy_config, share):
    config = toy_config(**THREE, label_dropout=share)
    dropped = torch.stack([_Draws(config, step, slice(None), 0).unlabelled for step in range(1000)]).double()
    deviation = (share * (1.0 - share) / dropped.numel()) ** 0.5
    assert abs(float(dropped.mean()) - share) <= 4.0 * deviation
    if share:
        assert len(torch.unique(dropped, dim=0)) > 20  # not the same ones each time


def test_ranks_drop_parts_of_what_one_process_drops(toy_config):
    config = toy_config(**THREE, label_dropout=0.5)
    worlds = (ALONE, World(0, 2), World(1, 2))
    for step in range(5):
        whole, *parts = (_Draws(config, step, w.share(config.batch_size), w.rank).unlabelled for w in worlds)
        assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_the_network_is_told_the_class_of_each_image_or_none(toy_config, labelled, tmp_path, monkeypatch, share):
    config, asked = toy_config(**THREE, label_dropout=share), []

    def seen(*arguments):
        asked.append(arguments[5])
        return update(*arguments)

    update = train_loop._update
    monkeypatch.setattr(train_loop, "_update", seen)
    train(config, labelled, tmp_path, "cpu", silent)
    order, count = _Order(config.seed, 40, config.batch_size, 5), 0
    for step, y in enumerate(asked):
        unlabelled = _Draws(config, step, slice(None), 0).unlabelled.numpy()
        np.testing.assert_array_equal(y, np.where(unlabelled, 3, labelled.labels[order.batch(step)]), strict=True)
        count += int(unlabelled.sum())
    assert len(asked) == config.steps
    assert (count > 0) == (share > 0.0)


@representative("first", [4, 1])
@representative("changes", [{}, {"bf16": "false", "label_dropout": 0.5}], ids=str)
def test_in_two_parts_or_in_one_the_bytes_are_the_same(toy_config, labelled, tmp_path, first, changes):
    config = toy_config(**THREE, **changes)
    whole = train(config, labelled, tmp_path / "whole", "cpu", silent)
    train(dataclasses.replace(config, steps=first), labelled, tmp_path / "parts", "cpu", silent)
    assert sha256_of(train(config, labelled, tmp_path / "parts", "cpu", silent)) == sha256_of(whole)
    others = dataclasses.replace(labelled, labels=(labelled.labels + 1) % 3)
    assert sha256_of(train(config, others, tmp_path / "others", "cpu", silent)) != sha256_of(whole)


def test_the_checkpoint_names_the_classes_and_learns_all_of_them(toy_config, labelled, tmp_path):
    config = toy_config(**THREE, label_dropout=0.5)
    contents = load_torch_file(train(config, labelled, tmp_path, "cpu", silent))
    assert contents["classes"] == list(CLASSES)
    assert (contents["config"]["network"]["num_classes"], contents["config"]["label_dropout"]) == (3, 0.5)
    torch.manual_seed(config.seed)
    moved = (contents["network"]["label.weight"] - UNet(config.network).label.weight).abs().amax(dim=1)
    assert moved.shape == (4,)
    assert bool((moved > 0).all())


@representative(("dropout", "none"), [(0.5, 3), (0.0, None)])
def test_a_conditional_checkpoint_is_exported_with_its_classes(toy_config, labelled, tmp_path, dropout, none):
    path = train(toy_config(**THREE, steps=3, label_dropout=dropout), labelled, tmp_path, "cpu", silent)
    checkpoint = load_checkpoint(path)
    assert checkpoint.spec.inputs == (Input("y", "label", none=none, classes=CLASSES),)
    report = export(checkpoint, tmp_path / "unet.onnx")
    assert report.proof.error <= 1e-5
    model, spec = open_model(report.path)
    noise, rows = noise_stream(0, range(3), spec.state_shape), plan(spec, num_steps=4)
    *_, each = walk(denoiser(model, spec, y=list(CLASSES)), noise, rows)
    for k, name in enumerate(CLASSES):  # an image is a function of its label, not of its batch
        *_, alone = walk(denoiser(model, spec, y=name), noise_stream(0, [k], spec.state_shape), rows)
        np.testing.assert_allclose(alone.x[0], each.x[k], rtol=0, atol=1e-5)
    *_, other = walk(denoiser(model, spec, y=CLASSES[1]), noise_stream(0, [0], spec.state_shape), rows)
    assert np.abs(other.x[0] - each.x[0]).max() > 1e-4
    if none is None:
        with pytest.raises(UsageError, match=r"Input 'y', of kind label .* must be given"):
            denoiser(model, spec)


def test_class_names_that_do_not_fit_are_refused(toy_config, labelled, tmp_path):
    path = train(toy_config(**THREE, steps=1), labelled, tmp_path, "cpu", silent)
    contents = load_torch_file(path)
    for names in (None, [], ["a", "b"], ["a", "b", 3], "abc", ["a", "b", "b"]):
        torch.save({**contents, "classes": names}, path)
        with pytest.raises(BadFileError, match="classes"):
            load_checkpoint(path)


@pytest.mark.parametrize(
    ("count", "dataset_changes", "words"),
    [
        (3, {"labels": None, "classes": None}, "has no classes"),
        (3, {"classes": None}, "has no classes"),
        (4, {}, "has 3 classes"),
    ],
)
def test_classes_that_the_data_does_not_have_are_refused(toy_config, labelled, tmp_path, count, dataset_changes, words):
    config, dataset = toy_config(network__num_classes=count), dataclasses.replace(labelled, **dataset_changes)
    with pytest.raises(ConfigError, match=f"^network.num_classes is {count}, but images {words}"):
        train(config, dataset, tmp_path, "cpu", silent)
    assert list(tmp_path.iterdir()) == []
    check_classes(toy_config(), dataset)  # without classes any data will do


@pytest.mark.parametrize(("key", "text"), [("label_dropout", "1"), ("label_dropout", "-0.1"), ("num_classes", "-1")])
def test_shares_and_counts_out_of_range_are_refused(toy_config, key, text):
    with pytest.raises(ConfigError, match=rf"{key} must .*, got {text}"):
        toy_config(**{f"network__{key}" if key == "num_classes" else key: text})


def test_from_the_command_line_a_folder_a_class(run, toy_folders, tmp_path):
    code, out, asked = run("--set", "network.num_classes=2")
    assert (code, out) == (2, "")
    assert asked == "error: network.num_classes is 2, but images has no classes. Set it to 0.\n"
    code, out, _ = run("--set", "network.num_classes=2", "--data", toy_folders, "--json")
    assert code == 0
    assert load_torch_file(json.loads(out)["checkpoint"])["classes"] == ["a", "b"]
    assert (tmp_path / "out" / "samples.png").exists()
    assert picture_folder(toy_folders, (1, 8, 8)).labels.tolist() == [0] * 20 + [1] * 20


def test_pictures_show_the_classes_in_turn(toy_config, labelled, tmp_path):
    config = toy_config(**THREE, prediction="v")
    spec = spec_from_config(config, labelled)
    torch.manual_seed(0)
    network = UNet(config.network).eval()
    weights = {name: value + 0.05 * torch.randn(value.shape) for name, value in network.state_dict().items()}
    draw_samples(tmp_path / "s.png", config.network, weights, spec, "cpu", 7)
    with Image.open(tmp_path / "s.png") as image:
        tiles = np.asarray(image).reshape(4, 8, 4, 8).transpose(0, 2, 1, 3).reshape(16, 8, 8)
    network.load_state_dict(weights)
    noise = noise_stream(0, range(16), spec.state_shape)
    for label in range(3):

        def model(x_t, t, label=label):
            return network(x_t, t, torch.full((16,), label))

        *_, last = walk(denoiser(model_from_module(model, spec, "cpu"), spec), noise, plan(spec, sampler="ddim"))
        same = (np.abs(to_uint8(last.x)[..., 0].astype(int) - tiles) <= 1).all(axis=(1, 2))
        assert same.tolist() == [k % 3 == label for k in range(16)]


def test_a_training_reads_labels_where_images_are_decoded_late(toy_config, labelled, toy_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("ddpm_export.scoring.datasets.dataset.MAX_ARRAY_BYTES", 0)
    lazy = picture_folder(toy_folder / "images", (1, 8, 8))
    late = Dataset("images", lazy.images, labelled.labels, None, classes=CLASSES)
    config = toy_config(**THREE)
    digests = {sha256_of(train(config, data, tmp_path / str(id(data)), "cpu", silent)) for data in (labelled, late)}
    assert len(digests) == 1


def test_a_training_with_classes_starts_from_one_without(toy_config, toy_dataset, labelled, tmp_path):
    train(toy_config(), toy_dataset, tmp_path / "before", "cpu", silent)
    before = load_torch_file(tmp_path / "before" / "checkpoint.pt")["ema"]

    def stop(_progress):
        raise KeyboardInterrupt

    start = tmp_path / "before" / "checkpoint.pt"
    with pytest.raises(KeyboardInterrupt):
        train(toy_config(**THREE), labelled, tmp_path / "after", "cpu", stop, start=start)
    after = load_torch_file(tmp_path / "after" / "checkpoint.pt")
    assert after["step"] == 0
    for weights in (after["ema"], after["network"]):
        assert not weights.pop("label.weight").any()  # so that it begins as what it was
        assert weights.keys() == before.keys()
        assert all(torch.equal(weights[name], before[name]) for name in before)


def test_attention_that_a_training_adds_begins_without_effect(toy_config, toy_dataset, tmp_path):
    made = train(toy_config(network__attention_levels=[]), toy_dataset, tmp_path / "before", "cpu", silent)
    wider = toy_config(network__attention_levels=[0])

    def stop(_progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(wider, toy_dataset, tmp_path / "after", "cpu", stop, start=made)
    before, after = (load_checkpoint(tmp_path / name / "checkpoint.pt").network for name in ("before", "after"))
    added = after.state_dict().keys() - before.state_dict().keys()
    assert {name.split(".")[0] for name in added} == {"down", "up"}
    assert after.down[0].attention.qkv.weight.any()  # not all are 0, which would never learn
    x_t, t = torch.randn(2, 1, 8, 8, generator=torch.manual_seed(0)), torch.tensor([3, 15])
    with torch.no_grad():
        assert torch.equal(after(x_t, t), before(x_t, t))


@pytest.mark.parametrize(
    ("contents", "says"),
    [
        ({"a": torch.ones(1)}, "is not a checkpoint of this trainer"),
        ({"format": "ddpm-export-checkpoint/1", "ema": {"a": torch.ones(1)}}, "does not fit this network"),
        ({"format": "ddpm-export-checkpoint/1"}, "does not fit this network"),
    ],
)
def test_what_a_training_cannot_start_from(toy_config, toy_dataset, tmp_path, contents, says):
    torch.save(contents, tmp_path / "start.pt")
    with pytest.raises(BadFileError, match=says):
        train(toy_config(), toy_dataset, tmp_path / "run", "cpu", silent, start=tmp_path / "start.pt")
    assert not (tmp_path / "run" / "checkpoint.pt").exists()
