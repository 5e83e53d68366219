"""One exported file of a tiny network and its checkpoint, and a way to run a command in this process."""

import dataclasses
import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def trained(made_once):
    """(checkpoint, model): paths of a random network's checkpoint and of its ONNX file."""
    pytest.importorskip("torch")
    folder = made_once("cli-trained", make_trained, ROOT / "ddpm_export", __file__)
    return folder / "checkpoint.pt", folder / "unet.onnx"


def make_trained(folder):
    import torch

    from ddpm_export.exporting.export import export
    from ddpm_export.importers.checkpoint import save_checkpoint
    from ddpm_export.importers.load import load_checkpoint
    from ddpm_export.importers.unet import UNet, UNetConfig
    from ddpm_export.model.spec import Defaults, ModelSpec
    from ddpm_export.model.spec_json import json_from_spec
    from ddpm_export.process.schedules import alphas_cumprod_from_betas, betas_from_name

    config = UNetConfig(
        image_shape=(1, 8, 8),
        base_channels=8,
        channel_multipliers=(1,),
        blocks_per_level=1,
        attention_levels=(),
        groups=4,
    )
    states = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        network = UNet(config)
        for value in network.state_dict().values():
            if not value.any():
                value.copy_(torch.randn_like(value) * 0.1)
        states.append(network.state_dict())
    alphas = alphas_cumprod_from_betas(betas_from_name("linear", 50, beta_end=0.2))
    spec = ModelSpec("tiny \x1b[31m[red]", "eps", (1, 8, 8), tuple(alphas.tolist()), defaults=Defaults(num_steps=10))
    save_checkpoint(
        folder / "checkpoint.pt",
        ema=states[0],
        network=states[1],
        optimizer={},
        step=3,
        config={"network": json.loads(json.dumps(dataclasses.asdict(config)))},
        spec=json_from_spec(spec),
    )
    export(load_checkpoint(folder / "checkpoint.pt"), folder / "unet.onnx")


@pytest.fixture
def command(monkeypatch, capsys):
    """(name, *arguments) -> (exit code, stdout, stderr) of `ddpm-<name>`."""

    def run(name, *arguments):
        monkeypatch.setattr("sys.argv", [f"ddpm-{name}", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            importlib.import_module(f"ddpm_export.cli.{name}").main()
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    return run
