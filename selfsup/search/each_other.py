"""The nearest rows of every row, where there are too many to compare each with each."""

from typing import NamedTuple

import torch
from torch import Tensor

from selfsup.cluster.neighbours import nearest_neighbours, similarities_of
from selfsup.search.approximate import InvertedLists
from selfsup.search.index import RECALL_AT
from selfsup.search.rows import inverse_lengths, sample

_DIMENSIONS = 256  # that lists are made in: what is near there is compared again as it is
_CANDIDATES = 4  # for each neighbour, as rows that lost dimensions are near in another order
_LEARNED_FROM = 8192  # rows, for the dimensions that matter
_SAMPLE = 1000  # rows: the effort is chosen by one half, and the recall is measured by the other
_TOGETHER = 4096  # rows that are searched at a time
_AS_NEAR = 1e-9  # a row this much less similar than the k-th is as good as it


class Nearest(NamedTuple):
    """What was found, and how much of what there is."""

    numbers: Tensor  # (N, k) int64, the most similar first, of equal ones the lower number; on the CPU
    recall: float  # share of the 10 nearest rows that is among them, measured on a sample


def nearest_of_each(features: Tensor, k: int, recall: float = 0.99, seed: int = 0) -> Nearest:
    """The k rows that are most similar to each row, itself among them, by an index of faiss.

    Rows of many dimensions are projected to the 256 in which they are longest (principal components about the origin).
    There inverted lists propose four candidates for each neighbour, and their cosines are computed as the rows are, in
    double precision. As many lists are looked at as it takes for the recall@10 on a sample; where all of them do not
    reach it, every row is compared with every other.

    Args:
        features: (N, D) float32, finite.
        k: at most N.
        recall: of the 10 nearest of a row, the share that is to be found.
        seed: of the sample, and of the lists.
    """
    looking = _Looking(features, k, seed)
    some = sample(len(features), _SAMPLE, seed).to(features.device)
    efforts = looking.lists.efforts()
    chosen = looking.least_effort(efforts, some[0::2], recall)
    if chosen is None:
        return Nearest(nearest_neighbours(features, features, k, cosine=True)[1].cpu(), 1.0)
    reached = looking.recall(some[1::2], looking.tenth_cosines(some[1::2]))
    numbers = torch.empty(len(features), k, dtype=torch.int64, device=features.device)
    left = torch.arange(len(features), device=features.device)
    for effort in efforts[efforts.index(chosen) :]:  # for the rows for which less than k were looked at: more
        looking.lists.look(effort)
        for rows in left.split(_TOGETHER):
            numbers[rows] = looking(rows)[1]
        left = left[(numbers[left] < 0).any(dim=1)]
        if not len(left):
            break
    return Nearest(numbers.cpu(), reached)


class _Looking:
    """The rows, and lists of them in fewer dimensions."""

    def __init__(self, features: Tensor, k: int, seed: int) -> None:
        self.features, self.k = features, k
        self.scale = inverse_lengths(features)
        self.reduced = _reduced(features, seed)
        none_held = torch.empty(0, dtype=torch.int64)
        self.lists = InvertedLists.learned(self.reduced, inverse_lengths(self.reduced), seed, none_held)

    def __call__(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The k nearest of some rows among those that are looked at: cosines, and numbers; -inf and -1 where fewer."""
        count = min(_CANDIDATES * self.k, len(self.features))
        found = self.lists.candidates(self.reduced[rows], count).to(rows.device).sort(dim=1).values
        cosines = similarities_of(self.features[rows], self.features, self.scale, found.clamp(min=0))
        cosines[found < 0] = -torch.inf
        cosines, order = cosines.sort(dim=1, descending=True, stable=True)
        return cosines[:, : self.k], found.gather(1, order)[:, : self.k]

    def least_effort(self, efforts: list[int], rows: Tensor, recall: float) -> int | None:
        """The first that reaches the recall for some rows; it is looked at so much from now on. None: none does."""
        least = self.tenth_cosines(rows)
        for effort in efforts:
            self.lists.look(effort)
            if self.recall(rows, least) >= recall:
                return effort
        return None

    def recall(self, rows: Tensor, least: Tensor) -> float:
        """For some rows, the share that is found of those that are as near as `least`, (n, 1)."""
        return float((self(rows)[0][:, : min(RECALL_AT, self.k)] >= least - _AS_NEAR).float().mean())

    def tenth_cosines(self, rows: Tensor) -> Tensor:
        """(n, 1): how near the tenth nearest of each row is, or the k-th, by comparing all."""
        count = min(RECALL_AT, self.k)
        return nearest_neighbours(self.features[rows], self.features, count, cosine=True)[0][:, -1:]


def _reduced(features: Tensor, seed: int) -> Tensor:
    """(N, D) -> (N, 256): coordinates along the directions that keep most of the rows' squared lengths."""
    if features.shape[1] <= 2 * _DIMENSIONS:
        return features
    some = features[sample(len(features), _LEARNED_FROM, seed).to(features.device)]
    directions: Tensor = torch.linalg.eigh(some.T @ some).eigenvectors[:, -_DIMENSIONS:]
    return features @ directions
