"""What a student learns from a teacher: pure functions, in single precision or better, without collectives."""

import torch
import torch.nn.functional as F
from torch import Tensor

from selfsup.losses.contrastive import at_least_float32


def distillation(student: Tensor, teacher: Tensor, temperature: float, tau_squared: bool = False) -> Tensor:
    """Cross-entropy of the student's softened classes against the teacher's (Chen et al. 2020, SimCLRv2, equation 2).

    L = - mean over x of the sum over y of P_T(y|x; t) log P_S(y|x; t), P(.; t) = softmax(logits / t). Its minimum over
    the student is the teacher's entropy, not 0. The paper's formula has no factor of t; the code published with it has
    t^2 (as Hinton et al. 2015, section 2), which makes gradients of one size at all temperatures.

    Args:
        student: (B, C) logits.
        teacher: (B, C) logits, without gradient.
        temperature: t.
        tau_squared: multiply by t^2.

    Returns:
        () loss.
    """
    targets = (at_least_float32(teacher) / temperature).softmax(dim=1)
    loss = -(targets * (at_least_float32(student) / temperature).log_softmax(dim=1)).sum(dim=1).mean()
    return temperature**2 * loss if tau_squared else loss


def labelled_cross_entropy(logits: Tensor, labels: Tensor, count: Tensor) -> Tensor:
    """Cross-entropy summed over the rows that have a label, over their number.

    Args:
        logits: (B, C).
        labels: (B,) int64; -1 where there is none.
        count: () number of labelled rows that the sum is divided by: of this batch, or, so that the mean over processes
            is the mean over all labelled rows, the mean of the processes' numbers.

    Returns:
        () loss; 0, with a gradient of 0, where no row of any process has a label.
    """
    total = F.cross_entropy(at_least_float32(logits), labels, ignore_index=-1, reduction="sum")
    return total / torch.where(count > 0, count, 1)


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - the mean cosine between rows (B, D): half the squared distance of the unit vectors."""
    return 1 - F.cosine_similarity(at_least_float32(student), at_least_float32(teacher), dim=1).mean()
