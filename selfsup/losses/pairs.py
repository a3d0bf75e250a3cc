"""Losses of pairs, by distances and hinges: contrastive, triplet, margin; and what all pair losses share.

A pair loss is a function of `similarity` (B, M), of anchors and references, and of two masks of the same shape that
say which pairs are positive and which negative; a pair may be neither. References may be the batch, the batches of all
processes, or a memory. Distances follow from similarities by D^2 = 2 - 2 s. A loss of distances takes its similarities
from `distance_similarity`: in single precision that difference has no digit left where rows are near each other.

With several processes the anchors are those of this process, and `gather` brings (B, k) rows of all of them together:
each loss first finds what every anchor contributes, and then divides the sums of all anchors, so that the number of
processes does not show, whatever is divided by. Where `gather` is None a loss gives what its anchors contribute,
(B, 2), and not (): for anchors that come some at a time.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from selfsup.devices.double import to_double
from selfsup.losses.contrastive import similarity as inner_products

_ROUNDING = 8 * torch.finfo(torch.float64).eps  # of a squared distance of unit rows

Gather = Callable[[Tensor], Tensor]  # (B, ...) of this process -> (N, ...) of all, differentiable


def alone(rows: Tensor) -> Tensor:
    """What gathering is in one process."""
    return rows


def distance_similarity(a: Tensor, b: Tensor) -> Tensor:
    """1 - |a - b|^2 / 2 of all rows, (B, D) and (M, D) -> (B, M): the inner product where rows are of unit norm.

    In double precision, whatever the rows have: there `distances` are right to single precision for unit rows that are
    1e-4 apart or more, and to three digits down to 1e-6. The gradient is that of the rows' own precision.
    On the CPU where the rows' device has no double precision.
    """
    a, b = to_double(a), to_double(b)
    lengths = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1)  # (B, M)
    return 1 - lengths / 2 + inner_products(a, b)


def distances(similarity: Tensor) -> Tensor:
    """sqrt(2 - 2 s), element by element; with gradient 0, and not infinite, where it is 0.

    It is 0 where 2 - 2 s is not above what rounding in double precision leaves of a row and itself.
    """
    squared = 2 - 2 * similarity
    apart = squared > _ROUNDING
    return torch.where(apart, torch.where(apart, squared, 1).sqrt(), 0)


def weighted_mean(values: Tensor, weights: Tensor, gather: Gather | None = alone) -> Tensor:
    """Sum of the (B,) values over the sum of the (B,) weights, of all processes: (), 0 where no weight is left.

    Where `gather` is None, what `mean_of_anchors` makes that of: both side by side, (B, 2).
    """
    both = torch.stack([values, weights.to(values.dtype)], dim=1)
    return both if gather is None else mean_of_anchors(both, gather)


def mean_of_anchors(both: Tensor, gather: Gather) -> Tensor:
    """(B, 2) values and weights of anchors -> () the weighted mean over those of all processes."""
    value, weight = gather(both).sum(dim=0).unbind()
    return torch.where(weight > 0, value / torch.where(weight > 0, weight, 1), 0)


def contrastive(
    similarity: Tensor, positive: Tensor, negative: Tensor, margin: float = 1.0, gather: Gather | None = alone
) -> Tensor:
    """Mean over all pairs of D^2 / 2 where positive, max(0, margin - D)^2 / 2 where negative (Hadsell et al. 2006, 4).

    Args:
        similarity: (B, M) of anchors and references.
        positive, negative: (B, M) bool, which pairs count as what.
        margin: distance beyond which a negative pair costs nothing.
        gather: brings the rows of all processes together.

    Returns:
        ().
    """
    pull = (1 - similarity).clamp(min=0)  # D^2 / 2
    push = (margin - distances(similarity)).relu().square() / 2
    values = torch.where(positive, pull, 0) + torch.where(negative, push, 0)
    return weighted_mean(values.sum(dim=1), positive.sum(dim=1) + negative.sum(dim=1), gather)


def similarity_contrastive(
    similarity: Tensor, positive: Tensor, negative: Tensor, margin: float = 0.5, gather: Gather | None = alone
) -> Tensor:
    """Sum of 1 - s over positive pairs and of s over negative pairs with s > margin, mean over anchors.

    The contrastive loss of XBM's published code (Wang et al. 2020). It is divided by the number of anchors alone, so it
    grows with the references. Arguments as for `contrastive`; margin is a similarity.
    """
    values = torch.where(positive, 1 - similarity, 0) + torch.where(negative & (similarity > margin), similarity, 0)
    return weighted_mean(values.sum(dim=1), torch.ones_like(values[:, 0]), gather)


Mining = Literal["all", "semihard", "hard"]


def triplet(
    similarity: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 0.2,
    mining: Mining = "semihard",
    squared: bool = False,
    soft_margin: bool = False,
    gather: Gather | None = alone,
) -> Tensor:
    """max(0, D(a, p) - D(a, n) + margin), mean over triplets (Schroff et al. 2015, equation 3).

    Memory and time grow with the number of pairs, not of triplets. Arguments as for `contrastive`, and:
        mining: "all" takes every triplet. "semihard" takes for every positive pair the nearest negative that is farther
            than the positive, where there is none the farthest of all (as TensorFlow Addons; Schroff et al. take a
            random one that is not farther by more than the margin). "hard" takes the farthest positive and the
            nearest negative of every anchor (Hermans et al. 2017, "batch hard").
        squared: squared distances, as Schroff et al.; Hermans et al. take the square root.
        soft_margin: log(1 + exp(D(a, p) - D(a, n))) in place of the hinge, for mining="hard" (Hermans et al. 2017).
    """
    distance = 2 - 2 * similarity if squared else distances(similarity)
    usable = positive.any(dim=1) & negative.any(dim=1)  # (B,)
    positive, negative = positive & usable[:, None], negative & usable[:, None]
    if mining == "hard":
        farthest = torch.where(positive, distance, -torch.inf).amax(dim=1)
        nearest = torch.where(negative, distance, torch.inf).amin(dim=1)
        gap = torch.where(usable, farthest, 0) - torch.where(usable, nearest, 0)  # (B,)
        values = torch.logaddexp(gap, torch.zeros_like(gap)) if soft_margin else (gap + margin).relu()
        return weighted_mean(torch.where(usable, values, 0), usable, gather)
    # A sum of hinges is linear in the distances between one change of sign and the next, so it suffices to count in
    # how many of the hinges above 0 each pair takes part.
    with torch.no_grad():
        if mining == "all":
            count = positive.sum(dim=1) * negative.sum(dim=1)  # (B,) triplets
            as_positive, as_negative = _every_active(distance, positive, negative, margin)
        else:
            count = positive.sum(dim=1)
            as_positive, as_negative = _semihard_active(distance, positive, negative, margin)
    values = ((as_positive - as_negative) * distance).sum(dim=1) + margin * as_positive.sum(dim=1)
    return weighted_mean(values, count, gather)


def _every_active(distance: Tensor, positive: Tensor, negative: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """In how many of all triplets above 0 each pair is the positive and the negative one: (B, M) each."""
    near_first = torch.where(negative, distance, torch.inf).sort(dim=1).values.contiguous()
    far_last = torch.where(positive, distance, -torch.inf).sort(dim=1).values.contiguous()
    nearer = torch.searchsorted(near_first, (distance + margin).contiguous())  # negatives with D < D(a, p) + margin
    nearer = torch.minimum(nearer, negative.sum(dim=1, keepdim=True))
    not_farther = torch.searchsorted(far_last, (distance - margin).contiguous(), right=True)
    farther = torch.minimum(distance.shape[1] - not_farther, positive.sum(dim=1, keepdim=True))
    return torch.where(positive, nearer, 0).to(distance.dtype), torch.where(negative, farther, 0).to(distance.dtype)


def _semihard_active(distance: Tensor, positive: Tensor, negative: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """The same for the triplets of every positive pair and its semi-hard negative."""
    near_first, order = torch.where(negative, distance, torch.inf).sort(dim=1)
    near_first = near_first.contiguous()
    last = (negative.sum(dim=1, keepdim=True) - 1).clamp(min=0)
    place = torch.searchsorted(near_first, distance.contiguous(), right=True)  # of the first that is farther
    place = torch.minimum(place, last)
    active = (positive & (distance - near_first.gather(1, place) + margin > 0)).to(distance.dtype)
    return active, torch.zeros_like(distance).scatter_add_(1, order.gather(1, place), active)


def margin_loss(
    similarity: Tensor,
    positive: Tensor,
    negative: Tensor,
    beta: Tensor | float = 1.2,
    margin: float = 0.2,
    nu: float = 0.0,
    gather: Gather | None = alone,
) -> Tensor:
    """max(0, D - beta + margin) of positive and max(0, beta - D + margin) of negative pairs (Wu et al. 2017, 7 and 10).

    The sum is divided by the number of its terms above 0, and 0 where there is none. As the published code does,
    anchors without a positive or without a negative pair are left out.

    Args:
        similarity: (B, M) of anchors and references.
        positive, negative: (B, M), how often each pair occurs: masks, or counts such as those of `mining.draw`.
        beta: the boundary between positive and negative distances, one or (B,) of the anchors; may be learnt.
        margin: how far from the boundary a pair is to be.
        nu: price of a large beta, which is paid once for every positive pair.
        gather: brings the rows of all processes together.
    """
    usable = ((positive > 0).any(dim=1) & (negative > 0).any(dim=1))[:, None]
    positive, negative = (torch.where(usable, pairs, 0).to(similarity.dtype) for pairs in (positive, negative))
    if isinstance(beta, Tensor):  # moved before it is converted: where it lies there may be no double precision
        beta = beta.to(similarity.device)
    beta = torch.as_tensor(beta, dtype=similarity.dtype, device=similarity.device).expand(len(similarity))
    gap = distances(similarity) - beta[:, None]
    pull, push = (margin + gap).relu(), (margin - gap).relu()  # (B, M)
    values = (positive * pull + negative * push).sum(dim=1) + nu * beta * positive.sum(dim=1)
    active = (positive * (pull > 0) + negative * (push > 0)).sum(dim=1)
    return weighted_mean(values, active, gather)
