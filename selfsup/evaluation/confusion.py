"""Which classes are taken for which, and whether probabilities deserve their name."""

from typing import NamedTuple

import torch
from torch import Tensor

from selfsup.devices.double import to_double

BINS = 15  # of the calibration error, as Guo et al. have it


class ClassFigures(NamedTuple):
    """What a confusion matrix says of one class."""

    precision: float | None  # of the images taken for it the share that is of it; None where none was
    recall: float | None  # of its images the share that was found; None where it has none
    images: int


def confusion_matrix(labels: Tensor, predicted: Tensor, num_classes: int) -> Tensor:
    """How many images of class i were taken for class j: (C, C) int64 of labels and predictions (N,) int64."""
    return (labels * num_classes + predicted).bincount(minlength=num_classes**2).view(num_classes, num_classes)


def class_figures(matrix: Tensor) -> list[ClassFigures]:
    """Precision, recall and number of images of each class, of a confusion matrix (C, C)."""
    columns = (matrix.diagonal(), matrix.sum(dim=0), matrix.sum(dim=1))
    return [
        ClassFigures(right / taken if taken else None, right / images if images else None, images)
        for right, taken, images in zip(*map(Tensor.tolist, columns), strict=True)
    ]


def calibration_error(confidence: Tensor, right: Tensor, bins: int = BINS) -> float:
    """Expected calibration error: sum over bins of |B| / N |accuracy(B) - confidence(B)| (Guo et al. 2017, equation 3).

    Bin m of M holds the confidences in ((m - 1) / M, m / M].

    Args:
        confidence: (N,) highest probability of each image.
        right: (N,) bool, whether its class is the true one.
        bins: M.
    """
    confidence = to_double(confidence)
    edges = torch.arange(1, bins, dtype=torch.float64, device=confidence.device) / bins
    number = torch.bucketize(confidence, edges)  # edges[n - 1] < confidence <= edges[n]
    gaps = torch.zeros(bins, dtype=torch.float64, device=confidence.device)
    gaps.index_add_(0, number, to_double(right) - confidence)
    return float(gaps.abs().sum()) / len(confidence)
