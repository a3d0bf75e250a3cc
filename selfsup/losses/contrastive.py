"""InfoNCE and NT-Xent: pure functions of embeddings, in single precision or better, without collectives."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def l2_normalize(features: Tensor) -> Tensor:
    """Rows of unit norm in float32 or better: (..., D) -> (..., D)."""
    return F.normalize(at_least_float32(features), dim=-1)


def similarity(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of all rows, (B, D) and (M, D) -> (B, M), in float32 or better, under autocast too."""
    with torch.autocast(a.device.type, enabled=False):
        return at_least_float32(a) @ at_least_float32(b).T


def at_least_float32(x: Tensor) -> Tensor:
    """In single precision, or as it is where that is more."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def contrast_logits(
    queries: Tensor, keys: Tensor, negatives: Tensor, temperature: float, mask: Tensor | None = None
) -> Tensor:
    """Scores of each query against its key, in column 0, and against shared negatives.

    Args:
        queries, keys: (B, D) unit rows; row i of one belongs to row i of the other.
        negatives: (K, D) unit rows.
        temperature: what the inner products are divided by.
        mask: (B, K) bool, True where a negative is to be left out; its score is -inf.

    Returns:
        (B, 1 + K).
    """
    positive = (at_least_float32(queries) * at_least_float32(keys)).sum(dim=1, keepdim=True)  # (B, 1)
    negative = similarity(queries, negatives)  # (B, K)
    if mask is not None:
        negative = negative.masked_fill(mask, -torch.inf)
    return torch.cat([positive, negative], dim=1) / temperature


def first_is_positive(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of (B, 1 + K) scores with the positive in column 0, and how often it has the highest score.

    A tie does not count as a hit: a collapsed encoder, all of whose scores are equal, has accuracy 0 and not 1.
    """
    loss = logits.logsumexp(dim=1) - logits[:, 0]
    accuracy = logits[:, 0] > logits[:, 1:].amax(dim=1)
    return loss.mean(), accuracy.float().mean()


def info_nce(
    queries: Tensor, keys: Tensor, negatives: Tensor, temperature: float, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """InfoNCE (van den Oord et al. 2018; He et al. 2020, equation 1); arguments as for `contrast_logits`.

    Returns:
        The loss, mean over the queries, and the (K+1)-way accuracy: two () tensors.
    """
    return first_is_positive(contrast_logits(queries, keys, negatives, temperature, mask))


def nt_xent(
    views: Sequence[Tensor],
    gathered: Sequence[Tensor],
    offset: int,
    temperature: float,
    reduction: Literal["mean2n", "simclr"] = "mean2n",
    tile: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Normalised temperature-scaled cross-entropy (Chen et al. 2020, equation 1), local rows against gathered columns.

    Every embedding is an anchor; its positive is the other view of its image; all other embeddings of both views
    are negatives.

    Args:
        views: the two views' embeddings of this process, (B, D) each. They are not normalised here.
        gathered: the same of all processes, (N, D) each; `views` again where there is one process.
        offset: the row of `gathered` that holds this process's first row.
        temperature: what the inner products are divided by.
        reduction: "mean2n" is the paper's mean over all anchors; "simclr" is what the published code computes, the
            sum of the two views' means, twice as large.
        tile: where given, scores are formed in tiles of at most (tile, tile) and formed again in the backward pass,
            so that memory grows with the embeddings and not with the square of their number.

    Returns:
        The loss and the N-way accuracy of finding view 2 of an image from its view 1, two () tensors.
    """
    columns = torch.cat([at_least_float32(view) for view in gathered])  # (2 N, D)
    means = []
    for number, (anchors, partners) in enumerate(((views[0], views[1]), (views[1], views[0]))):
        own = number * len(gathered[0]) + offset
        scaled = at_least_float32(anchors) / temperature
        positive = (scaled * at_least_float32(partners)).sum(dim=1)  # (B,)
        means.append((log_sum_exp(scaled, columns, own, tile) - positive).mean())
    loss = torch.stack(means).mean() if reduction == "mean2n" else torch.stack(means).sum()
    return loss, _accuracy(views, gathered[1], offset, tile)


@torch.no_grad()
def _accuracy(views: Sequence[Tensor], columns: Tensor, offset: int, tile: int | None) -> Tensor:
    """Share of first views whose own second view is strictly the nearest of all second views: ()."""
    hits = []
    size = tile or max(len(views[0]), len(columns))
    for row in range(0, len(views[0]), size):
        anchors = views[0][row : row + size]
        positive = (at_least_float32(anchors) * at_least_float32(views[1][row : row + size])).sum(dim=1)  # (b,)
        nearest = torch.full_like(positive, -torch.inf)
        for column in range(0, len(columns), size):
            scores = _scores(anchors, columns[column : column + size], offset + row - column)
            nearest = torch.maximum(nearest, scores.amax(dim=1))
        hits.append(positive > nearest)
    return torch.cat(hits).float().mean()


def log_sum_exp(anchors: Tensor, columns: Tensor, own: int, tile: int | None = None) -> Tensor:
    """log of the sum over all columns j != own + i of exp(anchor_i . column_j): (B, D), (M, D) -> (B,)."""
    if tile is None:
        return _scores(anchors, columns, own).logsumexp(dim=1)
    result: Tensor = _TiledLogSumExp.apply(anchors, columns, own, tile)
    return result


def _scores(anchors: Tensor, columns: Tensor, own: int) -> Tensor:
    """Inner products (b, m), -inf where the column is own + i; `own` may lie outside the columns."""
    scores = similarity(anchors, columns)
    # A diagonal needs no index tensor; it is empty where no anchor meets itself among these columns.
    if -len(anchors) < own < len(columns):
        scores.diagonal(own).fill_(-torch.inf)
    return scores


class _TiledLogSumExp(torch.autograd.Function):
    """`log_sum_exp` with at most (tile, tile) scores alive; the backward pass forms them again from the inputs."""

    @staticmethod
    def forward(ctx: Any, anchors: Tensor, columns: Tensor, own: int, tile: int) -> Tensor:
        sums = anchors.new_full((len(anchors),), -torch.inf)
        for row, column in _tiles(len(anchors), len(columns), tile):
            scores = _scores(anchors[row : row + tile], columns[column : column + tile], own + row - column)
            part = sums[row : row + tile]
            torch.logaddexp(part, scores.logsumexp(dim=1), out=part)
        ctx.save_for_backward(anchors, columns, sums)
        ctx.own, ctx.tile = own, tile
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        anchors, columns, sums = ctx.saved_tensors
        tile = ctx.tile
        to_anchors, to_columns = torch.zeros_like(anchors), torch.zeros_like(columns)
        for row, column in _tiles(len(anchors), len(columns), tile):
            rows, parts = slice(row, row + tile), slice(column, column + tile)
            scores = _scores(anchors[rows], columns[parts], ctx.own + row - column)
            # d log-sum-exp / d score = softmax = exp(score - log-sum-exp)
            weights = scores.sub_(sums[rows, None]).exp_().mul_(gradient[rows, None])
            to_anchors[rows].addmm_(weights, columns[parts])
            to_columns[parts].addmm_(weights.T, anchors[rows])
        return to_anchors, to_columns, None, None


def _tiles(rows: int, columns: int, tile: int) -> list[tuple[int, int]]:
    return [(row, column) for row in range(0, rows, tile) for column in range(0, columns, tile)]
