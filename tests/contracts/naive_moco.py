"""The losses of MoCo and of the methods built on it, by plain loops over queries and negatives."""

from typing import cast

from torch import Tensor

from selfsup.batch import Batch
from selfsup.methods.base import Method
from selfsup.methods.moco import MoCo
from selfsup.methods.simclr_v2 import SimCLRv2


def moco_loss(method: Method, embeddings: list[Tensor], batch: Batch, update: dict[str, Tensor]) -> Tensor:
    """He et al. 2020, equation 1, mean over the queries; keys of the query's own image are no negatives.

    One key per image is that of view 2. Of two keys per image, key v is that of view v, and the losses of both
    directions are added.
    """
    moco = cast(MoCo, method)
    total = embeddings[0].new_zeros(())
    for direction in range(len(embeddings)):
        for n, query in enumerate(embeddings[direction]):
            positive, negatives = key_and_negatives(moco, direction, n, batch, update)
            exponentials = [(query @ key / moco.config.temperature).exp() for key in [positive, *negatives]]
            total = total - (exponentials[0] / sum(exponentials)).log()
    return total / len(batch.indices)


def simclr_v2_loss(method: Method, embeddings: list[Tensor], batch: Batch, update: dict[str, Tensor]) -> Tensor:
    """Symmetric MoCo with the batch's keys; the mean over both views, or their sum as in SimCLR's published code."""
    config = cast(SimCLRv2, method).config
    return moco_loss(method, embeddings, batch, update) / (2 if config.reduction == "mean2n" else 1)


def key_and_negatives(
    moco: MoCo, direction: int, n: int, batch: Batch, update: dict[str, Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """The key of query n and its negatives: older keys of other images, and the batch's where they are asked for."""
    keys = update["keys"]  # (N, 1 or 2, D)
    views = keys.shape[1]
    negatives = []
    if moco.queue is not None:
        for old, image in zip(moco.queue.features, moco.queue.indices, strict=True):
            if image != batch.indices[n]:
                negatives.append(old)
    if moco.config.batch_negatives:
        negatives += [keys[m, view] for view in range(views) for m in range(len(keys)) if m != n]
    return keys[n, views - 1 - direction], negatives
