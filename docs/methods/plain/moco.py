"""MoCo v1 and v2 in plain PyTorch (He et al. 2020, Algorithm 1; Chen et al. 2020, "Improved baselines")."""

from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MoCo(nn.Module):
    """A query is to find its key among a queue of older keys."""

    def __init__(
        self,
        encoder: nn.Module,  # images (B, C, S, S) -> features (B, feature_dim)
        feature_dim: int,
        output_dim: int = 128,  # D
        queue_size: int = 65_536,  # K
        momentum: float = 0.999,  # m
        temperature: float = 0.2,  # tau; 0.07 in v1
        groups: int = 8,  # of the batch, each with batch norm of its own, as on 8 GPUs
    ) -> None:
        super().__init__()
        head = nn.Sequential(  # v1: one linear layer
            nn.Linear(feature_dim, feature_dim), nn.ReLU(), nn.Linear(feature_dim, output_dim)
        )
        self.network = nn.Sequential(encoder, head)  # of the queries
        self.key_network = deepcopy(self.network).requires_grad_(False)  # of the keys: a moving average
        self.momentum, self.temperature, self.groups = momentum, temperature, groups
        self.queue = nn.Buffer(F.normalize(torch.randn(queue_size, output_dim)))
        self.owners = nn.Buffer(torch.full((queue_size,), -1))  # whose keys they are; -1: nobody's yet
        self.pointer = nn.Buffer(torch.tensor(0))  # the oldest key

    def embed(self, network: nn.Module, images: Tensor) -> Tensor:  # (B, C, S, S) -> (B, D), unit rows
        return F.normalize(torch.cat([network(group) for group in images.chunk(self.groups)]))

    @torch.no_grad()
    def embed_keys(self, images: Tensor, order: Tensor) -> Tensor:  # the same, without gradient
        # In another order than the queries, so that a key cannot be told by the statistics of its group.
        shuffled = self.embed(self.key_network, images[order])
        return torch.empty_like(shuffled).index_copy_(0, order, shuffled)

    def forward(self, view1: Tensor, view2: Tensor, indices: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        queries = self.embed(self.network, view1)  # (B, D)
        keys = self.embed_keys(view2, order)  # (B, D)
        positive = (queries * keys).sum(dim=1, keepdim=True)  # (B, 1)
        negative = queries @ self.queue.T  # (B, K)
        negative = negative.masked_fill(indices[:, None] == self.owners, -torch.inf)  # older keys of the same image
        logits = torch.cat([positive, negative], dim=1) / self.temperature  # (B, 1 + K)
        return F.cross_entropy(logits, torch.zeros_like(indices)), keys

    @torch.no_grad()
    def after_step(self, keys: Tensor, indices: Tensor) -> None:
        for key, query in zip(self.key_network.parameters(), self.network.parameters(), strict=True):
            key.lerp_(query, 1 - self.momentum)  # key <- m key + (1 - m) query
        rows = (self.pointer + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        self.queue[rows], self.owners[rows] = keys, indices
        self.pointer.add_(len(keys)).remainder_(len(self.queue))


def train_step(
    model: MoCo, optimizer: torch.optim.Optimizer, view1: Tensor, view2: Tensor, indices: Tensor, order: Tensor
) -> float:
    """One step: the loss. `indices` (B,) are the images' places in the data, `order` is torch.randperm(B)."""
    loss, keys = model(view1, view2, indices, order)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    model.after_step(keys, indices)
    return float(loss.detach())
