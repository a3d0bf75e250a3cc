"""Losses of pairs in which a log-sum-exp weighs hard pairs most: N-pair, lifted structure, circle, multi-similarity.

Arguments are those of `selfsup.losses.pairs`: similarities of anchors and references, two masks, and `gather`.
"""

import math

import torch
from torch import Tensor

from selfsup.losses.pairs import Gather, alone, distances, weighted_mean

_NOTHING = -1e30  # log of an empty sum: finite, so that no gradient becomes inf - inf


def masked_log_sum_exp(exponents: Tensor, mask: Tensor, dim: int = 1) -> Tensor:
    """log of the sum of exp over the True entries, about -1e30 where there is none: (B, M) -> (B,) or (M,)."""
    sums = exponents.masked_fill(~mask, -torch.inf).logsumexp(dim=dim)
    return torch.where(mask.any(dim=dim), sums, _NOTHING)


def log1p_exp(x: Tensor) -> Tensor:
    """log(1 + exp(x)) without overflow."""
    return torch.logaddexp(x, torch.zeros_like(x))


def n_pair(similarity: Tensor, positive: Tensor, negative: Tensor, gather: Gather | None = alone) -> Tensor:
    """log(1 + sum over n of exp(s(a, n) - s(a, p))), mean over positive pairs: the (N+1)-tuplet loss.

    Sohn 2016, equation 6, with the inner products of embeddings that are not normalised. It is the N-pair loss,
    equation 7, where anchors and references are one positive pair of every class (`mining.one_pair_per_class`).
    """
    others = masked_log_sum_exp(similarity, negative)[:, None]  # (B, 1)
    values = torch.where(positive, log1p_exp(others - similarity), 0)
    return weighted_mean(values.sum(dim=1), positive.sum(dim=1), gather)


def lifted(
    similarity: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    mutual: bool = True,
    gather: Gather | None = alone,
) -> Tensor:
    """Lifted structure (Song et al. 2016, equation 4): max(0, J)^2 / 2, mean over positive pairs.

    J(i, j) = D(i, j) + log(sum over negatives n of i of exp(margin - D(i, n)) + the same sum of j).

    Args:
        mutual: references are the anchors, of all processes and in the order of `gather`, so that j has negatives of
            its own. False for a memory, whose members' distances to each other nobody knows: the anchor's sum then
            stands for both.
    """
    distance = distances(similarity)
    own = masked_log_sum_exp(margin - distance, negative)  # (B,)
    if mutual and gather is None:
        raise ValueError("lifted compares anchors with each other where mutual is True, so gather cannot be None")
    partners = gather(own)[None, :] if mutual and gather is not None else own[:, None]
    excess = (torch.logaddexp(own[:, None], partners) + distance).relu()
    values = torch.where(positive, excess.square(), 0).sum(dim=1) / 2
    return weighted_mean(values, positive.sum(dim=1), gather)


def generalized_lifted(
    similarity: Tensor, positive: Tensor, negative: Tensor, margin: float = 1.0, gather: Gather | None = alone
) -> Tensor:
    """max(0, log sum of exp(D(a, p)) + log sum of exp(margin - D(a, n))) (Hermans et al. 2017, equation 8).

    Mean over the anchors that have both a positive and a negative.
    """
    distance = distances(similarity)
    pull, push = masked_log_sum_exp(distance, positive), masked_log_sum_exp(margin - distance, negative)
    usable = positive.any(dim=1) & negative.any(dim=1)
    return weighted_mean(torch.where(usable, pull + push, 0).relu(), usable, gather)


def circle(
    similarity: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 0.4,
    scale: float = 80.0,
    gather: Gather | None = alone,
) -> Tensor:
    """Circle loss of each anchor (Sun et al. 2020, equation 6), mean over those with a positive and a negative.

    log(1 + sum over n of exp(scale w(n) (s(n) - margin)) sum over p of exp(-scale w(p) (s(p) - 1 + margin))), with
    constant weights w(n) = max(0, s(n) + margin) and w(p) = max(0, 1 + margin - s(p)); s are cosines.
    """
    sums = _circle_sums(similarity, positive, negative, margin, scale)
    usable = positive.any(dim=1) & negative.any(dim=1)
    return weighted_mean(torch.where(usable, log1p_exp(sums.sum(dim=1)), 0), usable, gather)


def circle_of_batch(
    similarity: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 0.4,
    scale: float = 80.0,
    mutual: bool = True,
    gather: Gather | None = alone,
) -> Tensor:
    """One circle loss of all pairs: both sums are over the positive and the negative pairs of all anchors.

    `mutual` says that references are the anchors, so that every pair occurs twice and counts once.
    """
    sums = _circle_sums(similarity, positive, negative, margin, scale)
    return sums if gather is None else circle_of_anchors(sums, mutual, gather)


def circle_of_anchors(sums: Tensor, mutual: bool, gather: Gather) -> Tensor:
    """What `circle_of_batch` makes of what its anchors contribute, (B, 2)."""
    whole = gather(sums).logsumexp(dim=0).sum()
    return log1p_exp(whole - 2 * math.log(2) if mutual else whole)


def _circle_sums(similarity: Tensor, positive: Tensor, negative: Tensor, margin: float, scale: float) -> Tensor:
    """Logarithms of the sums over positives and over negatives of each anchor: (B, 2)."""
    pull = (1 + margin - similarity).relu().detach() * (1 - margin - similarity)
    push = (similarity + margin).relu().detach() * (similarity - margin)
    return torch.stack([masked_log_sum_exp(scale * pull, positive), masked_log_sum_exp(scale * push, negative)], dim=1)


def multi_similarity(
    similarity: Tensor,
    positive: Tensor,
    negative: Tensor,
    alpha: float = 2.0,
    beta: float = 50.0,
    threshold: float = 0.5,
    epsilon: float = 0.1,
    gather: Gather | None = alone,
) -> Tensor:
    """Multi-similarity loss with its mining of pairs (Wang et al. 2019, equations 9, 10 and 15), mean over anchors.

    Kept are the negatives with s > (least s of a positive) - epsilon and the positives with
    s < (largest s of a negative) + epsilon. An anchor's loss is
    log(1 + sum over p of exp(-alpha (s - threshold))) / alpha + log(1 + sum over n of exp(beta (s - threshold))) / beta
    and 0, as in the published code, where no positive or no negative is left.
    """
    least = torch.where(positive, similarity, torch.inf).amin(dim=1, keepdim=True)
    largest = torch.where(negative, similarity, -torch.inf).amax(dim=1, keepdim=True)
    positive = positive & (similarity - epsilon < largest)
    negative = negative & (similarity + epsilon > least)
    pull = log1p_exp(masked_log_sum_exp(-alpha * (similarity - threshold), positive)) / alpha
    push = log1p_exp(masked_log_sum_exp(beta * (similarity - threshold), negative)) / beta
    usable = positive.any(dim=1) & negative.any(dim=1)
    return weighted_mean(torch.where(usable, pull + push, 0), torch.ones_like(pull), gather)
