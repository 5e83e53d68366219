import numpy as np
import pytest

from ddpm_export.errors import NonFiniteError, UsageError
from ddpm_export.scoring.metrics.inception_score import inception_score, probabilities_from_logits

K = 10


def divergence(p):
    """The formula as it is written: exp of the mean divergence of the rows from their mean."""
    p = p.astype(np.float64)
    return np.exp(np.mean([np.sum(row * np.log(row / p.mean(axis=0))) for row in p]))


def test_certain_and_balanced_classes_score_their_number():
    score = inception_score(np.tile(np.eye(K), (20, 1)))
    assert score.mean == pytest.approx(K, rel=1e-12)
    assert score.std == pytest.approx(0.0, abs=1e-12)


def test_a_known_score_between_the_ends():
    # half of the rows certain of one class, half undecided: p(y) = (3/4, 1/4)
    p = np.tile([[1.0, 0.0], [0.5, 0.5]], (10, 1))
    expected = np.exp((np.log(4 / 3) + 0.5 * np.log(2 / 3) + 0.5 * np.log(2)) / 2)
    assert inception_score(p, splits=2).mean == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("row", [np.full(K, 1 / K), np.eye(K)[3], np.linspace(0, 1, K) / np.linspace(0, 1, K).sum()])
def test_rows_that_agree_score_1(row):
    score = inception_score(np.tile(row, (100, 1)))
    assert score.mean == pytest.approx(1.0, abs=1e-12)
    assert score.std == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("n", "splits"), [(40, 4), (43, 4), (43, 1), (7, 7), (19, 10)])
def test_splits_are_contiguous_whole_and_as_equal_as_can_be(rng, n, splits):
    p = rng.dirichlet(np.ones(K), size=n)
    sizes = np.diff([n * i // splits for i in range(splits + 1)])
    assert sizes.sum() == n
    assert set(sizes) <= {n // splits, n // splits + 1}
    parts = [divergence(part) for part in np.split(p, np.cumsum(sizes)[:-1])]
    score = inception_score(p, splits)
    assert score.mean == pytest.approx(np.mean(parts), rel=1e-12)
    assert score.std == pytest.approx(np.std(parts), abs=1e-12)


def test_one_image_a_split_scores_1(rng):
    assert inception_score(rng.dirichlet(np.ones(K), size=10), splits=10).mean == pytest.approx(1.0, abs=1e-12)


def test_ten_splits_unless_told(rng):
    p = rng.dirichlet(np.ones(K), size=60)
    assert inception_score(p) == inception_score(p, 10) != inception_score(p, 5)


def test_sorted_classes_score_less():
    assert inception_score(np.repeat(np.eye(K), 10, axis=0)).mean == pytest.approx(1.0, abs=1e-12)


def test_a_score_lies_between_1_and_the_classes_however_sharp(rng):
    for sharpness in (1e-3, 1.0, 1e3, 1e6):
        score = inception_score(probabilities_from_logits(sharpness * rng.normal(size=(100, K))), 2)
        assert 1 - 1e-12 <= score.mean <= K + 1e-12


def test_probabilities_in_float32_are_taken(rng):
    p = rng.dirichlet(np.ones(K), size=100)
    assert inception_score(p.astype(np.float32)).mean == pytest.approx(inception_score(p).mean, rel=1e-5)


def test_a_tiny_probability_is_no_error():
    p = np.tile([[1.0, 0.0]], (1000, 1))
    p[0, 1] = 5e-324  # its mean over the rows is 0
    assert inception_score(p, 1).mean == pytest.approx(1.0, abs=1e-12)


def test_softmax_is_that_of_the_definition(rng):
    logits = rng.normal(size=(5, K))
    p = probabilities_from_logits(logits.astype(np.float32))
    assert p.dtype == np.float64
    np.testing.assert_allclose(p.sum(axis=1), 1.0, rtol=1e-14)
    np.testing.assert_allclose(p, np.exp(logits) / np.exp(logits).sum(axis=1)[:, None], rtol=1e-5)
    np.testing.assert_allclose(probabilities_from_logits(logits + 3), probabilities_from_logits(logits), rtol=1e-13)


@pytest.mark.parametrize("size", [1e3, 1e30, 1e50])
def test_softmax_of_large_logits_neither_overflows_nor_warns(size):
    p = probabilities_from_logits(np.array([[size, -size, 0.0], [-size, -size, -size]]))
    np.testing.assert_allclose(p, [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]], rtol=1e-14)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(value):
    rows = np.full((20, 2), 0.5)
    rows[7, 1] = value
    with pytest.raises(NonFiniteError, match=r"^logits must be finite .* in row 7, column 1 \(1 such in all\)"):
        probabilities_from_logits(rows)
    with pytest.raises(NonFiniteError, match=r"^probabilities must be finite .* in row 7"):
        inception_score(rows)


@pytest.mark.parametrize(("n", "splits"), [(9, 10), (9, 0), (9, -1)])
def test_splits_that_cannot_be_are_refused(n, splits):
    with pytest.raises(UsageError, match=rf"^splits must be from 1 to 9, the number of images, got {splits}\."):
        inception_score(np.ones((n, 1)), splits)


@pytest.mark.parametrize("row", [[0.5, 0.49], [1.5, -0.5], [3.0, -1.0], [0.0, 0.0]])
def test_rows_that_are_no_distribution_are_refused(row):
    p = np.full((20, 2), 0.5)
    p[4] = p[5] = row
    with pytest.raises(UsageError, match=r"^Each row of probabilities must be .* in row 4 \(2 such rows\)"):
        inception_score(p)
