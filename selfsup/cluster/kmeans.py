"""Spherical k-means by torch alone: unit rows, unit centres (Dhillon and Modha 2001)."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from selfsup.cluster.backends import has_faiss
from selfsup.randomness import Stream, permutation

_SCORES = 2**26  # cosines of rows and centres that are alive at a time


def kmeans(rows: Tensor, k: int, iterations: int, seed: int) -> tuple[Tensor, float]:
    """Clusters from k different rows as the first centres, in a fixed order of sums: a pure function on the CPU.

    A centre that no row is nearest to moves to the row that is farthest from its own centre.

    Args:
        rows: (N, D) float32 unit rows, on the CPU.
        k: clusters, at most N.
        iterations: of assigning rows and moving centres.
        seed: of the first centres.

    Returns:
        (N,) int64 clusters in [0, k), and the mean cosine of rows and their centres.
    """
    centres = rows[permutation(seed, Stream.CENTRES, len(rows))[:k]]
    for _ in range(iterations):
        cosines, nearest = _assigned(rows, centres)
        sums = torch.zeros(k, rows.shape[1], dtype=torch.float64).index_add_(0, nearest, rows.double())
        empty = (nearest.bincount(minlength=k) == 0).nonzero()[:, 0]
        if len(empty):
            sums[empty] = rows[cosines.argsort(stable=True)[: len(empty)]].double()
        centres = F.normalize(sums).to(rows.dtype)
    cosines, nearest = _assigned(rows, centres)
    return nearest, float(cosines.double().mean())


def _assigned(rows: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine with the nearest centre and its number, the lowest of equally near ones: (N,) each."""
    parts = [(part @ centres.T).max(dim=1) for part in rows.split(max(1, _SCORES // len(centres)))]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def spherical_kmeans(features: Tensor, k: int, repeats: int, iterations: int, seed: int) -> tuple[Tensor, list[float]]:
    """Clusters of the best of several restarts, on the CPU and on all images; by faiss where it is, else by torch.

    Args:
        features: (N, D) float32 unit rows.
        k: clusters, at most N; some may end up empty.
        repeats: restarts, the r-th from the seed `seed * repeats + r`.
        iterations: of each restart.
        seed: of all restarts.

    Returns:
        (N,) int64 clusters, numbered without gaps, and the mean cosine of images and their centres in each restart.

    Raises:
        ValueError: k is larger than N.
    """
    check_k(k, len(features))
    by = _by_faiss if has_faiss() else kmeans
    rows = features.cpu().contiguous()
    best, objectives = torch.empty(0), []
    for repeat in range(repeats):
        found, objective = by(rows, k, iterations, (seed * repeats + repeat) % 2**31)
        objectives.append(objective)
        if objective == max(objectives):
            best = found
    return best.unique(return_inverse=True)[1], objectives


def _by_faiss(features: Tensor, k: int, iterations: int, seed: int) -> tuple[Tensor, float]:
    """As `kmeans`; the first centres, and what becomes of empty ones, are faiss's own."""
    import faiss

    rows = features.numpy()
    clusters = faiss.Kmeans(
        rows.shape[1],
        k,
        niter=iterations,
        spherical=True,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(rows),
    )
    clusters.train(rows)
    cosines, found = clusters.assign(rows)
    return torch.from_numpy(found), float(cosines.mean(dtype=np.float64))


def check_k(k: int, count: int) -> None:
    if k > count:
        raise ValueError(f"k is {k}, but there are {count} images; choose a smaller k")
