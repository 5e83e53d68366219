import json

import pytest
import torch
from commands import run_here

import train.loop as train_loop
from train import speed

pytestmark = pytest.mark.torch


def test_each_combination_gets_a_line_and_takes_real_steps(toy_folder, monkeypatch):
    taken = []

    def counting(config, *arguments):
        taken.append((config.bf16, config.network.num_classes, arguments[4] is not None))
        return update(config, *arguments)

    update = train_loop._update
    monkeypatch.setattr(train_loop, "_update", counting)
    options = ["--set", "bf16=true,false", "--set", "network.num_classes=0,3", "--rounds", 2]
    before = torch.get_num_threads()
    code, out, err = run_here(speed.main, toy_folder / "toy.json", *options)
    torch.set_num_threads(before)
    assert code == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    wanted = [(bf16, classes) for bf16 in (True, False) for classes in (0, 3)]
    assert [(json.loads(row["bf16"]), int(row["network.num_classes"])) for row in rows] == wanted
    assert taken == [(bf16, classes, classes > 0) for bf16, classes in wanted] * 3  # in turns, the first not counted
    assert all(0.0 < row["least"] <= row["median"] <= row["most"] for row in rows)
    assert rows[1]["parameters"] - rows[0]["parameters"] == (3 + 1) * 4 * 8
