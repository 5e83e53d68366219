"""Networks of the user's own class: what they may look like, and where an error in them is told to be."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
from representative import representative

from ddpm_export import denoiser, noise_stream, open_model, plan, to_uint8, walk
from ddpm_export.errors import BadFileError, ModelRefusedError, UsageError
from ddpm_export.exporting.export import eager_model, export
from ddpm_export.exporting.formats import FORMATS
from ddpm_export.exporting.proof import prove
from ddpm_export.importers.checkpoint import Checkpoint
from ddpm_export.importers.load import load_network
from ddpm_export.model.golden import replay_golden
from ddpm_export.model.spec import Defaults, ModelSpec

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from . import networks_of_ones_own as own  # noqa: E402

HERE = "tests.exporting.networks_of_ones_own"
SPEC = ModelSpec(
    name="own",
    prediction="eps",
    state_shape=(1, 8, 8),
    alphas_cumprod=tuple(np.linspace(0.99, 0.05, 20).tolist()),
    defaults=Defaults(num_steps=10),
)
LEARNED = dataclasses.replace(SPEC, variance="learned", requires=("variance_fraction",))


def net(cls=own.Net, seed=0, **arguments):
    torch.manual_seed(seed)
    return cls(**arguments)


def same_weights(a, b):
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


@representative("kind", FORMATS)
def test_any_module_and_its_spec_become_a_file_and_stay_as_they_are(tmp_path, kind):
    network = net().double()  # in training, and not in float32
    report = export(network, SPEC, tmp_path / f"own{FORMATS[kind].ending}", format=kind)
    assert network.training
    assert next(network.parameters()).dtype == torch.float64
    model, spec = open_model(report.path, trust=True)
    assert dataclasses.replace(spec, golden=None) == SPEC
    x_t, t = noise_stream(3, range(3), SPEC.state_shape)(0), np.array([0, 7, 19])
    with torch.no_grad():
        expected = network.eval().float()(torch.from_numpy(x_t), torch.from_numpy(t)).numpy()
    np.testing.assert_allclose(model(x_t, t)["eps"], expected, rtol=0, atol=1e-6)


@representative("kind", FORMATS)
def test_a_learned_variance_goes_with_the_file_and_is_proven_too(tmp_path, kind):
    network = net(own.Learned)
    report = export(network, LEARNED, tmp_path / f"own{FORMATS[kind].ending}", format=kind)
    assert report.proof.error <= 1e-5
    model, spec = open_model(report.path, trust=True)
    assert all(result.passed for result in replay_golden(model, spec))
    noise = noise_stream(1, range(2), spec.state_shape)
    steps = plan(spec, sampler="ddpm", num_steps=20, variance="learned")
    eager = eager_model(Checkpoint(network.eval(), LEARNED))
    finals = []
    for each in (model, eager):
        *_, last = walk(denoiser(each, spec), noise, steps)
        finals.append(to_uint8(last.x).astype(int))
    assert np.abs(finals[0] - finals[1]).max() <= 1

    # a second output that is not the network's is found by the proof, and by the golden vectors
    def other(x_t, t):
        outputs = model(x_t, t)
        return {**outputs, "variance_fraction": outputs["variance_fraction"] + np.float32(0.01)}

    assert not any(result.passed for result in replay_golden(other, spec))
    with pytest.raises(ModelRefusedError, match="does not reproduce its network"):
        prove(other, eager, spec)


@pytest.mark.parametrize(("cls", "spec"), [(own.Learned, SPEC), (own.Net, LEARNED)])
def test_outputs_that_the_spec_does_not_say_are_refused(tmp_path, cls, spec):
    with pytest.raises(ModelRefusedError, match="must return a tensor for each of"):
        export(net(cls), spec, tmp_path / "own.onnx")
    assert list(tmp_path.iterdir()) == []


@representative("kind", FORMATS)
@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("fixed batch", "does not run on a batch of 1"),
        ("branch", "cannot be traced: GuardOnDataDependentSymNode"),
        ("loop", "code that fixes the size of the batch"),
    ],
)
def test_what_cannot_be_exported_is_told_with_module_and_line(tmp_path, capfd, way, words, kind):
    with pytest.raises(ModelRefusedError) as caught:
        export(net(way=way), SPEC, tmp_path / f"own{FORMATS[kind].ending}", format=kind)
    text = str(caught.value)
    assert words in text
    assert "\n" not in text
    marks = {"fixed batch": "x.view(2", "branch": 'way == "branch"', "loop": "for k in range(len(x))"}
    lines = Path(own.__file__).read_text(encoding="utf-8").splitlines()
    (number,) = [k for k, line in enumerate(lines, start=1) if marks[way] in line]
    assert f"module middle.2 (Block), networks_of_ones_own.py:{number}" in text
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")  # torch has printed nothing of its own


@pytest.mark.parametrize(
    ("wrap", "weights"),
    [
        (lambda s: s, "ema"),
        (lambda s: {"state_dict": s, "epoch": 3, "config": {"a": 1}}, "ema"),
        (lambda s: {"model": {k: v + 1 for k, v in s.items()}, "model_ema": s}, "ema"),
        (lambda s: {"model": s, "ema": {k: v + 1 for k, v in s.items()}}, "raw"),
        (lambda s: {f"module.{k}": v for k, v in s.items()}, "ema"),
        (lambda s: {"state_dict": {f"model._orig_mod.{k}": v.half().float() for k, v in s.items()}}, "ema"),
    ],
)
def test_weights_are_found_where_people_put_them(tmp_path, wrap, weights):
    network = net(width=6)
    network.load_state_dict({k: v.half().float() for k, v in network.state_dict().items()})
    torch.save(wrap(network.state_dict()), tmp_path / "w.pt")
    checkpoint = load_network(tmp_path / "w.pt", f"{HERE}:Net", SPEC, arguments={"width": 6}, weights=weights)
    assert same_weights(checkpoint.network, network)
    assert not checkpoint.network.training
    assert checkpoint.spec.source == {
        "importer": "own",
        "network": f"{HERE}:Net",
        "weights": weights,
        "checkpoint_sha256": hashlib.sha256((tmp_path / "w.pt").read_bytes()).hexdigest(),
    }


@pytest.mark.parametrize(
    "contents",
    [
        {},
        {"a": 1},
        {"model": {}},
        {"one": net().state_dict(), "two": net().state_dict()},
        {**net().state_dict(), "more": torch.zeros(1)},
        {k: v for k, v in net().state_dict().items() if k != "conv.bias"},
        net(width=5).state_dict(),
    ],
)
def test_weights_that_are_not_just_those_of_the_class_are_refused(tmp_path, contents):
    torch.save(contents, tmp_path / "w.pt")
    with pytest.raises(BadFileError) as caught:
        load_network(tmp_path / "w.pt", f"{HERE}:Net", SPEC)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("reference", "arguments", "words"),
    [
        ("Net", {}, "network must be package.module:Class, got 'Net'"),
        ("nowhere.at_all:Net", {}, "ModuleNotFoundError"),
        (f"{HERE}:Missing", {}, "AttributeError"),
        (f"{HERE}:Net", {"depth": 3}, "depth"),
        (f"{HERE}:Broken", {"width": 3}, "RuntimeError: first line."),
        (f"{HERE}:not_a_network", {}, "a int"),
    ],
)
def test_a_class_that_cannot_be_made_is_a_usage_error_in_one_line(tmp_path, reference, arguments, words):
    torch.save(net().state_dict(), tmp_path / "w.pt")
    with pytest.raises(UsageError) as caught:
        load_network(tmp_path / "w.pt", reference, SPEC, arguments=arguments)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
