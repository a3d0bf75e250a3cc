"""The loss of MoCo v3 by plain loops over queries and keys."""

from typing import cast

from torch import Tensor

from selfsup.batch import Batch
from selfsup.methods.base import Method
from selfsup.methods.moco_v3 import MoCoV3


def moco_v3_loss(method: Method, embeddings: list[Tensor], batch: Batch, update: dict[str, Tensor]) -> Tensor:
    """Chen et al. 2021, Algorithm 1: a prediction of either view against the keys of the other view of all images."""
    temperature = cast(MoCoV3, method).config.temperature
    total = embeddings[0].new_zeros(())
    for view, queries in enumerate(embeddings):
        keys = update["keys"][:, 1 - view]  # (B, D)
        for n, query in enumerate(queries):
            exponentials = [(query @ key / temperature).exp() for key in keys]
            total = total - (exponentials[n] / sum(exponentials)).log()
    return 2 * temperature * total / len(batch.indices)
