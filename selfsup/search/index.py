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
_SAMPLE = 500  # rows by which the effort is chosen, and as many by which the recall is measured; a tenth of all at most
_HELD_BETWEEN = 40  # rows that are held, at most, among the nearest of one: they are a tenth at most
_SPARE = 16  # candidates beyond k whose cosines are computed again
_AS_NEAR = 1e-9  # a row this much less similar than the k-th is as good as it


class Measured(NamedTuple):
    """How good an approximate index is."""

    effort: int  # lists, or candidates, that are looked at for a query
    recall: float  # recall@10 for queries that are new to it, and that the effort was not chosen by


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
    def build(cls, features: Tensor, kind: Kind = "auto", recall: float = 0.98, seed: int = 0) -> Self:
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
        held = sample(len(features), min(2 * _SAMPLE, len(features) // 10), seed)
        approximate = KINDS[chosen].learned(features, inverse_lengths(features), seed, held)
        measured = measure(approximate, features, held, recall)
        approximate.complete()
        return cls(features, approximate, measured)

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


class _Test(NamedTuple):
    """Queries, and how near their nearest rows are."""

    held: Tensor  # (N,) bool: rows that are not looked for, and that queries are drawn from
    queries: Tensor  # (Q, D)
    least: Tensor  # (Q,) float64: cosine of the last that is to be found
    wanted: Tensor  # (Q,) int64: how many these are


def measure(approximate: Approximate, features: Tensor, held: Tensor, recall: float) -> Measured:
    """The least effort that reaches a recall for some of the rows `held`, and its recall for the others.

    What is to be found are the 10 nearest rows that are not held; of efforts that all fail the largest is taken.
    """
    if not len(held) or len(held) == len(features):
        return Measured(approximate.efforts()[-1], 1.0)
    apart = torch.zeros(len(features), dtype=torch.bool)
    apart[held] = True
    queries, near = features[held.to(features.device)], min(RECALL_AT + _HELD_BETWEEN, len(features) - 1)
    cosine, rows = nearest_neighbours(queries, features, near, exclude=held.to(features.device), cosine=True)
    others = ~apart[rows.cpu()]
    counted = others & (others.cumsum(dim=1) <= RECALL_AT)
    least = torch.where(counted, cosine.cpu(), torch.inf).amin(dim=1)
    tests = [
        _Test(apart, queries[part], least[part], counted[part].sum(dim=1))
        for part in (slice(0, None, 2), slice(1, None, 2))
    ]
    for effort in approximate.efforts():
        approximate.look(effort)
        if _recall(approximate, features, tests[0]) >= recall:
            break
    return Measured(effort, _recall(approximate, features, tests[len(held) > 1]))


def _recall(approximate: Approximate, features: Tensor, test: _Test) -> float:
    """Of the rows that are to be found, the share that is."""
    count = RECALL_AT + (_HELD_BETWEEN if approximate.exhausts else 0)
    found, numbers = _again(approximate, test.queries, features, min(count, len(features)))
    others = (numbers >= 0) & ~test.held[numbers.clamp(min=0)]
    near = (others & (found >= test.least[:, None] - _AS_NEAR)).sum(dim=1).minimum(test.wanted)
    return float(near.sum() / test.wanted.sum().clamp(min=1))


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
