"""The supervised contrastive loss: a pure function of embeddings and masks, without collectives."""

import torch
from torch import Tensor

from selfsup.losses.contrastive import similarity


def sup_con(
    anchors: Tensor,
    columns: Tensor,
    positive: Tensor,
    excluded: Tensor,
    temperature: float,
    base_temperature: float = 0.07,
) -> tuple[Tensor, Tensor]:
    """Several positives for an anchor, each against all other columns (Khosla et al. 2020, equation 2, "out").

    L_i = - (t / t_b) mean over positives p of i of log(exp(s_ip) / sum over columns a not excluded of exp(s_ia)),
    s = <., .> / t, and the mean of that over all anchors. One without a positive adds 0 and is counted, as published.
    The columns may be a batch's embeddings, a queue's, or both: what is what stands in the masks.

    Args:
        anchors: (A, D) unit rows.
        columns: (M, D) unit rows, of all processes.
        positive: (A, M) bool, True where the column has the anchor's class.
        excluded: (A, M) bool, True where the column plays no part: the anchor itself, a row never written. It wins
            where both are True.
        temperature: t.
        base_temperature: t_b; the published loss has the factor t / t_b, temperature itself leaves it out.

    Returns:
        The loss, and the share of anchors for which a positive is strictly the nearest column: two ().
    """
    scores = similarity(anchors, columns) / temperature  # (A, M)
    positive = positive & ~excluded
    count = positive.sum(dim=1)  # (A,)
    # The lowest number instead of -inf: a row that is excluded whole then has a gradient, and it is 0.
    lowest = torch.finfo(scores.dtype).min
    spread = scores.masked_fill(excluded, lowest).logsumexp(dim=1)
    attraction = (scores * positive).sum(dim=1) / count.clamp(min=1)
    loss = torch.where(count > 0, spread - attraction, 0)
    nearest_positive = scores.masked_fill(~positive, lowest).amax(dim=1)
    nearest_other = scores.masked_fill(positive | excluded, lowest).amax(dim=1)
    accuracy = (count > 0) & (nearest_positive > nearest_other)
    return temperature / base_temperature * loss.mean(), accuracy.float().mean()


def class_masks(labels: Tensor, gathered: Tensor, offset: int, views: int, anchor_views: int) -> tuple[Tensor, Tensor]:
    """Masks of `sup_con` where the columns are the embeddings of all views, view after view.

    Args:
        labels: (B,) of this process.
        gathered: (N,) of all processes.
        offset: the row of `gathered` that holds this process's first row.
        views: number of views among the columns, V.
        anchor_views: number of views among the anchors, the first U.

    Returns:
        positive and excluded, (U B, V N) bool each: same class, the anchor included; and the anchor itself.
    """
    positive = (labels[:, None] == gathered).repeat(anchor_views, views)
    own = torch.arange(len(labels), device=labels.device) + offset  # columns of view 1 that are the anchors of view 1
    own = torch.cat([own + view * len(gathered) for view in range(anchor_views)])  # (U B,)
    excluded = own[:, None] == torch.arange(views * len(gathered), device=labels.device)
    return positive, excluded
