"""The nearest rows of a query: by looking at all of them, or by an index of faiss whose recall is measured."""

from typing import NamedTuple, Self

import torch
from torch import Tensor

from selfsup.cluster.backends import has_faiss
from selfsup.cluster.neighbours import nearest_neighbours
from selfsup.search.approximate import KINDS, Approximate
from selfsup.search.kinds import EXACT_VALUES, Kind
from selfsup.search.rows import check_rows, cosines, inverse_lengths, sample

RECALL_AT = 10
_SAMPLE = 500  # rows by which the effort is chosen, and as many others by which the recall is measured
_SPARE = 16  # candidates beyond k whose cosines are computed again
_AS_NEAR = 1e-9  # a row this much less similar than the k-th is as good as it


class Measured(NamedTuple):
    """How good an approximate index is."""

    effort: int  # lists, or candidates, that are looked at for a query
    recall: float  # of the 10 nearest other rows, the share that is found, on rows that the effort was not chosen by


class Index:
    """Rows that can be searched by cosine.

    Answers are ordered by the cosine in double precision, of equal ones the lower row first, whatever the kind. A flat
    index gives the answers of a full sort in double precision; the others look at a part of the rows.

    Args:
        features: (N, D) float32, which may be mapped from a file; on a CUDA device they are searched there.
        approximate: an index of faiss over them; None: all rows are looked at.
        measured: of it.
    """

    def __init__(self, features: Tensor, approximate: Approximate | None = None, measured: Measured | None = None):
        self.features, self.approximate = features, approximate
        self.measured = measured
        if approximate is not None and measured is not None:
            approximate.look(measured.effort)

    @classmethod
    def build(cls, features: Tensor, kind: Kind = "auto", recall: float = 0.95, seed: int = 0) -> Self:
        """Build an index.

        Args:
            features: (N, D) float32, finite.
            kind: flat: exact. ivf: inverted lists. hnsw: a graph, which takes longest to build, and least to search.
                auto: flat up to 2^27 numbers, and without faiss; else ivf.
            recall: an approximate index looks at as much as it takes for this recall@10, measured on rows.
            seed: of the rows that it learns from and is measured on.

        Raises:
            ValueError: features are of another form or not finite; faiss is asked for and is not installed.
        """
        check_rows(features)
        if not 0 < recall <= 1:
            raise ValueError(f"recall is {recall}; it is a share, above 0 and at most 1")
        chosen = kind_for(features, kind)
        if chosen == "flat":
            return cls(features)
        approximate = KINDS[chosen].learned(features, inverse_lengths(features), seed)
        return cls(features, approximate, measure(approximate, features, recall, seed))

    @property
    def kind(self) -> str:
        """flat, ivf or hnsw."""
        return "flat" if self.approximate is None else self.approximate.kind

    @property
    def recall(self) -> float:
        """Recall@10 as it was measured; 1 where all rows are looked at."""
        return 1.0 if self.measured is None else self.measured.recall

    def search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k rows with the largest cosines.

        Args:
            queries: (Q, D) float32, finite.
            k: at most N.

        Returns:
            Cosines (Q, k) float64 and rows (Q, k) int64, best first, on the CPU.

        Raises:
            ValueError: k is not in its range, or the queries are of another form.
        """
        check_rows(queries, "queries")
        if not 1 <= k <= len(self.features):
            raise ValueError(f"k is {k}; it must be between 1 and the number of rows, {len(self.features)}")
        if queries.shape[1] != self.features.shape[1]:
            raise ValueError(f"queries have {queries.shape[1]} numbers a row, and the index {self.features.shape[1]}")
        if self.approximate is None:
            return _exact(queries, self.features, k)
        found, numbers = _again(self.approximate, queries, self.features, k)
        few = (numbers < 0).any(dim=1).nonzero()[:, 0]  # where less than k were looked at
        if len(few):
            found[few], numbers[few] = _exact(queries[few.to(queries.device)], self.features, k)
        return found, numbers


def kind_for(features: Tensor, kind: Kind) -> str:
    """What `kind` is for these rows. Raises ValueError where faiss is asked for and is not installed."""
    if kind in KINDS and not has_faiss():
        raise ValueError(f"an index of kind {kind} needs faiss, which is not installed; flat is exact, and needs none")
    if kind != "auto":
        return kind
    return "ivf" if features.numel() > EXACT_VALUES and has_faiss() else "flat"


def measure(approximate: Approximate, features: Tensor, recall: float, seed: int) -> Measured:
    """The least effort that reaches a recall on some rows, and its recall on others; all efforts where none does."""
    rows = sample(len(features), 2 * _SAMPLE, seed)
    k = min(RECALL_AT, len(features) - 1)
    if k < 1:
        return Measured(approximate.efforts()[-1], 1.0)
    least = nearest_neighbours(features[rows], features, k, exclude=rows.to(features.device), cosine=True)[0][:, -1]
    chosen_by, measured_by = (slice(0, None, 2), slice(1, None, 2)) if len(rows) > 1 else (slice(None), slice(None))
    for effort in approximate.efforts():
        approximate.look(effort)
        if _recall(approximate, features, rows[chosen_by], least.cpu()[chosen_by], k) >= recall:
            break
    return Measured(effort, _recall(approximate, features, rows[measured_by], least.cpu()[measured_by], k))


def _recall(approximate: Approximate, features: Tensor, rows: Tensor, least: Tensor, k: int) -> float:
    """Of the k nearest other rows of each of `rows`, of cosines from `least` up, the share that is found."""
    found, numbers = _again(approximate, features[rows.to(features.device)], features, min(k + 1, len(features)))
    others = (numbers != rows[:, None]) & (numbers >= 0)
    near = (others & (found >= least[:, None] - _AS_NEAR)).sum(dim=1).clamp(max=k)
    return float(near.double().mean() / k)


def _exact(queries: Tensor, features: Tensor, k: int) -> tuple[Tensor, Tensor]:
    found, numbers = nearest_neighbours(queries.to(features.device), features, k, cosine=True)
    return found.cpu(), numbers.cpu()


def _again(approximate: Approximate, queries: Tensor, features: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """What an index proposes, ordered by cosines in double precision: (Q, k) each; -1, of -infinity, for no row."""
    numbers = approximate.candidates(queries, min(k + _SPARE, len(features))).sort(dim=1).values
    asked = torch.arange(len(queries)).repeat_interleave(numbers.shape[1])
    found = cosines(queries, asked, features, numbers.flatten().clamp(min=0)).view(numbers.shape)
    found[numbers < 0] = -torch.inf
    found, order = found.sort(dim=1, descending=True, stable=True)
    return found[:, :k], numbers.gather(1, order)[:, :k]
