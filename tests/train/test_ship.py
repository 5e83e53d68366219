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


def shipped(run_folder, out, monkeypatch, capsys, *options):
    monkeypatch.setattr(sys, "argv", ["ship", str(run_folder), "--out", str(out), *map(str, options)])
    with pytest.raises(SystemExit) as ended:
        train.ship.main()
    assert ended.value.code == 0, capsys.readouterr().err


def test_a_training_becomes_the_folder_that_ships(run_folder, toy_folder, tmp_path, monkeypatch, capsys):
    grids = {"ddim-5": {"sampler": "ddim", "num_steps": 5, "eta": 0.0}, "ddpm-20": {"sampler": "ddpm", "num_steps": 20}}
    monkeypatch.setattr(train.ship, "GRIDS", grids)
    options = ["--data", toy_folder / "images", "--sampler", "ddpm", "--steps", "7", "--note", NOTE]
    shipped(run_folder, tmp_path, monkeypatch, capsys, *options)

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


def test_only_onnx_and_a_white_background(run_folder, toy_folder, tmp_path, monkeypatch, capsys):
    white = tmp_path / "white"
    white.mkdir()
    for place in (toy_folder / "images").iterdir():
        with Image.open(place) as image:
            Image.eval(image, lambda value: 255 - value // 2).save(white / place.name)
    monkeypatch.setattr(train.ship, "GRIDS", {"ddim-5": {"sampler": "ddim", "num_steps": 5, "eta": 0.0}})
    shipped(run_folder, tmp_path / "out", monkeypatch, capsys, "--data", white, "--only-onnx")
    assert {path.suffix for path in (tmp_path / "out").glob("unet.*")} == {".onnx"}
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "at exactly 255" in card
    assert "--data DATA --out RUN" in card
    with Image.open(tmp_path / "out" / "samples-ddim-5.png") as image:
        pixels = np.asarray(image)
    assert f"| ddim-5 | {(pixels == 255).mean():.1%} | {(pixels >= 252).mean():.1%} |" in card
