import dataclasses
import hashlib
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import train.ship
from ddpm_export import generate, load_checkpoint, open_model
from ddpm_export.images.read import read_image
from ddpm_export.images.write import grid
from ddpm_export.importers.checkpoint import load_torch_file
from ddpm_export.model.guidance import Guidance
from ddpm_export.model.plans import json_from_plan
from ddpm_export.model.steps import plan
from ddpm_export.system.files import sha256_of
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


@pytest.mark.long
def test_a_training_becomes_the_folder_that_ships(run_folder, toy_folder, tmp_path, monkeypatch, capsys):
    grids = {"ddim-5": {"sampler": "ddim", "num_steps": 5, "eta": 0.0}, "ddpm-20": {"sampler": "ddpm", "num_steps": 20}}
    monkeypatch.setattr(train.ship, "GRIDS", grids)
    options = ["--data", toy_folder / "images", "--sampler", "ddpm", "--steps", "7", "--note", NOTE]
    shipped(run_folder, tmp_path, monkeypatch, capsys, *options)

    digests = dict(line.split()[::-1] for line in (tmp_path / "SHA256SUMS").read_text().splitlines())
    made = {"unet.onnx", "checkpoint.pt", "samples-ddim-5.png", "samples-ddpm-20.png", "loss.png", "log.jsonl"}
    assert set(digests) == made
    assert {path.name for path in tmp_path.iterdir()} == made | {"README.md", "SHA256SUMS"}
    assert all(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest for name, digest in digests.items())
    whole, kept = (load_torch_file(folder / "checkpoint.pt") for folder in (run_folder, tmp_path))
    assert whole.keys() - kept.keys() == {"network", "optimizer"}
    assert kept["ema"].keys() == whole["ema"].keys()
    assert all(torch.equal(value, whole["ema"][name]) for name, value in kept["ema"].items())
    _, spec = open_model(tmp_path / "unet.onnx")
    assert (spec.defaults.sampler, spec.defaults.num_steps) == ("ddpm", 7)
    assert spec.source["checkpoint_sha256"] == digests["checkpoint.pt"]

    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "Unconditional 1x8x8 images" in card
    assert "- **Training**: 6 steps of 8 (48 images, 1.2 epochs)" in card
    assert "No labels used." in card
    assert NOTE in " ".join(card.split())
    assert "| `checkpoint.pt` | EMA weights, step, config: what another training begins with (`--start`) |" in card
    assert max(map(len, card.splitlines())) <= 120
    with Image.open(tmp_path / "samples-ddim-5.png") as image:
        pixels = np.asarray(image)  # 8 x 8 images of 8 x 8
        text = json.loads(image.text["ddpm_export"])
    assert (pixels.shape, text["model_sha256"]) == ((64, 64), digests["unet.onnx"])
    share = (pixels == 0).mean()
    assert f"| ddim-5 | {share:.1%} | {(pixels <= 3).mean():.1%} |" in card


@pytest.mark.long
def test_a_white_background(run_folder, toy_folder, tmp_path, monkeypatch, capsys):
    white = tmp_path / "white"
    white.mkdir()
    for place in (toy_folder / "images").iterdir():
        with Image.open(place) as image:
            Image.eval(image, lambda value: 255 - value // 2).save(white / place.name)
    monkeypatch.setattr(train.ship, "GRIDS", {"ddim-5": {"sampler": "ddim", "num_steps": 5, "eta": 0.0}})
    shipped(run_folder, tmp_path / "out", monkeypatch, capsys, "--data", white)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "at exactly 255" in card
    assert "--data DATA --out RUN" in card
    with Image.open(tmp_path / "out" / "samples-ddim-5.png") as image:
        pixels = np.asarray(image)
    assert f"| ddim-5 | {(pixels == 255).mean():.1%} | {(pixels >= 252).mean():.1%} |" in card


@pytest.mark.long
def test_what_has_classes_ships_with_them(
    run_folder, toy_config, toy_dataset, toy_folder, tmp_path, monkeypatch, capsys
):
    """Guidance and plans are in every file, each class has a row of samples, and the card says what it began with."""
    monkeypatch.setattr(train.ship, "GRIDS", {"ddim-5": {"sampler": "ddim", "num_steps": 5, "eta": 0.0}})
    run, out = tmp_path / "run", tmp_path / "out"
    labelled = dataclasses.replace(toy_dataset, labels=np.arange(40) % 3, classes=("dark", "middling", "bright"))
    config = toy_config(network__num_classes=3, label_dropout=0.5, steps=4)
    guided = {"scale": 3.0, "since": 2.0, "until": 8.0, "gone": 12.0}
    whole = load_torch_file(train_toy(config, labelled, run, "cpu", lambda _: None))
    whole["config"] |= {"teacher": 64 * "a", "weaker": 64 * "b", "autoguidance": guided}
    torch.save({k: v for k, v in whole.items() if k not in ("network", "optimizer")}, run / "checkpoint.pt")
    spec = load_checkpoint(run / "checkpoint.pt").spec
    tuned = plan(spec, sampler="unipc", num_steps=3)
    (tmp_path / "tuned.json").write_text(json.dumps({"tuned-3": json_from_plan(tuned)}))
    options = ["--guidance", "2.5@3-15", "--plans", tmp_path / "tuned.json"]
    options += ["--start", run_folder / "checkpoint.pt", "--data", toy_folder / "images"]
    shipped(run, out, monkeypatch, capsys, *options)

    _, spec = open_model(out / "unet.onnx")
    assert (spec.defaults.guidance, spec.plans) == (Guidance(2.5, (3, 15)), {"tuned-3": tuned})
    assert (out / "plans.json").read_bytes() == (tmp_path / "tuned.json").read_bytes()
    assert f"{sha256_of(out / 'plans.json')}  plans.json\n" in (out / "SHA256SUMS").read_text()

    rows = generate(out / "unet.onnx", n=30, num_steps=5, seed=0, sampler="ddim", eta=0.0)
    order = [number for label in range(3) for number in range(label, 30, 3)]
    page = read_image(out / "samples-classes.png", 1)
    np.testing.assert_array_equal(page[:, -80:], grid(rows[order], columns=10))
    assert (page[:, :-80] > 128).any(axis=(1, 2)).reshape(3, 8).any(axis=1).all(), "a name beside each row"

    of_old = {"scale": 3.0, "until": 8.0, "gone": 12.0}
    stated = train.ship._teachers({"teacher": 64 * "a", "weaker": 64 * "b", "autoguidance": of_old})
    assert "up to t = 8, from there less, and once at 12 (autoguidance, Karras et al. 2024)" in stated
    lines = (out / "README.md").read_text(encoding="utf-8").splitlines()
    assert max(map(len, lines)) <= 120
    card = " ".join(" ".join(lines).split())
    for inputs in (
        "Class-conditional 1x8x8 images",
        "Its labels are used.",
        "a training `toy` of 6 steps of 8 (48 images), so 80 images in both. Then 4 steps of 8 (32 images, 0.8 epochs)",
        "**Classes**: dark, middling, bright.",
        "For 50% of the images it was told `none` in place of the class",
        "guidance: 2.5 at t 3 to 15 by default",
        "64 samples each, seed 0, guidance 2.5 at t 3 to 15, the classes in turn: 50 steps",
        "![samples of each class](samples-classes.png)",
        "of the checkpoint aaaaaaaaaaaaaaaa, led away from a weaker one's predictions, of bbbbbbbbbbbbbbbb: 3 times",
        "up to t = 8, from there less, and once at 12; below t = 2 less, too, and once at 0",
        "and once at 0 (autoguidance, Karras et al. 2024). The EMA",
        "| `checkpoint.pt` | EMA weights, step, config: what another training begins with (`--start`) |",
        "--start START --out RUN",
        "`python -m train.ship RUN --data DATA --plans PLANS --guidance 2.5@3-15 --start START`",
    ):
        assert inputs in card, inputs


def test_pages_say_of_old_digests_that_they_no_longer_ship(tmp_path):
    old, new = "0123456789ab" + 52 * "c", "0123456789ab" + 52 * "d"
    texts = [f"was {old}.", f"was ({old[:16]}), and {new[:16]} is", f"{old[:12]}, which no longer ships", old[:11]]
    pages = [tmp_path / f"{k}.md" for k in range(4)]
    for page, text in zip(pages, texts, strict=True):
        page.write_text(text)
    assert list(train.ship.say_what_no_longer_ships(pages, {old})) == pages[:2]
    assert [page.read_text() for page in pages] == [
        f"was {old}, which no longer ships.",
        f"was ({old[:16]}, which no longer ships), and {new[:16]} is",
        *texts[2:],
    ]
    assert list(train.ship.say_what_no_longer_ships(pages, {old})) == []
