"""Health of an embedding: figures that show a collapse while the loss may still look well."""

import torch
from torch import Tensor

from selfsup.devices.double import double_device, to_double

UNIFORMITY_ROWS = 256  # pairs grow with the square; 32,640 of them are enough for a logged figure


@torch.no_grad()
def feature_health(a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """Spread of features and closeness of positive pairs (Wang and Isola 2020; Chen and He 2021, section 4.1).

    Args:
        a, b: (B, D) unit rows, row i of both from the same image; B at least 2.

    Returns:
        Three detached () tensors. "feature_std": standard deviation of a coordinate over the rows of `a`, mean over
        coordinates, times sqrt(D): near 1 for evenly spread rows, 0 for a collapsed encoder. "alignment": mean squared
        distance of positive pairs, in [0, 4]. "uniformity": log of the mean of exp(-2 |x - y|^2) over pairs of the
        first 256 rows of `a`, 0 for a collapsed encoder, about -4 for evenly spread rows.
    """
    a, b = a.float(), b.float()
    few = a[:UNIFORMITY_ROWS].to(double_device(a.device))  # MPS has no `pdist` either
    squared = torch.pdist(few).square()  # (n (n - 1) / 2,)
    return {
        "feature_std": a.std(dim=0).mean() * a.shape[1] ** 0.5,
        "alignment": (a - b).square().sum(dim=1).mean(),
        "uniformity": squared.mul(-2).exp().mean().log().to(a.device),
    }


def effective_rank(rows: Tensor) -> float:
    """Exponential of the entropy of the singular values' shares: how many directions rows have (Roy and Vetterli 2007).

    Of embeddings it is RankMe (Garrido et al. 2023, equations 1 and 2, with its epsilon).

    Args:
        rows: (n, D), finite.

    Returns:
        A number in [1, min(n, D)].
    """
    rows = to_double(rows)
    gram = rows @ rows.T if rows.shape[0] < rows.shape[1] else rows.T @ rows
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    shares = singular / singular.sum().clamp(min=torch.finfo(singular.dtype).tiny) + 1e-7
    return float((-(shares * shares.log()).sum()).exp())
