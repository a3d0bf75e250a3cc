"""Nearest neighbours by inner product: exact, in bounded memory, the same answer from torch and from faiss."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Backend = Literal["auto", "torch", "faiss"]

_SPARE = 16  # candidates beyond k, so that rounding in single precision cannot hide a true neighbour
_QUERIES = 1024  # rows per tile
_BANK = 65_536  # columns per tile


def has_faiss() -> bool:
    """Whether faiss can be imported here."""
    try:
        import faiss  # noqa: F401
    except ImportError:
        return False
    return True


def nearest_neighbours(
    queries: Tensor, bank: Tensor, k: int, backend: Backend = "auto", exclude: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The k bank rows with the largest inner products for each query.

    A backend proposes candidates in single precision; their inner products are then recomputed in double precision
    and ordered by (similarity, lower bank number first), so that the answer does not depend on the backend. Only when
    more than 16 bank rows tie at the k-th place in single precision may the backends choose differently among them.

    Args:
        queries: (Q, D) float32.
        bank: (N, D) float32.
        k: neighbours per query, at most N (N - 1 with `exclude`).
        backend: "torch", "faiss", or "auto": torch.
        exclude: (Q,) int64 bank number that each query must not find (itself, when leaving one out).

    Returns:
        similarities (Q, k) float64 and bank numbers (Q, k) int64, best first.

    Raises:
        ValueError: k is not in its range, or faiss was asked for and is not installed.
    """
    available = len(bank) - (exclude is not None)
    if not 1 <= k <= available:
        raise ValueError(f"k is {k}; it must be between 1 and the number of bank images, {available}")
    wanted = min(k + _SPARE, len(bank))
    similarities, numbers = [], []
    propose = _faiss_proposer(bank, wanted) if backend == "faiss" else _torch_proposer(bank, wanted)
    for start in range(0, len(queries), _QUERIES):
        part = queries[start : start + _QUERIES]
        banned = None if exclude is None else exclude[start : start + _QUERIES]
        scores, found = _rescored(part, bank, propose(part), banned)
        similarities.append(scores[:, :k])
        numbers.append(found[:, :k])
    return torch.cat(similarities), torch.cat(numbers)


def _rescored(queries: Tensor, bank: Tensor, candidates: Tensor, banned: Tensor | None) -> tuple[Tensor, Tensor]:
    candidates = candidates.sort(dim=1).values  # (Q, C), so that a stable sort puts the lower number first
    scores = torch.empty(candidates.shape, dtype=torch.float64, device=queries.device)
    for rows in torch.arange(len(queries), device=queries.device).split(64):  # 64 x C x D doubles at a time
        chosen = bank[candidates[rows]].double()
        scores[rows] = torch.einsum("qd,qcd->qc", queries[rows].double(), chosen)
    if banned is not None:
        scores[candidates == banned[:, None]] = -torch.inf
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    return scores, candidates.gather(1, order)


def _torch_proposer(bank: Tensor, wanted: int) -> Callable[[Tensor], Tensor]:
    def propose(queries: Tensor) -> Tensor:  # (Q, D) -> (Q, wanted)
        best = queries.new_empty(len(queries), 0)
        where = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
        for start in range(0, len(bank), _BANK):
            products = queries @ bank[start : start + _BANK].T
            values, columns = products.topk(min(wanted, products.shape[1]), dim=1)
            best, where = torch.cat([best, values], dim=1), torch.cat([where, columns + start], dim=1)
            best, kept = best.topk(min(wanted, best.shape[1]), dim=1)
            where = where.gather(1, kept)
        return where

    return propose


def _faiss_proposer(bank: Tensor, wanted: int) -> Callable[[Tensor], Tensor]:
    if not has_faiss():
        raise ValueError("faiss is not installed; use the torch backend, which gives the same answer")
    import faiss

    index = faiss.IndexFlatIP(bank.shape[1])
    index.add(bank.detach().cpu().float().contiguous().numpy())

    def propose(queries: Tensor) -> Tensor:
        _, found = index.search(queries.detach().cpu().float().contiguous().numpy(), wanted)
        return torch.from_numpy(found).to(queries.device)

    return propose
