"""Scores of generated images from their features and class probabilities. NumPy only; knows no image, model or file.

All take arrays whose rows are images, and compute in float64. What they measure is only as good as the extractor that
made the rows: two scores compare only where extractor, number of images and reference set are the same.
"""

from ddpm_export.metrics.classes import accuracy_by_class, frechet_by_class
from ddpm_export.metrics.frechet import Statistics, frechet_distance, statistics
from ddpm_export.metrics.inception_score import InceptionScore, inception_score, probabilities_from_logits
from ddpm_export.metrics.kernel import (
    KernelDistance,
    KernelPulls,
    kernel_difference,
    kernel_distance,
    kernel_pulls,
)
from ddpm_export.metrics.neighbours import DensityCoverage, PrecisionRecall, density_coverage, precision_recall

__all__ = [
    "DensityCoverage",
    "InceptionScore",
    "KernelDistance",
    "KernelPulls",
    "PrecisionRecall",
    "Statistics",
    "accuracy_by_class",
    "density_coverage",
    "frechet_by_class",
    "frechet_distance",
    "inception_score",
    "kernel_difference",
    "kernel_distance",
    "kernel_pulls",
    "precision_recall",
    "probabilities_from_logits",
    "statistics",
]
