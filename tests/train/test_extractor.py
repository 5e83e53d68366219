import numpy as np
import pytest

from ddpm_export.runtimes.onnx import open_extractor
from ddpm_export.scoring.datasets.dataset import Dataset

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from train.extractor import BATCH, Classifier, _shifted, accuracy, ship, train  # noqa: E402


@pytest.fixture(scope="module")
def stripes():
    """Images of ten classes that a glance tells apart: one bright row each, over noise."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 2 * BATCH + 5)
    images = rng.integers(0, 60, (len(labels), 28, 28, 1), dtype=np.uint8)
    images[np.arange(len(labels)), 2 * labels + 4] = 255
    images[np.arange(len(labels)), 2 * labels + 5] = 255
    return Dataset("stripes", images, labels.astype(np.int64), None)


def made(seed=0):
    torch.manual_seed(seed)
    return Classifier()


def test_a_training_cut_between_epochs_ends_with_the_same_weights(stripes, tmp_path, monkeypatch):
    whole, cut = made(), made()
    train(whole, stripes, tmp_path / "whole.pt", 2)

    class Stopped(Exception):
        pass

    def stop(*_):
        raise Stopped

    monkeypatch.setattr("train.extractor.accuracy", stop)  # is asked for after the first epoch
    with pytest.raises(Stopped):
        train(cut, stripes, tmp_path / "cut.pt", 2, test=stripes)
    again = made(seed=5)
    train(again, stripes, tmp_path / "cut.pt", 2)
    for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(whole.stem.weight, made().stem.weight)


def test_accuracy_is_the_share_named_rightly(stripes):
    class Reader(torch.nn.Module):  # names the row that is bright
        def forward(self, images):
            return images, images[:, 0, 4:24:2].mean(dim=2)

    assert accuracy(Reader(), stripes) == 1.0
    assert accuracy(Reader(), Dataset("s", stripes.images, (stripes.labels + 1) % 10, None)) == 0.0


@pytest.mark.long
def test_it_ships_as_onnx_with_its_card(stripes, tmp_path):
    network = made()
    path = ship(network, stripes, tmp_path, 0.5, 3)
    extract = open_extractor(path, (1, 28, 28), "cpu", None)
    images = stripes.images[:3].transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1.0
    features, logits = extract(images)
    assert (features.shape, logits.shape) == ((3, 128), (3, 10))
    with torch.no_grad():
        expected = network(torch.from_numpy(images))
    np.testing.assert_allclose(features, expected[0].numpy(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(logits, expected[1].numpy(), rtol=0, atol=1e-5)
    card = (tmp_path / "extractor.md").read_text()
    assert "50.00%" in card
    assert "--epochs 3" in card


def test_images_of_64x64_are_halved_first_and_shifted_over_white():
    torch.manual_seed(0)
    network = Classifier(3, 9, is_large=True)
    features, logits = network(torch.zeros(2, 3, 64, 64))
    assert (features.shape, logits.shape) == ((2, 128), (2, 9))
    images = torch.full((8, 3, 64, 64), network.outside)
    assert torch.equal(_shifted(images, torch.Generator().manual_seed(0), network.outside), images)
