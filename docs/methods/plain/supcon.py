"""SupCon in plain PyTorch (Khosla et al. 2020, "Supervised contrastive learning")."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SupCon(nn.Module):
    """Each view is to find all views of all images of its class among the views of the batch."""

    def __init__(
        self,
        encoder: nn.Module,  # images (B, C, S, S) -> features (B, feature_dim)
        feature_dim: int,
        output_dim: int = 128,  # D
        temperature: float = 0.1,  # tau
        base_temperature: float = 0.07,  # tau_b
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Sequential(nn.Linear(feature_dim, feature_dim), nn.ReLU(), nn.Linear(feature_dim, output_dim))
        self.temperature, self.base_temperature = temperature, base_temperature

    def forward(self, views: Sequence[Tensor], labels: Tensor) -> Tensor:
        images = torch.cat(list(views))  # (V B, C, S, S), one batch for batch norm
        embeddings = F.normalize(self.head(self.encoder(images)))  # (V B, D), unit rows
        return sup_con(embeddings, labels.repeat(len(views)), self.temperature, self.base_temperature)


def sup_con(embeddings: Tensor, labels: Tensor, temperature: float, base_temperature: float) -> Tensor:
    """Equation 2 ("out"), mean over the anchors; one without a positive adds 0."""
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    positive = (labels[:, None] == labels) & ~itself  # (A, A)
    scores = embeddings @ embeddings.T / temperature
    everything = scores.masked_fill(itself, -torch.inf).logsumexp(dim=1, keepdim=True)  # (A, 1)
    log_probability = scores - everything
    mean = (log_probability * positive).sum(dim=1) / positive.sum(dim=1).clamp(min=1)
    return -temperature / base_temperature * mean.mean()


def train_step(model: SupCon, optimizer: torch.optim.Optimizer, views: Sequence[Tensor], labels: Tensor) -> float:
    """One step: the loss."""
    loss = model(views, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())
