"""Nearest neighbours by inner product or cosine: exact, in bounded memory, one answer from torch and from faiss."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

Backend = Literal["auto", "torch", "faiss"]

_SPARE = 16  # candidates beyond k, so that rounding in single precision cannot hide a true neighbour
_QUERIES = 1024  # rows per tile
_BANK = 32_768  # columns per tile
_DOUBLES = 2**21  # of candidates that are compared again at a time


def has_faiss() -> bool:
    """Whether faiss can be imported here."""
    try:
        import faiss  # noqa: F401
    except ImportError:
        return False
    return True


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

    A backend proposes candidates in single precision; their similarities are then recomputed in double precision
    and ordered by (similarity, lower bank number first), so that the answer does not depend on the backend. Only when
    more than 16 bank rows tie at the k-th place in single precision may the backends choose differently among them.

    Beside its arguments and its answer it needs memory for tiles of both, never for Q x N or for a second bank.

    Args:
        queries: (Q, D) float32.
        bank: (N, D) float32.
        k: neighbours per query, at most N (N - 1 with `exclude`).
        backend: "torch", "faiss" (on the CPU), or "auto": torch.
        exclude: (Q,) int64 bank number that each query must not find (itself, when leaving one out).
        cosine: compare directions only; neither side has to be normalised. A row of zeros has the cosine 0.

    Returns:
        similarities (Q, k) float64 and bank numbers (Q, k) int64, best first.

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
    wanted = min(k + _SPARE, len(bank))
    scale = _inverse_lengths(bank) if cosine else None
    for start in range(0, len(queries), _QUERIES):
        part = queries[start : start + _QUERIES]
        candidates = _candidates(part, bank, scale, wanted, backend)
        scores = _compared_again(part, bank, scale, candidates)
        if exclude is not None:
            scores[candidates == exclude[start : start + _QUERIES, None]] = -torch.inf
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        yield scores[:, :k], candidates.gather(1, order)[:, :k]


def _inverse_lengths(rows: Tensor) -> Tensor:
    lengths = torch.cat([part.double().norm(dim=1) for part in rows.split(_BANK)])
    return 1 / lengths.clamp(min=1e-12)  # (N,)


def _candidates(queries: Tensor, bank: Tensor, scale: Tensor | None, wanted: int, backend: Backend) -> Tensor:
    """(Q, wanted) bank numbers in ascending order, so that a stable sort by similarity puts the lower number first."""
    search = _by_faiss if backend == "faiss" else _by_torch
    best = queries.new_empty(len(queries), 0)
    where = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for start in range(0, len(bank), _BANK):
        tile = bank[start : start + _BANK]
        if scale is not None:  # a query's own length does not change its ranking
            tile = tile * scale[start : start + _BANK, None].to(tile.dtype)
        values, columns = search(queries, tile, min(wanted, len(tile)))
        best, where = torch.cat([best, values], dim=1), torch.cat([where, columns + start], dim=1)
        best, kept = best.topk(min(wanted, best.shape[1]), dim=1)
        where = where.gather(1, kept)
    return where.sort(dim=1).values


def _by_torch(queries: Tensor, tile: Tensor, wanted: int) -> tuple[Tensor, Tensor]:
    values, columns = (queries @ tile.T).topk(wanted, dim=1)
    return values, columns


def _by_faiss(queries: Tensor, tile: Tensor, wanted: int) -> tuple[Tensor, Tensor]:
    # Without an index, which would hold the whole bank once more.
    import faiss

    rows, columns = (part.detach().cpu().float().contiguous().numpy() for part in (queries, tile))
    values, found = faiss.knn(rows, columns, wanted, metric=faiss.METRIC_INNER_PRODUCT)
    return torch.from_numpy(values).to(queries), torch.from_numpy(found).to(queries.device)


def _compared_again(queries: Tensor, bank: Tensor, scale: Tensor | None, candidates: Tensor) -> Tensor:
    """(Q, C) similarities in double precision."""
    scores = torch.empty(candidates.shape, dtype=torch.float64, device=queries.device)
    rows_at_once = max(1, _DOUBLES // (candidates.shape[1] * bank.shape[1]))
    for rows in torch.arange(len(queries), device=queries.device).split(rows_at_once):
        # Not by a matrix product: its sums depend on the column, and equal bank rows would not tie to the last bit.
        scores[rows] = (bank[candidates[rows]].double() * queries[rows, None].double()).sum(dim=2)
    if scale is not None:
        scores *= scale[candidates] * _inverse_lengths(queries)[:, None]
    return scores
