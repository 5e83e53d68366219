"""Networks that are told more than x_t and t: each kind of input, through every format, proven and refused by name."""

import dataclasses

import numpy as np
import pytest
from representative import representative

from ddpm_export import denoiser, noise_stream, open_model, plan, walk
from ddpm_export.errors import ModelRefusedError, UsageError
from ddpm_export.exporting.export import eager_model, export
from ddpm_export.exporting.formats import FORMATS
from ddpm_export.exporting.proof import prove
from ddpm_export.importers.checkpoint import Checkpoint
from ddpm_export.model.examples import example_of_inputs
from ddpm_export.model.golden import golden_from_model, replay_golden
from ddpm_export.model.inputs import Input
from ddpm_export.model.spec import Defaults, ModelSpec

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

SHAPE = (2, 6, 4)
INPUTS = {
    "label": Input("y", "label", none=3, classes=("cat", "dog", "ant")),
    "vector": Input("scale", "vector", (5,)),
    "image": Input("mask", "image", (3, 6, 4), none=0.0),
    "previous": Input("x_0_prev", "previous", SHAPE),
}


class Told(torch.nn.Module):
    """A network that every input changes, and that takes them in another order than the spec has."""

    def __init__(self, kinds):
        super().__init__()
        torch.manual_seed(0)
        self.label = torch.nn.Embedding(4, 2) if "label" in kinds else None
        self.vector = torch.nn.Linear(5, 2) if "vector" in kinds else None
        self.image = torch.nn.Conv2d(3, 2, 3, padding=1) if "image" in kinds else None
        self.previous = torch.nn.Conv2d(2, 2, 1) if "previous" in kinds else None
        self.mix = torch.nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x, times, x_0_prev=None, mask=None, *, scale=None, y=None):
        out = self.mix(x) + times.float()[:, None, None, None] / 50
        if self.label is not None:
            out = out + self.label(y)[:, :, None, None]
        if self.vector is not None:
            out = out + self.vector(scale)[:, :, None, None]
        if self.image is not None:
            out = out + self.image(mask)
        if self.previous is not None:
            out = out + self.previous(x_0_prev)
        return torch.tanh(out)


def spec_of(kinds):
    return ModelSpec(
        name="told",
        prediction="eps",
        state_shape=SHAPE,
        alphas_cumprod=tuple(np.linspace(0.99, 0.05, 20).tolist()),
        defaults=Defaults(num_steps=5),
        requires=("inputs",),
        inputs=tuple(INPUTS[kind] for kind in kinds),
    )


def kinds_of(kind):
    return list(INPUTS) if kind == "all" else [kind]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder, files = tmp_path_factory.mktemp("told"), {}

    def get(kind, format_name="onnx"):
        if (kind, format_name) not in files:
            kinds = kinds_of(kind)
            path = folder / f"{kind}{FORMATS[format_name].ending}"
            files[kind, format_name] = export(Told(kinds), spec_of(kinds), path, format=format_name)
        return Told(kinds_of(kind)).eval(), files[kind, format_name]

    return get


@representative(
    ("kind", "format_name"),
    [(kind, name) for kind in ("all", *INPUTS) for name in FORMATS],
    by=lambda kind, name: (kind == "all") and name,
)
def test_every_kind_goes_through_every_format(made, kind, format_name, rng):
    network, report = made(kind, format_name)
    model, spec = open_model(report.path, trust=True)
    assert dataclasses.replace(spec, golden=None) == spec_of(kinds_of(kind))
    assert all(result.passed for result in replay_golden(model, spec))
    x_t, t = rng.standard_normal((5, *SHAPE), dtype=np.float32), np.arange(5)
    named = example_of_inputs(spec.inputs, 7, range(5))
    with torch.no_grad():
        tensors = {name: torch.from_numpy(value) for name, value in named.items()}
        expected = network(torch.from_numpy(x_t), torch.from_numpy(t), **tensors).numpy()
    np.testing.assert_allclose(model(x_t, t, **named)["eps"], expected, rtol=0, atol=1e-6)
    for entry in spec.inputs:  # and each has its say
        other = {**named, entry.name: np.roll(named[entry.name], 1, axis=0)}
        assert np.abs(model(x_t, t, **other)["eps"] - expected).max() > 1e-3


@pytest.mark.parametrize("format_name", FORMATS)
def test_inputs_that_do_not_fit_are_refused_by_name(made, format_name):
    model, spec = open_model(made("all", format_name)[1].path, trust=True)
    named = example_of_inputs(spec.inputs, 0, range(2))
    x_t, t = np.zeros((2, *SHAPE), np.float32), np.zeros(2, np.int64)
    for name in named:
        with pytest.raises(UsageError, match=f"Input '{name}' is missing"):
            model(x_t, t, **{key: value for key, value in named.items() if key != name})
        with pytest.raises(UsageError, match=f"{name} must be .* of shape"):
            model(x_t, t, **{**named, name: named[name][:1]})
        with pytest.raises(UsageError, match=f"{name} must be .*got float64"):
            model(x_t, t, **{**named, name: named[name].astype(np.float64)})
    with pytest.raises(UsageError, match="no input 'depth'"):
        model(x_t, t, **named, depth=x_t)


def test_a_file_samples_as_its_network_does(made):
    network, report = made("all")
    model, spec = open_model(report.path)
    eager = eager_model(Checkpoint(network, spec))
    asked = {"y": "dog", "scale": np.linspace(-1, 1, 5), "mask": np.ones((3, 6, 4), np.float32)}
    ends = []
    for each in (model, eager):
        noise = noise_stream(0, range(3), spec.state_shape)
        *_, state = walk(denoiser(each, spec, **asked), noise, plan(spec))
        ends.append(state.x)
    np.testing.assert_allclose(*ends, rtol=0, atol=1e-5)


def test_golden_vectors_and_proof_reach_every_label_and_no_class_too():
    digits = Input("y", "label", none=10, classes=tuple("0123456789"))
    spec = dataclasses.replace(spec_of(["label"]), inputs=(digits,))
    seen = []

    def model(x_t, t, y):
        seen.append(y)
        return {"eps": x_t + t[:, None, None, None].astype(np.float32) + y[:, None, None, None].astype(np.float32)}

    cases = golden_from_model(model, spec)["cases"]
    assert [y.tolist() for y in seen] == [[0], [1], [10]]
    assert [case["image"] for case in cases] == [0, 1, 10]
    seen.clear()
    assert prove(model, model, spec).error == 0.0
    assert {label for y in seen for label in y.tolist()} == set(range(11))


@pytest.mark.parametrize("kind", [*INPUTS, "all"])
def test_a_file_that_is_deaf_to_an_input_is_found_by_proof_and_golden_vectors(kind):
    spec = spec_of(kinds_of(kind))
    network = eager_model(Checkpoint(Told(kinds_of(kind)).eval(), spec))

    def deaf(x_t, t, **named):
        last = spec.inputs[-1]
        return network(x_t, t, **{**named, last.name: np.zeros_like(named[last.name])})

    with pytest.raises(ModelRefusedError, match="does not reproduce its network"):
        prove(deaf, network, spec)
    asked = dataclasses.replace(spec, golden=golden_from_model(network, spec))
    assert not all(result.passed for result in replay_golden(deaf, asked))


def test_a_network_that_does_not_take_what_its_spec_says_is_told(tmp_path):
    class Deaf(torch.nn.Module):
        def forward(self, x_t, t):
            return x_t + t[:, None, None, None]

    with pytest.raises(ModelRefusedError, match="unexpected keyword argument 'y'"):
        export(Deaf(), spec_of(["label"]), tmp_path / "deaf.onnx")


def test_a_branch_on_a_label_is_refused_with_its_line(tmp_path):
    class Branching(torch.nn.Module):
        def forward(self, x_t, t, y):
            return x_t if y[0] == 3 else x_t + t[:, None, None, None]

    with pytest.raises(ModelRefusedError, match=r"cannot be traced: .*test_inputs\.py:\d+"):
        export(Branching(), spec_of(["label"]), tmp_path / "branching.onnx")
