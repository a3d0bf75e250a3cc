"""SupCon's loss by loops, in double precision."""

import torch
from torch import Tensor

from selfsup.batch import Batch


def supcon_loss(method, embeddings: list[Tensor], batch: Batch, update: dict[str, Tensor]) -> Tensor:
    """Khosla et al. 2020, equation 2, times temperature / base temperature."""
    config = method.config
    # (row, label) of every view of every image; the anchors come first among them.
    rows = [
        (row, label) for view in embeddings for row, label in zip(view.double(), batch.labels.tolist(), strict=True)
    ]
    count = len(rows) if config.anchors == "all" else len(embeddings[0])
    losses = []
    for i in range(count):
        others = [j for j in range(len(rows)) if j != i]
        positives = [j for j in others if rows[j][1] == rows[i][1]]
        scores = {j: rows[i][0] @ rows[j][0] / config.temperature for j in others}
        total = torch.stack(list(scores.values())).exp().sum()
        loss = torch.zeros((), dtype=torch.float64)
        for p in positives:
            loss = loss - (scores[p].exp() / total).log() / len(positives)
        losses.append(config.temperature / config.base_temperature * loss)
    return torch.stack(losses).mean()
