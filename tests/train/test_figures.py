"""The figures: what they are computed from, and that each shows something."""

import dataclasses

import numpy as np
import pytest
from commands import assert_refused, run_here
from gaussian import gaussian_model, gaussian_spec
from models import GREY, mix_model, tiny_spec
from PIL import Image

from ddpm_export.process.noise import noise_stream
from ddpm_export.process.schedules import alphas_cumprod_from_betas, betas_from_name
from train import figures

pytestmark = pytest.mark.torch  # as all of this folder: its conftest.py imports torch


@pytest.mark.parametrize("block", [1, 7, 100])
def test_nearest_rows_are_those_of_all_distances(rng, block):
    queries, rows = rng.integers(0, 256, (5, 12), dtype=np.uint8), rng.integers(0, 256, (30, 12), dtype=np.uint8)
    rows[17] = queries[2]
    indices, distances = figures.nearest_rows(queries, rows, 4, block=block)
    every = np.linalg.norm(queries[:, None].astype(float) - rows[None].astype(float), axis=2)
    np.testing.assert_array_equal(indices, np.argsort(every, axis=1, kind="stable")[:, :4])
    np.testing.assert_allclose(distances, np.sort(every, axis=1)[:, :4], rtol=1e-9, atol=1e-4)
    assert (indices[2, 0], distances[2, 0]) == (17, 0.0)


@pytest.mark.parametrize("prediction", ["eps", "v", "x_0"])
def test_the_errors_are_those_of_what_the_network_said(prediction):
    a = alphas_cumprod_from_betas(betas_from_name("linear", 40, beta_end=0.2))
    spec = gaussian_spec(a, prediction)
    options = []
    inner = gaussian_model(a, 0.1, 0.5, prediction)

    def model(x_t, t):
        options.append(inner(x_t, t))
        return options[-1]

    images = np.random.default_rng(0).integers(0, 256, (6, 2, 3, 1), dtype=np.uint8)
    times = [0, 3, 39]
    errors = figures._squared_errors(model, spec, images, times, lambda *_: None)
    x_0, noise = images.transpose(0, 3, 1, 2) / 127.5 - 1.0, noise_stream(0, range(6), (1, 2, 3))
    for k, t in enumerate(times):
        eps = noise(t + 1)
        true = {"eps": eps, "x_0": x_0, "v": np.sqrt(a[t]) * eps - np.sqrt(1.0 - a[t]) * x_0}[prediction]
        expected = float(np.square(options[k][prediction] - true).mean())
        assert errors[prediction][k] == pytest.approx(expected, rel=1e-3)  # float32's x_t


@pytest.fixture
def place(tmp_path):
    """A model file, and 60 images of its size that are both data and test set."""
    (tmp_path / "images").mkdir()
    for number, image in enumerate(np.random.default_rng(0).integers(0, 256, (60, *GREY[1:]), dtype=np.uint8)):
        Image.fromarray(image).save(tmp_path / "images" / f"{number:02}.png")
    (tmp_path / "m.onnx").write_bytes(mix_model(dataclasses.replace(tiny_spec(), name="m")))
    return tmp_path


def drawn(place, *more):
    usual = {"out": place / "out", "model": place / "m.onnx", "data": place / "images", "dataset": "folder"}
    usual |= {"n": 8, "cache": place / "cache"}
    return run_here(figures.main, *(part for name, value in usual.items() for part in (f"--{name}", value)), *more)


@pytest.mark.long
def test_every_figure_shows_something_and_is_small(place):
    ending = drawn(place)
    assert ending.code == 0, ending
    paths = [place / "out" / f"{name}.png" for name in figures.FIGURES]
    assert ending.out.splitlines() == [str(path) for path in paths]
    for path in paths:
        with Image.open(path) as image:
            assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 50, path
        assert path.stat().st_size < 160_000
    (place / "out/data.png").unlink()
    assert drawn(place, "--only", "schedules").code == 0
    assert not (place / "out/data.png").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [(["--only", "data,cats"], 2, "--only must name some of"), (["--model", "nowhere.onnx"], 3, "nowhere.onnx")],
)
def test_what_cannot_be_is_refused(place, arguments, code, words):
    assert_refused(drawn(place, *arguments), code, words)
    assert not (place / "out").exists()
