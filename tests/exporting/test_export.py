import dataclasses
import hashlib
import json
import math
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from representative import representative

from ddpm_export.errors import BadFileError, EnvironmentProblem, ModelRefusedError, NonFiniteError, UsageError
from ddpm_export.exporting.export import eager_model, export
from ddpm_export.exporting.formats import FORMATS
from ddpm_export.importers.checkpoint import Checkpoint
from ddpm_export.importers.load import load_checkpoint
from ddpm_export.importers.unet import UNetConfig
from ddpm_export.model.golden import replay_golden
from ddpm_export.process.noise import noise_stream
from ddpm_export.runtimes.opening import open_model

from .conftest import CONFIGS, SMALL, network_of, save, spec_of

torch = pytest.importorskip("torch")

HERE = [str(place).encode() for place in (Path(__file__).parents[2], Path.home(), sys.prefix)]  # of whoever exports
pytestmark = pytest.mark.torch


def relative_error(a, b):
    return np.abs(a - b).max() / np.abs(b).max()


@pytest.mark.parametrize("kind", FORMATS)
@representative("name", CONFIGS)
def test_every_format_computes_what_the_network_does(exported, name, kind):
    checkpoint, report = exported(name, kind)
    model, spec = open_model(report.path, trust=True)
    for batch in (1, 2, 7):
        x_t = noise_stream(5, range(batch), spec.state_shape)(0)
        t = np.arange(batch, dtype=np.int64) * 13
        with torch.no_grad():
            expected = checkpoint.network(torch.from_numpy(x_t), torch.from_numpy(t)).numpy()
        assert np.abs(expected).max() > 0.1
        assert list(model(x_t, t)) == [checkpoint.spec.prediction]
        assert relative_error(model(x_t, t)[spec.prediction], expected) <= 1e-5


@pytest.mark.parametrize("kind", FORMATS)
def test_the_report_tells_what_was_proven_and_the_file_carries_its_spec(exported, kind):
    checkpoint, report = exported("grey", kind)
    assert report.num_bytes == report.path.stat().st_size
    assert report.sha256 == hashlib.sha256(report.path.read_bytes()).hexdigest()
    assert report.proof.error <= 1e-5
    assert report.proof.relative
    assert report.proof.equal_share >= 0.995
    assert report.proof.batches == (1, 2, 3, 5)
    assert len(report.proof.times) >= 12
    assert {report.proof.times[0], report.proof.times[-1]} == {0, 99}
    assert json.loads(json.dumps(report.to_json()))["proof"]["error"] == report.proof.error
    model, spec = open_model(report.path, trust=True)
    assert dataclasses.replace(spec, golden=None) == checkpoint.spec
    results = replay_golden(model, spec)
    assert [result.t for result in results] == [0, 50, 99]
    assert all(result.passed for result in results)
    assert all(result.error < 1e-5 for result in results)


@representative("kind", FORMATS)
def test_the_same_checkpoint_gives_the_same_bytes(exported, checkpoint_path, tmp_path, kind):
    _, report = exported("grey", kind)
    again = export(load_checkpoint(checkpoint_path), tmp_path / f"other-name{FORMATS[kind].ending}", format=kind)
    assert again.sha256 == report.sha256


@pytest.mark.long
def test_golden_values_do_not_depend_on_the_number_of_threads(tmp_path, monkeypatch):
    monkeypatch.setattr("ddpm_export.exporting.proof.prove", lambda *_, **__: None)  # not what is tested here
    config = UNetConfig(blocks_per_level=1)  # large enough for torch to split its sums
    checkpoint = Checkpoint(network_of(config), spec_of(config))
    before = torch.get_num_threads()
    digests = set()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            digests.add(export(checkpoint, tmp_path / "unet.ts", format="torchscript").sha256)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert len(digests) == 1


@pytest.mark.parametrize("kind", FORMATS)
def test_no_file_holds_a_path_of_this_machine(exported, kind):
    _, report = exported("grey", kind)
    content = report.path.read_bytes()
    if kind != "onnx":
        with zipfile.ZipFile(report.path) as archive:
            content = b"".join(archive.read(name) + name.encode() for name in archive.namelist())
    for path in (*HERE, b"/home/", b"/tmp/", b"site-packages", b'unet.py"', b"\\Users"):
        assert path not in content


def test_ema_weights_unless_raw_are_asked_for(checkpoint_path):
    ema, raw = (load_checkpoint(checkpoint_path, weights=weights) for weights in ("ema", "raw"))
    for checkpoint, seed in ((ema, 0), (raw, 1)):
        expected = network_of(CONFIGS["grey"], seed).state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in checkpoint.network.state_dict().items())
    assert (ema.spec.source["weights"], raw.spec.source["weights"]) == ("ema", "raw")
    assert load_checkpoint(checkpoint_path).spec == ema.spec
    with pytest.raises(UsageError, match="ema, raw"):
        load_checkpoint(checkpoint_path, weights="best")


def test_averaged_weights_alone_are_enough(checkpoint_path, tmp_path):
    whole = torch.load(checkpoint_path, weights_only=True)
    torch.save({k: v for k, v in whole.items() if k not in ("network", "optimizer")}, tmp_path / "shipped.pt")
    alone, before = load_checkpoint(tmp_path / "shipped.pt"), load_checkpoint(checkpoint_path)
    expected = before.network.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in alone.network.state_dict().items())
    source = {**alone.spec.source, "checkpoint_sha256": before.spec.source["checkpoint_sha256"]}
    assert dataclasses.replace(alone.spec, source=source) == before.spec
    with pytest.raises(UsageError, match="weights must be 'ema', got 'raw': the checkpoint has only averaged ones"):
        load_checkpoint(tmp_path / "shipped.pt", weights="raw")


def test_the_source_says_where_the_weights_come_from(checkpoint_path):
    source = load_checkpoint(checkpoint_path).spec.source
    assert source == {
        "dataset": "none",
        "schedule": {"name": "linear"},
        "importer": "native",
        "checkpoint_sha256": hashlib.sha256(checkpoint_path.read_bytes()).hexdigest(),
        "step": 20,
        "weights": "ema",
    }


class Differing(torch.nn.Module):
    """Another network than the one that is exported: `torch.jit` and torch.export see it without the last change."""

    def __init__(self, network, factor):
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, x_t, t):
        out = self.network(x_t, t)
        tracing = torch.jit.is_tracing() or torch.compiler.is_compiling() or torch.compiler.is_exporting()
        return out if tracing else out * self.factor


@representative("kind", FORMATS)
def test_a_file_that_does_not_reproduce_its_network_is_refused_and_leaves_nothing(tmp_path, kind):
    network = Differing(network_of(SMALL), 1.0 + 3e-5).eval()
    path = tmp_path / f"unet{FORMATS[kind].ending}"
    path.write_bytes(b"the previous file")
    with pytest.raises(
        ModelRefusedError, match=r"does not reproduce its network: .* at t=\d+, batch \d, .*error 3\.\d*e-05"
    ):
        export(Checkpoint(network, spec_of(SMALL)), path, format=kind)
    assert path.read_bytes() == b"the previous file"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_an_untrained_network_is_compared_absolutely(tmp_path):
    network = network_of(SMALL)
    network.head.weight.data.zero_()
    network.head.bias.data.zero_()
    report = export(Checkpoint(network, spec_of(SMALL)), tmp_path / "unet.pt2", format="pt2")
    assert not report.proof.relative
    assert report.proof.error == 0.0
    model, spec = open_model(report.path, trust=True)
    assert all(result.passed for result in replay_golden(model, spec))


def test_a_network_without_numbers_is_not_exported(tmp_path):
    network = network_of(SMALL)
    network.stem.bias.data[0] = math.nan
    with pytest.raises(NonFiniteError, match="gives NaN or infinity"):
        export(Checkpoint(network, spec_of(SMALL)), tmp_path / "unet.onnx")
    assert list(tmp_path.iterdir()) == []


def test_formats_and_endings_must_fit(checkpoint_path, tmp_path):
    checkpoint = load_checkpoint(checkpoint_path)
    with pytest.raises(UsageError, match="onnx, torchscript, pt2"):
        export(checkpoint, tmp_path / "unet.onnx", format="tflite")
    with pytest.raises(UsageError, match=r"unet\.pt: a file of format onnx ends in \.onnx"):
        export(checkpoint, tmp_path / "unet.pt")


def test_eager_model_is_the_network(checkpoint_path):
    checkpoint = load_checkpoint(checkpoint_path)
    out = eager_model(checkpoint)(np.zeros((2, 1, 28, 28), np.float32), np.array([0, 99]))
    assert list(out) == ["eps"]
    assert (out["eps"].dtype, out["eps"].shape) == (np.float32, (2, 1, 28, 28))


@pytest.mark.parametrize("kind", ["torchscript", "pt2"])
@pytest.mark.parametrize("fault", ["empty", "truncated", "flipped", "no spec", "foreign"])
def test_a_broken_torch_file_is_told_in_one_line(exported, tmp_path, kind, fault):
    _, report = exported("grey", kind)
    content = bytearray(report.path.read_bytes())
    path = tmp_path / report.path.name
    if fault == "empty":
        content = bytearray()
    elif fault == "truncated":
        content = content[: len(content) // 2]
    elif fault == "flipped":
        content[len(content) // 3] ^= 1
    elif fault == "no spec":
        content = content.replace(b"ddpm_export.json", b"xxxx_export.json")
    path.write_bytes(b"not a zip" if fault == "foreign" else content)
    with pytest.raises(BadFileError) as caught:
        open_model(path, trust=True)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", ["torchscript", "pt2"])
def test_torch_files_need_trust_and_never_fall_back_from_cuda(exported, monkeypatch, kind):
    _, report = exported("grey", kind)
    with pytest.raises(BadFileError, match="`trust=True`"):
        open_model(report.path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EnvironmentProblem, match="provider cuda"):
        open_model(report.path, "cuda", trust=True)


def test_threads_are_set_for_torch_files(exported):
    _, report = exported("grey", "pt2")
    before = torch.get_num_threads()
    try:
        open_model(report.path, threads=1, trust=True)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_channels_last_weights_give_the_same_network(checkpoint_path, tmp_path):
    state = {
        name: value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value
        for name, value in network_of(CONFIGS["grey"]).state_dict().items()
    }
    checkpoint = load_checkpoint(save(tmp_path / "c.pt", CONFIGS["grey"], ema=state))
    assert all(value.is_contiguous() for value in checkpoint.network.state_dict().values())
