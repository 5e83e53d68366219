import hashlib
import json
import sys

import numpy as np
import pytest
from PIL import Image

import train.ship
from ddpm_export import open_model
from train.loop import train as train_toy

pytestmark = pytest.mark.torch
NOTE = (
    "It is a toy, and this sentence about it is long enough that no line of a card could hold it with what precedes it."
)


@pytest.fixture(scope="module")
def run_folder(toy_config, toy_dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    train_toy(toy_config(), toy_dataset, out, "cpu", lambda _progress: None)
    return out


def test_a_training_becomes_the_folder_that_ships(run_folder, toy_folder, tmp_path, monkeypatch, capsys):
    grids = {"ddim-5": {"sampler": "ddim", "num_steps": 5, "eta": 0.0}, "ddpm-20": {"sampler": "ddpm", "num_steps": 20}}
    monkeypatch.setattr(train.ship, "GRIDS", grids)
    options = ["--out", tmp_path, "--data", toy_folder / "images", "--sampler", "ddpm", "--steps", "7", "--note", NOTE]
    monkeypatch.setattr(sys, "argv", ["ship", str(run_folder), *map(str, options)])
    with pytest.raises(SystemExit) as ended:
        train.ship.main()
    assert ended.value.code == 0, capsys.readouterr().err

    digests = dict(line.split()[::-1] for line in (tmp_path / "SHA256SUMS").read_text().splitlines())
    made = {"unet.onnx", "unet.ts", "unet.pt2", "checkpoint.pt", "samples-ddim-5.png", "samples-ddpm-20.png"}
    assert set(digests) == made | {"loss.png", "log.jsonl"}
    assert all(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest for name, digest in digests.items())
    _, spec = open_model(tmp_path / "unet.onnx")
    assert (spec.defaults.sampler, spec.defaults.num_steps) == ("ddpm", 7)

    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "6 steps of 8 (48 images, 1.2 epochs)" in card
    assert NOTE in " ".join(card.split())
    assert max(map(len, card.splitlines())) <= 120
    with Image.open(tmp_path / "samples-ddim-5.png") as image:
        pixels = np.asarray(image)  # 8 x 8 images of 8 x 8
        text = json.loads(image.text["ddpm_export"])
    assert (pixels.shape, text["model_sha256"]) == ((64, 64), digests["unet.onnx"])
    share = (pixels == 0).mean()
    assert f"| ddim-5 | {share:.1%} | {(pixels <= 3).mean():.1%} |" in card
