"""`ddpm-adopt --network` and `ddpm-check --against ... --network`: a class of the user's own, from the shell."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from ddpm_export import open_model  # noqa: E402
from ddpm_export.cli.adopt import spec_of  # noqa: E402
from ddpm_export.cli.texts import options_from_settings  # noqa: E402
from ddpm_export.errors import BadFileError, UsageError  # noqa: E402
from ddpm_export.model.inputs import Input  # noqa: E402

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

CONDITIONED = """

class Conditioned(Net):
    def __init__(self):
        super().__init__(width=2)
        self.label = nn.Embedding(4, 1)
        self.scale = nn.Linear(2, 1)
        self.mask = nn.Conv2d(1, 1, 1)

    def forward(self, x_t, t, x_0_prev, mask, scale, y):
        shift = (self.label(y) + self.scale(scale))[:, :, None, None] + self.mask(mask) - x_0_prev / 2
        return super().forward(x_t, t) + shift
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a module that only this folder has, and weights of its class."""
    (tmp_path / "my_network.py").write_text(SOURCE + CONDITIONED)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(SOURCE, names)
    torch.manual_seed(0)
    torch.save(names["Net"](width=5).state_dict(), tmp_path / "weights.pt")
    yield tmp_path
    import sys

    sys.modules.pop("my_network", None)


OWN = ("--network", "my_network:Net", "--set", "width=5")
SPEC = ("--schedule", "linear,beta_end=0.1", "--shape", "1,8,8", "--timesteps", "50")


def test_a_class_of_ones_own_is_exported_sampled_and_checked(here, command):
    code, out, err = command("adopt", "weights.pt", *OWN, *SPEC, "--prediction", "x_0", "--clip", "none", "--json")
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


def described(*options):
    """Return the spec that `ddpm-adopt weights.pt` makes of these options."""
    words = [*SPEC, *options]
    asked = {"schedule": None, "shape": None, "timesteps": 1000, "prediction": "eps", "clip": "1", "inputs": []}
    for flag, text in zip(words[::2], words[1::2], strict=True):
        name = flag.strip("-").replace("-", "_")
        asked |= {"inputs": [text]} if name == "input" else {name: type(asked[name] or "")(text)}
    return spec_of("weights.pt", **asked)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--shape", "8x8"), "--shape"),
        (("--shape", "8,8,8,8,8"), "state_shape"),
        (("--prediction", "noise"), "eps, x_0, v"),
        (("--clip", "-1"), "clip_x_0"),
        (("--schedule", "square"), "schedule must be one of linear"),
        (("--timesteps", "0"), "num_train_timesteps must be at least 1"),
    ],
)
def test_descriptions_of_no_network_are_usage_errors(options, expected):
    with pytest.raises(UsageError, match=expected):
        described(*options)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((*OWN, "--shape", "1,8,8"), "weights.pt does not contain its schedule"),
        ((*OWN, "--schedule", "linear"), "weights.pt does not contain its shape"),
        ((*OWN, *SPEC, "--set", "width"), "KEY=VALUE"),
        ((*OWN, *SPEC, "--set", "width.more=3"), "KEY=VALUE"),
        ((*SPEC,), "weights.pt needs --network MODULE:CLASS"),
        (("--input", "y:label:3"), "weights.pt needs --network MODULE:CLASS"),
        (("--network", "my_network", *SPEC), "package.module:Class"),
        (("--network", "my_network:Net", *SPEC), "cannot be made"),
    ],
)
def test_options_that_do_not_fit_are_usage_errors(here, command, arguments, expected):
    code, out, err = command("adopt", "weights.pt", *arguments)
    last = err.splitlines()[-1]
    assert (code, out) == (2, ""), err
    assert expected in last
    assert not (here / "unet.onnx").exists()


DECLARED = {
    "y:label:cat,dog,ant:none=3": Input("y", "label", none=3, classes=("cat", "dog", "ant")),
    "scale:vector:2": Input("scale", "vector", (2,)),
    "mask:image:1,8,8:none=0.5": Input("mask", "image", (1, 8, 8), none=0.5),
    "x_0_prev:previous": Input("x_0_prev", "previous", (1, 8, 8)),
}


@pytest.mark.long
def test_a_class_with_further_inputs_is_exported_sampled_and_checked(here, command):
    names = {}
    exec(SOURCE + CONDITIONED, names)
    torch.save(names["Conditioned"]().state_dict(), here / "conditioned.pt")
    asked = ("--network", "my_network:Conditioned")
    declared = [word for text in DECLARED for word in ("--input", text)]
    code, _, err = command("adopt", "conditioned.pt", *asked, *SPEC, *declared, "--prediction", "x_0")
    assert code == 0, err
    assert open_model(here / "unet.onnx")[1].inputs == tuple(DECLARED.values())
    how = ("--n", 1, "--steps", 3, "--seed", 1, "--input", "scale=0.5,-1")
    images = {}
    for label in ("dog", "none"):
        code, _, err = command("run", "unet.onnx", *how, "--label", label, "--out", f"{label}.npy")
        assert code == 0, err
        images[label] = np.load(f"{label}.npy")
    assert not np.array_equal(images["dog"], images["none"])
    code, out, err = command("check", "unet.onnx", "--against", "conditioned.pt", *asked, "--json")
    assert code == 0, err
    assert json.loads(out)["proof"]["error"] <= 1e-5


@pytest.mark.parametrize(
    ("text", "declared"),
    [
        *DECLARED.items(),
        ("y:label:3", Input("y", "label", classes=("0", "1", "2"))),
        ("y:label:3:none=0", Input("y", "label", none=0, classes=("0", "1", "2"))),
        ("y:label:3,1", Input("y", "label", classes=("3", "1"))),
        ("guidance:vector:1:none=1", Input("guidance", "vector", (1,), none=1.0)),
    ],
)
def test_an_input_is_declared_in_few_words(text, declared):
    assert described("--input", text).inputs == (declared,)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("y", "--input must look like y:label:10:none=10, scale:vector:5, mask:image:3,28,28:none=0 or"),
        ("y:label", "--input must look like"),
        ("y:label:3:4", "--input must look like"),
        ("y:label:3:none=three", "--input must look like"),
        ("scale:vector:five", "--input must look like"),
        ("scale:vector", "--input must look like"),
        ("y:label:5000", "inputs[0].classes must be 1 to 4096 names"),
        ("y:label:0", "must be 1 to 4096 names"),
        ("y:label:cat,cat", "must be different names"),
        ("y:label:3:none=4", "none must be null or an index from 0 to 3"),
        ("y:label:3:none=1.5", "none must be null or an index"),
        ("y:label:3:none=nan", "none must be a finite number"),
        ("z:label:3", "name must be y for the kind label"),
        ("scale:vector:0", "inputs[0].shape"),
        ("scale:vector:2,3", "inputs[0].shape"),
        ("scale:number:2", "inputs[0].kind"),
        ("x_t:vector:2", "inputs[0].name must be an identifier, or several with dots between, other than x_t and t"),
        ("x_0_prev:previous:2,8,8", "inputs[0].shape"),
    ],
)
def test_an_input_that_cannot_be_is_a_usage_error(text, expected):
    with pytest.raises(UsageError) as error:
        described("--input", text)
    assert expected in str(error.value)


def test_a_configuration_file_is_read_and_changed_by_settings(here, command):
    (here / "arguments.json").write_text('{"width": 4}')
    assert options_from_settings(here / "arguments.json", ["width=5", "a.b=x"]) == {"width": 5, "a": {"b": "x"}}
    ending = command("adopt", "weights.pt", *OWN[:2], *SPEC, "--config", "arguments.json")
    assert ending[0] == 3, ending  # the weights are of width 5
    for content in ("[1]", "{", ""):
        (here / "arguments.json").write_text(content)
        with pytest.raises(BadFileError, match="must contain a JSON object"):
            options_from_settings(here / "arguments.json", [])
    assert command("adopt", "weights.pt", *OWN, *SPEC, "--config", "missing.json")[0] == 3
