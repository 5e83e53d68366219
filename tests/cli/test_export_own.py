"""`ddpm-export --network` and `ddpm-check --against ... --network`: a class of the user's own, from the shell."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

SOURCE = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, padding=1)
        self.out = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x_t, t):
        return self.out(self.conv(x_t).tanh()) + t[:, None, None, None] / 100
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a module that only this folder has, and weights of its class."""
    (tmp_path / "my_network.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(SOURCE, names)
    torch.manual_seed(0)
    torch.save(names["Net"](width=5).state_dict(), tmp_path / "weights.pt")
    yield tmp_path
    import sys

    sys.modules.pop("my_network", None)


OWN = ("--network", "my_network:Net", "--set", "width=5")
SPEC = ("--schedule", "linear,beta_end=0.1", "--image-shape", "1,8,8", "--timesteps", "50")


def test_a_class_of_ones_own_is_exported_sampled_and_checked(here, command):
    code, out, err = command("export", "weights.pt", *OWN, *SPEC, "--prediction", "x_0", "--clip", "none", "--json")
    assert code == 0, err
    assert "note: running the code of my_network:Net\n" in err
    assert json.loads(out)["importer"] == "own"
    code, out, err = command("run", "unet.onnx", "--n", 2, "--steps", 5, "--seed", 1, "--out", "a.npy")
    assert code == 0, err
    assert np.load("a.npy").shape == (2, 8, 8, 1)
    code, out, err = command("check", "unet.onnx", "--against", "weights.pt", *OWN, "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert facts["proof"]["error"] <= 1e-5
    assert (facts["prediction"], facts["clip_x_0"], facts["num_train_timesteps"]) == ("x_0", None, 50)
    assert facts["source"]["schedule"] == {"name": "linear", "beta_end": 0.1}
    torch.save({k: v * 1.01 for k, v in torch.load("weights.pt").items()}, "weights.pt")
    code, out, err = command("check", "unet.onnx", "--against", "weights.pt", *OWN)
    assert code == 4
    assert "does not reproduce its network" in err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((*OWN, "--image-shape", "1,8,8"), "--network needs --schedule"),
        ((*OWN, "--schedule", "linear"), "--network needs --image-shape"),
        ((*OWN, *SPEC, "--image-shape", "8x8"), "--image-shape"),
        ((*OWN, *SPEC, "--image-shape", "8,8"), "image_shape"),
        ((*OWN, *SPEC, "--prediction", "noise"), "eps, x_0, v"),
        ((*OWN, *SPEC, "--clip", "-1"), "clip_x_0"),
        ((*OWN, *SPEC, "--schedule", "square"), "schedule must be one of linear"),
        ((*OWN, *SPEC, "--timesteps", "0"), "num_train_timesteps must be at least 1"),
        ((*OWN, *SPEC, "--set", "width"), "KEY=VALUE"),
        ((*OWN, *SPEC, "--set", "width.more=3"), "KEY=VALUE"),
        ((*SPEC,), "--schedule does not apply without --network"),
        (("--network", "my_network", *SPEC), "package.module:Class"),
        (("--network", "my_network:Net", *SPEC), "cannot be made"),
    ],
)
def test_options_that_do_not_fit_are_usage_errors(here, command, arguments, expected):
    code, out, err = command("export", "weights.pt", *arguments)
    last = err.splitlines()[-1]
    assert (code, out) == (2, ""), err
    assert expected in last
    assert not (here / "unet.onnx").exists()


def test_a_configuration_file_is_read_and_changed_by_settings(here, command):
    (here / "arguments.json").write_text('{"width": 4}')
    for arguments, code in (([], 3), (["--set", "width=5"], 0)):
        ending = command(
            "export", "weights.pt", *OWN[:2], *SPEC, "--config", "arguments.json", *arguments, "--format", "pt2"
        )
        assert ending[0] == code, ending
    for content in ("[1]", "{", ""):
        (here / "arguments.json").write_text(content)
        code, out, err = command("export", "weights.pt", *OWN, *SPEC, "--config", "arguments.json")
        assert (code, out, err.count("\n")) == (3, "", 1)
    assert command("export", "weights.pt", *OWN, *SPEC, "--config", "missing.json")[0] == 3
