"""SupCon with MoCo's queue in plain PyTorch: the loss of Khosla et al. 2020 on the memory of He et al. 2020."""

from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SupMoCo(nn.Module):
    """A query is to find all keys of its class among those of the batch and of the queue."""

    def __init__(
        self,
        encoder: nn.Module,  # images (B, C, S, S) -> features (B, feature_dim)
        feature_dim: int,
        output_dim: int = 128,  # D
        queue_size: int = 65_536,  # K
        momentum: float = 0.999,  # m
        temperature: float = 0.1,  # tau
        base_temperature: float = 0.07,  # tau_b
    ) -> None:
        super().__init__()
        head = nn.Sequential(nn.Linear(feature_dim, feature_dim), nn.ReLU(), nn.Linear(feature_dim, output_dim))
        self.network = nn.Sequential(encoder, head)
        self.key_network = deepcopy(self.network).requires_grad_(False)
        self.momentum, self.temperature, self.base_temperature = momentum, temperature, base_temperature
        self.queue = nn.Buffer(F.normalize(torch.randn(queue_size, output_dim)))
        self.owners = nn.Buffer(torch.full((queue_size,), -1))  # whose keys they are; -1: no key yet
        self.classes = nn.Buffer(torch.full((queue_size,), -1))
        self.pointer = nn.Buffer(torch.tensor(0))  # the oldest key

    def forward(self, view1: Tensor, view2: Tensor, indices: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        queries = F.normalize(self.network(view1))  # (B, D)
        with torch.no_grad():
            keys = F.normalize(self.key_network(view2))  # (B, D)
        scores = queries @ torch.cat([self.queue, keys]).T / self.temperature  # (B, K + B)
        # Places of the queue that hold no key yet, and older keys of the same image, play no part.
        left_out = (self.owners == -1) | (indices[:, None] == self.owners)  # (B, K)
        left_out = torch.cat([left_out, torch.zeros_like(left_out[:, :1]).expand(-1, len(keys))], dim=1)
        positive = (labels[:, None] == torch.cat([self.classes, labels])) & ~left_out
        everything = scores.masked_fill(left_out, -torch.inf).logsumexp(dim=1, keepdim=True)  # (B, 1)
        mean = ((scores - everything) * positive).sum(dim=1) / positive.sum(dim=1)  # its own key is always there
        return -self.temperature / self.base_temperature * mean.mean(), keys

    @torch.no_grad()
    def after_step(self, keys: Tensor, indices: Tensor, labels: Tensor) -> None:
        for key, query in zip(self.key_network.parameters(), self.network.parameters(), strict=True):
            key.lerp_(query, 1 - self.momentum)  # key <- m key + (1 - m) query
        rows = (self.pointer + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        self.queue[rows], self.owners[rows], self.classes[rows] = keys, indices, labels
        self.pointer.add_(len(keys)).remainder_(len(self.queue))


def train_step(
    model: SupMoCo,
    optimizer: torch.optim.Optimizer,
    views: tuple[Tensor, Tensor],
    indices: Tensor,
    labels: Tensor,
) -> float:
    """One step: the loss. `indices` (B,) are the images' places in the data, `labels` (B,) their classes."""
    loss, keys = model(*views, indices, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    model.after_step(keys, indices, labels)
    return float(loss.detach())
