"""SimCLR in plain PyTorch (Chen et al. 2020, "A simple framework for contrastive learning", Algorithm 1)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SimCLR(nn.Module):
    """Each view of an image is to find the other one among all views of the batch."""

    def __init__(
        self,
        encoder: nn.Module,  # images (B, C, S, S) -> features (B, feature_dim)
        feature_dim: int,
        output_dim: int = 128,  # D, of the embeddings
        temperature: float = 0.1,  # tau
    ) -> None:
        super().__init__()
        self.encoder, self.temperature = encoder, temperature
        self.head = nn.Sequential(  # thrown away after training
            linear(feature_dim, feature_dim),
            nn.BatchNorm1d(feature_dim),
            nn.ReLU(),
            linear(feature_dim, feature_dim),
            nn.BatchNorm1d(feature_dim),
            nn.ReLU(),
            linear(feature_dim, output_dim),
            nn.BatchNorm1d(output_dim),
        )
        self.head[-1].bias.requires_grad_(False)  # the last batch norm has no shift

    def forward(self, view1: Tensor, view2: Tensor) -> Tensor:
        # Both views as one batch: batch norm then cannot tell them apart.
        images = torch.cat([view1, view2])  # (2B, C, S, S)
        embeddings = F.normalize(self.head(self.encoder(images)))  # (2B, D), unit rows
        return nt_xent(embeddings, self.temperature)


def linear(inputs: int, outputs: int) -> nn.Linear:
    """Without bias, because batch norm follows; drawn as in the authors' code."""
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(layer.weight, std=0.01)
    return layer


def nt_xent(embeddings: Tensor, temperature: float) -> Tensor:
    """Equation 1, mean over 2B anchors: rows i and i + B are the two views of image i."""
    count = len(embeddings)  # 2B
    rows = torch.arange(count, device=embeddings.device)
    scores = embeddings @ embeddings.T / temperature  # (2B, 2B)
    scores = scores.masked_fill(rows[:, None] == rows, -torch.inf)  # a view is not compared with itself
    return F.cross_entropy(scores, rows.roll(count // 2))  # the target is the other view of the image


def train_step(model: SimCLR, optimizer: torch.optim.Optimizer, view1: Tensor, view2: Tensor) -> float:
    """One step: the loss."""
    loss = model(view1, view2)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())
