"""The Inception Score of class probabilities. NumPy only; knows no classifier."""

import itertools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddpm_export.errors import UsageError
from ddpm_export.scoring.metrics.frechet import Float64, finite_rows


class InceptionScore(NamedTuple):
    """The mean and the standard deviation (over n, not n - 1) of the score over the splits."""

    mean: float
    std: float


def probabilities_from_logits(logits: NDArray[Any]) -> Float64:
    """Return the softmax of logits (N, K), float64: rows that sum to 1, no overflow for any finite logits.

    Raises UsageError for another shape, NonFiniteError for NaN, infinities and magnitudes above 1e50.
    """
    rows = finite_rows(logits, "logits")
    exponentials = np.exp(rows - rows.max(axis=1, keepdims=True))
    result: Float64 = exponentials / exponentials.sum(axis=1, keepdims=True)
    return result


def inception_score(probabilities: NDArray[Any], splits: int = 10) -> InceptionScore:
    """Return exp(E_x KL(p(y|x) || p(y))) over contiguous splits (Salimans et al. 2016, section 4): mean and std.

    probabilities: (N, K), each row p(y|x) of an image, sums 1 to within 1e-3. The score lies in 1..K: 1 where all rows
    agree, K where they are certain and the classes balanced. Each split of about N / splits images has its own p(y);
    the score falls as splits get small, and where images are sorted by class: compare at equal N and splits, shuffled.
    Raises UsageError for N < splits, splits < 1 and rows that are no probabilities; NonFiniteError.
    """
    rows = finite_rows(probabilities, "probabilities")
    n = len(rows)
    if not 1 <= splits <= n:
        raise UsageError(f"splits must be from 1 to {n}, the number of images, got {splits!r}.")
    wrong = (rows < 0.0).any(axis=1) | (np.abs(rows.sum(axis=1) - 1.0) > 1e-3)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise UsageError(
            "Each row of probabilities must be at least 0 and sum to 1, got a sum of "
            f"{float(rows[first].sum())!r} and a least value of {float(rows[first].min())!r} in row {first} "
            f"({int(wrong.sum())} such rows). Take probabilities_from_logits."
        )
    edges = [n * i // splits for i in range(splits + 1)]
    parts = [rows[start:stop] for start, stop in itertools.pairwise(edges)]
    # the mean divergence from p(y) is the entropy of p(y) less the mean entropy of p(y|x)
    scores = [float(np.exp(_entropy(part.mean(axis=0)) - _entropy(part).mean())) for part in parts]
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)))


def _entropy(probabilities: Float64) -> Float64:
    """Return the entropy along the last axis, in nats; 0 log 0 is 0."""
    logs = np.log(np.where(probabilities > 0.0, probabilities, 1.0))
    return np.asarray(-(probabilities * logs).sum(axis=-1))
