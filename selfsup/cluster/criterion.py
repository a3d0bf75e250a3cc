"""Which clusters to trust: the self-paced criterion of SpCL (Ge et al. 2020, section 3.3).

A cluster is independent if a looser clustering leaves it as it is, and a member is compact with it if a tighter one
does. Both are told by the sets of an image's companions, whose sizes follow from counting labels and pairs of labels:
no table of all pairs of images is needed.
"""

import torch
from torch import Tensor

from selfsup.devices.double import to_double


def set_apart(labels: Tensor) -> Tensor:
    """Give each image of no cluster, -1, a label of its own after those of the clusters: (N,) -> (N,)."""
    alone = labels < 0
    return torch.where(alone, labels.amax() + alone.cumsum(0), labels)


def renumber(labels: Tensor) -> Tensor:
    """The same classes as 0, 1, ... without gaps, in the same order: (N,) -> (N,)."""
    numbers: Tensor = labels.unique(return_inverse=True)[1]
    return numbers


def disagreement(labels: Tensor, others: Tensor) -> Tensor:
    """How much the companions of each image differ between two clusterings: 1 - |A and B| / |A or B|.

    Args:
        labels, others: (N,) int64, the cluster of each image in one and in the other; no entry is -1.

    Returns:
        (N,) float64 in [0, 1).
    """
    _, pair, shared = torch.stack([labels, others]).unique(dim=1, return_inverse=True, return_counts=True)
    both: Tensor = shared[pair]
    either = _sizes(labels) + _sizes(others) - both
    both = to_double(both)
    return 1 - both / either.to(both.device)


def independence_threshold(labels: Tensor, loose: Tensor) -> Tensor | None:
    """The disagreement with the looser clustering that a cluster may have: the 0.9 quantile over clusters.

    As in the published code: of the n clusters with more than one image, in ascending order, number
    min(n - 1, round(0.9 n)). Set in the first epoch and kept, so that more clusters pass as features improve.

    Args:
        labels, loose: (N,) int64, no entry is -1.

    Returns:
        () float64, or None where no cluster has more than one image.
    """
    scores = _best(disagreement(labels, loose), labels)  # (N,) of the image's cluster
    first = torch.full_like(labels, len(labels)).scatter_reduce(
        0, renumber(labels), torch.arange(len(labels), device=labels.device), "amin"
    )
    first = first[first < len(labels)]  # one image of each cluster
    ranked = scores[first[_sizes(labels)[first] > 1]].sort().values
    return ranked[min(len(ranked) - 1, round(len(ranked) * 0.9))] if len(ranked) else None


def reliable(labels: Tensor, tight: Tensor, loose: Tensor, threshold: Tensor | float) -> Tensor:
    """Keep reliable images in their clusters and give the others labels of their own.

    An image stays if its cluster's disagreement with the looser clustering (the least of its members) is at most
    `threshold`, and its own disagreement with the tighter clustering is the least in its cluster.

    Args:
        labels, tight, loose: (N,) int64 clusters at the radius, at a smaller and at a larger one; no entry is -1.
        threshold: from `independence_threshold`.

    Returns:
        (N,) int64; the labels that stay keep their numbers.
    """
    compactness = disagreement(labels, tight)
    kept = (_best(disagreement(labels, loose), labels) <= threshold) & (compactness <= _best(compactness, labels))
    return set_apart(torch.where(kept, labels, -1))


def _sizes(labels: Tensor) -> Tensor:
    """Number of images in the cluster of each image: (N,) -> (N,)."""
    _, number, counts = labels.unique(return_inverse=True, return_counts=True)
    sizes: Tensor = counts[number]
    return sizes


def _best(scores: Tensor, labels: Tensor) -> Tensor:
    """The least score in the cluster of each image: (N,) -> (N,)."""
    number = renumber(labels)
    return torch.full_like(scores, torch.inf).scatter_reduce(0, number, scores, "amin")[number]
