"""A network that somebody published as an .onnx, on PyPI: its pictures by our sampler and by its package's own code."""

from collections import deque
from importlib import util
from pathlib import Path

import numpy as np
import pytest
from commands import run_here

from ddpm_export import denoiser, noise_stream, open_model, plan, to_uint8, walk
from ddpm_export.cli.adopt import main
from ddpm_export.exporting import proof

found = util.find_spec("terrain_diffusion")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        found is None, reason="needs: pip install --no-deps adaptive-terrain-diffusion (39 MB; .ci/run does)"
    ),
]
OPTIONS = (  # those of docs/importing-modules.md
    "--set x_t=noisy --set sigma=sigma --input difficulty:vector:1 --schedule karras,sigma_min=0.002,sigma_max=80 "
    "--sampler consistency --steps 1 --plans consistency:2,4"
)


class Drawn:
    """Stand for the package's generator of random numbers, and give it ours."""

    def __init__(self, draw):
        self.draw = draw

    def standard_normal(self, shape, dtype):
        assert (self.draw.shape, self.draw.dtype) == (shape, dtype)
        return self.draw


def test_one_step_gives_the_packages_terrain_and_two_what_its_network_says_of_new_noise(tmp_path, monkeypatch):
    from terrain_diffusion import TerrainGenerator

    monkeypatch.setattr(proof, "BATCHES", (2,))  # of the whole proof, 17 s of a core, what shows a wrong graph
    monkeypatch.setattr(proof, "NUM_STEPS", 1)
    weights = Path(found.origin).parent / "weights" / "terrain_consistency_unet_difficulty100.onnx"
    ending = run_here(main, weights, *OPTIONS.split(), "--out", tmp_path / "terrain.onnx")
    assert ending.code == 0, ending
    model, spec = open_model(tmp_path / "terrain.onnx")
    assert (spec.defaults.plan, [entry.name for entry in spec.inputs]) == ("consistency-1", ["difficulty"])

    package, difficulty = TerrainGenerator(device="cpu"), np.array([[0.0], [0.6]], np.float32)
    noise = noise_stream(1, range(2), spec.state_shape)
    denoise = denoiser(model, spec, difficulty=difficulty)

    def end(name):
        return deque(walk(denoise, noise, plan(spec, name=name)), maxlen=1).pop().x

    x, theirs = end("consistency-1"), package._sample_native(difficulty[:, 0], generator=Drawn(noise(0)))
    np.testing.assert_allclose(x, theirs, rtol=0, atol=3e-5)
    pixels = to_uint8(x).astype(int), to_uint8(theirs).astype(int)
    assert (pixels[0] == pixels[1]).mean() > 0.999
    assert np.abs(pixels[0] - pixels[1]).max() <= 1
    assert pixels[0].std() > 10
    heights = [package._from_model_space(entry, zero_floor=True) for entry in (x, theirs)]  # metres
    np.testing.assert_allclose(*heights, rtol=0, atol=1e-4)

    # two steps: what it says of noise is put into new noise of a smaller sigma (Song et al. 2023, algorithm 1)
    a = plan(spec, name="consistency-2").rows[1].a
    sigma = np.sqrt((1 - a) / a)
    again = package._denoise((theirs + sigma * noise(1)).astype(np.float32), np.full(2, sigma), difficulty[:, 0])
    np.testing.assert_allclose(end("consistency-2"), again, rtol=0, atol=1e-4)
