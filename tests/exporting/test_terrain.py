"""A network that somebody published as an .onnx, on PyPI: its pictures by our sampler and by its package's own code."""

from collections import deque
from importlib import util
from pathlib import Path

import numpy as np
import pytest
from commands import run_here

from ddpm_export import denoiser, noise_stream, open_model, plan, to_uint8, walk
from ddpm_export.cli.export import main

found = util.find_spec("terrain_diffusion")
pytestmark = pytest.mark.skipif(
    found is None, reason="needs: pip install --no-deps adaptive-terrain-diffusion==0.4.2 (39 MB)"
)
SIGMA_MAX = 80.0


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """The file of docs/importing.md, made by its command."""
    weights = Path(found.origin).parent / "weights" / "terrain_consistency_unet_difficulty100.onnx"
    path = tmp_path_factory.mktemp("terrain") / "terrain.onnx"
    options = "--set x_t=noisy --set sigma=sigma --input difficulty:vector:1 --sampler consistency --steps 1"
    options += " --schedule karras,sigma_min=0.002,sigma_max=80 --plans consistency:2,4"
    ending = run_here(main, weights, *options.split(), "--out", path)
    assert ending.code == 0, ending
    return path


class Drawn:
    """Stand for the package's generator of random numbers, and give it ours."""

    def __init__(self, noise):
        self.draws = deque(noise)

    def standard_normal(self, shape, dtype):
        draw = self.draws.popleft()
        assert (draw.shape, draw.dtype) == (shape, dtype)
        return draw


def test_one_step_gives_the_packages_own_terrain_and_two_what_its_network_says_of_new_noise(imported):
    from terrain_diffusion import TerrainGenerator

    package = TerrainGenerator(device="cpu")
    difficulty = np.array([[0.0], [0.6]], np.float32)
    model, spec = open_model(imported)
    assert (spec.defaults.plan, [one.name for one in spec.inputs]) == ("consistency-1", ["difficulty"])
    noise = noise_stream(1, range(2), spec.state_shape)
    denoise = denoiser(model, spec, difficulty=difficulty)

    def ends(name):
        return deque(walk(denoise, noise, plan(spec, name=name)), maxlen=1).pop().x

    x, theirs = ends("consistency-1"), package._sample_native(difficulty[:, 0], generator=Drawn([noise(0)]))
    np.testing.assert_allclose(x, theirs, rtol=0, atol=3e-5)
    assert (to_uint8(x) == to_uint8(theirs)).mean() > 0.999
    assert to_uint8(x).std() > 10
    heights = [package._from_model_space(one, zero_floor=True) for one in (x, theirs)]  # metres
    np.testing.assert_allclose(*heights, rtol=0, atol=1e-4)

    # two steps: what it says of noise is put into noise of the middle sigma, as Song et al. 2023, algorithm 1
    a = plan(spec, name="consistency-2").rows[1].a
    sigma = np.sqrt((1 - a) / a)
    noisy = (theirs + sigma * noise(1)).astype(np.float32)
    again = package._denoise(noisy, np.full(2, sigma), difficulty[:, 0])
    np.testing.assert_allclose(ends("consistency-2"), again, rtol=0, atol=1e-4)
