"""Cross-batch memory in plain PyTorch (Wang et al. 2020, section 3.3), with the loss of the authors' code."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class XBM(nn.Module):
    """A pair loss over the batch, and the same loss against the embeddings of many batches."""

    def __init__(
        self,
        encoder: nn.Module,  # images (B, C, S, S) -> features (B, feature_dim)
        feature_dim: int,
        output_dim: int = 128,  # D
        memory_size: int = 8192,  # K
        memory_start: int = 1000,  # steps of warm-up
        memory_weight: float = 1.0,  # of the loss against the memory
        margin: float = 0.5,
    ) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(feature_dim, output_dim)
        self.memory_start, self.memory_weight, self.margin = memory_start, memory_weight, margin
        self.memory = nn.Buffer(torch.zeros(memory_size, output_dim))
        self.classes = nn.Buffer(torch.full((memory_size,), -1))
        self.pointer = nn.Buffer(torch.tensor(0))  # the oldest row
        self.filled = nn.Buffer(torch.tensor(0))  # how many rows are in use
        self.steps = nn.Buffer(torch.tensor(0))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        z = F.normalize(self.head(self.encoder(images)))  # (B, D), unit rows
        loss = pair_loss(z, labels, z, labels, self.margin)
        if self.steps < self.memory_start:
            return loss
        # The memory holds the batch, too: a constant that is written before it is read, as published.
        self.remember(z.detach(), labels)
        used = int(self.filled)
        remembered = pair_loss(z, labels, self.memory[:used].clone(), self.classes[:used], self.margin)
        return loss + self.memory_weight * remembered

    @torch.no_grad()
    def remember(self, z: Tensor, labels: Tensor) -> None:
        """Write over the oldest rows."""
        rows = (self.pointer + torch.arange(len(z), device=z.device)) % len(self.memory)
        self.memory[rows], self.classes[rows] = z, labels
        self.pointer.add_(len(z)).remainder_(len(self.memory))
        self.filled.add_(len(z)).clamp_(max=len(self.memory))


def pair_loss(anchors: Tensor, labels: Tensor, references: Tensor, reference_labels: Tensor, margin: float) -> Tensor:
    """1 - s of positive pairs and s of negative pairs above the margin, summed, over the number of anchors.

    anchors (B, D), references (M, D). An anchor and itself have s = 1 and add nothing.
    """
    s = anchors @ references.T  # (B, M)
    same = labels[:, None] == reference_labels
    return ((1 - s) * same + s * (~same & (s > margin))).sum() / len(anchors)


def train_step(model: XBM, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> float:
    """One step: the loss. A batch holds several images of each of its classes."""
    loss = model(images, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    model.steps.add_(1)
    return float(loss.detach())
