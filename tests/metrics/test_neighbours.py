import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddpm_export.errors import NonFiniteError, UsageError
from ddpm_export.scoring.metrics.neighbours import density_coverage, precision_recall

BOTH = pytest.mark.parametrize("metric", [precision_recall, density_coverage])


def column(*numbers):
    return np.array(numbers, dtype=np.float64)[:, None]


def by_loops(real, fake, k):
    """Precision, recall, density and coverage from their definitions, in exact whole numbers."""

    def squared(u, v):
        return sum((int(p) - int(q)) ** 2 for p, q in zip(u, v, strict=True))

    def radii(points):
        return [sorted(squared(u, v) for j, v in enumerate(points) if j != i)[k - 1] for i, u in enumerate(points)]

    def within(points, centres):
        return [[squared(p, c) <= r for c, r in zip(centres, radii(centres), strict=True)] for p in points]

    fakes, reals = within(fake, real), within(real, fake)
    return (
        sum(map(any, fakes)) / len(fake),
        sum(map(any, reals)) / len(real),
        sum(map(sum, fakes)) / (k * len(fake)),
        sum(map(any, zip(*fakes, strict=True))) / len(real),
    )


def test_hand_computed():
    real, fake = column(0, 1, 3, 10), column(1.5, 6, 30, 31)
    # real balls for k = 1: [-1, 1], [0, 2], [1, 5], [3, 17]; fake ones: [-3, 6], [1.5, 10.5], [29, 31], [30, 32]
    assert precision_recall(real, fake, 1) == (2 / 4, 4 / 4)
    assert density_coverage(real, fake, 1) == (3 / 4, 3 / 4)  # 1.5 lies in two balls, 6 in one, 30 and 31 in none
    # for k = 2: [-3, 3], [-1, 3], [0, 6], [1, 19]
    assert density_coverage(real, fake, 2) == ((4 + 2) / (2 * 4), 4 / 4)  # 6 lies on the edge of one
    assert precision_recall(real, fake, 2) == (2 / 4, 4 / 4)


def test_the_neighbours_are_k_others():
    real = column(0, 1, 3, 6)
    assert precision_recall(real, column(-1, 0, 0, 0), 1).precision == 1.0  # the ball of 0 reaches to its neighbour 1
    assert precision_recall(real, column(-1.001, 0, 0, 0), 1).precision == 3 / 4


@pytest.mark.parametrize("k", [1, 3, 7])
def test_a_set_against_itself(rng, k):
    x = rng.normal(size=(60, 5)) + 1e6  # all far from 0
    assert precision_recall(x, x, k) == (1.0, 1.0)
    # a ball holds its centre and k others, the last of them on its edge
    assert density_coverage(x, x, k) == (pytest.approx(1 + 1 / k, rel=1e-12), 1.0)
    assert precision_recall(x, x[rng.permutation(60)], k) == (1.0, 1.0)


@pytest.mark.parametrize("far", [50.0, 1e3, 1e6, 1e30])
def test_far_sets_share_nothing(rng, far):
    a, b = rng.normal(size=(60, 5)), rng.normal(size=(50, 5)) + far
    assert precision_recall(a, b) == (0.0, 0.0)
    assert density_coverage(a, b) == (0.0, 0.0)


def test_one_real_image_over_and_over_is_precise_and_recalls_nothing_else(rng):
    real = rng.normal(size=(60, 5))
    assert precision_recall(real, np.tile(real[7], (20, 1))) == (1.0, 1 / 60)
    assert density_coverage(real, np.tile(real[7], (20, 1))).coverage < 0.5


def test_images_that_are_there_many_times_are_within_reach_of_themselves(rng):
    x = np.repeat(rng.normal(size=(10, 300)) * 1000, 6, axis=0)  # balls of radius 0
    assert precision_recall(x, x[::-1]) == (1.0, 1.0)
    assert density_coverage(x, x[::-1]) == (6 / 5, 1.0)


def test_one_outlier_spoils_precision_and_not_density(rng):
    # Naeem et al. 2020: why density. The ball of the outlier covers everything
    real, fake = rng.normal(size=(100, 2)), rng.normal(size=(100, 2)) + 40
    real[0] = 2000
    assert precision_recall(real, fake).precision == 1.0
    assert density_coverage(real, fake).density == pytest.approx(1 / 5)


def test_two_sets_from_one_distribution(rng):
    n, m, k, runs = 60, 40, 5, 150
    found = np.array([density_coverage(rng.normal(size=(n, 8)), rng.normal(size=(m, 8)), k) for _ in range(runs)])
    expected = 1.0, 1 - math.prod((n - i) / (m + n - i) for i in range(1, k + 1))
    assert (np.abs(found.mean(axis=0) - expected) < 5 * found.std(axis=0) / math.sqrt(runs)).all()


def points(n):
    return st.lists(st.lists(st.integers(-3, 3), min_size=2, max_size=2), min_size=n, max_size=12)


@given(
    real=points(4), fake=points(4), k=st.integers(1, 3), block=st.integers(1, 13), shift=st.sampled_from([0, 10_000])
)
def test_on_a_grid_full_of_ties_and_doubles_as_exact_loops_find(real, fake, k, block, shift):
    a, b = np.array(real) + shift, np.array(fake) + shift
    found = *precision_recall(a, b, k, block=block), *density_coverage(a, b, k, block=block)
    assert found == pytest.approx(by_loops(real, fake, k), rel=1e-12)


@pytest.mark.parametrize("k", [1, 5, 20])
def test_on_larger_sets_as_exact_loops_find(rng, k):
    real, fake = rng.integers(-50, 50, size=(80, 3)), rng.integers(-40, 60, size=(70, 3))
    found = *precision_recall(real, fake, k, block=32), *density_coverage(real, fake, k, block=32)
    assert found == pytest.approx(by_loops(real.tolist(), fake.tolist(), k), rel=1e-12)


def test_a_row_of_2000(rng):
    # inside the row the k nearest others are k / 2 on either side: 1000 lies in its own ball and in theirs
    for k in (20, 600):
        found = density_coverage(column(*rng.permutation(2000)), column(1000), k)
        assert found == ((k + 1) / k, (k + 1) / 2000)


@BOTH
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_blocks_of_any_size_give_the_same(rng, metric, dtype):
    real, fake = rng.normal(size=(70, 33)).astype(dtype), rng.normal(size=(61, 33)).astype(dtype)
    fake[:30] = real[:30]  # with ties on the edges of balls
    assert len({metric(real, fake, block=block) for block in (1, 2, 7, 60, 61, 69, 70, 1000)}) == 1


@BOTH
def test_rotating_moving_and_scaling_both_changes_nothing(rng, metric):
    a, b, turn = rng.normal(size=(80, 6)), rng.normal(size=(80, 6)) + 0.5, np.linalg.qr(rng.normal(size=(6, 6)))[0]
    assert metric(a @ turn * 1e3 + 7, b @ turn * 1e3 + 7) == metric(a, b)


def test_precision_and_recall_swap_with_the_sets(rng):
    a, b = rng.normal(size=(80, 6)), rng.normal(size=(70, 6)) * 0.7
    assert precision_recall(a, b) == precision_recall(b, a)[::-1]
    assert precision_recall(a, b).precision > precision_recall(a, b).recall


def test_one_fake_image_has_a_density():
    assert density_coverage(column(0, 1, 2), column(1), 2) == (3 / 2, 1.0)


@BOTH
def test_memory_is_that_of_blocks(rng, metric):
    n, block = 3000, 50
    real, fake = rng.normal(size=(n, 4)), rng.normal(size=(n, 4))
    tracemalloc.start()
    metric(real, fake, block=block)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    bound = 36 * block * n + 10 * real.nbytes
    assert peak < bound < n * n * 8 / 5  # all distances at once would be 72 MB


@BOTH
def test_the_largest_features_there_may_be_do_not_overflow(rng, metric):
    a = rng.uniform(-1, 1, size=(20, 3))
    assert metric(a * 1e50, -a * 1e50) == metric(a, -a)


@BOTH
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e51])
def test_what_is_not_finite_is_refused(metric, value):
    good, bad = np.ones((9, 3)), np.ones((9, 3))
    bad[2, 0] = value
    with pytest.raises(NonFiniteError, match=r"^real features must be finite .* in row 2, column 0"):
        metric(bad, good)
    with pytest.raises(NonFiniteError, match=r"^fake features must be finite"):
        metric(good, bad)


@BOTH
def test_arguments_out_of_range_are_refused(metric):
    x = np.ones((6, 3))
    with pytest.raises(UsageError, match=r"^features must have the same number of dimensions, got 3 and 4"):
        metric(x, np.ones((6, 4)))
    for k in (0, -1, 6):
        with pytest.raises(UsageError, match=rf"^k must be from 1 to 5, .* got {k}\."):
            metric(x, x, k)
    with pytest.raises(UsageError, match=r"^block must be at least 1, got 0"):
        metric(x, x, block=0)


def test_too_few_fakes_for_their_own_balls_are_refused():
    with pytest.raises(UsageError, match=r"^k must be from 1 to 2, .* got 3\."):
        precision_recall(np.ones((6, 3)), np.ones((3, 3)), 3)
