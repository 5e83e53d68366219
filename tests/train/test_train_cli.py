import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from representative import representative

from ddpm_export.errors import EnvironmentProblem
from ddpm_export.importers.checkpoint import load_torch_file
from ddpm_export.system.files import sha256_of, sole_writer
from train.cli import _usable_device
from train.loop import _torch_problems

pytestmark = pytest.mark.torch
ROOT = Path(__file__).parents[2]


def told_in_one_line(err):
    assert "Traceback" not in err
    assert [line.startswith("error: ") for line in err.splitlines()].count(True) == 1
    assert err.splitlines()[-1].startswith("error: ")
    return err.splitlines()[-1]


def test_a_training_ends_with_its_checkpoint_and_digest(run, tmp_path):
    code, out, err = run()
    path = tmp_path / "out" / "checkpoint.pt"
    assert code == 0
    assert {name.name for name in path.parent.iterdir()} == {"checkpoint.pt", "log.jsonl", "loss.png", "samples.png"}
    assert [line.split() for line in out.splitlines()] == [
        ["checkpoint", str(path)],
        ["step", "6"],
        ["sha256", sha256_of(path)],
    ]
    assert err.startswith("device: cpu\nstarting at step 0\n")
    *steps, drawing = err.splitlines()[2:]
    assert [line.split(",")[0] for line in steps] == [f"step {i}/6" for i in range(1, 7)]
    assert drawing == f"step 6: drawing {path.parent / 'samples.png'}"
    assert "loss " in err
    assert " images/s" in err
    assert " left" in err


def test_a_finished_training_says_so_and_goes_on_with_more_steps(run, tmp_path):
    run()
    before = sha256_of(tmp_path / "out" / "checkpoint.pt")
    code, out, err = run("--json")
    assert (code, json.loads(out)["sha256"]) == (0, before)
    assert "already at step 6 of 6" in err
    code, out, err = run("--steps", 8, "--json")
    assert code == 0
    result = json.loads(out)
    assert (result["first_step"], result["step"], result["device"]) == (6, 8, "cpu")
    assert "going on from step 6" in err


def test_no_pictures_where_none_are_wanted(run, tmp_path):
    assert run("--set", "picture_every=0")[0] == 0
    assert {name.name for name in (tmp_path / "out").iterdir()} == {"checkpoint.pt", "log.jsonl"}


@representative("lazily", [True, False])
def test_broken_images_are_named_and_counted_and_training_goes_on(run, toy_folder, tmp_path, monkeypatch, lazily):
    if lazily:
        monkeypatch.setattr("ddpm_export.scoring.datasets.dataset.MAX_ARRAY_BYTES", 0)
    shutil.copytree(toy_folder / "images", tmp_path / "images")
    for name in ("07.png", "23.png"):
        (tmp_path / "images" / name).write_bytes(b"no")
    code, _, err = run("--data", tmp_path / "images", "--epochs", 2)
    assert code == 0, err
    for name in ("07.png", "23.png"):
        assert err.count(f"left out: {tmp_path / 'images' / name} is not a picture") == 1
    assert "broken images so far: 2" in err


def test_epochs_are_counted_in_whole_batches(run):
    assert json.loads(run("--epochs", 2, "--json")[1])["step"] == 10  # 40 images, 8 a batch


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--set", "stepps=1"], 2, "stepps"),
        (["--set", "steps=many"], 2, "'many'"),
        (["--set", "steps"], 2, "KEY=VALUE"),
        (["--set", "network.image_shape=[1,9,8]"], 2, "Use 8"),
        (["--set", "batch_size=41"], 2, "got 40"),
        (["--steps", "0"], 2, "--steps"),
        (["--steps", "1", "--epochs", "1"], 2, "--epochs"),
        (["--device", "tpu"], 2, "tpu"),
        (["--nonsense"], 2, "--nonsense"),
        (["--config", "nonsense"], 3, "fashion-mnist-small"),
        (["--data", "/nowhere"], 3, "/nowhere"),
        (["--set", "dataset=nonsense"], 3, "nonsense"),
    ],
)
def test_exit_codes(run, tmp_path, arguments, code, says):
    ended, out, err = run(*arguments)
    assert (ended, out) == (code, "")
    assert says in told_in_one_line(err)
    assert not (tmp_path / "out").exists()


def test_an_out_that_cannot_be_written(run, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = run(out=tmp_path / "file" / "out")
    assert code == 5
    assert "cannot be written" in told_in_one_line(err)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no flock")
def test_a_second_training_does_not_write_where_another_does(run, tmp_path):
    with sole_writer(tmp_path / "out"):
        code, _, err = run(out=tmp_path / "out")
    assert code == 2
    assert "is being written by another process" in told_in_one_line(err)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="has CUDA")
def test_cuda_is_never_replaced_in_silence(run):
    code, _, err = run("--device", "cuda")
    assert code == 5
    assert "--device cuda" in told_in_one_line(err)


def test_under_torchrun_each_process_has_a_gpu_of_its_own(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert (_usable_device("auto"), _usable_device("cpu"), chosen) == ("cuda", "cpu", [])
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert (_usable_device("auto"), _usable_device("cpu"), chosen) == ("cuda:1", "cpu", [1])
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(EnvironmentProblem, match=r"needs a GPU for each process of this machine, which has 2"):
        _usable_device("cuda")


@representative("checkpoint_every", [4, 1])
def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint(run, tmp_path, checkpoint_every):
    run("--steps", 4)
    path = tmp_path / "out" / "checkpoint.pt"
    good = sha256_of(path)
    changes = ["--set", "learning_rate=1e37", "--set", f"checkpoint_every={checkpoint_every}"]
    code, out, err = run("--steps", 40, *changes)
    assert (code, out) == (6, "")
    assert "training step" in told_in_one_line(err)
    contents = load_torch_file(path)
    assert all(value.isfinite().all() for part in ("network", "ema") for value in contents[part].values())
    if checkpoint_every == 4:
        assert sha256_of(path) == good
    assert run("--steps", contents["step"])[0] == 0


def damaged(path):
    raw = path.read_bytes()
    middle = raw.index(load_torch_file(path)["network"]["stem.bias"].numpy().tobytes())
    return b"", raw[:middle], raw[:middle] + bytes([raw[middle] ^ 1]) + raw[middle + 1 :], b"\x89PNG\r\n"


def test_a_damaged_checkpoint_is_refused_and_kept(run, tmp_path):
    run("--steps", 2)
    out = tmp_path / "out"
    log = (out / "log.jsonl").read_bytes()
    for raw in damaged(out / "checkpoint.pt"):
        (out / "checkpoint.pt").write_bytes(raw)
        code, _, err = run()
        assert code == 3
        assert "checkpoint.pt" in told_in_one_line(err)
        assert (out / "checkpoint.pt").read_bytes() == raw
        assert (out / "log.jsonl").read_bytes() == log


def without(key):
    return lambda contents: contents.pop(key)


@representative(
    "change",
    [
        *map(without, ("format", "network", "ema", "optimizer", "step", "config")),
        lambda contents: contents.update(format="other/1"),
        lambda contents: contents["config"].update(nonsense=1),
        lambda contents: contents["config"].update(loss="l7"),
        lambda contents: contents["ema"].popitem(),
        lambda contents: contents["ema"].update({"stem.weight": torch.zeros(())}),
        lambda contents: contents["network"].update({"stem.weight": torch.zeros(3)}),
        lambda contents: contents.update(optimizer=7),
        lambda contents: contents.update(step="many"),
    ],
)
def test_a_checkpoint_with_other_contents_is_refused_and_kept(run, tmp_path, change):
    run("--steps", 1)
    path = tmp_path / "out" / "checkpoint.pt"
    contents = load_torch_file(path)
    change(contents)
    torch.save(contents, path)
    before = sha256_of(path)
    code, _, err = run()
    assert code == 3
    told_in_one_line(err)
    assert sha256_of(path) == before


def test_another_configuration_is_refused_by_what_differs(run, tmp_path):
    run("--steps", 1)
    before = sha256_of(tmp_path / "out" / "checkpoint.pt")
    code, _, err = run("--set", "loss=huber", "--set", "network.dropout=0.3", "--set", "learning_rate=0.5")
    line = told_in_one_line(err)
    assert code == 2
    assert "network.dropout 0.3 (before: 0.1), loss 'huber' (before: 'l2'). Choose" in line
    assert "learning_rate" not in line
    assert sha256_of(tmp_path / "out" / "checkpoint.pt") == before


def fresh(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; import runpy; runpy.run_module('train', run_name='__main__')"


def test_help_needs_no_torch_and_names_every_option():
    done = fresh(WITHOUT_TORCH, "--help")
    assert done.returncode == 0
    for option in ("--config", "--steps", "--epochs", "--out", "--data", "--set", "--device", "--json", "--debug"):
        assert option in done.stdout


def test_without_torch_one_line_names_what_to_install():
    done = fresh(WITHOUT_TORCH, "--config", "fashion-mnist-small")
    assert done.returncode == 5
    assert "pip install 'ddpm-export[train]'" in told_in_one_line(done.stderr)


def test_a_compiler_or_memory_that_is_missing_is_told_and_other_errors_are_not_hidden():
    compiler = type("InductorError", (RuntimeError,), {"__module__": "torch._inductor.exc"})
    truncated = compiler("ImportError: /tmp/x.so: file too short")
    truncated.inner_exception = ImportError()  # as torch has it
    for raised, inputs in (
        (compiler("no\nC++"), r"Install a compiler .*compile=false"),
        (truncated, r"x\.so: file too short\. Delete that file, or --set compile=false"),
        (torch.OutOfMemoryError("full"), "batch_size"),
    ):
        with pytest.raises(EnvironmentProblem, match=inputs), _torch_problems():
            raise raised
    with pytest.raises(RuntimeError, match="mine"), _torch_problems():
        raise RuntimeError("mine")
