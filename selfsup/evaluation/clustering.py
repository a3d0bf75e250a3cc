"""How well clusters agree with labels, from a contingency table that holds only the pairs that occur.

As scikit-learn's figures (a test compares them), in a quarter of its time, and without that library in every command.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from selfsup.cluster.criterion import set_apart
from selfsup.devices.double import to_double


class Contingency(NamedTuple):
    """Counts of images; memory grows with the pairs (class, cluster) that occur, at most one per image."""

    both: Tensor  # (P,) int64, images of each pair that occurs
    classes: Tensor  # (P,) int64 size of the pair's class
    clusters: Tensor  # (P,) int64 size of the pair's cluster
    class_sizes: Tensor  # (C,) int64
    cluster_sizes: Tensor  # (K,) int64
    cluster: Tensor  # (P,) int64 number of the pair's cluster, in [0, K)


def contingency(labels: Tensor, clusters: Tensor) -> Contingency:
    """Count classes, clusters and pairs of them; numbers may have gaps and be negative.

    Args:
        labels: (N,) int64 class of each image.
        clusters: (N,) int64 cluster of each image.
    """
    _, row, class_sizes = labels.unique(return_inverse=True, return_counts=True)
    _, column, cluster_sizes = clusters.unique(return_inverse=True, return_counts=True)
    pairs, both = (row * len(cluster_sizes) + column).unique(return_counts=True)
    row, column = pairs // len(cluster_sizes), pairs % len(cluster_sizes)
    return Contingency(both, class_sizes[row], cluster_sizes[column], class_sizes, cluster_sizes, column)


def _entropy(sizes: Tensor) -> float:
    shares = to_double(sizes) / int(sizes.sum())
    return float(-(shares * shares.log()).sum())


def normalised_mutual_information(table: Contingency) -> float:
    """NMI in [0, 1]: mutual information over the arithmetic mean of both entropies; 1 where both have one part only."""
    if len(table.class_sizes) == len(table.cluster_sizes) == 1:
        return 1.0
    count = int(table.class_sizes.sum())
    shares = to_double(table.both) / count
    expected = (to_double(table.classes) / count) * (to_double(table.clusters) / count)
    information = float((shares * (shares / expected).log()).sum())
    mean = (_entropy(table.class_sizes) + _entropy(table.cluster_sizes)) / 2
    return max(0.0, information / mean)


def adjusted_rand_index(table: Contingency) -> float:
    """ARI, at most 1 and 0 on average by chance: agreeing pairs of images (Hubert and Arabie 1985, equation 5).

    In whole numbers until the last division: the products pass the range of int64 at a hundred thousand images.
    """
    together, within_classes, within_clusters = (
        _pairs(sizes) for sizes in (table.both, table.class_sizes, table.cluster_sizes)
    )
    all_pairs = math.comb(int(table.class_sizes.sum()), 2)
    if together == within_classes == within_clusters:
        return 1.0  # equal partitions; where every image or none is alone, the index is 0 / 0
    numerator = 2 * (together * all_pairs - within_classes * within_clusters)
    denominator = (within_classes + within_clusters) * all_pairs - 2 * within_classes * within_clusters
    return numerator / denominator


def _pairs(sizes: Tensor) -> int:
    return int((sizes * (sizes - 1) // 2).sum())


def purity(table: Contingency) -> float:
    """Share of images that are of the most frequent class of their cluster, in (0, 1]."""
    largest = torch.zeros_like(table.cluster_sizes).scatter_reduce(0, table.cluster, table.both, "amax")
    return int(largest.sum()) / int(table.cluster_sizes.sum())


def cluster_figures(labels: Tensor | None, clusters: Tensor) -> dict[str, float]:
    """How many clusters there are, and NMI, ARI and purity; without labels the sizes of clusters.

    An image of no cluster, -1, counts as a cluster of its own in NMI and ARI; purity is a share of the clustered
    images only, and left out where there are none.

    Args:
        labels: (N,) int64, or None where there are none.
        clusters: (N,) int64.
    """
    clustered = clusters >= 0
    sizes = clusters[clustered].unique(return_counts=True)[1].sort().values
    figures: dict[str, float] = {"clusters": len(sizes)}
    if labels is not None:
        table = contingency(labels, set_apart(clusters))
        figures |= {"nmi": normalised_mutual_information(table), "ari": adjusted_rand_index(table)}
        if len(sizes):
            figures["purity"] = purity(contingency(labels[clustered], clusters[clustered]))
    elif len(sizes):
        named = {"smallest": sizes[0], "median": sizes[(len(sizes) - 1) // 2], "largest": sizes[-1]}
        figures |= {f"{name}_cluster": int(size) for name, size in named.items()}
    return figures
