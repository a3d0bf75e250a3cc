"""Groups of near duplicates, and which of each stays."""

from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from selfsup.search.duplicates import Pairs


class Groups(NamedTuple):
    """Of N rows, which hang together and which stay."""

    group: Tensor  # (N,) int64, groups numbered by their first row; -1 for rows like no other
    stays: Tensor  # (N,) bool
    stands_for: Tensor  # (N,) int64: the row that stays in its place; its own where it stays
    similarity: Tensor  # (N,) float64: the cosine with that row


def grouped(count: int, pairs: Pairs, weight: Tensor) -> Groups:
    """Groups, the connected parts of the graph of `pairs`, and the rows that stay.

    Row by row from the heaviest on, of equal weights the lower first, a row stays where none that stays already is like
    it. So no two rows that stay are alike, and each one that goes is like one that stays: also in a group that is a
    chain, whose ends are not like each other, of which more than one row may stay.

    Args:
        count: N.
        pairs: of N rows, as `near_duplicates` finds them.
        weight: (N,) numbers, such as the bytes of files.
    """
    first, second = pairs.first.numpy(), pairs.second.numpy()
    edges = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(count, count))
    _, parts = connected_components(edges, directed=False)
    _, lowest, number, size = np.unique(parts, return_index=True, return_inverse=True, return_counts=True)
    several = size > 1
    names = np.full(len(size), -1)
    names[several] = lowest[several].argsort().argsort()
    stands, cosine = _standing(count, pairs, weight.numpy())
    own = np.arange(count)
    return Groups(*map(torch.from_numpy, (names[number], stands == own, stands, cosine)))


def _standing(count: int, pairs: Pairs, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The row that stays in the place of each, and their cosine."""
    same, own = pairs.equal.numpy(), np.arange(count)
    first, second, cosine = (column.numpy()[~same] for column in pairs[:3])
    likeness = csr_array(
        (np.r_[cosine, cosine], (np.r_[first, second], np.r_[second, first])), shape=(count, count), dtype=np.float64
    )
    original = own.copy()  # the first of equal rows, which stands for them here
    original[pairs.second.numpy()[same]] = pairs.first.numpy()[same]
    lightest_first = np.lexsort((-own, weight))
    best = own.copy()  # of the rows equal to an original, the one that may stay
    best[original[lightest_first]] = lightest_first
    goes = np.zeros(count, bool)
    for row in original[lightest_first[::-1]]:  # of equal rows the first that comes is the best; others change nothing
        if not goes[row]:
            goes[likeness.indices[likeness.indptr[row] : likeness.indptr[row + 1]]] = True
    stands, similarity = best.copy(), np.ones(count)
    for row in np.flatnonzero(goes):
        near = slice(likeness.indptr[row], likeness.indptr[row + 1])
        stay = ~goes[likeness.indices[near]]
        numbers, values = likeness.indices[near][stay], likeness.data[near][stay]
        nearest = np.lexsort((best[numbers], -values))[0]
        stands[row], similarity[row] = best[numbers[nearest]], values[nearest]
    return stands[original], similarity[original]
