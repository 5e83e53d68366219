"""The kernel distance between two sets of features (KID). NumPy only."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddpm_export.errors import UsageError
from ddpm_export.scoring.metrics.frechet import Float64, finite_rows, same_dimensions


class KernelDistance(NamedTuple):
    """Hold the distance and its uncertainty.

    std: the spread of the subsets (over subsets, not subsets - 1), which papers print; it depends on subset_size and
    means nothing where a subset is a whole set. standard_error: of the mean, over other images of the same two sources;
    not std / sqrt(subsets), since the subsets share images. subset_size: at most the size of the smaller set.
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

    features_a (N, D) and features_b (M, D). Its expectation does not depend on N and M and is 0 where both sets come
    from one distribution, so it can be negative. Subsets are drawn without replacement by NumPy's Generator: the same
    seed gives the same result under one version of NumPy. Holds a float64 copy of both sets and four (subset_size,
    subset_size) float64; costs three matrix products of that size a subset.
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
    generator, sets = np.random.default_rng(seed), (a, b)
    distances = np.empty(subsets)
    totals, seen = ([np.zeros(len(rows)) for rows in sets] for _ in range(2))  # of each image's pulls, and how many
    for i in range(subsets):
        chosen = [generator.choice(len(rows), size, replace=False) for rows in sets]
        pulls = _pulls(a[chosen[0]], b[chosen[1]])
        distances[i] = pulls[0].mean() + pulls[1].mean()
        for k in range(2):
            totals[k][chosen[k]] += pulls[k] - pulls[k].mean()
            seen[k][chosen[k]] += 1.0
    # the first-order variance of a U-statistic of degree 2 (Hoeffding 1948), and what drawing subsets adds
    spreads = [float(np.var(total[n > 0.0] / n[n > 0.0])) for total, n in zip(totals, seen, strict=True)]
    variance = 4.0 * spreads[0] / len(a) + 4.0 * spreads[1] / len(b) + distances.var() / subsets
    return KernelDistance(float(distances.mean()), float(distances.std()), math.sqrt(variance), size, subsets)


class KernelPulls(NamedTuple):
    """Hold what each image of a set (N,) and of its reference (M,) adds to their distance.

    The distance is the sum of the two means, plus a constant of the reference alone.
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
    """Return how much farther a is from the reference than b, and the standard error of that (Hoeffding 1948).

    The error is that of the images' differences, which is small where image i of a and of b come from one x_T.
    Raises UsageError for sets of unequal size.
    """
    if a.of_set.shape != b.of_set.shape or a.of_reference.shape != b.of_reference.shape:
        raise UsageError(
            "Both sets must have as many images and the same reference, got "
            f"{a.of_set.shape}, {b.of_set.shape} and {a.of_reference.shape}, {b.of_reference.shape}."
        )
    differences = [of_a - of_b for of_a, of_b in zip(a, b, strict=True)]
    variance = sum(4.0 * difference.var() / difference.size for difference in differences)
    return float(sum(difference.mean() for difference in differences)), math.sqrt(variance)


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
