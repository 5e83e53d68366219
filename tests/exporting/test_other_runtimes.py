"""One-call files give Python's images on the oldest ONNX Runtime that is promised, and on Debian's."""

import json
import subprocess

import numpy as np
import pytest

from benchmarks.runtimes import PYTHON, PYTHONS, ROOT
from ddpm_export import export, generate

HOW = {
    "the oldest that is promised, Python": ("make .venv-oldest", "1.16.3"),
    "Debian's, Python": ("apt install python3-onnxruntime", ""),
}
SETTINGS = {"seed": 2**63 - 1, "first": 2**32 - 2, "n": 2, "steps": 3}
UNET = ROOT / "exported" / "unet.onnx"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one-call")
    return {kind: export(UNET, folder / f"{kind}.onnx", format=kind).path for kind in ("sampler", "slice")}


@pytest.mark.torch  # for its time
@pytest.mark.parametrize("kind", ["sampler", "slice"])
@pytest.mark.parametrize("runtime", HOW)
def test_the_images_are_pythons(runtime, kind, files, tmp_path):
    how, version = HOW[runtime]
    found = (
        subprocess.run([PYTHONS[runtime], "-c", "import onnxruntime"], check=False)
        if PYTHONS[runtime].exists()
        else None
    )
    if found is None or found.returncode != 0:
        pytest.skip(f"no ONNX Runtime, {runtime}: {how}")
    out = tmp_path / "images.npy"
    command = [PYTHONS[runtime], "-c", PYTHON, files[kind], out, json.dumps({**SETTINGS, "eta": 0.5})]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(version)
    expected = generate(UNET, n=2, seed=2**63 - 1, first=2**32 - 2, num_steps=3, sampler="ddim", eta=0.5)
    assert np.abs(np.load(out).astype(int) - expected.astype(int)).max() <= 1
