"""The contrastive loss over classes, clusters and single images (SpCL)."""

import math

import torch
from torch import Tensor

from selfsup.devices.double import double_device
from selfsup.losses.contrastive import similarity

_EPSILON = math.log(1e-6)  # the published code adds 1e-6 to the sum of exponentials, and again to the probability


def cluster_nce(
    embeddings: Tensor, memory: Tensor, labels: Tensor, targets: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """-log(p + 1e-6) of the target class (Ge et al. 2020, equation 1, as in the published code).

    The logit of a class is the mean of the scores of its memory rows, which is the score of their mean, not
    normalised; p_c = exp(l_c) / (sum over non-empty classes of exp(l) + 1e-6). Computed in logarithms, so that no
    temperature makes it overflow; both constants stay, as they bound the loss at 13.8 and the gradient with it.

    Args:
        embeddings: (B, D) unit rows.
        memory: (L, D) rows, without gradient.
        labels: (L,) int64 in [0, L), the class of each memory row; numbers may be missing.
        targets: (B,) int64, classes of the embeddings, none of them empty.
        temperature: what inner products are divided by.

    Returns:
        The loss of each embedding (B,), and the share of embeddings whose own class has the highest logit, ().
    """
    logits = class_logits(embeddings, memory, labels, temperature)  # (L, B)
    own = logits.gather(0, targets[None])[0]  # (B,)
    others = logits.detach().scatter(0, targets[None], -torch.inf).amax(dim=0)
    return bounded_nce(own, logits.logsumexp(dim=0)), (own > others).float().mean()


def class_logits(embeddings: Tensor, memory: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """(L, B) mean scores of each class's memory rows, -inf where a class has none; arguments as for `cluster_nce`."""
    scores = similarity(memory, embeddings) / temperature  # (L, B)
    sizes = torch.zeros_like(labels).index_add_(0, labels, torch.ones_like(labels))  # (L,)
    # Summed class by class in a fixed order: scattered addition would round differently every time on a GPU.
    grouped = scores.index_select(0, labels.argsort(stable=True))
    place = double_device(grouped.device)  # MPS has no `segment_reduce` either
    sums = torch.segment_reduce(grouped.to(place), "sum", lengths=sizes.to(place), unsafe=True, initial=0)  # (L, B)
    sums = sums.to(grouped.device)
    return (sums / sizes.clamp(min=1)[:, None]).masked_fill(sizes[:, None] == 0, -torch.inf)


def bounded_nce(own: Tensor, log_sum: Tensor) -> Tensor:
    """-log(p + 1e-6) for p = exp(own) / (exp(log_sum) + 1e-6), element by element."""
    epsilon = own.new_full((), _EPSILON)  # filled on the device: a number that is sent there is waited for
    return -torch.logaddexp(own - torch.logaddexp(log_sum, epsilon), epsilon)
