"""MoCo v3 in plain PyTorch (Chen et al. 2021, "An empirical study of training self-supervised vision transformers")."""

import math
from copy import deepcopy
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MoCoV3(nn.Module):
    """The prediction of each view is to find the key of the other view among the keys of the batch (Algorithm 1)."""

    def __init__(
        self,
        encoder: nn.Module,  # images (B, C, S, S) -> features (B, feature_dim)
        feature_dim: int,
        hidden_dim: int = 4096,
        output_dim: int = 256,  # D
        momentum: float = 0.99,  # m, at the beginning
        temperature: float = 0.2,  # tau; 1 for ResNet-50
    ) -> None:
        super().__init__()
        # Three layers are for transformers; ResNet-50 has two, and no batch norm at the end of the predictor.
        self.network = nn.Sequential(encoder, mlp([feature_dim, hidden_dim, hidden_dim, output_dim]))
        self.key_network = deepcopy(self.network).requires_grad_(False)
        self.predictor = mlp([output_dim, hidden_dim, output_dim])  # of the queries alone
        self.momentum, self.temperature = momentum, temperature

    def forward(self, view1: Tensor, view2: Tensor) -> Tensor:
        queries = [F.normalize(self.predictor(self.network(view))) for view in (view1, view2)]  # (B, D) each
        with torch.no_grad():
            keys = [F.normalize(self.key_network(view)) for view in (view1, view2)]  # (B, D) each
        return self.contrast(queries[0], keys[1]) + self.contrast(queries[1], keys[0])

    def contrast(self, queries: Tensor, keys: Tensor) -> Tensor:
        logits = queries @ keys.T / self.temperature  # (B, B)
        own = torch.arange(len(queries), device=queries.device)
        return 2 * self.temperature * F.cross_entropy(logits, own)

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """`progress` is the share of training that is done: the momentum rises to 1 along half a cosine."""
        momentum = 1 - (1 - self.momentum) * (1 + math.cos(math.pi * progress)) / 2
        for key, query in zip(self.key_network.parameters(), self.network.parameters(), strict=True):
            key.lerp_(query, 1 - momentum)  # key <- m key + (1 - m) query


def mlp(widths: list[int]) -> nn.Sequential:
    """Linear layers without bias, batch norm after each, ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]
    layers[-2].requires_grad_(False)  # the last batch norm has neither scale nor shift
    return nn.Sequential(*layers[:-1])


def train_step(model: MoCoV3, optimizer: torch.optim.Optimizer, view1: Tensor, view2: Tensor, progress: float) -> float:
    """One step: the loss."""
    loss = model(view1, view2)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    model.after_step(progress)
    return float(loss.detach())
