"""Synthetic negatives, mixed from the hardest ones (Kalantidis et al. 2020, MoCHi)."""

import torch
from torch import Tensor

from selfsup.devices.double import back

_ALIVE = 2**24  # numbers of gathered features alive at once
_NOISE = 16  # roundings of sums of a few hundred products


def mixed_scores(
    queries: Tensor, negatives: Tensor, scores: Tensor, numbers: Tensor, hardest: int, pairs: int, queries_mixed: int
) -> Tensor:
    """Inner products of queries with synthetic negatives, which are constants: the gradient goes to the queries alone.

    With n_i, n_j among the `hardest` negatives of a query q: h = norm(a n_i + (1 - a) n_j), i != j, a in [0, 1)
    (section 3.3, equation 4), and h' = norm(b q + (1 - b) n_j), b in [0, 0.5) (equation 5). No feature is formed: both
    products follow from those of the queries with the negatives, and the norms from those of the negatives mixed.

    Args:
        queries: (B, D) unit rows, with gradient.
        negatives: (M, D) rows of any norm, normally 1.
        scores: (B, M) inner products of both, with gradient; -inf where a negative does not count.
        numbers: (B, 3 pairs + 2 queries_mixed) uniform in [0, 1): which are mixed, and how; on the same device, or
            on the CPU where that has no double precision.
        hardest: N, at most M.
        pairs: s, number of mixtures of two negatives.
        queries_mixed: s', number of mixtures of the query with a negative.

    Returns:
        (B, pairs + queries_mixed), -inf where a mixed negative does not count; 0, without gradient, where what is
        mixed cancels out and has no direction, as two opposite negatives by halves.
    """
    chosen = scores.detach().topk(hardest, dim=1).indices  # (B, N)
    squares = negatives.square().sum(dim=1)  # (M,)
    first, second, alpha = numbers[:, : 3 * pairs].unflatten(1, (3, pairs)).unbind(1)  # (B, s) each
    i = _below(first, hardest).to(chosen.device)
    j = (i + 1 + _below(second, hardest - 1).to(chosen.device)) % hardest  # any of the others
    i, j = chosen.gather(1, i), chosen.gather(1, j)
    between = _products(negatives, i, j)  # (B, s)
    alpha = back(alpha, like=scores)
    norm = _norm(alpha, squares[i], squares[j], between)
    pair_scores = _mixed(alpha, scores.gather(1, i), scores.gather(1, j), norm)

    picked, beta = numbers[:, 3 * pairs :].unflatten(1, (2, queries_mixed)).unbind(1)  # (B, s') each
    j = chosen.gather(1, _below(picked, hardest).to(chosen.device))
    beta = back(beta, like=scores) / 2
    score = scores.gather(1, j)
    own = (queries * queries.detach()).sum(dim=1, keepdim=True)  # (B, 1), the gradient is the constant query
    norm = _norm(beta, own.detach(), squares[j], score.detach())
    query_scores = _mixed(beta, own.expand_as(score), score, norm)
    return torch.cat([pair_scores, query_scores], dim=1)


def _below(numbers: Tensor, count: int) -> Tensor:
    """Uniform numbers in [0, 1) as whole ones in [0, count)."""
    return (numbers * count).long()


def _norm(share: Tensor, first: Tensor, second: Tensor, product: Tensor) -> Tensor:
    """|share x + (1 - share) y| of vectors with these squared norms and inner product; 0 where they cancel out.

    A square that is smaller than the rounding of its terms is noise and may be negative: a floor as small as that of
    `normalize` would make scores above 1e7 out of it.
    """
    parts = share**2 * first + (1 - share) ** 2 * second
    square = parts + 2 * share * (1 - share) * product
    solid = square > _NOISE * torch.finfo(square.dtype).eps * parts
    return torch.where(solid, torch.where(solid, square, 1).sqrt(), 0)


def _mixed(share: Tensor, first: Tensor, second: Tensor, norm: Tensor) -> Tensor:
    """(share first + (1 - share) second) / norm, 0 where the norm is, and -inf where either score is."""
    counts = first.isfinite() & second.isfinite()
    # Infinity is replaced before it is multiplied: 0 times infinity would be no number, nor would its gradient.
    first, second = (torch.where(counts, score, 0) for score in (first, second))
    usable = counts & (norm > 0)
    mixed = torch.where(usable, (share * first + (1 - share) * second) / torch.where(usable, norm, 1), 0)
    return mixed.masked_fill(~counts, -torch.inf)


@torch.no_grad()
def _products(features: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Inner products of the rows i and j, both (B, s): (B, s), a few rows of them at a time."""
    rows = max(1, _ALIVE // max(1, i.shape[1] * features.shape[1]))
    parts = [(features[a] * features[b]).sum(dim=-1) for a, b in zip(i.split(rows), j.split(rows), strict=True)]
    return torch.cat(parts)
