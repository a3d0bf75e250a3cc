"""k-reciprocal Jaccard distances, without ever forming a matrix of all pairs."""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack
from torch import Tensor

from selfsup.cluster.neighbours import nearest_neighbours
from selfsup.devices.double import double_device

_ROWS = 4096  # rows of sets that are intersected at once
_PAIRS = 512  # pairs of features alive at once
_CELLS = 2**21  # sums of minima alive at once
_TERMS = 2**20  # minima alive at once
DIGITS = 9  # after the point of a distance


def jaccard_graph(
    features: Tensor, radius: float, k1: int = 30, k2: int = 6, neighbours: Tensor | None = None
) -> csr_array:
    """All pairs of images whose k-reciprocal Jaccard distance is at most `radius`.

    Zhong et al. 2017 (equations 3 to 9) as SpCL's published code computes it (Ge et al. 2020): an image's neighbours
    are itself and the k1 - 1 nearest; those that have it among theirs, and what these share with their own closest,
    are its set; the set's members are weighed by softmax of -|x - y|^2; the weights are averaged over the k2 nearest;
    and the distance of two images is 1 - S / (2 - S), S the sum of the smaller ones of their weights. Images whose
    sets have nothing in common are at distance 1, so only sets that meet are compared: apart from the search for
    neighbours, time and memory grow with the number of such meetings.

    Many distances are fractions, whatever the features: two images that share four of six neighbours may be at exactly
    0.5, on which side of which rounding would put them. So distances are rounded to 9 digits, and compared after that.

    Args:
        features: (N, D) unit rows, on any device.
        radius: largest distance that is kept, at most 1; of it, too, 9 digits count.
        k1: neighbours that sets are made of; all N where there are fewer images.
        k2: neighbours that weights are averaged over.
        neighbours: (N, k1) int64, the rows nearest to each, itself among them, the nearest first, where they are known;
            else all rows are compared.

    Returns:
        (N, N) sparse symmetric float64 on the CPU; what is not stored is further apart, and each image is stored with
        itself. A stored 0 is a distance.
    """
    features = features.to(double_device(features.device))
    if neighbours is None:
        neighbours = nearest_neighbours(features, features, min(k1, len(features)))[1]
    ranks = neighbours.cpu().numpy().astype(np.int32)  # (N, k1), oneself among them
    weights = _weighed(features, _expanded(ranks, k1))
    if k2 > 1:
        weights = _members(ranks[:, :k2]).astype(np.float64) @ weights / min(k2, ranks.shape[1])
    return _within(weights, radius)


def _members(ranks: NDArray[np.int32]) -> csr_array:
    """(N, k) numbers as N sets: (N, N), 1 where row i holds the column."""
    size, k = ranks.shape
    rows = np.arange(0, size * k + 1, k, dtype=np.int32)
    # A copy, because the indices are sorted in place.
    members = csr_array((np.ones(size * k, np.int32), ranks.flatten(), rows), shape=(size, size))
    members.sort_indices()
    return members


def _reciprocal(ranks: NDArray[np.int32]) -> csr_array:
    """R(i, k): those of the k neighbours of i that have i among their k neighbours."""
    members = _members(ranks)
    return members.multiply(members.T.tocsr()).tocsr()


def _expanded(ranks: NDArray[np.int32], k1: int) -> csr_array:
    """R(i, k1) with every R(c, k1 / 2), c in R(i, k1), of which it holds more than two thirds (equation 3)."""
    near = _reciprocal(ranks)
    # The published slices end at k + 1: of k1 columns there are no more, but the halves have one more than half.
    half = _reciprocal(ranks[:, : round(k1 / 2) + 1])
    sizes, half_transposed = np.diff(half.indptr), half.T.tocsr()
    parts = []
    for start in range(0, near.shape[0], _ROWS):
        own = near[start : start + _ROWS]
        joining = (own @ half_transposed).multiply(own).tocsr()  # how much of R(c, k1 / 2) lies in R(i, k1)
        joining.data = (3 * joining.data > 2 * sizes[joining.indices]).astype(np.int32)
        parts.append(own + joining @ half)
    expanded = vstack(parts, format="csr")
    expanded.eliminate_zeros()
    return expanded


def _weighed(features: Tensor, support: csr_array) -> csr_array:
    """Softmax of -|x_i - x_j|^2 over the members j of each set i."""
    rows = np.repeat(np.arange(support.shape[0]), np.diff(support.indptr))
    pairs = torch.from_numpy(np.stack([rows, support.indices.astype(np.int64)])).to(features.device)
    products = [torch.linalg.vecdot(features[i], features[j]) for i, j in pairs.split(_PAIRS, dim=1)]
    distances = 2 - 2 * torch.cat(products).cpu().double().numpy()
    weights = np.exp(-distances)  # distances lie in [0, 4]
    sums = np.bincount(rows, weights, minlength=support.shape[0])
    return csr_array((weights / sums[rows], support.indices, support.indptr), shape=support.shape)


def _within(weights: csr_array, radius: float) -> csr_array:
    """Pairs of rows at distance 1 - S / (2 - S) <= radius, S the sum over columns of the smaller weight."""
    size = weights.shape[0]
    weights.sort_indices()
    entries = csr_array((np.arange(weights.nnz), weights.indices, weights.indptr), shape=weights.shape).tocsc()
    partners, heights = entries.indices, weights.data[entries.data]  # column by column, rows ascending
    place = np.empty(weights.nnz, np.int64)  # of each entry of a row within the columns
    place[entries.data] = np.arange(weights.nnz)
    # A pair is formed once, at its first row: an entry meets those that follow it in its column, and itself.
    meetings = entries.indptr[weights.indices + 1] - place
    done = np.concatenate([[0], np.cumsum(meetings)])[weights.indptr]  # minima before each row
    least = 2 * (1 - radius) / (2 - radius) - 1e-8  # of S; what rounding lets through is left out below
    found = []
    start = 0
    while start < size:
        most = min(start + max(1, _CELLS // size), size)
        stop = max(start + 1, min(most, int(np.searchsorted(done, done[start] + _TERMS, "right")) - 1))
        mine = slice(weights.indptr[start], weights.indptr[stop])
        counts = meetings[mine]
        terms = np.repeat(place[mine] - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        minima = np.minimum(np.repeat(weights.data[mine], counts), heights[terms])
        row = np.repeat(np.arange(stop - start), np.diff(weights.indptr[start : stop + 1]))
        cells = np.repeat(row * size, counts) + partners[terms]
        sums = np.bincount(cells, minima, minlength=(stop - start) * size)
        kept = np.flatnonzero(sums > max(least, 0.0))
        distances = np.maximum(np.round(1 - sums[kept] / (2 - sums[kept]), DIGITS), 0.0)
        close = distances <= round(radius, DIGITS)
        found.append((start + kept[close] // size, kept[close] % size, distances[close]))
        start = stop
    i, j, distances = (np.concatenate(part) for part in zip(*found, strict=True))
    mirrored = i != j
    where = (np.concatenate([i, j[mirrored]]), np.concatenate([j, i[mirrored]]))
    graph = csr_array((np.concatenate([distances, distances[mirrored]]), where), shape=(size, size))
    graph.sort_indices()
    return graph
