"""SpCL's loss by loops: Ge et al. 2020, equation 1, with the two constants of the published code."""

import torch
from torch import Tensor

from selfsup.batch import Batch
from selfsup.methods.spcl import SpCL


def spcl_loss(method: SpCL, embeddings: list[Tensor], batch: Batch, update: dict[str, Tensor]) -> Tensor:
    """Mean over the batch; over each of two domains, and their sum."""
    memory, labels = method.memory.features, method.memory.labels.tolist()
    source: list[Tensor] = []
    target: list[Tensor] = []
    for row, image in enumerate(batch.indices.tolist()):
        means = {}
        for label in set(labels):
            members = [memory[i] for i in range(len(labels)) if labels[i] == label]
            means[label] = torch.stack(members).mean(dim=0)
        exponentials = {
            label: ((embeddings[0][row] * mean).sum() / method.config.temperature).exp()
            for label, mean in means.items()
        }
        total = torch.stack(list(exponentials.values())).sum() + 1e-6
        own = labels[int(method.row_of_image[image])]
        loss = -(exponentials[own] / total + 1e-6).log()
        (source if method.config.domains == "two" and row % 2 == 0 else target).append(loss)
    return torch.stack([torch.stack(losses).mean() for losses in (source, target) if losses]).sum()
