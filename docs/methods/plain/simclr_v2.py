"""SimCLRv2 with its memory in plain PyTorch (Chen et al. 2020, "Big self-supervised models", section 2)."""

from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SimCLRv2(nn.Module):
    """Each view is to find the other one's key among all keys of the batch and a queue of older ones."""

    def __init__(
        self,
        encoder: nn.Module,  # images (B, C, S, S) -> features (B, feature_dim)
        feature_dim: int,
        output_dim: int = 128,  # D
        queue_size: int = 65_536,  # K
        momentum: float = 0.999,  # m
        temperature: float = 0.1,  # tau
    ) -> None:
        super().__init__()
        self.network = nn.Sequential(encoder, projection_head(feature_dim, output_dim))  # of the queries
        self.key_network = deepcopy(self.network).requires_grad_(False)  # of the keys: a moving average
        self.momentum, self.temperature = momentum, temperature
        self.queue = nn.Buffer(F.normalize(torch.randn(queue_size, output_dim)))
        self.owners = nn.Buffer(torch.full((queue_size,), -1))  # whose keys they are; -1: nobody's yet
        self.pointer = nn.Buffer(torch.tensor(0))  # the oldest key

    def forward(self, view1: Tensor, view2: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        images = torch.cat([view1, view2])  # one batch for batch norm, of queries and of keys
        queries = F.normalize(self.network(images))  # (2B, D)
        with torch.no_grad():
            keys = F.normalize(self.key_network(images))  # (2B, D)
        both = torch.cat([indices, indices])  # (2B,) whose view it is
        columns, owners = torch.cat([self.queue, keys]), torch.cat([self.owners, both])  # (K + 2B, D), (K + 2B,)
        positive = (queries * keys.roll(len(indices), dims=0)).sum(dim=1, keepdim=True)  # the other view's key
        negative = (queries @ columns.T).masked_fill(both[:, None] == owners, -torch.inf)  # none of the same image
        logits = torch.cat([positive, negative], dim=1) / self.temperature  # (2B, 1 + K + 2B)
        return F.cross_entropy(logits, torch.zeros_like(both)), keys

    @torch.no_grad()
    def after_step(self, keys: Tensor, indices: Tensor) -> None:
        for key, query in zip(self.key_network.parameters(), self.network.parameters(), strict=True):
            key.lerp_(query, 1 - self.momentum)  # key <- m key + (1 - m) query
        rows = (self.pointer + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        self.queue[rows], self.owners[rows] = keys, torch.cat([indices, indices])
        self.pointer.add_(len(keys)).remainder_(len(self.queue))


def projection_head(feature_dim: int, output_dim: int) -> nn.Sequential:
    """Three layers with batch norm after each, the last one without shift."""
    layers: list[nn.Module] = []
    for outputs in (feature_dim, feature_dim, output_dim):
        linear, norm = nn.Linear(feature_dim, outputs, bias=False), nn.BatchNorm1d(outputs)
        nn.init.normal_(linear.weight, std=0.01)
        layers += [linear, norm, nn.ReLU()]
    norm.bias.requires_grad_(False)
    return nn.Sequential(*layers[:-1])


def train_step(
    model: SimCLRv2, optimizer: torch.optim.Optimizer, view1: Tensor, view2: Tensor, indices: Tensor
) -> float:
    """One step: the loss. `indices` (B,) are the images' places in the data."""
    loss, keys = model(view1, view2, indices)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    model.after_step(keys, indices)
    return float(loss.detach())
