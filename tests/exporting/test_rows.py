"""A graph of rows, for servers: every row is a picture of its own, of its own seed, number, class and guidance."""

import dataclasses
import json

import numpy as np
import pytest
from commands import assert_refused, run_here
from models import mix_model, tiny_spec, told_model

from ddpm_export import Guidance, Input, generate
from ddpm_export.cli.export import main
from ddpm_export.errors import ModelRefusedError
from ddpm_export.exporting import proof as proofs
from ddpm_export.exporting.export import export
from ddpm_export.exporting.sampler import rows_inputs
from ddpm_export.model.spec import Defaults

from .sessions import session_of

LABEL = Input("y", "label", none=3, classes=("shoe", "bag", "hat"))
STYLE = Input("style", "vector", (2,))
ROWS = [(7, 3, 0, 1.0), (0, 0, 3, 2.5), (2**63 - 1, 2**32 - 1, 1, 0.0), (7, 4, 2, 0.5), (7, 3, 2, 1.0)]


def given_inputs(rows):
    seed, image, label, guidance = zip(*rows, strict=True)
    return {
        "seed": np.array(seed),
        "image": np.array(image),
        "y": np.array(label),
        "guidance": np.array(guidance, np.float32),
    }


@pytest.fixture
def source(tmp_path):
    def write(**changes):
        spec = tiny_spec((3, 4, 6), **{"inputs": (LABEL,), "requires": ("inputs",), **changes})
        (tmp_path / "m.onnx").write_bytes(told_model(spec))
        return tmp_path / "m.onnx"

    return write


HOW = {
    "the default": ([], {}, "tiny-ddim-4"),
    "noise": (["--steps", 7, "--sampler", "ddim:eta=0.5"], {"num_steps": 7, "eta": 0.5}, "tiny-ddim-eta0.5-7"),
    "a plan": (["--sampler", "dpmpp_2m", "--steps", 6], {"sampler": "dpmpp_2m", "num_steps": 6}, "tiny-dpmpp_2m-6"),
    "ancestral": (["--sampler", "ddpm"], {"sampler": "ddpm"}, "tiny-ddpm-4"),
}


@pytest.mark.parametrize("case", HOW)
def test_each_row_is_what_it_is_alone(source, tmp_path, case):
    options, how, name = HOW[case]
    path = source()
    ending = run_here(main, path, "--format", "triton", "--out", tmp_path / "models", *options, "--json")
    assert ending.code == 0, ending
    (file,) = json.loads(ending.out)["files"]
    folder = tmp_path / "models" / name
    assert file["path"] == str(folder / "1" / "model.onnx")
    assert {entry.name for entry in folder.iterdir()} == {"1", "config.pbtxt", "README.md"}
    (images,) = session_of(file["path"]).run(None, given_inputs(ROWS))
    for (seed, image, label, guidance), found in zip(ROWS, images, strict=True):
        alone = generate(path, n=1, seed=seed, first=image, label=label, guidance=guidance, **how)[0]
        assert np.abs(found.astype(int) - alone).max() <= 1
    (pair,) = session_of(file["path"]).run(None, given_inputs(ROWS[3:1:-1]))
    np.testing.assert_array_equal(pair, images[3:1:-1])


def test_guidance_keeps_to_the_interval_of_the_file(source, tmp_path):
    interval = Guidance(3.0, (10, 25))
    path = source(defaults=Defaults("ddim", 8, 0.0, guidance=interval), requires=("inputs", "guidance"))
    report = export(path, tmp_path / "models", format="triton")
    rows = [(seed, image, label, 3.0) for seed, image, label, _ in ROWS]
    (images,) = session_of(report.path).run(None, given_inputs(rows))
    for (seed, image, label, _), found in zip(rows, images, strict=True):
        alone = generate(path, n=1, seed=seed, first=image, label=label, guidance=interval)[0]
        assert np.abs(found.astype(int) - alone).max() <= 1


def test_other_inputs_are_rows_as_well(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(
        told_model(tiny_spec(inputs=(STYLE, Input("x_0_prev", "previous", (1, 6, 5))), requires=("inputs",)))
    )
    report = export(path, tmp_path / "models", format="triton")
    style = np.array([[0.5, 1.0], [-2.0, 0.0]], np.float32)
    (images,) = session_of(report.path).run(None, {"seed": np.array([3, 4]), "image": np.array([1, 0]), "style": style})
    for k, (seed, image) in enumerate([(3, 1), (4, 0)]):
        alone = generate(path, n=1, seed=seed, first=image, inputs={"style": style[k]})[0]
        assert np.abs(images[k].astype(int) - alone).max() <= 1
    config = (report.path.parent.parent / "config.pbtxt").read_text()
    assert 'name: "style" data_type: TYPE_FP32 dims: [ 2 ]' in config


def test_the_graph_refuses_what_is_out_of_range_by_name(source, tmp_path):
    session = session_of(export(source(), tmp_path / "models", format="triton").path)
    limits = json.loads(session.get_modelmeta().custom_metadata_map["ddpm_export_rows"])
    assert limits["seed"] == {"dtype": "int64", "shape": [], "min": 0, "max": 2**63 - 1}
    bad = {"seed": -1, "image": 2**32, "y": 4, "guidance": np.nan}
    for name, value in bad.items():
        given = given_inputs(ROWS)
        given[name][2] = value
        with pytest.raises(Exception, match=f"{name} must be {limits[name]['min']} to"):
            session.run(None, given)


def test_what_cannot_be_served_is_refused(source, tmp_path, monkeypatch):
    usual = ["--format", "triton", "--out"]
    assert_refused(run_here(main, source(), *usual, tmp_path / "m2.onnx"), 2, "--out a folder")
    assert_refused(run_here(main, source(), *usual, tmp_path / "a", "--format", "slice"), 2, "by itself")
    assert_refused(run_here(main, source(), *usual, tmp_path / "a", "--plans", "dpmpp_2m:5"), 2, "--plans does not")
    with pytest.raises(ModelRefusedError, match="'seed' has the name of"):
        rows_inputs(dataclasses.replace(tiny_spec(), inputs=(Input("seed", "vector", (1,)),), requires=("inputs",)))
    path = tmp_path / "m.onnx"
    path.write_bytes(mix_model(tiny_spec()))
    monkeypatch.setattr(proofs, "ROWS", ((7, 3), (0, 0), (5, 5), (7, 4)))
    real = proofs.pictures_of
    monkeypatch.setattr(proofs, "pictures_of", lambda *asked: (None, real(*asked)[1] ^ 8))
    with pytest.raises(ModelRefusedError, match="images differ from those of its network"):
        export(path, tmp_path / "b", format="triton")
    assert not list((tmp_path / "b").rglob("model.onnx"))
