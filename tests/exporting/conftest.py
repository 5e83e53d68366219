"""Small networks with weights everywhere, their checkpoints, and their exports, each made once."""

import dataclasses
import json

import pytest

torch = pytest.importorskip("torch")

from ddpm_export.exporting.export import export  # noqa: E402
from ddpm_export.exporting.formats import FORMATS  # noqa: E402
from ddpm_export.importers.checkpoint import save_checkpoint  # noqa: E402
from ddpm_export.importers.load import load_checkpoint  # noqa: E402
from ddpm_export.importers.unet import UNet, UNetConfig  # noqa: E402
from ddpm_export.model.spec import Defaults, ModelSpec  # noqa: E402
from ddpm_export.model.spec_json import json_from_spec  # noqa: E402
from ddpm_export.process.schedules import alphas_cumprod_from_betas, betas_from_name  # noqa: E402
from tests.oracles.weights import save as save_recorded  # noqa: E402

CONFIGS = {
    "grey": UNetConfig(
        image_shape=(1, 28, 28),
        base_channels=8,
        channel_multipliers=(1, 2),
        blocks_per_level=1,
        attention_levels=(1,),
        groups=4,
    ),
    # odd in every respect: colour, not square, three levels, two heads, attention at the top, groups of three
    "colour": UNetConfig(
        image_shape=(3, 20, 12),
        base_channels=6,
        channel_multipliers=(1, 2, 4),
        blocks_per_level=1,
        attention_levels=(0, 2),
        head_channels=12,
        groups=3,
    ),
}
SMALL = UNetConfig(
    image_shape=(1, 8, 8),
    base_channels=4,
    channel_multipliers=(1,),
    blocks_per_level=1,
    attention_levels=(),
    groups=2,
)


def spec_of(config, **fields):
    alphas_cumprod = alphas_cumprod_from_betas(betas_from_name("linear", 100, beta_end=0.1))
    values = {
        "name": "tiny",
        "prediction": "eps",
        "state_shape": config.image_shape,
        "alphas_cumprod": tuple(alphas_cumprod.tolist()),
        "defaults": Defaults(num_steps=10),
        "source": {"dataset": "none", "schedule": {"name": "linear"}},
    }
    return ModelSpec(**{**values, **fields})


def network_of(config, seed=0):
    """A network whose every weight matters: UNet begins with some at 0 or 1."""
    torch.manual_seed(seed)
    network = UNet(config).eval()
    for name, value in network.state_dict().items():
        if "norm" in name:
            value.copy_(torch.randn_like(value) * 0.2 + (1.0 if name.endswith("weight") else 0.0))
        elif not value.any():
            value.copy_(torch.randn_like(value) * 0.1)
    return network


def save(path, config, /, *, seed=0, model_spec=None, **contents):
    values = {
        "network": network_of(config, seed + 1).state_dict(),
        "ema": network_of(config, seed).state_dict(),
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}},
        "step": 20,
        "config": json.loads(json.dumps({"name": "tiny", "network": dataclasses.asdict(config)})),
        "spec": json_from_spec(model_spec or spec_of(config)),
    }
    save_checkpoint(path, **{**values, **contents})
    return path


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="session")
def checkpoint_path(folder):
    """The checkpoint of the grey network."""
    return save(folder / "grey.pt", CONFIGS["grey"])


@pytest.fixture(scope="session")
def exported(folder, checkpoint_path):
    """(configuration, format) -> (checkpoint, report); each is exported once a session."""
    made = {}

    def get(name, kind):
        if (name, kind) not in made:
            spec = spec_of(CONFIGS[name], prediction="eps" if name == "grey" else "v")
            path = checkpoint_path if name == "grey" else save(folder / f"{name}.pt", CONFIGS[name], model_spec=spec)
            checkpoint = load_checkpoint(path)
            made[name, kind] = checkpoint, export(checkpoint, folder / f"{name}{FORMATS[kind].ending}", format=kind)
        return made[name, kind]

    return get


@pytest.fixture(scope="session")
def recorded(tmp_path_factory):
    """Name of a recorded case -> its checkpoint; each is made from its seed once a session."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = save_recorded(name, tmp_path_factory.mktemp(name) / "model.pt")
        return made[name]

    return get
