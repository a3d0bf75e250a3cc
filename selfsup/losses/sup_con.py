"""The supervised contrastive loss: a pure function of embeddings and of what says which are alike, no collectives."""

from torch import Tensor

from selfsup.losses.contrastive import at_least_float32
from selfsup.losses.pairing import Mask, Pairing, Same
from selfsup.losses.tiles import mean_contrast


def sup_con(
    anchors: Tensor,
    columns: Tensor,
    positive: Mask,
    excluded: Mask | None,
    temperature: float,
    base_temperature: float = 0.07,
    own: tuple[int, ...] = (),
) -> tuple[Tensor, Tensor]:
    """Several positives for an anchor, each against all other columns (Khosla et al. 2020, equation 2, "out").

    L_i = - (t / t_b) mean over positives p of i of log(exp(s_ip) / sum over columns a not excluded of exp(s_ia)),
    s = <., .> / t, and the mean of that over all anchors. One without a positive adds 0 and is counted, as published.
    The columns may be a batch's embeddings, a queue's, or both: what is what stands in the masks. Scores are formed in
    tiles: memory grows with anchors and columns, and not with their product unless a mask does.

    Args:
        anchors: (A, D) unit rows.
        columns: (M, D) unit rows, of all processes.
        positive: where the column has the anchor's class: (A, M) bool, or `pairing.Same`, which is never formed whole.
        excluded: the same, where the column plays no part, as a row never written. It wins where both are True.
        temperature: t.
        base_temperature: t_b; the published loss has the factor t / t_b, temperature itself leaves it out.
        own: anchors are as many equal blocks as there are numbers; column own[k] + i is excluded for anchor i of
            block k, because it is the anchor itself.

    Returns:
        The loss, and the share of anchors for which a positive is strictly the nearest column: two ().
    """
    pairing = Pairing(own=own, left_out=excluded, positive=positive)
    scale = 1 / temperature
    mean, figures = mean_contrast(at_least_float32(anchors), at_least_float32(columns), pairing, scale=scale)
    accuracy = figures.nearest > figures.rival
    return temperature / base_temperature * mean, accuracy.float().mean()


def class_pairs(
    labels: Tensor, gathered: Tensor, offset: int, views: int, anchor_views: int
) -> tuple[Same, tuple[int, ...]]:
    """`positive` and `own` of `sup_con` where the columns are the embeddings of all views, view after view.

    Args:
        labels: (B,) of this process.
        gathered: (N,) of all processes.
        offset: the row of `gathered` that holds this process's first row.
        views: number of views among the columns, V.
        anchor_views: number of views among the anchors, the first U.

    Returns:
        Same class, the anchor included, of (U B, V N) pairs; and the columns where the anchors of each view begin.
    """
    positive = Same(labels.repeat(anchor_views), gathered.repeat(views))
    return positive, tuple(offset + view * len(gathered) for view in range(anchor_views))
