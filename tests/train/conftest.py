"""A data set and a network small enough to train within a second, and `python -m train` in this process or another."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

if importlib.util.find_spec("torch") is None:
    collect_ignore_glob = ["test_*.py"]

ROOT = Path(__file__).parents[2]
TOY = {
    "dataset": "folder",
    "network": {
        "image_shape": [1, 8, 8],
        "base_channels": 8,
        "channel_multipliers": [1, 2],
        "blocks_per_level": 1,
        "attention_levels": [1],
        "head_channels": 8,
        "groups": 4,
        "dropout": 0.1,
    },
    "num_train_timesteps": 20,
    "batch_size": 8,
    "steps": 6,
    "warmup_steps": 2,
    "log_every": 1,
    "checkpoint_every": 2,
    "picture_every": 1000,
}


@pytest.fixture(autouse=True)
def one_thread():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # several wait for each other on a busy machine
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory):
    """40 images of 8x8, and beside their folder a configuration for them."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("toy")
    (folder / "images").mkdir()
    draws = np.random.default_rng(0)
    for i in range(40):
        Image.fromarray(draws.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / "images" / f"{i:02}.png")
    (folder / "toy.json").write_text(json.dumps(TOY))
    return folder


@pytest.fixture(scope="session")
def toy_folders(toy_folder):
    """The same images, a folder a class: a and b."""
    for number, path in enumerate(sorted((toy_folder / "images").iterdir())):
        place = toy_folder / "classes" / "ab"[number % 2] / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
    return toy_folder / "classes"


@pytest.fixture(scope="session")
def toy_config(toy_folder):
    """Return the configuration with some fields changed, as `--set` changes them."""
    from train.config import load_config

    def make(**changes):
        return load_config(
            str(toy_folder / "toy.json"), {name.replace("__", "."): str(value) for name, value in changes.items()}
        )

    return make


@pytest.fixture(scope="session")
def toy_dataset(toy_folder):
    from ddpm_export.scoring.datasets.folders import picture_folder

    return picture_folder(toy_folder / "images", (1, 8, 8))


@pytest.fixture
def run(toy_folder, tmp_path, monkeypatch, capsys):
    """Run `python -m train` on the toy in this process: (exit code, stdout, stderr)."""
    from train.cli import main

    def run(*arguments, config=toy_folder / "toy.json", out=tmp_path / "out"):
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        options = ["--config", config, "--data", toy_folder / "images", "--out", out, *arguments]
        monkeypatch.setattr(sys, "argv", ["train", *map(str, options)])
        try:
            with pytest.raises(SystemExit) as ended:
                main()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return run


@pytest.fixture
def start(toy_folder):
    """Start `python -m train` on the toy in a process of its own; whatever still runs at the end is killed."""
    processes = []

    def start(*arguments, out):
        options = ["--config", toy_folder / "toy.json", "--data", toy_folder / "images", "--out", out, *arguments]
        process = subprocess.Popen(
            [sys.executable, "-m", "train", *map(str, options)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()
