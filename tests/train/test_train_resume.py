import json
import os
import random
import signal
import time

import pytest
import torch
from representative import representative

import train.loop as train_loop
from ddpm_export.errors import BadFileError, ConfigError, EnvironmentProblem, NonFiniteError
from ddpm_export.importers.checkpoint import load_torch_file
from ddpm_export.system.files import sha256_of
from train.loop import Progress, train

pytestmark = pytest.mark.torch
STEPS = 60


def silent(_progress):
    pass


def logged_steps(out):
    return [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def uninterrupted(toy_config, toy_dataset, tmp_path_factory):
    """The digest of a run that nobody disturbed, and that drew no pictures."""
    torch.set_num_threads(1)
    config = toy_config(steps=STEPS, checkpoint_every=7)
    return sha256_of(train(config, toy_dataset, tmp_path_factory.mktemp("whole"), "cpu", silent))


def started(start, out):
    return start("--steps", STEPS, "--set", "checkpoint_every=7", out=out)


def wait_for_line(process, log, count):
    while process.poll() is None and not (log.exists() and log.read_bytes().count(b"\n") >= count):
        time.sleep(0.002)


@representative("kills", [1, 3])
def test_killed_at_random_moments_it_ends_with_the_same_bytes(
    start, tmp_path, toy_config, toy_dataset, uninterrupted, kills
):
    for moment in [random.randint(1, 15), random.randint(22, 35), random.randint(43, 52)][-kills:]:
        process = started(start, tmp_path)
        wait_for_line(process, tmp_path / "log.jsonl", moment)
        time.sleep(random.uniform(0.0, 0.02))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"
    reports = []
    train(toy_config(steps=STEPS, checkpoint_every=7), toy_dataset, tmp_path, "cpu", reports.append)
    assert reports[0].step >= 35  # a multiple of 7: the last moment is at 43 or later
    assert sha256_of(tmp_path / "checkpoint.pt") == uninterrupted
    assert logged_steps(tmp_path) == list(range(1, STEPS + 1))
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.pt", "log.jsonl"}


def test_asked_to_stop_it_leaves_130_and_a_checkpoint(start, tmp_path, toy_config, toy_dataset, uninterrupted):
    process = started(start, tmp_path)
    wait_for_line(process, tmp_path / "log.jsonl", 9)
    process.send_signal(signal.SIGTERM)
    out, inputs = process.communicate()
    assert (process.returncode, out) == (130, "")
    step = load_torch_file(tmp_path / "checkpoint.pt")["step"]
    assert 9 <= step < STEPS
    assert f"written at step {step}" in inputs
    assert "Traceback" not in inputs
    assert logged_steps(tmp_path)[-1] == step
    train(toy_config(steps=STEPS, checkpoint_every=7), toy_dataset, tmp_path, "cpu", silent)
    assert sha256_of(tmp_path / "checkpoint.pt") == uninterrupted


@representative("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_and_not_more(number, toy_config, toy_dataset, tmp_path):
    before = signal.getsignal(number)

    def interrupt(progress):
        if progress.step == 3:
            os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt, match="step 3"):
        train(toy_config(checkpoint_every=100), toy_dataset, tmp_path, "cpu", interrupt)
    assert load_torch_file(tmp_path / "checkpoint.pt")["step"] == 3
    assert signal.getsignal(number) is before


@representative(
    "changes",
    [
        {},
        {"bf16": "false"},
        {"channels_last": "false"},
        {"horizontal_flips": "true", "prediction": "v", "loss": "huber", "schedule": "quadratic"},
        {"network__channel_multipliers": "[1]", "network__attention_levels": "[]", "network__head_channels": 4},
    ],
    ids=str,
)
@representative("first", [4, 1])
def test_in_two_parts_or_in_one_the_bytes_are_the_same(first, changes, toy_config, toy_dataset, tmp_path):
    whole = train(toy_config(**changes), toy_dataset, tmp_path / "whole", "cpu", silent)
    train(toy_config(**changes, steps=first), toy_dataset, tmp_path / "parts", "cpu", silent)
    reports = []
    parts = train(toy_config(**changes), toy_dataset, tmp_path / "parts", "cpu", reports.append)
    assert reports[0] == Progress(first, 6)
    assert sha256_of(parts) == sha256_of(whole)


def test_another_seed_is_another_training(toy_config, toy_dataset, tmp_path):
    digests = {sha256_of(train(toy_config(seed=s), toy_dataset, tmp_path / str(s), "cpu", silent)) for s in (0, 1)}
    assert len(digests) == 2


def test_weights_that_went_bad_are_not_saved(toy_config, toy_dataset, tmp_path, monkeypatch):
    def spoiling(config, forward, network, optimizer, x_0, y, draws, alphas, step, teacher):
        loss = update(config, forward, network, optimizer, x_0, y, draws, alphas, step, teacher)
        if step == 4:  # as an optimiser step that overflows does: the loss was still a number
            network.stem.bias.data.fill_(torch.inf)
        return loss

    update = train_loop._update
    monkeypatch.setattr(train_loop, "_update", spoiling)
    with pytest.raises(NonFiniteError, match=r"At training step 5, numbers became NaN or infinite: .* weight"):
        train(toy_config(checkpoint_every=1), toy_dataset, tmp_path, "cpu", silent)
    assert load_torch_file(tmp_path / "checkpoint.pt")["step"] == 4


def test_a_checkpoint_holds_plain_contents_and_a_spec(toy_config, toy_dataset, tmp_path):
    contents = load_torch_file(train(toy_config(), toy_dataset, tmp_path, "cpu", silent))
    assert set(contents) == {"format", "network", "ema", "optimizer", "step", "config", "spec"}
    assert contents["step"] == 6
    assert contents["network"].keys() == contents["ema"].keys()
    assert any(not torch.equal(contents["network"][name], value) for name, value in contents["ema"].items())
    assert json.loads(contents["spec"])["image_shape"] == [1, 8, 8]


def test_a_log_cut_within_a_line_is_mended(toy_config, toy_dataset, tmp_path):
    train(toy_config(steps=4), toy_dataset, tmp_path, "cpu", silent)
    with (tmp_path / "log.jsonl").open("ab") as file:
        file.write(b'{"step": 5, "loss": 0.5}\n{"step": 6, "lo\xff')
    train(toy_config(), toy_dataset, tmp_path, "cpu", silent)
    assert logged_steps(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_what_a_killed_writer_left_is_cleared_and_nothing_else(toy_config, toy_dataset, tmp_path):
    (tmp_path / ".checkpoint.ddpm-0.part.pt").write_bytes(b"half")
    (tmp_path / ".notes.part.txt").write_bytes(b"a user's")
    (tmp_path / ".folder.part").mkdir()
    train(toy_config(steps=1), toy_dataset, tmp_path, "cpu", silent)
    kept = {"checkpoint.pt", "log.jsonl", ".notes.part.txt", ".folder.part"}
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_a_log_that_is_no_file_is_5_and_one_of_odd_lines_is_cut(toy_config, toy_dataset, tmp_path):
    (tmp_path / "log.jsonl").write_text("[" * 100_000 + "\n")
    train(toy_config(steps=1), toy_dataset, tmp_path, "cpu", silent)
    assert logged_steps(tmp_path) == [1]
    (tmp_path / "log.jsonl").unlink()
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(EnvironmentProblem, match=r"log\.jsonl cannot be written: it is not a file"):
        train(toy_config(), toy_dataset, tmp_path, "cpu", silent)


def changed(state, **fields):
    """Return an optimiser's state with fields of its group, or of its first weight, changed."""
    group = {name: fields.get(name, value) for name, value in state["param_groups"][0].items()}
    first = {name: fields.get(name, value) for name, value in state["state"][0].items()}
    return {"state": {**state["state"], 0: first}, "param_groups": [group]}


HOSTILE = {
    "a step that is text": lambda c: c | {"step": "6"},
    "a step below 0": lambda c: c | {"step": -6},
    "a step beyond all counting": lambda c: c | {"step": 10**40},
    "an infinite step": lambda c: c | {"step": float("inf")},
    "no config": lambda c: c | {"config": 3},
    "a schedule of infinity": lambda c: c | {"config": {**c["config"], "schedule_parameters": {"beta_end": 1e308}}},
    "weights in a list": lambda c: c | {"ema": [1, 2]},
    "an optimizer that is text": lambda c: c | {"optimizer": "Adam"},
    "betas that are text": lambda c: c | {"optimizer": changed(c["optimizer"], betas="ab")},
    "other betas": lambda c: c | {"optimizer": changed(c["optimizer"], betas=(0.0, 0.0))},
    "an average of another shape": lambda c: c | {"optimizer": changed(c["optimizer"], exp_avg=torch.ones(3))},
    "an average of text": lambda c: c | {"optimizer": changed(c["optimizer"], exp_avg_sq="x")},
}


def test_hostile_fields_of_a_checkpoint_are_3(toy_config, toy_dataset, tmp_path):
    path = train(toy_config(steps=1), toy_dataset, tmp_path, "cpu", silent)
    contents = load_torch_file(path)
    for name, change in HOSTILE.items():
        torch.save(change(contents), path)
        with pytest.raises((BadFileError, ConfigError), match=r"checkpoint\.pt") as caught:
            train(toy_config(), toy_dataset, tmp_path, "cpu", silent)
        assert "\n" not in str(caught.value), name


def test_averaged_weights_alone_are_begun_with_and_not_gone_on_from(toy_config, toy_dataset, tmp_path):
    path = train(toy_config(steps=1), toy_dataset, tmp_path / "first", "cpu", silent)
    whole = load_torch_file(path)
    torch.save({k: v for k, v in whole.items() if k not in ("network", "optimizer")}, path)
    stripped = path.read_bytes()
    with pytest.raises(ConfigError, match=r"averaged weights alone.*give it to --start, and choose another --out"):
        train(toy_config(steps=2), toy_dataset, tmp_path / "first", "cpu", silent)
    assert path.read_bytes() == stripped
    train(toy_config(steps=1), toy_dataset, tmp_path / "second", "cpu", silent, start=path)


def test_pictures_that_a_killed_run_did_not_draw_are_drawn_when_it_goes_on(toy_config, toy_dataset, tmp_path):
    steps = []

    def killed(_ema, _step):
        raise ZeroDivisionError

    def draw(_ema, step):
        steps.append(step)
        (tmp_path / "samples.png").write_bytes(b"drawn")

    with pytest.raises(ZeroDivisionError):
        train(toy_config(), toy_dataset, tmp_path, "cpu", silent, killed)
    for _ in range(2):  # and once only
        train(toy_config(), toy_dataset, tmp_path, "cpu", silent, draw)
    assert steps == [6]


@representative("every", [2, 1000])
def test_a_signal_ends_a_drawing(every, toy_config, toy_dataset, tmp_path):
    def draw(_ema, step):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        pytest.fail("it went on drawing")

    last = 3 if every == 2 else 6  # one more step, or none
    with pytest.raises(KeyboardInterrupt, match=f"written at step {last}"):
        train(toy_config(picture_every=every), toy_dataset, tmp_path, "cpu", silent, draw)
    assert load_torch_file(tmp_path / "checkpoint.pt")["step"] == last
