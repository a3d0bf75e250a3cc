"""Deep metric learning in plain PyTorch: a loss of pairs, or of proxies, on batches of a few classes."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def pairs(z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Similarities of all rows (B, D), which pairs are of one class, and which of two: (B, B) each."""
    same = labels[:, None] == labels
    return z @ z.T, same & ~torch.eye(len(z), dtype=torch.bool, device=z.device), ~same


def contrastive(z: Tensor, labels: Tensor, margin: float = 1.0) -> Tensor:
    """Hadsell et al. 2006, equation 4: mean over all pairs."""
    s, positive, negative = pairs(z, labels)
    pull = 1 - s[positive]  # half of the squared distance
    push = (margin - (2 - 2 * s[negative]).sqrt()).relu().square() / 2
    return torch.cat([pull, push]).mean()


def triplet(z: Tensor, labels: Tensor, margin: float = 0.2) -> Tensor:
    """Hermans et al. 2017, "batch hard": the farthest positive against the nearest negative of each anchor."""
    s, positive, negative = pairs(z, labels)
    farthest = (2 - 2 * s).masked_fill(~positive, -torch.inf).amax(dim=1).sqrt()  # (B,)
    nearest = (2 - 2 * s).masked_fill(~negative, torch.inf).amin(dim=1).sqrt()
    return (farthest - nearest + margin).relu().mean()


def circle(z: Tensor, labels: Tensor, margin: float = 0.4, scale: float = 80.0) -> Tensor:
    """Sun et al. 2020, equation 6: pairs weighed by how far they are from where they should be."""
    s, positive, negative = pairs(z, labels)
    pull = (1 + margin - s).relu().detach() * (1 - margin - s) * scale
    push = (s + margin).relu().detach() * (s - margin) * scale
    near = pull.masked_fill(~positive, -torch.inf).logsumexp(dim=1)  # (B,)
    far = push.masked_fill(~negative, -torch.inf).logsumexp(dim=1)
    return F.softplus(near + far).mean()


def multi_similarity(
    z: Tensor, labels: Tensor, alpha: float = 2.0, beta: float = 50.0, threshold: float = 0.5, epsilon: float = 0.1
) -> Tensor:
    """Wang et al. 2019, equations 9, 10 and 15: hard pairs, softly weighed."""
    s, positive, negative = pairs(z, labels)
    least = s.masked_fill(~positive, torch.inf).amin(dim=1, keepdim=True)
    largest = s.masked_fill(~negative, -torch.inf).amax(dim=1, keepdim=True)
    positive, negative = positive & (s - epsilon < largest), negative & (s + epsilon > least)
    pull = (positive * (-alpha * (s - threshold)).exp()).sum(dim=1).log1p() / alpha
    push = (negative * (beta * (s - threshold)).exp()).sum(dim=1).log1p() / beta
    return ((pull + push) * positive.any(dim=1) * negative.any(dim=1)).mean()


class ProxyAnchor(nn.Module):
    """Kim et al. 2020, equation 4: a learnt proxy for each class. It wants a rate 100 times that of the network."""

    def __init__(self, num_classes: int, output_dim: int, alpha: float = 32.0, margin: float = 0.1) -> None:
        super().__init__()
        self.proxies = nn.Parameter(torch.randn(num_classes, output_dim) * output_dim**-0.5)
        self.alpha, self.margin = alpha, margin

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        s = z @ F.normalize(self.proxies).T  # (B, C)
        own = labels[:, None] == torch.arange(len(self.proxies), device=labels.device)
        pull = (own * (-self.alpha * (s - self.margin)).exp()).sum(dim=0).log1p()  # (C,), 0 for absent classes
        push = (~own * (self.alpha * (s + self.margin)).exp()).sum(dim=0).log1p()
        return pull.sum() / own.any(dim=0).sum() + push.mean()


class Metric(nn.Module):
    """An encoder and a linear layer whose unit outputs a loss draws together by class."""

    def __init__(
        self, encoder: nn.Module, feature_dim: int, loss: Callable[[Tensor, Tensor], Tensor], output_dim: int = 128
    ) -> None:
        super().__init__()
        self.encoder, self.head, self.loss = encoder, nn.Linear(feature_dim, output_dim), loss

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.loss(F.normalize(self.head(self.encoder(images))), labels)


def train_step(model: Metric, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> float:
    """One step: the loss. A batch holds several images of each of its classes."""
    loss = model(images, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())
