"""What the proof holds besides the network's outputs, and that an export does no work twice."""

import dataclasses

import numpy as np
import pytest
from representative import representative

from ddpm_export.errors import ModelRefusedError
from ddpm_export.exporting.export import export, export_all
from ddpm_export.exporting.formats import FORMATS, ONE_CALL_FORMATS
from ddpm_export.exporting.onnx_file import tensors_of
from ddpm_export.exporting.proof import prove
from ddpm_export.importers.checkpoint import Checkpoint
from ddpm_export.model.spec import Defaults, ModelSpec

SPEC = ModelSpec(
    name="proof",
    prediction="eps",
    state_shape=(3, 32, 32),
    alphas_cumprod=tuple(np.linspace(0.999, 0.01, 1000).tolist()),
)


def test_a_pixel_off_by_more_than_a_level_is_refused_however_few_they_are():
    def network(x_t, t, off=0.0):
        eps = x_t * np.float32(0.5)
        eps[0, 0, 0, :3] += np.float32(off) * (t[0] == 99)  # a time of the trajectory that the grid leaves out
        return {"eps": eps}

    assert prove(network, network, SPEC).max_level_difference == 0
    with pytest.raises(
        ModelRefusedError, match=r"99\.9\d\d% equal values .* the largest difference is 5 levels, at most 1"
    ):
        prove(lambda x_t, t: network(x_t, t, 0.12), network, SPEC)
    almost = prove(lambda x_t, t: network(x_t, t, 0.02), network, SPEC)
    assert almost.max_level_difference == 1


torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

SMALL = dataclasses.replace(
    SPEC, state_shape=(1, 8, 8), alphas_cumprod=SPEC.alphas_cumprod[::50], defaults=Defaults(num_steps=5)
)


def conv():
    torch.manual_seed(0)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, x_t, t):
            return torch.tanh(self.conv(x_t)) + t[:, None, None, None] / 50

    return Checkpoint(Net().eval().requires_grad_(False), SMALL)


@pytest.fixture
def counts(monkeypatch):
    """How often the network was traced, and a denoiser proven."""
    from ddpm_export.exporting import original, program

    seen = {"traced": 0, "proven": 0}

    def counted(key, function):
        def count(*arguments, **named):
            seen[key] += 1
            return function(*arguments, **named)

        return count

    monkeypatch.setattr(program, "_traced", counted("traced", program._traced))
    monkeypatch.setattr(original, "prove", counted("proven", original.prove))
    return seen


@pytest.mark.torch
@representative(
    ("formats", "proven"),
    [
        (("sampler", "slice", "onnx"), 1),  # the graph of all three is that of the first
        (("sampler", "slice"), 1),
        (("pt2", "torchscript", "onnx"), 3),  # three runtimes
    ],
)
def test_a_network_is_traced_once_and_its_graph_proven_once(tmp_path, counts, formats, proven):
    endings = {name: entry.ending for name, entry in {**FORMATS, **ONE_CALL_FORMATS}.items()}
    reports = list(export_all(conv(), {name: tmp_path / f"m{endings[name]}" for name in formats}))
    assert counts == {"traced": 1, "proven": proven}
    assert {report.format for report in reports} == set(formats)
    for report in reports:  # and together they are what each is alone
        alone = export(conv(), tmp_path / "alone" / report.path.name, format=report.format)
        assert alone.sha256 == report.sha256


@pytest.mark.torch
@representative("form", ["sampler", "onnx"])
def test_float16_rounds_by_one_rule_from_a_checkpoint_and_from_its_file(tmp_path, form):
    class Table(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.weight = torch.nn.Parameter(torch.randn(1, 1, 40, 40))
            self.register_buffer("table", torch.randn(1, 1, 40, 40))
            self.register_buffer("small", torch.randn(1, 1, 1, 40))

        def forward(self, x_t, t):
            return torch.tanh(x_t * self.weight + self.table + self.small) + t[:, None, None, None] / 50

    spec = dataclasses.replace(SMALL, state_shape=(1, 40, 40))
    export(Table(), spec, tmp_path / "m.onnx")
    of_checkpoint = export(Table(), spec, tmp_path / "a.onnx", format=form, storage="float16")
    of_file = export(tmp_path / "m.onnx", tmp_path / "b.onnx", format=form, storage="float16")
    files = [stored(onnx.load(report.path).graph) for report in (of_checkpoint, of_file)]
    prefix = "" if form == "onnx" else "network/"
    assert f"{prefix}table.float16" in files[0]
    assert f"{prefix}small" in files[0]
    assert files[0] == files[1]


def stored(graph):
    """The bytes of every initializer, those of the graphs within among them, by name."""
    return {tensor.name: tensor.raw_data for tensor in tensors_of(graph)}
