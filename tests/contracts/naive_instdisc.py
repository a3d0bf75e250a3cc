"""InstDisc's loss by loops, in double precision."""

import math

import torch
from torch import Tensor

from selfsup.batch import Batch


def instdisc_loss(method, embeddings: list[Tensor], batch: Batch, update: dict[str, Tensor]) -> Tensor:
    """Wu et al. 2018, equations 2 to 9; the images drawn as noise are the method's."""
    config, bank = method.config, method.bank.features.double()
    features, images = embeddings[0].double(), batch.indices.tolist()
    n, k = len(bank), config.num_negatives
    columns = [[y, *others] for y, others in zip(images, method.noise(batch.indices).tolist(), strict=True)]
    if k == 0:
        columns = [[y, *(j for j in range(n) if j != y)] for y in images]
    scores = [
        torch.stack([features[i] @ bank[j] / config.temperature for j in columns[i]]) for i in range(len(features))
    ]
    if config.loss == "softmax":
        losses = [row.exp().sum().log() - row[0] for row in scores]
    else:
        z = _normaliser(method, [row.detach().exp() for row in scores], n)
        losses = [_nce(row.exp() / z, k / n) for row in scores]
    for i, y in enumerate(images):
        losses[i] = losses[i] + config.proximal_weight * sum((features[i] - bank[y]) ** 2)
    return torch.stack(losses).mean()


def _nce(p: Tensor, noise: float) -> Tensor:
    """Of one image: `p` of itself and of each of its K negatives; `noise` is K Pn."""
    loss = -(p[0] / (p[0] + noise + 1e-7)).log()
    for other in p[1:]:
        loss = loss - (noise / (other + noise + 1e-7)).log()
    return loss


def _normaliser(method, exponentials: list[Tensor], n: int) -> float:
    """Z in this step, from what the steps before it have left."""
    config, before = method.config, math.exp(method.log_normaliser)
    now = n * float(torch.stack(exponentials).mean())
    if config.normaliser == "fixed":
        return config.normaliser_value
    if method.steps == 0:
        return now
    if config.normaliser == "first_batch":
        return before
    return config.normaliser_momentum * before + (1 - config.normaliser_momentum) * now
