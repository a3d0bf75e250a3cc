"""Nearest neighbours by inner product or cosine: exact, in bounded memory, one answer from torch and from faiss."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property

import numpy as np
import torch
from torch import Tensor

from selfsup.cluster.backends import Backend, has_faiss
from selfsup.devices.double import double_device

_SPARE = 16  # candidates beyond k, so that rounding in single precision cannot hide a true neighbour
_QUERIES = 1024  # rows per tile
_TOGETHER = 8 * _QUERIES  # rows that go through the bank together: each of its tiles is scaled once for them
_VALUES = 2**25  # of the bank per tile: 65,536 rows of 512 numbers
_MANY = 2**24  # pairs from which on faiss is worth its import
_DOUBLES = 2**21  # of candidates that are compared again at a time
_FEW = 64  # queries whose candidates one thread of the CPU compares again, one query after the other


def nearest_neighbours(
    queries: Tensor,
    bank: Tensor,
    k: int,
    backend: Backend = "auto",
    exclude: Tensor | None = None,
    *,
    cosine: bool = False,
) -> tuple[Tensor, Tensor]:
    """The k bank rows with the largest inner products, or cosines, for each query.

    A backend proposes candidates in single precision, 16 more than are asked for; their similarities are then computed
    again in double precision and ordered by (similarity, lower bank number first). Where rounding may have hidden a
    neighbour, because the last candidates are as near as the k-th within the error of a sum of D products, the query is
    compared with the whole bank in double precision. So the answer is that of a full sort in double precision, whatever
    the backend.

    Beside its arguments and its answer it needs memory for tiles of both, never for Q x N or for a second bank.

    Args:
        queries: (Q, D) float32.
        bank: (N, D) float32.
        k: neighbours per query, at most N (N - 1 with `exclude`).
        backend: "torch", "faiss" (on the CPU), or "auto": faiss for many rows on the CPU where it is installed, as it
            selects the largest of them faster; else torch.
        exclude: (Q,) int64 bank number that each query must not find (itself, when leaving one out).
        cosine: compare directions only; neither side has to be normalised. A row of zeros has the cosine 0.

    Returns:
        similarities (Q, k) float64 and bank numbers (Q, k) int64, best first. All of it is done on the CPU, and
        they lie there, where the device of the queries has no double precision.

    Raises:
        ValueError: k is not in its range, or faiss was asked for and is not installed.
    """
    similarities, numbers = zip(*neighbour_tiles(queries, bank, k, backend, exclude, cosine=cosine), strict=True)
    return torch.cat(similarities), torch.cat(numbers)


def neighbour_tiles(
    queries: Tensor,
    bank: Tensor,
    k: int,
    backend: Backend = "auto",
    exclude: Tensor | None = None,
    *,
    cosine: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """`nearest_neighbours` of some queries at a time, in their order, for answers that are too large to be kept."""
    available = len(bank) - (exclude is not None)
    if not 1 <= k <= available:
        raise ValueError(f"k is {k}; it must be between 1 and the number of bank images, {available}")
    if backend == "faiss" and not has_faiss():
        raise ValueError("faiss is not installed; use the torch backend, which gives the same answer")
    place = double_device(queries.device)
    if backend == "auto":
        many = len(queries) * len(bank) >= _MANY and place.type == "cpu"
        backend = "faiss" if many and has_faiss() else "torch"
    exclude = None if exclude is None else exclude.to(place)
    search = _Search(queries.to(place), bank.to(place), k, backend, exclude, cosine)
    for start in range(0, len(queries), _TOGETHER):
        yield from search(start, min(start + _TOGETHER, len(queries)))


class _Search:
    """The arguments of one search, and what its tiles share."""

    def __init__(
        self, queries: Tensor, bank: Tensor, k: int, backend: Backend, exclude: Tensor | None, cosine: bool
    ) -> None:
        self.queries, self.bank, self.k, self.backend, self.exclude = queries, bank, k, backend, exclude
        self.wanted = min(k + _SPARE, len(bank))
        inverse = _inverse_lengths(bank)
        self.scale = inverse if cosine else None
        # Twice the largest error of a similarity in single precision, for queries of unit norm.
        self.rounding = (bank.shape[1] + 3) * torch.finfo(torch.float32).eps * (1.0 if cosine else 1 / inverse.min())

    def __call__(self, begin: int, end: int) -> Iterator[tuple[Tensor, Tensor]]:
        """What the queries from `begin` to `end` find, a tile at a time."""
        candidates = _candidates(self.queries[begin:end], self.bank, self.scale, self.wanted, self.backend)
        for start in range(begin, end, _QUERIES):
            rows = slice(start, min(start + _QUERIES, end))
            yield self._of_tile(rows, candidates[start - begin : rows.stop - begin])

    def _of_tile(self, rows: slice, candidates: Tensor) -> tuple[Tensor, Tensor]:
        part = self.queries[rows]
        scores = similarities_of(part, self.bank, self.scale, candidates)
        last = scores.amin(dim=1)  # of a row that is no candidate: at most this, and the error
        if self.exclude is not None:
            scores[candidates == self.exclude[rows, None]] = -torch.inf
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        scores, numbers = scores[:, : self.k], candidates.gather(1, order)[:, : self.k]
        if self.wanted < len(self.bank):
            lengths = 1.0 if self.scale is not None else part.double().norm(dim=1)
            unsure = (scores[:, -1] <= last + self.rounding * lengths).nonzero()[:, 0]
            for few in unsure.split(max(1, _DOUBLES // len(self.bank))):
                scores[few], numbers[few] = self.exhaustive(few + rows.start)
        return scores, numbers

    def exhaustive(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The same for a few queries at the positions `rows`, by their similarities in double precision to all rows."""
        if not len(rows):  # as it is for most tiles: the bank is not gone through for nothing
            return self.queries.new_empty(0, self.k, dtype=torch.float64), rows.new_empty(0, self.k)
        asked = self.queries[rows].double()
        scores = asked.new_empty(len(rows), len(self.bank))
        step = max(1, _DOUBLES // self.bank.shape[1])
        for start in range(0, len(self.bank), step):
            columns = slice(start, start + step)
            scores[:, columns] = asked @ self.bank[columns].double().T
        if self.scale is not None:
            scores *= self.scale
            scores *= _inverse_lengths(asked)[:, None]
        scores = scores[:, self.first_equal]  # a matrix product sums equal rows in an order of their places
        if self.exclude is not None:
            scores[torch.arange(len(rows), device=rows.device), self.exclude[rows]] = -torch.inf
        least = scores.topk(self.k, dim=1).values[:, -1:]
        above, equal = scores > least, scores == least
        kept = above | (equal & (equal.cumsum(dim=1) <= self.k - above.sum(dim=1, keepdim=True)))
        numbers = kept.nonzero()[:, 1].view(len(rows), self.k)  # ascending
        values, order = scores.gather(1, numbers).sort(dim=1, descending=True, stable=True)
        return values, numbers.gather(1, order)

    @cached_property
    def first_equal(self) -> Tensor:
        return first_equal_rows(self.bank)


def first_equal_rows(rows: Tensor) -> Tensor:
    """The number of the first row that is equal to each, (N, D) -> (N,) int64; its own where none before it is."""
    weights = torch.arange(1, rows.shape[1] + 1, device=rows.device).double().sqrt()
    parts = rows.split(max(1, _DOUBLES // rows.shape[1]))
    keys = torch.cat([(part.double() * weights).sum(dim=1) for part in parts])  # equal where rows are, and seldom else
    order = keys.argsort(stable=True)
    same = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    for places in torch.arange(1, len(rows), device=rows.device).split(max(1, _DOUBLES // rows.shape[1])):
        same[places] = (rows[order[places]] == rows[order[places - 1]]).all(dim=1)
    first = torch.where(same, 0, torch.arange(len(rows), device=rows.device)).cummax(dim=0).values  # of each run
    return torch.empty_like(order).scatter_(0, order, order[first])


def _inverse_lengths(rows: Tensor) -> Tensor:
    # Part by part, each in double precision first: of single precision the norm takes ten times as long.
    parts = rows.split(max(1, _DOUBLES // (4 * rows.shape[1])))
    lengths = torch.cat([torch.linalg.vector_norm(part.double(), dim=1) for part in parts])
    return 1 / lengths.clamp_(min=1e-12)  # (N,)


def _candidates(queries: Tensor, bank: Tensor, scale: Tensor | None, wanted: int, backend: Backend) -> Tensor:
    """(Q, wanted) bank numbers in ascending order, so that a stable sort by similarity puts the lower number first."""
    search = _by_faiss if backend == "faiss" else _by_torch
    parts = queries.split(_TOGETHER if backend == "faiss" else _QUERIES)  # faiss has tiles of its own
    best = [part.new_empty(len(part), 0) for part in parts]
    where = [torch.empty(len(part), 0, dtype=torch.int64, device=part.device) for part in parts]
    step = max(1, _VALUES // bank.shape[1])
    for start in range(0, len(bank), step):
        tile = bank[start : start + step]
        if scale is not None:  # a query's own length does not change its ranking
            tile = tile * scale[start : start + step, None].to(tile.dtype)
        for number, part in enumerate(parts):
            values, columns = search(part, tile, min(wanted, len(tile)))
            values = torch.cat([best[number], values], dim=1)
            columns = torch.cat([where[number], columns + start], dim=1)
            best[number], kept = values.topk(min(wanted, values.shape[1]), dim=1)
            where[number] = columns.gather(1, kept)
    return torch.cat(where).sort(dim=1).values


def _by_torch(queries: Tensor, tile: Tensor, wanted: int) -> tuple[Tensor, Tensor]:
    values, columns = (queries @ tile.T).topk(wanted, dim=1)
    return values, columns


def _by_faiss(queries: Tensor, tile: Tensor, wanted: int) -> tuple[Tensor, Tensor]:
    # Without an index, which would hold the whole bank once more.
    import faiss

    rows, columns = (part.detach().cpu().float().contiguous().numpy() for part in (queries, tile))
    values, found = faiss.knn(rows, columns, wanted, metric=faiss.METRIC_INNER_PRODUCT)
    return torch.from_numpy(values).to(queries), torch.from_numpy(found).to(queries.device)


def similarities_of(queries: Tensor, bank: Tensor, scale: Tensor | None, candidates: Tensor) -> Tensor:
    """Of each query with the bank rows of these numbers, in double precision; equal rows have equal ones, to the bit.

    Args:
        queries: (Q, D) float32.
        bank: (N, D) float32.
        scale: (N,) float64 inverse lengths of the bank's rows, for cosines; None: inner products.
        candidates: (Q, C) int64.

    Returns:
        (Q, C) float64.
    """
    # Not by a matrix product: its sums depend on the column, and equal bank rows would not tie to the last bit.
    if queries.device.type == "cpu":
        scores = _products_on_cpu(queries, bank, candidates)
    else:
        scores = torch.empty(candidates.shape, dtype=torch.float64, device=queries.device)
        rows_at_once = max(1, _DOUBLES // (candidates.shape[1] * bank.shape[1]))
        for rows in torch.arange(len(queries), device=queries.device).split(rows_at_once):
            scores[rows] = (bank[candidates[rows]].double() * queries[rows, None].double()).sum(dim=2)
    if scale is not None:
        scores *= scale[candidates] * _inverse_lengths(queries)[:, None]
    return scores


def _products_on_cpu(queries: Tensor, bank: Tensor, candidates: Tensor) -> Tensor:
    """The same of one query after the other, whose candidates stay in the processor's cache meanwhile, in threads."""
    loop = _compiled_products() if bank.is_contiguous() and bank.dtype == torch.float32 else None
    asked, rows, numbers = (part.detach().numpy() for part in (queries.double().contiguous(), bank, candidates))
    scores = np.empty(numbers.shape)

    def compare(first: int) -> None:
        some = slice(first, first + _FEW)
        if loop is not None:
            loop(asked[some], rows, numbers[some], scores[some])
            return
        for query in range(first, min(first + _FEW, len(asked))):
            np.einsum("cd,d->c", rows[numbers[query]].astype(np.float64), asked[query], out=scores[query])

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        list(threads.map(compare, range(0, len(asked), _FEW)))
    return torch.from_numpy(scores)


@cache
def _compiled_products() -> Callable[..., None] | None:
    """None where numba cannot be imported: what stands in its place gives the same, more slowly."""
    try:
        from selfsup.cluster.product_loops import products
    except ImportError:
        return None
    return products
