import math

import numpy as np
import pytest
import scipy.linalg

from ddpm_export.errors import NonFiniteError, UsageError
from ddpm_export.scoring.metrics.frechet import Statistics, frechet_distance, statistics

D = 12


def rotation(rng, size=D):
    return np.linalg.qr(rng.normal(size=(size, size)))[0]


def gaussian(mean, covariance, n=1000):
    return Statistics(n, np.asarray(mean, dtype=np.float64), np.asarray(covariance, dtype=np.float64))


def moved(a, turn, shift):
    return Statistics(a.n, turn @ a.mean + shift, turn @ a.covariance @ turn.T)


def random_statistics(rng, n=100, size=D):
    return statistics(rng.normal(size=(n, size)) @ rng.normal(size=(size, size)) + rng.normal(size=size))


def heusel(a, b):
    """Eq. 6 as it is written, by a general matrix root."""
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance)
    return np.square(a.mean - b.mean).sum() + np.trace(a.covariance + b.covariance - 2 * root).real


def near(value):
    return pytest.approx(value, rel=1e-9, abs=1e-9)  # numbers here are about 1 to 1,000; rounding reaches 1e-11


def test_statistics_are_the_mean_and_the_unbiased_covariance(rng):
    x = rng.normal(size=(20, D)).astype(np.float32)
    a = statistics(x)
    assert a.n == 20
    assert a.mean.dtype == a.covariance.dtype == np.float64
    np.testing.assert_allclose(a.mean, x.mean(axis=0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(a.covariance, np.cov(x.astype(np.float64), rowvar=False), rtol=1e-10, atol=1e-12)


def test_a_covariance_survives_a_mean_that_dwarfs_it(rng):
    x = rng.normal(size=(50, 3))
    np.testing.assert_allclose(statistics(x + 1e6).covariance, statistics(x).covariance, atol=1e-8)


def test_a_shift_alone_is_its_squared_length(rng):
    a = random_statistics(rng)
    shift = rng.normal(size=D)
    assert frechet_distance(a, a._replace(mean=a.mean + shift)) == near(shift @ shift)


@pytest.mark.parametrize(("s", "t"), [(1.0, 1.0), (2.0, 0.5), (3.0, 0.0), (0.0, 0.0)])
def test_scaled_identities_differ_by_their_deviations(s, t):
    a, b = gaussian(np.zeros(D), s**2 * np.eye(D)), gaussian(np.zeros(D), t**2 * np.eye(D))
    assert frechet_distance(a, b) == near(D * (s - t) ** 2)


def test_covariances_with_common_axes_differ_axis_by_axis(rng):
    s, t, turn = rng.uniform(0, 3, size=D), rng.uniform(0, 3, size=D), rotation(rng)
    a, b = gaussian(np.ones(D), turn * s**2 @ turn.T), gaussian(np.zeros(D), turn * t**2 @ turn.T)
    assert frechet_distance(a, b) == near(D + np.square(s - t).sum())


def test_two_covariances_of_two_dimensions_that_do_not_commute():
    a, b = gaussian([0, 0], [[2, 1], [1, 2]]), gaussian([0, 0], [[4, 0], [0, 1]])
    # the root of a 2 x 2 matrix M has trace sqrt(tr M + 2 sqrt(det M)); tr(A B) = 10, det(A B) = 3 * 4
    assert frechet_distance(a, b) == near(4 + 5 - 2 * math.sqrt(10 + 2 * math.sqrt(12)))


@pytest.mark.parametrize("angle", [0.0, 0.3, math.pi / 2])
def test_two_covariances_of_rank_one(angle):
    u, v = np.array([1.0, 0, 0]), np.array([math.cos(angle), math.sin(angle), 0])
    a, b = gaussian(np.zeros(3), 4 * np.outer(u, u)), gaussian(np.zeros(3), 9 * np.outer(v, v))
    assert frechet_distance(a, b) == near(4 + 9 - 2 * 2 * 3 * abs(math.cos(angle)))


def test_a_distance_in_fewer_dimensions_than_the_features_have(rng):
    # covariances of rank 5 and 4 in 12 dimensions are those of 5 dimensions, seen through an isometry
    a, b = random_statistics(rng, 6, 5), random_statistics(rng, 5, 5)
    basis = rotation(rng)[:, :5]
    assert frechet_distance(moved(a, basis, 0), moved(b, basis, 0)) == near(frechet_distance(a, b))


def test_null_directions_that_rounding_puts_below_zero(rng):
    for _ in range(20):
        a, b, basis = random_statistics(rng, 100, 6), random_statistics(rng, 100, 2), rotation(rng)
        b = moved(b, np.eye(6)[:, :2], 0)  # of rank 2, and taken second: 4 eigenvalues of the product are rounding
        a, b = moved(a, basis[:, :6], 0), moved(b, basis[:, :6], 0)
        # each of the 4 may be 1e-16 of the product of the traces: its root is 1e-8
        assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-6)


def test_rotating_and_moving_both_changes_nothing(rng):
    a, b = random_statistics(rng), random_statistics(rng)
    turn, shift = rotation(rng), rng.normal(size=D)
    assert frechet_distance(moved(a, turn, shift), moved(b, turn, shift)) == near(frechet_distance(a, b))


@pytest.mark.parametrize(("n", "m"), [(100, 100), (5, 100), (100, 5), (5, 5), (2, 2)])
def test_symmetric_and_none_to_itself(rng, n, m):
    a, b = random_statistics(rng, n), random_statistics(rng, m)
    assert frechet_distance(a, b) == near(frechet_distance(b, a))
    assert frechet_distance(a, b) > 0.1
    for entry in (a, b):
        assert frechet_distance(entry, entry) == pytest.approx(0.0, abs=1e-8 * np.trace(entry.covariance))


def test_it_is_a_plain_float_of_at_least_0(rng):
    for _ in range(20):
        a = random_statistics(rng, 8)
        turn = rotation(rng)
        distance = frechet_distance(a, moved(moved(a, turn, 0), turn.T, 0))
        assert type(distance) is float
        assert distance >= 0.0


def test_as_the_general_matrix_root_gives_it(rng):
    for _ in range(5):
        a, b = random_statistics(rng), random_statistics(rng, 40)
        assert frechet_distance(a, b) == pytest.approx(heusel(a, b), rel=1e-8)


def test_of_fewer_images_than_dimensions_as_singular_values_give_it(rng):
    # tr (A^1/2 B A^1/2)^1/2 is the sum of the singular values of X Y^T, where X^T X = A and Y^T Y = B
    x, y = rng.normal(size=(30, 64)), 2 * rng.normal(size=(50, 64)) + 1
    roots = [(rows - rows.mean(axis=0)) / math.sqrt(len(rows) - 1) for rows in (x, y)]
    overlap = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    shift = x.mean(axis=0) - y.mean(axis=0)
    expected = shift @ shift + sum(np.square(root).sum() for root in roots) - 2 * overlap
    assert frechet_distance(statistics(x), statistics(y)) == pytest.approx(expected, rel=1e-9)


def test_samples_approach_the_distance_of_their_sources(rng):
    # n = 20,000: the bias is about D / n, the error about 2 sqrt(D / n) = 0.03
    a, b = rng.normal(size=(20_000, 4)), 2 * rng.normal(size=(20_000, 4)) + 1
    assert frechet_distance(statistics(a), statistics(b)) == pytest.approx(4 + 4, abs=0.2)


def test_the_largest_features_there_may_be_do_not_overflow(rng):
    a, b = (statistics(1e50 * rng.uniform(-1, 1, size=(n, D))) for n in (30, 40))
    assert 0 < frechet_distance(a, b) < math.inf
    edge = statistics(np.array([[1e50], [-1e50]]))
    assert frechet_distance(edge, edge) == pytest.approx(0.0, abs=1e90)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e51])
def test_what_is_not_finite_is_refused(value):
    x = np.ones((5, 3))
    x[3, 1] = x[4, 2] = value
    with pytest.raises(NonFiniteError, match=r"^features must be finite .* in row 3, column 1 \(2 such in all\)"):
        statistics(x)
    a = statistics(np.eye(3))
    with pytest.raises(NonFiniteError, match=r"^statistics b, mean must be finite"):
        frechet_distance(a, a._replace(mean=np.array([0, value, 0])))
    with pytest.raises(NonFiniteError, match=r"^statistics a, covariance must be finite"):
        frechet_distance(a._replace(covariance=np.full((3, 3), value * abs(value))), a)


@pytest.mark.parametrize("shape", [(5,), (5, 2, 2), (0, 3), (3, 0)])
def test_rows_of_another_shape_are_refused(shape):
    with pytest.raises(UsageError, match=r"^features must be real numbers .* got float64"):
        statistics(np.zeros(shape))


@pytest.mark.parametrize("dtype", [np.complex128, np.bool_, object])
def test_rows_of_another_dtype_are_refused(dtype):
    with pytest.raises(UsageError, match=r"^features must be real numbers"):
        statistics(np.zeros((5, 3), dtype=dtype))


def test_whole_numbers_and_halves_are_features_too(rng):
    x = rng.integers(0, 255, size=(9, 3))
    for dtype in (np.uint8, np.int64, np.float16, np.float32):
        np.testing.assert_array_equal(statistics(x.astype(dtype)).covariance, statistics(x.astype(float)).covariance)


def test_one_image_has_no_covariance():
    with pytest.raises(UsageError, match=r"^features must be of at least 2 images, got 1"):
        statistics(np.ones((1, 3)))
    a = statistics(np.eye(3))
    with pytest.raises(UsageError, match=r"^statistics b must be of at least 2"):
        frechet_distance(a, a._replace(n=1))


def test_different_dimensions_are_refused():
    with pytest.raises(UsageError, match=r"^statistics must have the same number of dimensions, got 3 and 4"):
        frechet_distance(statistics(np.eye(3)), statistics(np.eye(4)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": np.zeros((3, 1))}, "must be a mean .* and a covariance"),
        ({"covariance": np.zeros((3, 4))}, "must be a mean .* and a covariance"),
        ({"mean": np.zeros(3, dtype=np.float32)}, "must be a mean .* and a covariance"),
        ({"covariance": np.eye(3, dtype=np.float32)}, "must be a mean .* and a covariance"),
        ({"covariance": np.triu(np.ones((3, 3)))}, "must have a symmetric covariance"),
        ({"covariance": np.diag([1.0, 1.0, -0.1])}, "must have a covariance without negative eigenvalues"),
        ({"covariance": -np.eye(3)}, "must have a covariance without negative eigenvalues"),
    ],
)
def test_what_is_no_statistics_is_refused_on_either_side(changes, message):
    good = gaussian(np.zeros(3), np.eye(3))
    for pair in ((good, good._replace(**changes)), (good._replace(**changes), good)):
        with pytest.raises(UsageError, match=message):
            frechet_distance(*pair)
