"""Losses against one learnt proxy per class, which need no pairs of images: Proxy-NCA and Proxy-Anchor."""

import torch
from torch import Tensor

from selfsup.losses.pairs import Gather, alone, weighted_mean
from selfsup.losses.soft_pairs import log1p_exp, masked_log_sum_exp


def proxy_nca(similarity: Tensor, labels: Tensor, gather: Gather = alone) -> Tensor:
    """-log(exp(-d(x, own proxy)) / sum over the other proxies of exp(-d(x, proxy))), d the squared distance.

    Movshovitz-Attias et al. 2017, equation 5; mean over images. As published the own proxy is not in the sum, so that
    the loss may be negative.

    Args:
        similarity: (B, C) inner products of unit rows and unit proxies.
        labels: (B,) int64 classes, numbers of the proxies.
        gather: brings the rows of all processes together.
    """
    own = _one_hot(labels, similarity)
    closeness = 2 * similarity - 2  # minus the squared distance
    values = masked_log_sum_exp(closeness, ~own) - torch.where(own, closeness, 0).sum(dim=1)
    return weighted_mean(values, torch.ones_like(values), gather)


def proxy_anchor(
    similarity: Tensor, labels: Tensor, alpha: float = 32.0, margin: float = 0.1, gather: Gather = alone
) -> Tensor:
    """Every proxy against all images of the batch (Kim et al. 2020, equation 4). Arguments as for `proxy_nca`.

    log(1 + sum over images x of its class of exp(-alpha (s(x) - margin))), mean over the classes of the batch, plus
    log(1 + sum over the other images of exp(alpha (s(x) + margin))), mean over all classes.
    """
    own = _one_hot(labels, similarity)
    pull = masked_log_sum_exp(-alpha * (similarity - margin), own, dim=0)  # (C,) of this process's images
    push = masked_log_sum_exp(alpha * (similarity + margin), ~own, dim=0)
    sums = gather(torch.stack([pull, push])[None]).logsumexp(dim=0)  # (2, C) of all
    values = log1p_exp(sums)
    present = gather(own.any(dim=0)[None].long()).amax(dim=0).to(values.dtype)  # (C,)
    return (values[0] * present).sum() / present.sum() + values[1].mean()


def _one_hot(labels: Tensor, similarity: Tensor) -> Tensor:
    """(B, C) bool: the proxy of each image."""
    return labels[:, None] == torch.arange(similarity.shape[1], device=labels.device)
