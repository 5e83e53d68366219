"""Our Frechet and kernel distance and Inception Score against torchmetrics, given the same features and logits."""

import numpy as np
import pytest
import torch
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from ddpm_export.scoring.metrics.frechet import frechet_distance, statistics
from ddpm_export.scoring.metrics.inception_score import inception_score, probabilities_from_logits
from ddpm_export.scoring.metrics.kernel import kernel_distance

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:Metric .* will save all:UserWarning")]
D, CLASSES = 12, 10


class Given(torch.nn.Module):
    """An extractor that gives back what it gets: rows in place of images."""

    num_features = D

    def forward(self, rows):
        return rows


def two_sets(rng, n=400, m=300):
    mix = rng.normal(size=(D, D))
    return rng.normal(size=(n, D)) @ mix, rng.normal(0.4, 1.2, size=(m, D)) @ mix


def distance_of(metric, a, b):
    for rows, real in ((a, True), (b, False)):
        metric.update(torch.from_numpy(rows), real=real)
    return metric.compute()


@pytest.mark.parametrize("m", [300, D - 2])
def test_the_frechet_distance(rng, m):
    a, b = two_sets(rng, m=m)
    expected = distance_of(FrechetInceptionDistance(feature=Given()).set_dtype(torch.float64), a, b)
    assert frechet_distance(statistics(a), statistics(b)) == pytest.approx(float(expected), rel=1e-6)


def test_the_kernel_distance(rng):
    a, b = two_sets(rng, 300, 300)
    a, b = a / 3.0, b / 3.0
    whole = distance_of(KernelInceptionDistance(feature=Given(), subsets=1, subset_size=300), a, b)
    found = kernel_distance(a, b, subset_size=300, subsets=1)
    assert found.mean == pytest.approx(float(whole[0]), rel=1e-6)
    # random subsets of theirs and of ours: means of 100 agree within their spread
    theirs = distance_of(KernelInceptionDistance(feature=Given(), subsets=100, subset_size=100), a, b)
    ours = kernel_distance(a, b, subset_size=100, subsets=100)
    assert abs(ours.mean - float(theirs[0])) < 5.0 * np.hypot(ours.std, float(theirs[1])) / 10.0
    assert ours.std == pytest.approx(float(theirs[1]), rel=0.5)


@pytest.mark.parametrize("splits", [2, 10])
def test_the_inception_score(rng, splits):
    logits = 3.0 * rng.normal(size=(400, CLASSES))
    metric = InceptionScore(feature=Given(), splits=splits)
    metric.update(torch.from_numpy(logits))
    torch.manual_seed(0)
    mean, std = metric.compute()
    torch.manual_seed(0)
    order = torch.randperm(len(logits)).numpy()  # it shuffles before it splits
    found = inception_score(probabilities_from_logits(logits[order]), splits=splits)
    assert found.mean == pytest.approx(float(mean), rel=1e-6)
    assert found.std == pytest.approx(float(std) * np.sqrt((splits - 1) / splits), rel=1e-6)  # theirs: over n - 1
