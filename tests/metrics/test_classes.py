import numpy as np
import pytest

from ddpm_export.errors import NonFiniteError, UsageError
from ddpm_export.scoring.metrics.classes import accuracy_by_class, frechet_by_class
from ddpm_export.scoring.metrics.frechet import frechet_distance, statistics


def test_accuracy_is_the_share_of_each_class_that_is_seen(rng):
    labels = rng.integers(0, 4, 200)
    seen = rng.integers(0, 4, 200)
    logits = rng.uniform(-1, 1, (200, 4))
    logits[np.arange(200), seen] = 2.0
    found = accuracy_by_class(logits, labels)
    assert list(found) == [0, 1, 2, 3]
    for label, share in found.items():
        of = [s == label for s, own in zip(seen, labels, strict=True) if own == label]
        assert share == pytest.approx(sum(of) / len(of), abs=1e-12)
    assert accuracy_by_class(np.eye(4)[[2, 2, 0]], np.array([2, 2, 2])) == {2: pytest.approx(2 / 3)}


@pytest.mark.parametrize("labels", [[0, 1], [0, 1, 4], [0, -1, 1], [0.0, 1.0, 2.0], [[0, 1, 2]]])
def test_labels_that_are_none(labels):
    with pytest.raises(UsageError, match="labels must be 3 integers from 0 to 3"):
        accuracy_by_class(np.eye(4)[:3], np.array(labels))


def test_logits_that_are_no_numbers():
    with pytest.raises(NonFiniteError):
        accuracy_by_class(np.full((2, 3), np.nan), np.array([0, 1]))


def test_the_distance_of_a_class_is_that_of_its_images(rng):
    fake, real = rng.normal(size=(90, 5)), rng.normal(size=(150, 5)) + 0.5
    of_fake, of_real = np.arange(90) % 3, np.arange(150) % 3
    found = frechet_by_class(fake, of_fake, real, of_real)
    assert list(found) == [0, 1, 2]
    for label, distance in found.items():
        assert distance == frechet_distance(statistics(fake[label::3]), statistics(real[label::3]))
    np.testing.assert_allclose(list(frechet_by_class(real, of_real, real, of_real).values()), 0.0, atol=1e-9)
    # classes that are mixed up are seen here, while all images together are the same
    apart = real + 2.0 * of_real[:, None]
    assert min(frechet_by_class(apart, (of_real + 1) % 3, apart, of_real).values()) > 10


def test_a_class_of_fewer_than_two_images_is_left_out(rng):
    features = rng.normal(size=(7, 2))
    found = frechet_by_class(features, np.array([0, 0, 0, 1, 2, 2, 2]), features, np.array([0, 0, 1, 1, 1, 2, 3]))
    assert list(found) == [0]
