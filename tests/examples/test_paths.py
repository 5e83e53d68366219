"""A flow and an EDM network in every language: a file with a project's own steps, and its one call."""

import numpy as np
import pytest

from ddpm_export import export, generate, open_model
from ddpm_export.images.read import read_image
from ddpm_export.images.write import grid
from ddpm_export.importers.paths import Path
from ddpm_export.model.spec import ModelSpec

from . import test_cpp
from .test_cpp import complaints, library, library_path, programs, run, sampled  # noqa: F401  # fixtures among them
from .test_hosts import java, sample, swift  # noqa: F401  # fixtures
from .test_web import needs, node

pytestmark = [pytest.mark.torch, pytest.mark.long]
PATHS = {
    "flow": {"path": "flow", "reverse": True, "loop": "flow", "solver": "rk4"},
    "edm": {"preconditioner": "edm", "loop": "karras", "S_churn": 3.0, "S_max": 50.0},
}
SEED, N = 7, 5


@pytest.fixture(scope="module", params=PATHS)
def folder(request, tmp_path_factory):
    """Return a folder with a network of a path, as a denoiser and as a one-call file."""
    torch = pytest.importorskip("torch")
    from ddpm_export.importers.load import load_network

    torch.manual_seed(0)
    made, place = torch.nn.Conv2d(1, 1, 3, padding=1), tmp_path_factory.mktemp(request.param)
    torch.save(made.state_dict(), place / "w.pt")
    spec = ModelSpec("path", "eps", test_cpp.SHAPE, Path("edm").alphas_cumprod(1000), clip_x_0=None)
    reference = "tests.exporting.test_paths:Small"
    checkpoint = load_network(place / "w.pt", reference, spec, arguments=PATHS[request.param], steps=(5,))
    export(checkpoint, place / "net.onnx")
    export(checkpoint, place / "net.sampler.onnx", format="sampler")
    return place


@pytest.fixture
def expected(folder):
    """Return the pictures as NumPy makes them."""
    images = generate(folder / "net.onnx", n=N, seed=SEED)
    assert len(np.unique(images)) > 50
    return images


def test_the_one_call_gives_the_pictures(folder, expected):
    np.testing.assert_array_equal(generate(folder / "net.sampler.onnx", n=N, seed=SEED), expected)


def test_java_and_swift_give_the_pictures(sample, folder, expected, tmp_path):  # noqa: F811
    code, _, picture = sample(tmp_path / "grid.png", folder / "net.sampler.onnx", "--n", N, "--seed", SEED)
    assert code == 0
    np.testing.assert_array_equal(picture, grid(expected))


def test_cpp_gives_the_pictures(programs, folder, expected, tmp_path):  # noqa: F811
    sampled(programs, folder / "net.onnx", tmp_path / "x.png", "--n", N, "--seed", SEED)
    np.testing.assert_array_equal(read_image(tmp_path / "x.png", 1), grid(expected))


def test_javascript_gives_the_pictures(folder, expected, tmp_path):
    needs("onnxruntime-node", "fast-png")
    done = node("sample.js", folder / "net.onnx", "--n", N, "--seed", SEED, "--out", tmp_path / "x.png")
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(read_image(tmp_path / "x.png", 1), grid(expected))


def test_c_gives_the_pictures(library, folder, expected, monkeypatch):  # noqa: F811
    from ddpm_export.process.pixels import to_uint8

    model, spec = open_model(folder / "net.onnx")

    @test_cpp.MODEL
    def network(_, evaluation):
        asked = evaluation.contents
        x_t = np.ctypeslib.as_array(asked.x_t, shape=(asked.batch, *test_cpp.SHAPE))
        said = model(x_t.copy(), np.full(asked.batch, asked.t, np.float32))[spec.prediction]
        np.ctypeslib.as_array(asked.prediction, shape=x_t.shape)[:] = said
        return 0

    monkeypatch.setattr(test_cpp, "network", network)
    with test_cpp.opened(library, spec) as handle:
        made, _ = test_cpp.plan_of(library, handle)
        code, states, message = test_cpp.begun(library, handle, range(N), made, seed=SEED)
        assert code == 0, message
        *_, last = test_cpp.walked(library, states, N)
        library.ddpm_plan_free(made)
    np.testing.assert_array_equal(to_uint8(last.x), expected)
