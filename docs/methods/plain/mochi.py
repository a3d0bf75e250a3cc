"""MoCHi in plain PyTorch: MoCo with mixed hard negatives (Kalantidis et al. 2020, section 3.3)."""

from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MoCHi(nn.Module):
    """As MoCo, and each query is compared with mixtures of its hardest negatives, too."""

    def __init__(
        self,
        encoder: nn.Module,  # images (B, C, S, S) -> features (B, feature_dim)
        feature_dim: int,
        output_dim: int = 128,  # D
        queue_size: int = 65_536,  # K
        momentum: float = 0.999,  # m
        temperature: float = 0.2,  # tau
        hardest: int = 1024,  # N, negatives of a query that are mixed
        pairs: int = 1024,  # s, mixtures of two of them
        with_query: int = 128,  # s', mixtures of one of them with the query
    ) -> None:
        super().__init__()
        head = nn.Sequential(nn.Linear(feature_dim, feature_dim), nn.ReLU(), nn.Linear(feature_dim, output_dim))
        self.network = nn.Sequential(encoder, head)
        self.key_network = deepcopy(self.network).requires_grad_(False)
        self.momentum, self.temperature = momentum, temperature
        self.hardest, self.pairs, self.with_query = hardest, pairs, with_query
        self.queue = nn.Buffer(F.normalize(torch.randn(queue_size, output_dim)))
        self.owners = nn.Buffer(torch.full((queue_size,), -1))  # whose keys they are; -1: nobody's yet
        self.pointer = nn.Buffer(torch.tensor(0))  # the oldest key

    def forward(self, view1: Tensor, view2: Tensor, indices: Tensor, draws: Tensor | None) -> tuple[Tensor, Tensor]:
        queries = F.normalize(self.network(view1))  # (B, D)
        with torch.no_grad():
            keys = F.normalize(self.key_network(view2))  # (B, D)
        positive = (queries * keys).sum(dim=1, keepdim=True)  # (B, 1)
        own = indices[:, None] == self.owners  # (B, K)
        scores = [positive, (queries @ self.queue.T).masked_fill(own, -torch.inf)]
        if draws is not None:
            mixed = self.mix(queries.detach(), scores[1].detach(), draws)  # (B, s + s', D)
            scores.append(torch.einsum("bd,bsd->bs", queries, mixed))
        return F.cross_entropy(torch.cat(scores, dim=1) / self.temperature, torch.zeros_like(indices)), keys

    def mix(self, queries: Tensor, scores: Tensor, draws: Tensor) -> Tensor:
        """(B, s + s', D) synthetic negatives, unit rows, without gradient."""
        hard = self.queue[scores.topk(self.hardest).indices]  # (B, N, D)
        first, second, alpha, picked, beta = draws.split([self.pairs] * 3 + [self.with_query] * 2, dim=1)
        i = (first * self.hardest).long()
        j = (i + 1 + (second * (self.hardest - 1)).long()) % self.hardest  # any of the others
        k = (picked * self.hardest).long()
        row = torch.arange(len(queries), device=queries.device)[:, None]
        two = alpha[..., None] * hard[row, i] + (1 - alpha[..., None]) * hard[row, j]  # equation 4
        beta = beta[..., None] / 2  # the query has the smaller share
        one = beta * queries[:, None] + (1 - beta) * hard[row, k]  # equation 5
        return F.normalize(torch.cat([two, one], dim=1), dim=2)

    @torch.no_grad()
    def after_step(self, keys: Tensor, indices: Tensor) -> None:
        for key, query in zip(self.key_network.parameters(), self.network.parameters(), strict=True):
            key.lerp_(query, 1 - self.momentum)
        rows = (self.pointer + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        self.queue[rows], self.owners[rows] = keys, indices
        self.pointer.add_(len(keys)).remainder_(len(self.queue))


def train_step(
    model: MoCHi,
    optimizer: torch.optim.Optimizer,
    views: tuple[Tensor, Tensor],
    indices: Tensor,
    draws: Tensor | None,
) -> float:
    """One step: the loss. `draws` is torch.rand(B, 3 s + 2 s'), or None in the first epochs: plain MoCo."""
    loss, keys = model(*views, indices, draws)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    model.after_step(keys, indices)
    return float(loss.detach())
