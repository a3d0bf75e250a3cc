"""InfoNCE and NT-Xent: pure functions of embeddings, in single precision or better, without collectives."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from selfsup.losses.pairing import Mask, Pairing
from selfsup.losses.tiles import mean_contrast


def l2_normalize(features: Tensor) -> Tensor:
    """Rows of unit norm in float32 or better: (..., D) -> (..., D)."""
    return F.normalize(at_least_float32(features), dim=-1)


def similarity(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of all rows, (B, D) and (M, D) -> (B, M), in float32 or better, under autocast too."""
    with torch.autocast(a.device.type, enabled=False):
        return at_least_float32(a) @ at_least_float32(b).T


def at_least_float32(x: Tensor) -> Tensor:
    """In single precision, or as it is where that is more."""
    return x if x.dtype == torch.float32 else x.to(torch.promote_types(x.dtype, torch.float32))


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
    queries: Tensor, keys: Tensor, negatives: Tensor, temperature: float, mask: Mask | None = None
) -> tuple[Tensor, Tensor]:
    """InfoNCE (van den Oord et al. 2018; He et al. 2020, equation 1).

    Scores are formed in tiles: memory grows with queries and negatives, not with their product.

    Args:
        queries, keys: (B, D) unit rows; row i of one belongs to row i of the other.
        negatives: (K, D) unit rows.
        temperature: what the inner products are divided by.
        mask: where a negative is to be left out: (B, K) bool, or `pairing.Same`, which is never formed whole.

    Returns:
        The loss, mean over the queries, and the (K+1)-way accuracy: two () tensors. A tie does not count as a hit: a
        collapsed encoder, all of whose scores are equal, has accuracy 0 and not 1.
    """
    scaled = at_least_float32(queries) / temperature
    positive = (scaled * at_least_float32(keys)).sum(dim=1)  # (B,)
    mean, figures = mean_contrast(scaled, at_least_float32(negatives), Pairing(left_out=mask), positive)
    return mean - positive.mean(), (positive > figures.rival).float().mean()


def nt_xent(
    views: Sequence[Tensor],
    gathered: Sequence[Tensor],
    offset: int,
    temperature: float,
    reduction: Literal["mean2n", "simclr"] = "mean2n",
) -> tuple[Tensor, Tensor]:
    """Normalised temperature-scaled cross-entropy (Chen et al. 2020, equation 1), local rows against gathered columns.

    Every embedding is an anchor; its positive is the other view of its image; all other embeddings of both views
    are negatives. Scores are formed in tiles: memory grows with the embeddings, not with the square of their number.

    Args:
        views: the two views' embeddings of this process, (B, D) each. They are not normalised here.
        gathered: the same of all processes, (N, D) each; `views` again where there is one process.
        offset: the row of `gathered` that holds this process's first row.
        temperature: what the inner products are divided by.
        reduction: "mean2n" is the paper's mean over all anchors; "simclr" is what the published code computes, the
            sum of the two views' means, twice as large.

    Returns:
        The loss and the N-way accuracy of finding view 2 of an image from its view 1, two () tensors.
    """
    columns = torch.cat([at_least_float32(view) for view in gathered])  # (2 N, D)
    whole = all(view is column for view, column in zip(views, gathered, strict=True))
    anchors = columns if whole else torch.cat([at_least_float32(view) for view in views])  # (2 B, D)
    count, second = len(views[0]), len(gathered[0])  # `second`: the column where the second views begin
    pairing = Pairing(own=(offset, second + offset), partner=(second + offset, offset), rivals_from=second)
    loss, figures = mean_contrast(anchors, columns, pairing, scale=1 / temperature)
    accuracy = (figures.nearest > figures.rival)[:count].float().mean()
    return loss if reduction == "mean2n" else 2 * loss, accuracy
