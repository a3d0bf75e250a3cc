"""SimCLR's loss by plain loops over anchors and columns."""

from typing import cast

import torch
from torch import Tensor

from selfsup.batch import Batch
from selfsup.methods.base import Method
from selfsup.methods.simclr import SimCLR


def simclr_loss(method: Method, embeddings: list[Tensor], batch: Batch, update: dict[str, Tensor]) -> Tensor:
    """Chen et al. 2020, equation 1 and Algorithm 1: the mean of l(i, j) over both orders of all pairs."""
    config = cast(SimCLR, method).config
    rows = torch.cat(embeddings)  # (2 N, D)
    count = len(batch.indices)
    total = rows.new_zeros(())
    for i in range(2 * count):
        j = (i + count) % (2 * count)
        others = sum((rows[i] @ rows[k] / config.temperature).exp() for k in range(2 * count) if k != i)
        total = total - ((rows[i] @ rows[j] / config.temperature).exp() / others).log()
    return total / (2 * count if config.reduction == "mean2n" else count)
