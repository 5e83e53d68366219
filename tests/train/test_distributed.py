"""Several processes on one batch: what they agree on, and that their number changes nothing but the speed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from representative import representative

from ddpm_export.errors import ConfigError
from ddpm_export.importers.checkpoint import load_torch_file
from ddpm_export.scoring.datasets.folders import picture_folder
from train.distributed import ALONE, World
from train.loop import _Draws, train

pytestmark = pytest.mark.torch
ROOT = Path(__file__).parents[2]
EXACT = {"network__dropout": 0.0, "bf16": "false", "horizontal_flips": "true"}  # dropout is another on each rank


def silent(_progress):
    pass


def losses(out):
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines], [line["loss"] for line in lines]


@pytest.fixture
def start_ranks():
    """Start two processes of a python command as torchrun would, and kill what is left of them at the end."""
    processes = []

    def start(*command):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        for rank in range(2):
            places = {
                "RANK": rank,
                "LOCAL_RANK": rank,
                "WORLD_SIZE": 2,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            }
            processes.append(
                subprocess.Popen(
                    [sys.executable, *map(str, command)],
                    cwd=ROOT,
                    env={**os.environ, "OMP_NUM_THREADS": "1", **{name: str(value) for name, value in places.items()}},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        return processes

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6, 12])
def test_shares_are_equal_and_make_up_the_batch(size):
    shares = [World(rank, size).share(12) for rank in range(size)]
    assert np.concatenate([np.arange(12)[share] for share in shares]).tolist() == list(range(12))
    assert {len(range(12)[share]) for share in shares} == {12 // size}


def test_a_batch_that_does_not_split_is_refused_with_one_that_does(toy_config, toy_dataset, tmp_path):
    with pytest.raises(ConfigError, match=r"batch_size must be a multiple of the 3 processes, got 8\. Use 9\."):
        train(toy_config(), toy_dataset, tmp_path, "cpu", silent, world=World(1, 3))
    assert list(tmp_path.iterdir()) == []


def test_ranks_draw_parts_of_the_same_batch_and_dropouts_of_their_own(toy_config):
    config = toy_config(horizontal_flips="true")
    draws, dropouts = [], []
    for world in (ALONE, World(0, 2), World(1, 2)):
        draws.append(_Draws(config, 3, world.share(config.batch_size), world.rank))
        dropouts.append(torch.rand(4))
    for name in ("flips", "t", "eps"):
        whole, *parts = (getattr(drawn, name) for drawn in draws)
        torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=0)
    assert torch.equal(dropouts[0], dropouts[1])
    assert not torch.equal(dropouts[1], dropouts[2])


def test_alone_there_is_nothing_to_agree_on():
    network, value = torch.nn.Linear(2, 2), torch.tensor(3.0)
    assert ALONE.wrapped(network) is network
    assert (ALONE.any(True), ALONE.any(False), ALONE.mean(value)) == (True, False, value)
    ALONE.check_same("anything", 7)


AGREE = """
import torch
from ddpm_export.errors import ConfigError
from train.distributed import joined_world

with joined_world("cpu") as world:
    print(world.any(False), world.any(world.rank == 1), world.mean(torch.tensor(float(world.rank))).item())
    world.check_same("seven", 7)
    try:
        world.check_same("rank", world.rank)
    except ConfigError as exc:
        print(exc)
"""


def test_ranks_agree(start_ranks):
    for process in start_ranks("-c", AGREE):
        out, err = process.communicate()
        assert process.returncode == 0, err
        agreed, refused = out.splitlines()
        assert agreed == "False True 0.5"
        assert refused.startswith("rank must be the same in all processes, got [0, 1].")


@representative("num_classes", [0, 2])
def test_two_processes_go_on_from_one_and_one_from_two_along_the_same_curve(
    num_classes, toy_folder, toy_folders, toy_config, tmp_path
):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    images = toy_folders if num_classes else toy_folder / "images"
    dataset = picture_folder(images, (1, 8, 8))
    changes = {**EXACT, "network__num_classes": num_classes}
    train(toy_config(**changes, steps=15), dataset, whole, "cpu", silent)
    train(toy_config(**changes, steps=3), dataset, parts, "cpu", silent)
    settings = [f"--set={name.replace('__', '.')}={value}" for name, value in changes.items()]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "train"]
    options = ["--config", toy_folder / "toy.json", "--data", images, "--out", parts, "--steps=12"]
    done = subprocess.run(
        [sys.executable, *map(str, [*torchrun, *options, *settings, "--json"])],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["step"] == 12  # one result, not one a rank
    assert done.stderr.count("step 12/12") == done.stderr.count("going on from step 3") == 1
    train(toy_config(**changes, steps=15), dataset, parts, "cpu", silent)
    steps, curve = losses(parts)
    assert steps == list(range(1, 16))  # rank 1 wrote none of its own
    np.testing.assert_allclose(curve, losses(whole)[1], rtol=1e-5)
    assert {path.name for path in parts.iterdir()} == {"checkpoint.pt", "log.jsonl", "loss.png", "samples.png"}
    ends = [load_torch_file(out / "checkpoint.pt") for out in (whole, parts)]
    for part in ("network", "ema"):
        for name, value in ends[0][part].items():  # Adam divides by its root: where gradients are small, rounding shows
            torch.testing.assert_close(ends[1][part][name], value, rtol=1e-3, atol=1e-4)


@pytest.fixture
def running(start_ranks, toy_folder, tmp_path):
    """Two ranks amid a training without end, and their --out."""
    out = tmp_path / "out"
    options = ["--config", toy_folder / "toy.json", "--data", toy_folder / "images", "--out", out, "--steps=1000000"]
    ranks = start_ranks("-m", "train", *options)
    while not (out / "log.jsonl").exists() and all(rank.poll() is None for rank in ranks):
        time.sleep(0.01)
    return ranks, out


@pytest.mark.long
def test_a_signal_to_one_stops_all_after_the_same_step(running):
    ranks, out = running
    ranks[1].send_signal(signal.SIGTERM)
    inputs = [rank.communicate()[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [130, 130], inputs
    step = load_torch_file(out / "checkpoint.pt")["step"]
    assert losses(out)[0][-1] == step
    assert f"written at step {step}" in inputs[0]
    assert "written" not in inputs[1]


@pytest.mark.long
def test_when_one_is_killed_the_other_ends_with_a_line_that_says_so(running):
    ranks, out = running
    ranks[1].kill()
    inputs = ranks[0].communicate()[1]
    assert ranks[0].returncode == 5, inputs
    assert "Traceback" not in inputs
    assert inputs.splitlines()[-1].startswith("error: Rank 0 of 2 lost another process: ")
    assert load_torch_file(out / "checkpoint.pt")["step"] % 2 == 0  # checkpoint_every: none was written on the way out
