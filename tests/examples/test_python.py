"""The Python examples do what they say; tests/test_docs.py runs the straight line."""

import io
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_export import edit, open_model
from ddpm_export.exporting.export import export
from ddpm_export.images.read import read_image
from ddpm_export.images.write import grid

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = json.loads((ROOT / "tests" / "golden" / "full_image.json").read_text(encoding="ascii"))
# what a one-call program says where it is told no class
FIRST_CLASS = {} if open_model(ROOT / "exported" / "unet.onnx")[1].label is None else {"label": 0, "guidance": 1.0}


def test_the_smallest_server_gives_the_golden_image_and_refuses_in_one_line():
    command = [sys.executable, "examples/python/serve.py", "exported/unet.onnx", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            address = process.stdout.readline().split("?")[0].strip()
            with urllib.request.urlopen(
                f"{address}?seed={GOLDEN['seed']}&first={GOLDEN['first']}&steps=50", timeout=60
            ) as answer:
                pixels = np.asarray(Image.open(io.BytesIO(answer.read())), dtype=np.int64)
            assert np.abs(pixels.ravel() - np.array(GOLDEN["pixels"])).max() <= 1
            for query in ("?n=17", "?seed=x", "?sed=7", "?plan=x"):
                with pytest.raises(urllib.error.HTTPError) as error:
                    urllib.request.urlopen(f"{address}{query}", timeout=60)
                with error.value:
                    assert (error.value.code, len(error.value.read().splitlines())) == (400, 1)
        finally:
            process.kill()


def test_what_is_filled_in_step_by_step_is_what_edit_makes(tmp_path):
    for name in ("exported", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    command = [sys.executable, ROOT / "examples" / "python" / "fill.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, check=True)
    picture, mask = (read_image(ROOT / "docs" / "given" / name, 1) for name in ("pictures/00.png", "right-half.png"))
    how = {"sampler": "ddim", "num_steps": 10, "eta": 1.0, "returns": 2, "seed": 0}
    expected = edit(ROOT / "exported" / "unet.onnx", picture[None], mask=mask[..., 0], n=8, **how)
    np.testing.assert_array_equal(read_image(tmp_path / "filled.png", 1), grid(expected))


@pytest.mark.torch  # for its time
def test_an_edit_by_one_call_is_what_edit_makes(tmp_path):
    export(ROOT / "exported" / "unet.onnx", tmp_path / "unet.edit.onnx", format="edit")
    files = [ROOT / "docs/given/pictures/00.png", ROOT / "docs/given/right-half.png"]
    program = ROOT / "examples" / "python" / "one_call_edit.py"
    arguments = [tmp_path / "unet.edit.onnx", *files, 2, 7, 3, tmp_path / "images.npy"]
    subprocess.run(list(map(str, [sys.executable, program, *arguments])), check=True)
    picture, mask = (read_image(path, 1) for path in files)
    expected = edit(ROOT / "exported" / "unet.onnx", picture[None], mask=mask[..., 0], seed=7, n=2, label=3)
    assert np.abs(np.load(tmp_path / "images.npy").astype(int) - expected).max() <= 1
