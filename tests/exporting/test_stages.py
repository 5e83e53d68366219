"""Stages: what runs once before and after the walk, in files beside a denoiser and within one-call graphs."""

import dataclasses
import json

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from ddpm_export import edit, export, generate, open_model
from ddpm_export.errors import BadFileError, ModelRefusedError, NonFiniteError, UsageError
from ddpm_export.exporting.export import export_all
from ddpm_export.importers.checkpoint import Checkpoint
from ddpm_export.model.inputs import Input
from ddpm_export.model.spec import Defaults, ModelSpec
from ddpm_export.model.spec_json import json_from_spec, spec_from_json
from ddpm_export.model.stages import Stage, Units
from ddpm_export.process.noise import noise_stream
from ddpm_export.process.pixels import from_uint8, to_uint8
from ddpm_export.runtimes.accepted import replay_stages
from ddpm_export.sampling.edit import invert

T = 40
HINT, CONDITION = Input("hint", "vector", (3,)), Input("condition", "vector", (2,))
STAGES = {
    "before": Stage({"condition": (2,)}, (HINT,)),
    "after": Stage({"images": (3, 8, 12)}),
    "encode": Stage({"x": (2, 4, 6)}),
}


class Latents(nn.Module):
    """Predict eps of latents (2, 4, 6), told a condition."""

    def __init__(self):
        super().__init__()
        self.convolution, self.of_condition = nn.Conv2d(2, 2, 3, padding=1), nn.Linear(3, 2)

    def forward(self, x_t, t, condition):
        told = self.of_condition(torch.cat([condition, t[:, None] / 50.0], dim=1))
        return x_t / 2.0 + torch.tanh(self.convolution(x_t) + told[:, :, None, None])


class Before(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, hint):
        return torch.tanh(self.layer(hint))


class After(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.ConvTranspose2d(2, 3, 2, stride=2)

    def forward(self, x):
        return torch.tanh(self.layer(x))


class Encode(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 2, stride=2)

    def forward(self, images):
        return self.layer(images)


NETWORKS = {"before": Before, "after": After, "encode": Encode}


def spec_of(**changes):
    fields = {
        "name": "latents",
        "prediction": "eps",
        "state_shape": (2, 4, 6),
        "alphas_cumprod": tuple(np.linspace(0.99, 0.05, T).tolist()),
        "clip_x_0": None,
        "defaults": Defaults(num_steps=5),
        "inputs": (CONDITION,),
        "stages": STAGES,
        "units": Units((2.0, 0.5), (0.1, -0.1), 0),
        "requires": ("inputs", "stages", "units"),
    }
    return ModelSpec(**{**fields, **changes})


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    """Return a folder with a denoiser, its three stages and one-call files, and the torch modules."""
    folder = tmp_path_factory.mktemp("staged")
    torch.manual_seed(0)
    network, stages = Latents(), {name: kind() for name, kind in NETWORKS.items()}
    paths = {"onnx": folder / "net.onnx"} | {name: folder / f"net.{name}.onnx" for name in ("sampler", "slice")}
    list(export_all(Checkpoint(network.eval(), spec_of(), stages=stages), paths, opens="all"))
    return folder, network, stages


def test_stages_are_files_beside_the_denoiser_that_it_names_by_digest(staged):
    folder, _, _ = staged
    assert sorted(path.name for path in folder.iterdir()) == [
        *("net.after.onnx", "net.before.onnx", "net.encode.onnx", "net.onnx", "net.sampler.onnx", "net.slice.onnx"),
    ]
    model, spec = open_model(folder / "net.onnx")
    assert spec.is_picture
    assert spec.picture_shape == (3, 8, 12)
    assert [entry.name for entry in spec.asked_inputs] == ["hint"]
    assert spec_from_json(json_from_spec(spec)) == spec
    results = replay_stages(model, folder / "net.onnx")
    assert len(results) == 6
    assert all(result.passed for result in results)


def test_pictures_are_what_torchs_own_stages_make(staged):
    folder, network, stages = staged
    hints = np.array([[0.3, -1.0, 2.0], [1.0, 0.0, -1.0]], np.float32)
    made = generate(folder / "net.onnx", n=3, seed=7, inputs={"hint": hints})
    assert (made.shape, made.dtype) == ((3, 8, 12, 3), np.uint8)
    bare = spec_of(stages={}, units=None, requires=("inputs",))

    def model(x_t, t, condition):
        with torch.inference_mode():
            return {"eps": network(*map(torch.from_numpy, (x_t, t)), torch.from_numpy(condition.copy())).numpy()}

    with torch.inference_mode():
        conditions = stages["before"](torch.from_numpy(hints)).numpy()
    from ddpm_export import denoiser, plan, walk

    told = denoiser(model, bare, condition=conditions[[0, 1, 0]])
    *_, last = walk(told, noise_stream(7, range(3), (2, 4, 6)), plan(bare))
    scaled = last.x * np.float32([2.0, 0.5])[:, None, None] + np.float32([0.1, -0.1])[:, None, None]
    with torch.inference_mode():
        expected = to_uint8(stages["after"](torch.from_numpy(scaled)).numpy())
    assert np.abs(made.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("graph", ["sampler", "slice"])
def test_a_one_call_file_holds_its_stages(staged, graph, tmp_path):
    folder, _, _ = staged
    hints = np.array([[0.3, -1.0, 2.0]], np.float32)
    alone = tmp_path / f"alone.{graph}.onnx"
    alone.write_bytes((folder / f"net.{graph}.onnx").read_bytes())
    made = generate(alone, n=3, seed=7, inputs={"hint": hints})
    expected = generate(folder / "net.onnx", n=3, seed=7, inputs={"hint": hints})
    assert np.abs(made.astype(int) - expected).max() <= 1
    taken = {value.name for value in onnx.load(alone).graph.input}
    assert "hint" in taken
    assert "condition" not in taken


def test_an_edit_encodes_the_picture_and_keeps_what_is_known_of_its_latents(staged):
    folder, _, stages = staged
    path, hint = folder / "net.onnx", {"hint": [0.0, 0.5, 1.0]}
    picture = np.random.default_rng(0).integers(0, 256, (1, 8, 12, 3), dtype=np.uint8)
    model, spec = open_model(path)
    with torch.inference_mode():
        own = stages["encode"](torch.from_numpy(from_uint8(picture).astype(np.float32))).numpy()
    np.testing.assert_allclose(spec.units.of(model.encode(from_uint8(picture))), own, atol=1e-5)
    mask = np.zeros((8, 12), np.uint8)
    mask[:, :6] = 255
    filled = edit(path, picture, mask=mask, seed=1, inputs=hint)
    known = to_uint8(model.decode(model.encode(from_uint8(picture))))
    np.testing.assert_array_equal(filled[:, :, 6:], known[:, :, 6:])
    assert (filled[:, :, :6] != known[:, :, :6]).any()
    assert edit(path, picture, strength=0.5, seed=1, inputs=hint).shape == picture.shape
    assert invert(path, picture, num_steps=T, inputs=hint).x_T.shape == (1, 2, 4, 6)
    with pytest.raises(UsageError, match="measure"):
        edit(path, picture, measure="grey", inputs=hint)


def test_a_stage_that_is_missing_or_another_is_named(staged, tmp_path):
    folder, _, _ = staged
    for name in ("net.onnx", "net.before.onnx", "net.after.onnx"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(BadFileError, match=r"net\.encode\.onnx: no such file, and net\.onnx needs it"):
        open_model(tmp_path / "net.onnx")
    (tmp_path / "net.encode.onnx").write_bytes((folder / "net.after.onnx").read_bytes())
    with pytest.raises(BadFileError, match=r"net\.encode\.onnx is not the stage 'encode'"):
        open_model(tmp_path / "net.onnx")


def test_a_decoder_that_gives_nan_is_reported(staged):
    model, _ = open_model(staged[0] / "net.onnx")
    broken = dataclasses.replace(model, stages={"after": lambda feeds: {"images": feeds["x"] * np.nan}})
    with pytest.raises(NonFiniteError, match="stage 'after' gives NaN"):
        broken.decode(np.zeros((1, 2, 4, 6), np.float32))
    lacking = dataclasses.replace(model, stages={"after": model.stages["after"]})
    with pytest.raises(ModelRefusedError, match="no encoder"):
        lacking.encode(np.zeros((1, 3, 8, 12), np.float32))


def test_a_stage_that_does_not_fit_its_network_is_not_written(tmp_path):
    class Other(nn.Module):
        def forward(self, x):
            return x.repeat(1, 2, 2, 2)[:, :3]  # its width is not what the spec says

    spec = spec_of(stages={"after": Stage({"images": (3, 8, 8)})}, inputs=(), requires=("stages", "units"))
    with pytest.raises(ModelRefusedError, match="stage 'after': does not reproduce"):
        export(Unconditional(), spec, tmp_path / "net.onnx", stages={"after": Other()})
    assert not list(tmp_path.iterdir())


class Unconditional(nn.Module):
    def forward(self, x_t, t):
        return x_t / 2.0 + t[:, None, None, None] * 0.001


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": {"after": Stage({"images": (3, 8)})}}, "images of three sizes"),
        ({"stages": {"after": Stage({"pictures": (3, 8, 8)})}}, "images of three sizes, or values"),
        ({"stages": {"after": Stage({"images": (3, 8, 0)})}}, "an integer from 1"),
        ({"stages": {"after": Stage({"values": (2**20, 2**20)})}}, "images of three sizes"),
        ({"stages": {"after": Stage({"values": (1, 1, 1, 1, 1)})}}, "a list of 1 to 4 entries"),
        ({"stages": {"before": Stage({"other": (2,)}, (HINT,))}}, "inputs of the network"),
        ({"stages": {"before": Stage({"condition": (2,)})}}, "there for before"),
        ({"stages": {"during": Stage({"x": (2,)})}}, "one of before, after, encode"),
        ({"stages": {"encode": Stage({"x": (2, 4, 5)})}}, "x of the state's shape"),
        ({"stages": {"after": Stage({"values": (1,)}, file="../x.onnx")}}, "the plain name of an .onnx file"),
        ({"units": Units((0.0,))}, "a scale other than 0"),
        ({"units": Units((1.0, 2.0, 3.0))}, "1 or 2 numbers"),
        ({"units": Units(axis=3)}, "an integer from 0 to 2"),
        ({"requires": ("inputs", "units")}, "a list with stages"),
        ({"requires": ("inputs", "stages")}, "a list with units"),
    ],
)
def test_stages_and_units_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(BadFileError, match=message):
        spec_of(**changes)


def test_an_older_reader_refuses_what_it_cannot_decode():
    values = json.loads(json_from_spec(spec_of()))
    assert {"stages", "units"} <= set(values["requires"])
