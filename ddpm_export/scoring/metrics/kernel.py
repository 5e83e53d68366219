"""The kernel distance between two sets of features (KID). NumPy only."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddpm_export.errors import UsageError
from ddpm_export.scoring.metrics.frechet import Float64, finite_rows, same_dimensions


class KernelDistance(NamedTuple):
    """What kernel_distance found, and how sure it is.

    mean: the distance. std: the spread of the subsets about it (over subsets, not subsets - 1), which papers print; it
    depends on subset_size and says nothing where a subset is a whole set. standard_error: of the mean, over other
    images of the same two sources; not std / sqrt(subsets), since the subsets share their images. subset_size: what
    was taken, lowered to the smaller set if need be. subsets: how many were drawn.
    """

    mean: float
    std: float
    standard_error: float
    subset_size: int
    subsets: int


def kernel_distance(
    features_a: NDArray[Any], features_b: NDArray[Any], subset_size: int = 1000, subsets: int = 100, seed: int = 0
) -> KernelDistance:
    """Return the unbiased squared MMD with the kernel (x.y / D + 1)^3 over random subsets (Binkowski et al. 2018).

    features_a (N, D) and features_b (M, D). Unbiased: its expectation does not depend on N and M, is 0 where both sets
    come from one distribution, and so it can be negative. Every subset is drawn without replacement by NumPy's
    Generator from seed: the same seed gives the same result under one version of NumPy. Holds a float64 copy of both
    sets and four (subset_size, subset_size) float64; costs three matrix products of that size a subset.
    Raises UsageError for different dimensions, fewer than two rows, subset_size < 2, subsets < 1 or a negative seed;
    NonFiniteError.
    """
    a, b = finite_rows(features_a, "features a"), finite_rows(features_b, "features b")
    same_dimensions(a, b, "features")
    size = min(subset_size, len(a), len(b))
    if size < 2:
        raise UsageError(
            f"The kernel distance needs at least 2 images of each set, got subsets of {subset_size!r} from "
            f"{len(a)} and {len(b)}."
        )
    if subsets < 1 or seed < 0:
        raise UsageError(f"subsets must be at least 1 and seed at least 0, got {subsets!r} and {seed!r}.")
    generator = np.random.default_rng(seed)
    distances = np.empty(subsets)
    pulls_a, pulls_b = _Pulls(len(a)), _Pulls(len(b))
    for i in range(subsets):
        chosen_a, chosen_b = (generator.choice(len(rows), size, replace=False) for rows in (a, b))
        of_a, of_b = _pulls(a[chosen_a], b[chosen_b])
        distances[i] = of_a.mean() + of_b.mean()
        pulls_a.add(chosen_a, of_a)
        pulls_b.add(chosen_b, of_b)
    # the first-order variance of a U-statistic of degree 2 (Hoeffding 1948), and what drawing subsets adds
    variance = 4.0 * pulls_a.variance() / len(a) + 4.0 * pulls_b.variance() / len(b) + distances.var() / subsets
    return KernelDistance(float(distances.mean()), float(distances.std()), math.sqrt(variance), size, subsets)


class KernelPulls(NamedTuple):
    """What each image adds to the distance of a set from a reference: those of the set (N,), of the reference (M,).

    The distance is the mean of both, but for a constant of the reference alone.
    """

    of_set: Float64
    of_reference: Float64


def kernel_pulls(features: NDArray[Any], reference: NDArray[Any]) -> KernelPulls:
    """Return what `kernel_difference` compares, of features (N, D) and those of the reference (M, D), all at once.

    Holds two (N, M) float64. Raises UsageError for different dimensions and fewer than two rows; NonFiniteError.
    """
    x, y = finite_rows(features, "features"), finite_rows(reference, "reference")
    same_dimensions(x, y, "features")
    if len(x) < 2:
        raise UsageError(f"The kernel distance needs at least 2 images of each set, got {len(x)}.")
    between = _kernel(x, y)  # (N, M)
    return KernelPulls(_mean_of_others(_kernel(x, x)) - between.mean(axis=1), -between.mean(axis=0))


def kernel_difference(a: KernelPulls, b: KernelPulls) -> tuple[float, float]:
    """Return how much farther than b a is from their reference, and the standard error of that.

    The error is below what those of the two distances suggest where image i of a and of b are alike, as those of one
    x_T are: its square is the variance of the images' differences (Hoeffding 1948).
    Raises UsageError for sets of unequal size.
    """
    if a.of_set.shape != b.of_set.shape or a.of_reference.shape != b.of_reference.shape:
        raise UsageError(
            "Only sets of as many images, and one reference, have a difference, got "
            f"{a.of_set.shape}, {b.of_set.shape} and {a.of_reference.shape}, {b.of_reference.shape}."
        )
    differences = [of_a - of_b for of_a, of_b in zip(a, b, strict=True)]
    variance = sum(4.0 * difference.var() / difference.size for difference in differences)
    return float(sum(difference.mean() for difference in differences)), math.sqrt(variance)


class _Pulls:
    """Each image's pull on the distance, as a difference to the others of its subset, averaged over its subsets."""

    def __init__(self, n: int) -> None:
        self.total = np.zeros(n)
        self.seen = np.zeros(n)

    def add(self, chosen: NDArray[np.int64], pulls: Float64) -> None:
        self.total[chosen] += pulls - pulls.mean()
        self.seen[chosen] += 1.0

    def variance(self) -> float:
        drawn = self.seen > 0.0
        return float(np.var(self.total[drawn] / self.seen[drawn]))


def _pulls(x: Float64, y: Float64) -> tuple[Float64, Float64]:
    """Return each row's pull on MMD_u^2 of two sets of n rows (Gretton et al. 2012, eq. 3), two (n,).

    The pull of x_i is its mean kernel with the other x less that with the y, and likewise for y: the distance is the
    mean pull of x and that of y.
    """
    between = _kernel(x, y)  # (n, n)
    pulls_x = _mean_of_others(_kernel(x, x)) - between.mean(axis=1)
    pulls_y = _mean_of_others(_kernel(y, y)) - between.mean(axis=0)
    return pulls_x, pulls_y


def _mean_of_others(kernel: Float64) -> Float64:
    """Return each row's mean without the diagonal, (n,): with it the distance would be biased."""
    result: Float64 = (kernel.sum(axis=1) - np.diagonal(kernel)) / (len(kernel) - 1)
    return result


def _kernel(x: Float64, y: Float64) -> Float64:
    """Return the cubic kernel of every x with every y (Binkowski et al. 2018, section 4), (len(x), len(y))."""
    base = x @ y.T / x.shape[1] + 1.0
    result: Float64 = base * base * base
    return result
