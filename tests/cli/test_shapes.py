"""States that are no pictures, one to four dimensions: exported, sampled, edited, drawn, kept in sets, in one call."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_export import edit, generate, open_model
from ddpm_export.errors import BadFileError, UsageError
from ddpm_export.exporting.export import export_all
from ddpm_export.images.draw import drawing
from ddpm_export.importers.checkpoint import Checkpoint
from ddpm_export.model.golden import replay_golden
from ddpm_export.model.spec import Defaults, ModelSpec
from ddpm_export.model.spec_json import json_from_spec, spec_from_json
from ddpm_export.process.noise import noise_stream
from ddpm_export.runtimes.opening import open_file
from ddpm_export.sampling.edit import invert
from tests.shapes import NETWORKS, SHAPES

T = 40


def spec_of(shape, **fields):
    values = {"name": "shape", "prediction": "eps", "clip_x_0": None, "defaults": Defaults(num_steps=6)}
    alphas_cumprod = tuple(np.linspace(0.99, 0.05, T).tolist())
    return ModelSpec(state_shape=shape, alphas_cumprod=alphas_cumprod, requires=("shape",), **(values | fields))


@pytest.fixture(scope="module", params=SHAPES)
def exported(request, tmp_path_factory):
    """Return the shape and a folder with the denoiser and its one-call files."""
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    paths = {"onnx": folder / "net.onnx"} | {kind: folder / f"net.{kind}.onnx" for kind in ("sampler", "slice", "edit")}
    list(export_all(Checkpoint(NETWORKS[name]().eval(), spec_of(SHAPES[name])), paths, opens="all"))
    return SHAPES[name], folder


def test_any_shape_is_exported_and_sampled_the_same_in_python_and_in_one_call(exported):
    shape, folder = exported
    model, spec = open_model(folder / "net.onnx")
    assert (spec.state_shape, spec.is_picture) == (shape, False)
    assert all(result.passed for result in replay_golden(model, spec))
    made = generate(folder / "net.onnx", n=3, seed=7)
    assert (made.shape, made.dtype) == ((3, *shape), np.float32)
    np.testing.assert_array_equal(generate(folder / "net.onnx", n=1, seed=7, first=2)[0], made[2])
    assert np.abs(made - noise_stream(7, range(3), shape)(0)).max() > 0.1  # the walk went somewhere
    for graph in ("sampler", "slice", "edit"):
        opened = open_file(folder / f"net.{graph}.onnx")
        inputs = {} if graph != "edit" else {"image": made, "mask": np.ones_like(made), "strength": 0.0}
        x, values = opened.end(7, range(3), 6, 0.0, **inputs)
        np.testing.assert_allclose(values, made, atol=2e-5)
        np.testing.assert_array_equal(values, x)


def test_what_is_known_under_a_mask_comes_back_and_an_edit_graph_does_the_same(exported):
    shape, folder = exported
    known = noise_stream(3, range(2), shape)(1).clip(-1, 1)
    mask = np.zeros(shape, np.uint8)
    mask.reshape(-1)[: mask.size // 2] = 255
    made = edit(folder / "net.onnx", known, mask=mask, seed=4)
    keeps = mask == 0
    np.testing.assert_array_equal(made[:, keeps], known[:, keeps])
    assert np.abs(made - known)[:, ~keeps].max() > 0.1
    np.testing.assert_allclose(edit(folder / "net.edit.onnx", known, mask=mask, seed=4), made, atol=2e-5)
    found = invert(folder / "net.onnx", made, num_steps=T)
    assert found.x_T.shape == made.shape
    assert found.rmse.shape == (2,)
    with pytest.raises(UsageError, match="measure must be mask"):
        edit(folder / "net.onnx", known, measure="grey")
    with pytest.raises(UsageError, match="mask must be uint8"):
        edit(folder / "net.onnx", known, mask=np.zeros((1, 1, 1, 1, 1, 1), np.uint8))


def test_numbers_are_written_as_npy_and_drawn(exported, tmp_path, command):
    _, folder = exported
    path = str(folder / "net.onnx")
    for name in ("x.npy", "x.png", "x.gif", "many"):
        assert command("run", path, "--n", "3", "--seed", "7", "--out", str(tmp_path / name))[0] == 0
    made = generate(path, n=3, seed=7)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), made)
    np.testing.assert_array_equal(np.load(tmp_path / "many" / "000002.npy"), made[2])
    with Image.open(tmp_path / "x.png") as page:
        np.testing.assert_array_equal(np.asarray(page), drawing(made))
        assert json.loads(page.text["ddpm_export"])["seed"] == 7
    assert len(np.unique(drawing(made).reshape(-1, 3), axis=0)) > 3  # something is there
    assert command("check", path)[0] == 0
    assert command("check", str(folder / "net.sampler.onnx"))[0] == 0


@pytest.mark.parametrize("format", ["npy", "parquet"])
def test_sets_hold_numbers(exported, tmp_path, format, command):  # noqa: A002
    shape, folder = exported
    path = str(folder / "net.onnx")
    parquet = pytest.importorskip("pyarrow.parquet")
    how = ("--n", "5", "--seed", "7", "--shards", "2", "--format", format, "--out", tmp_path)
    assert command("dataset", "make", path, *how)[0] == 0
    if format == "npy":
        found = np.concatenate([np.load(file) for file in sorted(tmp_path.glob("*.npy"))])
    else:
        rows = [parquet.read_table(file)["values"].to_pylist() for file in sorted(tmp_path.glob("*.parquet"))]
        found = np.float32([row for shard in rows for row in shard]).reshape(5, *shape)
    np.testing.assert_array_equal(found, generate(path, n=5, seed=7))


def test_a_class_of_ones_own_is_adopted_with_its_shape(tmp_path, command, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    torch.save(NETWORKS["sequence"]().state_dict(), tmp_path / "weights.pt")
    options = ("--schedule", "linear", "--shape", "16,2", "--timesteps", "50", "--clip", "none")
    out = ("--network", "tests.shapes:Sequence", "--out", str(tmp_path / "net.onnx"))
    assert command("adopt", str(tmp_path / "weights.pt"), *options, *out)[0] == 0
    assert generate(tmp_path / "net.onnx", n=2, seed=0).shape == (2, 16, 2)


def test_the_shape_of_pictures_keeps_its_name_in_the_file():
    text = json_from_spec(spec_of((4, 2)))
    assert json.loads(text)["state_shape"] == [4, 2]
    assert spec_from_json(text) == spec_of((4, 2))
    assert "image_shape" in json_from_spec(ModelSpec("p", "eps", (1, 2, 3), (0.5,), defaults=Defaults(num_steps=1)))


@pytest.mark.parametrize("shape", [(), (0,), (2, 0), (1, 2, 3, 4, 5), (2**20, 2**20), (2**40,)], ids=str)
def test_shapes_that_no_state_has_are_refused(shape):
    with pytest.raises(BadFileError, match="state_shape"):
        spec_of(shape)
    text = json_from_spec(spec_of((4, 2))).replace('"state_shape": [4, 2]', f'"state_shape": {list(shape)}')
    with pytest.raises(BadFileError, match="state_shape"):
        spec_from_json(text)


def test_a_score_needs_pictures(exported, command):
    code, _, err = command("eval", exported[1] / "net.onnx", "--n", "2")
    assert code == 2
    assert "needs a model of pictures, got one of numbers of shape" in err
