"""Metrics of nearest neighbours: precision, recall, density, coverage. NumPy only.

A set's shape is the union of balls around its points that reach to the k-th nearest other point. Distances are computed
in blocks of rows, so that memory grows with N and not with its square.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddpm_export.errors import UsageError
from ddpm_export.scoring.metrics.frechet import Float64, finite_rows, same_dimensions

BLOCK = 1024
TIE = 1e-11  # of |x|^2 + |y|^2, above the rounding of a matrix product: ties do not depend on the block


class PrecisionRecall(NamedTuple):
    """The share of fake images within the real shape, and of real ones within the fake shape; both in 0..1."""

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """How densely fakes lie near real images (1: as densely as these), and the share of real images they reach."""

    density: float
    coverage: float


def precision_recall(real: NDArray[Any], fake: NDArray[Any], k: int = 3, *, block: int = BLOCK) -> PrecisionRecall:
    """Return improved precision and recall (Kynkaanniemi et al. 2019, eq. 1 and 2).

    real (N, D) and fake (M, D), N and M above k. A point on the edge of a ball is within. `block` rows at a time take
    about 25 * block * max(N, M) bytes (0.26 GB for 10,000 and 1,024) beside float64 copies of the sets; the result does
    not depend on it. Cost: four products of about (N, D) by (D, M).
    Raises UsageError for different dimensions, k outside 1..min(N, M) - 1 and block < 1; NonFiniteError.
    """
    real_rows, fake_rows = _centred(real, fake)
    _refuse_sizes(k, min(len(real_rows), len(fake_rows)), block)
    shares = [
        np.concatenate([within.any(axis=1) for within in _within(points, centres, k, block)]).mean()
        for points, centres in ((fake_rows, real_rows), (real_rows, fake_rows))
    ]
    return PrecisionRecall(float(shares[0]), float(shares[1]))


def density_coverage(real: NDArray[Any], fake: NDArray[Any], k: int = 5, *, block: int = BLOCK) -> DensityCoverage:
    """Return density and coverage (Naeem et al. 2020, section 3).

    real (N, D), N above k, and fake (M, D). A point on the edge of a ball is within, as in precision and recall, so
    that a set scored against itself has density 1 + 1/k. For two sets from one distribution the density is 1 on
    average and the coverage 1 - prod (N - i) / (M + N - i) over i = 1..k, below 1. Memory, cost and errors are those
    of precision_recall, with half its products; M may be anything from 1.
    """
    real_rows, fake_rows = _centred(real, fake)
    _refuse_sizes(k, len(real_rows), block)
    pairs = 0
    covered = np.zeros(len(real_rows), dtype=np.bool_)
    for within in _within(fake_rows, real_rows, k, block):
        pairs += int(np.count_nonzero(within))
        covered |= within.any(axis=0)
    return DensityCoverage(pairs / (k * len(fake_rows)), float(covered.mean()))


def _within(points: Float64, centres: Float64, k: int, block: int) -> Iterator[NDArray[np.bool_]]:
    """Yield for each block of points in which centres' balls they lie: (block, len(centres))."""
    radii = _radii(centres, k, block)
    lengths = np.square(centres).sum(axis=1)
    for start in range(0, len(points), block):
        rows = points[start : start + block]
        slack = TIE * (np.square(rows).sum(axis=1)[:, None] + lengths)
        yield _squared_distances(rows, centres) <= radii + slack


def _radii(centres: Float64, k: int, block: int) -> Float64:
    """Return the squared distance from each centre to the k-th nearest of the others, (N,)."""
    radii = np.empty(len(centres))
    for start in range(0, len(centres), block):
        distances = _squared_distances(centres[start : start + block], centres)
        np.fill_diagonal(distances[:, start:], np.inf)  # a point is no neighbour of its own
        distances.partition(k - 1, axis=1)
        radii[start : start + block] = distances[:, k - 1]
    return radii


def _squared_distances(x: Float64, y: Float64) -> Float64:
    """Return |x|^2 + |y|^2 - 2 x.y for every x and y, (len(x), len(y))."""
    distances: Float64 = x @ (-2.0 * y.T)
    distances += np.square(x).sum(axis=1)[:, None]
    distances += np.square(y).sum(axis=1)
    return distances


def _centred(real: NDArray[Any], fake: NDArray[Any]) -> tuple[Float64, Float64]:
    """Return both sets less the real mean, so that distances lose less to rounding."""
    real_rows, fake_rows = finite_rows(real, "real features"), finite_rows(fake, "fake features")
    same_dimensions(real_rows, fake_rows, "features")
    mean = real_rows.mean(axis=0)
    return real_rows - mean, fake_rows - mean


def _refuse_sizes(k: int, smallest: int, block: int) -> None:
    if not 1 <= k < smallest:
        raise UsageError(f"k must be from 1 to {smallest - 1}, below the number of images, got {k!r}.")
    if block < 1:
        raise UsageError(f"block must be at least 1, got {block!r}.")
