"""The Frechet distance between two sets of features (FID), and the checks of all metrics' rows. NumPy only."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddpm_export.errors import NonFiniteError, UsageError

Float64 = NDArray[np.float64]

LARGEST = 1e50  # its sixth power, which the cubic kernel takes, is still a float64
NOT_ROUNDING = 1e-6  # of the trace: no covariance has an eigenvalue this far below zero


class Statistics(NamedTuple):
    """The number of images in a set, and the mean (D,) and covariance (D, D) of their features, both float64."""

    n: int
    mean: Float64
    covariance: Float64


def finite_rows(rows: NDArray[Any], where: str) -> Float64:
    """Return rows of numbers as (N, D) float64, checked: two axes, neither empty, every number finite.

    Raises UsageError for another shape or dtype, NonFiniteError for NaN, infinities and magnitudes above 1e50.
    """
    rows = np.asarray(rows)
    if rows.ndim != 2 or rows.size == 0 or rows.dtype.kind not in "fiu":
        raise UsageError(f"{where} must be real numbers (N, D), N and D at least 1, got {rows.dtype} {rows.shape}.")
    wide = rows.astype(np.float64, copy=False)
    _refuse_non_finite(wide, where)
    return wide


def same_dimensions(a: Float64, b: Float64, where: str) -> None:
    """Raise UsageError unless two sets of rows, (N, D) and (M, D), have the same D."""
    if a.shape[1:] != b.shape[1:]:
        raise UsageError(
            f"{where} must have the same number of dimensions, got {a.shape[-1]} and {b.shape[-1]}. Use one extractor "
            "for both sets."
        )


def statistics(features: NDArray[Any]) -> Statistics:
    """Return the statistics of features (N, D), N at least 2; the covariance divides by N - 1, as Heusel et al. 2017.

    Raises as finite_rows does, and UsageError for fewer than two rows. Holds two float64 copies of the features.
    """
    rows = finite_rows(features, "features")
    _refuse_few(len(rows), "features")
    mean = rows.mean(axis=0)
    centred = rows - mean
    return Statistics(len(rows), mean, centred.T @ centred / (len(rows) - 1))


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """Return the squared Frechet distance between two Gaussians (Heusel et al. 2017, eq. 6), at least 0.

    |mean_a - mean_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2): the trace of that root equals the paper's, of (A B)^1/2,
    and all matrices stay symmetric and real. A set may have fewer images than dimensions. The distance is biased
    upwards by about 1/n: compare at equal n. It is good to about 1e-8 of the traces. Cost: two eigenproblems of (D, D).
    Raises UsageError for different dimensions, fewer than two images, or no covariance; NonFiniteError.
    """
    for given, where in ((a, "statistics a"), (b, "statistics b")):
        _refuse_non_statistics(given, where)
    same_dimensions(a.mean[None], b.mean[None], "statistics")
    if b.n < a.n:
        a, b = b, a  # the root keeps the directions of the smaller set: of low rank, if any is
    root = _root(a.covariance)  # (rank, D), root.T @ root = A
    squares = np.asarray(np.linalg.eigvalsh(root @ b.covariance @ root.T), dtype=np.float64)  # (rank,)
    overlap = np.sqrt(_without_rounding(squares, float(np.trace(a.covariance) * np.trace(b.covariance)))).sum()
    shift = a.mean - b.mean
    distance = shift @ shift + np.trace(a.covariance) + np.trace(b.covariance) - 2.0 * overlap
    return max(0.0, float(distance))


def _root(covariance: Float64) -> Float64:
    """Return R with R.T @ R = covariance, without the directions that are zero to within rounding: (rank, D)."""
    values, vectors = np.linalg.eigh(covariance)
    values = _without_rounding(values, float(np.trace(covariance)))
    kept = values > len(values) * np.finfo(np.float64).eps * values[-1]
    root: Float64 = np.sqrt(values[kept])[:, None] * vectors[:, kept].T
    return root


def _without_rounding(eigenvalues: Float64, scale: float) -> Float64:
    """Return eigenvalues, zero where rounding made them negative; raise UsageError for more than rounding."""
    if (eigenvalues < -NOT_ROUNDING * scale).any():
        raise UsageError(
            f"statistics must have a covariance without negative eigenvalues, got {float(eigenvalues.min())!r}."
        )
    return np.maximum(eigenvalues, 0.0)


def _refuse_non_statistics(given: Statistics, where: str) -> None:
    mean, covariance, size = given.mean, given.covariance, given.mean.size
    fits = mean.shape == (size,) and covariance.shape == (size, size) and size > 0
    if not fits or not mean.dtype == covariance.dtype == np.float64:
        raise UsageError(
            f"{where} must be a mean (D,) and a covariance (D, D), both float64, got {mean.dtype} "
            f"{mean.shape} and {covariance.dtype} {covariance.shape}."
        )
    _refuse_few(given.n, where)
    _refuse_non_finite(mean[None], f"{where}, mean")
    _refuse_non_finite(covariance, f"{where}, covariance", 4.0 * LARGEST**2)
    if not np.allclose(covariance, covariance.T, rtol=0.0, atol=1e-9 * np.abs(covariance).max()):
        raise UsageError(f"{where} must have a symmetric covariance.")


def _refuse_few(n: int, where: str) -> None:
    if n < 2:
        raise UsageError(f"{where} must be of at least 2 images, got {n}.")


def _refuse_non_finite(rows: Float64, where: str, largest: float = LARGEST) -> None:
    wrong = ~(np.abs(rows) <= largest)  # NaN compares false
    if wrong.any():
        row, column = (int(i) for i in np.argwhere(wrong)[0])
        raise NonFiniteError(
            f"{where} must be finite and below {largest:.0e}, got {float(rows[row, column])!r} in row {row}, "
            f"column {column} ({int(wrong.sum())} such in all)."
        )
