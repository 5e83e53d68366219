"""Stages in C++ and JavaScript: the decoder beside the model runs after the walk, and no other file in its place."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_export import export, generate
from ddpm_export.model.spec import Defaults, ModelSpec
from ddpm_export.model.stages import Stage, Units

from .test_cpp import complaints, programs, run, sampled  # noqa: F401  # a fixture among them
from .test_web import needs, node, seen_in_page

pytestmark = pytest.mark.torch
EMOJI = Path(__file__).parents[2] / "emoji" / "unet.onnx"
HOW = ("--n", "18", "--seed", "7", "--steps", "4")


@pytest.fixture(scope="module", params=["images", "values"])
def staged(request, tmp_path_factory):
    """Return the model of latents (2, 4, 6), whose decoder gives pictures of three channels or numbers."""
    torch = pytest.importorskip("torch")

    class Latents(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = torch.nn.Conv2d(2, 2, 3, padding=1)

        def forward(self, x_t, t):
            return torch.tanh(self.convolution(x_t)) + t[:, None, None, None] / 100.0

    torch.manual_seed(0)
    after = torch.nn.Sequential(torch.nn.ConvTranspose2d(2, 3, 2, stride=2), torch.nn.Tanh())
    spec = ModelSpec(
        name="latents",
        prediction="eps",
        state_shape=(2, 4, 6),
        alphas_cumprod=tuple(np.linspace(0.99, 0.05, 40).tolist()),
        clip_x_0=None,
        defaults=Defaults(num_steps=5),
        stages={"after": Stage({request.param: (3, 8, 12)})},
        units=Units((2.0, 0.5), (0.1, -0.1), 0),
        requires=("stages", "units"),
    )
    path = tmp_path_factory.mktemp(request.param) / "net.onnx"
    export(Latents(), spec, path, stages={"after": after})
    return path, request.param == "images"


def made(path, is_picture):
    return np.asarray(Image.open(path)) if is_picture else np.load(path)


def close(found, path, is_picture):
    expected = generate(path, n=18, seed=7, num_steps=4)
    if not is_picture:
        assert found.shape == (18, 3, 8, 12)
        np.testing.assert_allclose(found, expected, atol=2e-5)
        return
    tiles = found.reshape(4, 8, 5, 12, 3).swapaxes(1, 2).reshape(20, 8, 12, 3)[:18]  # 18 in five columns
    assert np.abs(tiles.astype(int) - expected).max() <= 1


def test_cpp_decodes_as_python_does(programs, staged, tmp_path):  # noqa: F811
    path, is_picture = staged
    out = tmp_path / ("x.png" if is_picture else "x.npy")
    sampled(programs, path, out, *HOW)
    close(made(out, is_picture), path, is_picture)
    for lines, code in refused(path, tmp_path, lambda *how: run([programs / "ddpm_sample", *how, "--out", out])):
        assert len(complaints(lines)) == 1
        assert lines.returncode == code
    done = run([programs / "ddpm_sample", path, "--out", out, "--image", "x.png", "--strength", "0.5"])
    assert done.returncode == 2
    assert "takes no picture" in complaints(done)[0]


def test_node_decodes_as_python_does(staged, tmp_path):
    needs("onnxruntime-node", "fast-png")
    path, is_picture = staged
    out = tmp_path / ("x.png" if is_picture else "x.npy")
    done = node("sample.js", path, *HOW, "--out", out)
    assert done.returncode == 0, done.stderr
    close(made(out, is_picture), path, is_picture)
    for done, code in refused(path, tmp_path, lambda *how: node("sample.js", *how, "--out", out)):
        assert done.returncode == code
        assert done.stderr.startswith("error: net.after.onnx: ")
    done = node("sample.js", path, "--out", out, "--image", "x.png", "--strength", "0.5")
    assert done.returncode == 2


def refused(path, tmp_path, program):
    """Yield what the program says of a model without its decoder, and of one with another; both end with 3."""
    for name, other in (("alone", None), ("other", path)):
        (tmp_path / name).mkdir()
        shutil.copy(path, tmp_path / name / "net.onnx")
        if other is not None:
            shutil.copy(other, tmp_path / name / "net.after.onnx")
        yield program(tmp_path / name / "net.onnx", "--n", 1), 3


def test_the_page_offers_a_model_of_latents(staged):
    path, is_picture = staged
    if not is_picture:
        return  # the page shows pictures
    how = {"n": 4, "steps": 4, "seed": 7}
    seen = seen_in_page(
        "latents", model=str(path), decoder=str(path.with_name("net.after.onnx")), name="latents", **how
    )
    assert (seen["problem"], seen["painting"]) == ("", [True, True])
    expected = generate(path, n=4, seed=7, num_steps=4).reshape(2, 2, 8, 12, 3).swapaxes(1, 2).reshape(16, 24, 3)
    assert np.abs(np.reshape(seen["shown"]["rgba"], (16, 24, 4))[..., :3] - expected).max() <= 1


@pytest.mark.parametrize("language", ["C++", "JavaScript"])
def test_the_shipped_emoji_are_the_same(language, request, tmp_path):
    how, out = ("--n", "2", "--seed", "7", "--label", "animals"), tmp_path / "x.png"
    if language == "C++":
        sampled(request.getfixturevalue("programs"), EMOJI, out, *how)
    else:
        needs("onnxruntime-node", "fast-png")
        assert node("sample.js", EMOJI, *how, "--out", out).returncode == 0
    expected = np.concatenate(list(generate(EMOJI, n=2, seed=7, label="animals")), axis=1)
    assert np.abs(made(out, is_picture=True).astype(int) - expected).max() <= 1
