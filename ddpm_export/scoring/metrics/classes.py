"""Scores by class, since a sampler that confuses classes may have a good FID over all of them. NumPy only."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm_export.errors import UsageError
from ddpm_export.scoring.metrics.frechet import finite_rows, frechet_distance, statistics

Array = NDArray[Any]


def accuracy_by_class(logits: Array, labels: Array) -> dict[int, float]:
    """Return for each label that occurs the share of its images with their largest logit there.

    This is GAN-test (Shmelkov et al. 2018). logits (N, K), labels (N,) integers from 0 to K - 1. Raises UsageError for
    other shapes and labels, NonFiniteError.
    """
    rows, labels = finite_rows(logits, "logits"), np.asarray(labels)
    last = rows.shape[1] - 1
    if labels.shape != rows.shape[:1] or labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() > last:
        raise UsageError(f"labels must be {len(rows)} integers from 0 to {last}, got {labels.dtype} {labels.shape}.")
    seen = rows.argmax(axis=1) == labels
    return {int(label): float(seen[labels == label].mean()) for label in np.unique(labels)}


def frechet_by_class(fake: Array, fake_labels: Array, real: Array, real_labels: Array) -> dict[int, float]:
    """Return the Frechet distance of features (N, D) and (M, D) within each label that has two images in both.

    This is intra-class FID (Miyato and Koyama 2018); it falls with the number of images: compare at equal numbers.
    """
    found = {}
    for label in np.unique(fake_labels).tolist():
        parts = fake[fake_labels == label], real[real_labels == label]
        if min(map(len, parts)) > 1:
            found[label] = frechet_distance(*map(statistics, parts))
    return found
