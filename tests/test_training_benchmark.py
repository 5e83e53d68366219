"""The loops that benchmarks/training.py times: each trains the same network, in the precision asked for."""

import argparse
import functools
import json

import pytest
from representative import representative

torch = pytest.importorskip("torch")

from benchmarks import training  # noqa: E402
from ddpm_export.errors import EnvironmentProblem, UsageError  # noqa: E402
from train import loop  # noqa: E402
from train.config import load_config  # noqa: E402

pytestmark = pytest.mark.torch
TINY = {"base_channels": 4, "channel_multipliers": [1, 1], "blocks_per_level": 1, "attention_levels": [], "groups": 2}


@pytest.fixture
def tiny(tmp_path):
    """A configuration as a file; the benchmark writes a hundred images, the fewest that lucidrains' Trainer takes."""
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps({"dataset": "fashion-mnist", "network": TINY}))
    return str(path)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(training, "NUM_IMAGES", 100)
    monkeypatch.setattr("ddpm_export.measuring.timing.BUSY_LOOK_S", 0.0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning")  # lucidrains', on a CPU
@representative("bf16", [True, False])
@pytest.mark.parametrize("name", [name for name in training.CONTENDERS if "compile" not in name])
def test_each_loop_trains_the_network_on_new_batches(name, bf16, tiny, tmp_path, monkeypatch):
    make, packages = training.CONTENDERS[name]
    for package in packages:
        pytest.importorskip(package)
    if "denoising_diffusion_pytorch" in packages:  # without workers, which cost a test seconds
        monkeypatch.setattr("denoising_diffusion_pytorch.denoising_diffusion_pytorch.cpu_count", lambda: 0)
    networks, batches, dtypes = [], [], []

    def network(config):
        networks.append(made := unet(config))
        made.register_forward_pre_hook(lambda _, inputs: batches.append(inputs[0].clone()))
        first = next(module for module in made.modules() if isinstance(module, torch.nn.Conv2d))
        first.register_forward_hook(lambda _module, _inputs, output: dtypes.append(output.dtype))
        return made

    unet = loop.UNet
    for module in (training, loop):
        monkeypatch.setattr(module, "UNet", network)
    config = load_config(tiny, {"batch_size": "16", "bf16": str(bf16).lower()})
    training._write_images(tmp_path / "images", config)
    take = make(config, tmp_path / "images")
    (trained,) = networks
    before = [value.detach().clone() for value in trained.parameters()]
    take()
    take()
    assert [batch.shape for batch in batches] == [(16, 1, 28, 28)] * 2
    assert not torch.equal(*batches)
    assert dtypes == [torch.bfloat16 if bf16 else torch.float32] * 2
    assert any(not torch.equal(old, new) for old, new in zip(before, trained.parameters(), strict=True))


def asked(config, **changes):
    options = {"config": config, "batch": 16, "threads": "1", "rounds": 2, "precisions": "bf16"}
    return argparse.Namespace(**options | changes)


def test_the_table_has_a_row_a_loop_and_says_what_is_not_installed(tiny, monkeypatch):
    ours = functools.partial(training.our_loop, channels_last=False, compiled=False)
    contenders = {training.OURS: (ours, ()), "theirs": (ours, ("no_such_package",))}
    monkeypatch.setattr(training, "CONTENDERS", contenders)
    report = training.measure(asked(tiny))
    (table,) = report.tables
    assert table.title == "A step of 16 images, bf16, 1 thread"
    mine, missing = table.rows
    assert (mine[0], mine[2]) == (training.OURS, "1.00 (1.00-1.00)")
    assert float(mine[1]) > 0.0
    assert missing == ["theirs", "no_such_package not installed", "-"]
    (seconds,) = report.values["bf16, 1"].values()
    assert len(seconds) == 2
    assert min(seconds) > 0.0


def test_a_loop_that_fails_is_named(tiny, monkeypatch, capfd):
    monkeypatch.setattr(training, "CONTENDERS", {training.OURS: (training.our_loop, ())})  # two arguments are missing
    with pytest.raises(EnvironmentProblem, match=r"^this training ended before its turn"):
        training.measure(asked(tiny))
    assert "TypeError" in capfd.readouterr().err


def test_an_unknown_precision_is_refused(tiny):
    with pytest.raises(UsageError, match=r"^--precisions must be of bf16, float32, defaults, got 'fp8'"):
        training.measure(asked(tiny, precisions="bf16,fp8"))
