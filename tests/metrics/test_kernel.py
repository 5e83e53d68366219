import math

import numpy as np
import pytest

from ddpm_export.errors import NonFiniteError, UsageError
from ddpm_export.scoring.metrics.kernel import kernel_difference, kernel_distance, kernel_pulls

D = 6


def whole(a, b):
    """The distance of two equally large sets, each taken whole: one subset there is."""
    return kernel_distance(a, b, subset_size=len(a), subsets=1)


def k(u, v):
    """The kernel of Binkowski et al. 2018."""
    return (sum(p * q for p, q in zip(u, v, strict=True)) / len(u) + 1) ** 3


def double_loop(x, y):
    """Gretton et al. 2012, eq. 3, sum by sum."""
    n, m = len(x), len(y)
    within_x = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_x + within_y - 2 * sum(k(u, v) for u in x for v in y) / (n * m)


def pulls(x, y):
    """What each of x adds to the distance of its set from y, less what they add on average."""
    found = [
        np.mean([k(u, v) for j, v in enumerate(x) if j != i]) - np.mean([k(u, v) for v in y]) for i, u in enumerate(x)
    ]
    return np.array(found) - np.mean(found)


def shifted_by(mu):
    """The distance between N(0, 1) and N(mu, 1) in one dimension: of the kernel's moments, in closed form.

    (x y + 1)^3 = 1 + 3 x y + 3 x^2 y^2 + x^3 y^3: a weighted sum of squared differences of the first three moments.
    """
    return 3 * mu**2 + 3 * (mu**2) ** 2 + (mu**3 + 3 * mu) ** 2


def test_a_slow_double_loop_gives_the_same(rng):
    x, y = rng.normal(size=(9, D)), rng.normal(size=(9, D)) + 0.5
    assert whole(x, y).mean == pytest.approx(double_loop(x.tolist(), y.tolist()), rel=1e-11)


def test_a_hand_computed_distance():
    # k(0, 2) = 1, k(1, 3) = 64; k(0, 1) = k(0, 3) = 1, k(2, 1) = 27, k(2, 3) = 343: their mean is 93
    assert whole(np.array([[0.0], [2.0]]), np.array([[1.0], [3.0]])).mean == pytest.approx(1 + 64 - 2 * 93)


@pytest.mark.parametrize("n", [2, 3, 20])
def test_unbiased_however_small_the_sets_are(rng, n):
    mu = 0.3
    draws = [whole(rng.normal(size=(n, 1)), mu + rng.normal(size=(n, 1))).mean for _ in range(4000)]
    assert abs(np.mean(draws) - shifted_by(mu)) < 5 * np.std(draws) / math.sqrt(len(draws))


def test_two_sets_from_one_distribution_are_within_their_error_of_0(rng):
    found = kernel_distance(rng.normal(size=(600, D)), rng.normal(size=(500, D)), 100, 50)
    assert abs(found.mean) < 5 * found.standard_error


@pytest.mark.parametrize(("n", "m", "size"), [(100, 100, 100), (400, 400, 100), (60, 300, 100)])
@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_the_standard_error_is_that_over_other_sets(rng, n, m, size, shift):
    runs = [
        kernel_distance(rng.normal(size=(n, D)), rng.normal(size=(m, D)) + shift, size, 15, seed=i) for i in range(80)
    ]
    truth = np.std([run.mean for run in runs])
    inputs = np.mean([run.standard_error for run in runs])
    # 80 runs know the truth to 8 %, with heavy tails; for equal distributions the error is told too large, never small
    assert 0.6 < inputs / truth < (1.6 if shift else 3.0)


def test_a_difference_is_that_of_two_distances(rng):
    a, b, reference = rng.normal(size=(9, D)), rng.normal(size=(9, D)) + 0.5, rng.normal(size=(7, D))
    found, _ = kernel_difference(kernel_pulls(a, reference), kernel_pulls(b, reference))
    distances = [double_loop(x.tolist(), reference.tolist()) for x in (a, b)]
    assert found == pytest.approx(distances[0] - distances[1], rel=1e-10)


@pytest.mark.parametrize("alike", [0.0, 0.95])
def test_the_error_of_a_difference_is_that_over_other_sets(rng, alike):
    def run():
        x = rng.normal(size=(100, D))
        a, b = (alike * x + math.sqrt(1 - alike**2) * rng.normal(size=(100, D)) + shift for shift in (0.3, 0.5))
        reference = rng.normal(size=(150, D))
        return kernel_difference(kernel_pulls(a, reference), kernel_pulls(b, reference))

    found, inputs = np.transpose([run() for _ in range(100)])
    assert 0.6 < np.mean(inputs) / np.std(found) < 1.5
    assert (np.mean(inputs) < 0.22) == bool(alike)  # 0.17 of pairs that are alike, 0.28 of others


def test_a_difference_of_sets_of_unequal_size_is_refused(rng):
    sets = [kernel_pulls(rng.normal(size=(n, D)), rng.normal(size=(7, D))) for n in (4, 5)]
    with pytest.raises(UsageError, match=r"Both sets must have as many images .*got \(4,\), \(5,\) and \(7,\), \(7,\)"):
        kernel_difference(*sets)
    with pytest.raises(UsageError, match="at least 2 images of each set, got 1"):
        kernel_pulls(np.ones((1, D)), np.ones((7, D)))


def test_of_subsets_that_are_the_sets_the_spread_is_nothing_and_the_error_is_not(rng):
    found = kernel_distance(rng.normal(size=(50, D)), rng.normal(size=(50, D)) + 1, 1000, 5)
    assert found.std == pytest.approx(0.0, abs=1e-12)
    assert found.standard_error > 0.01


def test_mean_spread_and_error_are_those_of_the_subsets(rng):
    a, b = rng.normal(size=(14, D)), rng.normal(size=(17, D)) + 1
    found = kernel_distance(a, b, 10, 4, seed=3)
    generator = np.random.default_rng(3)
    each, of_a, of_b = [], [[] for _ in a], [[] for _ in b]
    for _ in range(4):
        drawn = generator.choice(14, 10, replace=False), generator.choice(17, 10, replace=False)
        x, y = a[drawn[0]], b[drawn[1]]
        each.append(double_loop(x, y))
        for lists, chosen, pull in ((of_a, drawn[0], pulls(x, y)), (of_b, drawn[1], pulls(y, x))):
            for image, value in zip(chosen, pull, strict=True):
                lists[image].append(value)
    # Hoeffding 1948: a U-statistic of degree 2 varies by 4 / n times the variance of what one of the n adds
    first_order = sum(4 / len(lists) * np.var([np.mean(entry) for entry in lists if entry]) for lists in (of_a, of_b))
    assert found.mean == pytest.approx(np.mean(each), rel=1e-10)
    assert found.std == pytest.approx(np.std(each), rel=1e-10)
    assert found.standard_error == pytest.approx(math.sqrt(first_order + np.var(each) / 4), rel=1e-10)
    assert (found.subset_size, found.subsets) == (10, 4)


@pytest.mark.parametrize(("n", "m", "taken"), [(30, 50, 30), (50, 30, 30), (50, 50, 40)])
def test_subsets_are_no_larger_than_the_smaller_set_and_say_so(rng, n, m, taken):
    assert kernel_distance(rng.normal(size=(n, D)), rng.normal(size=(m, D)), 40, 3).subset_size == taken


def test_the_seed_decides(rng):
    a, b = rng.normal(size=(40, D)), rng.normal(size=(40, D))
    assert kernel_distance(a, b, 10, 5, 1) == kernel_distance(a, b, 10, 5, 1)
    assert kernel_distance(a, b, 10, 5, 1).mean != kernel_distance(a, b, 10, 5, 2).mean
    state = np.random.get_state()[1].tolist()  # noqa: NPY002
    kernel_distance(a, b, 10, 5)
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002


def test_rotating_both_sets_changes_nothing(rng):
    a, b, turn = rng.normal(size=(40, D)), rng.normal(size=(40, D)), np.linalg.qr(rng.normal(size=(D, D)))[0]
    np.testing.assert_allclose(kernel_distance(a @ turn, b @ turn, 20, 5), kernel_distance(a, b, 20, 5), rtol=1e-8)


def test_float32_features_are_computed_in_float64(rng):
    a, b = (rng.normal(size=(40, D)).astype(np.float32) for _ in range(2))
    assert kernel_distance(a, b, 20, 5) == kernel_distance(a.astype(np.float64), b.astype(np.float64), 20, 5)


def test_the_largest_features_there_may_be_do_not_overflow():
    found = kernel_distance(np.full((5, 3), 1e50), np.full((5, 3), -1e50), 3, 2)
    assert math.isfinite(found.mean)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e51])
def test_what_is_not_finite_is_refused(value):
    good, bad = np.ones((5, 3)), np.ones((5, 3))
    bad[2, 0] = value
    with pytest.raises(NonFiniteError, match=r"^features a must be finite .* in row 2, column 0"):
        kernel_distance(bad, good)
    with pytest.raises(NonFiniteError, match=r"^features b must be finite"):
        kernel_distance(good, bad)


def test_arguments_out_of_range_are_refused():
    x = np.ones((5, 3))
    with pytest.raises(UsageError, match=r"^features must have the same number of dimensions, got 3 and 4"):
        kernel_distance(x, np.ones((5, 4)))
    for a, b, size in ((x[:1], x, 1000), (x, x[:1], 1000), (x, x, 1), (x, x, -1)):
        with pytest.raises(UsageError, match=r"^The kernel distance needs at least 2 images"):
            kernel_distance(a, b, size)
    for subsets, seed in ((0, 0), (1, -1)):
        with pytest.raises(
            UsageError, match=rf"^subsets must be at least 1 and seed at least 0, got {subsets} and {seed}"
        ):
            kernel_distance(x, x, 5, subsets, seed)
