"""SpCL in plain PyTorch (Ge et al. 2020), on images of one domain, none of which has a label."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SpCL(nn.Module):
    """An image is to find its cluster among all clusters and single images of a memory (equation 1)."""

    def __init__(
        self, encoder: nn.Module, feature_dim: int, num_images: int, k1: int = 30, k2: int = 6, min_samples: int = 4
    ) -> None:
        super().__init__()
        self.encoder, self.neck = encoder, nn.BatchNorm1d(feature_dim)
        self.neck.bias.requires_grad_(False)
        self.temperature, self.momentum, self.eps = 0.05, 0.2, 0.6
        self.k1, self.k2, self.min_samples = k1, k2, min_samples
        # A unit row for every image; before the first epoch: `embed` of all images, in evaluation mode.
        self.memory = nn.Buffer(torch.zeros(num_images, feature_dim))
        self.clusters = nn.Buffer(torch.arange(num_images))
        self.threshold = nn.Buffer(torch.tensor(torch.nan, dtype=torch.float64))  # set in the first epoch

    def embed(self, images: Tensor) -> Tensor:  # (B, C, S, S) -> (B, D), unit rows
        return F.normalize(self.neck(self.encoder(images)))

    def begin_epoch(self) -> None:
        """Find the clusters anew, and keep those that are independent and compact (section 3.3)."""
        distance = jaccard_distance(self.memory, self.k1, self.k2)
        labels, tight, loose = (dbscan(distance, self.eps + gap, self.min_samples) for gap in (0.0, -0.02, 0.02))
        independence = least_of_cluster(disagreement(labels, loose), labels)
        compactness = disagreement(labels, tight)
        same = labels[:, None] == labels
        # Of each cluster with more than one image the first one.
        ranked = independence[(same.tril().sum(dim=1) == 1) & (same.sum(dim=1) > 1)].sort().values
        if self.threshold.isnan() and len(ranked):
            self.threshold.copy_(ranked[min(len(ranked) - 1, round(0.9 * len(ranked)))])
        kept = (independence <= self.threshold) & (compactness <= least_of_cluster(compactness, labels))
        self.clusters.copy_(alone(torch.where(kept, labels, -1)).unique(return_inverse=True)[1])

    def forward(self, images: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        x = self.embed(images)  # (B, D)
        members = F.one_hot(self.clusters).to(x.dtype)  # (n, C)
        means = members.T @ self.memory / members.sum(dim=0)[:, None]  # (C, D), not normalised
        exponentials = (x @ means.T / self.temperature).exp()  # (B, C)
        probability = exponentials / (exponentials.sum(dim=1, keepdim=True) + 1e-6)  # both constants as published
        own = probability.gather(1, self.clusters[indices][:, None])
        return -(own + 1e-6).log().mean(), x.detach()

    def after_step(self, x: Tensor, indices: Tensor) -> None:
        self.memory[indices] = F.normalize(self.momentum * self.memory[indices] + (1 - self.momentum) * x)


def jaccard_distance(x: Tensor, k1: int, k2: int) -> Tensor:
    """k-reciprocal Jaccard distances of all unit rows (Zhong et al. 2017): (n, D) -> (n, n)."""
    ranks = (x @ x.T).topk(k1).indices  # (n, k1), each image among its own neighbours
    sets = [torch.zeros_like(x @ x.T).scatter(1, ranks[:, :k], 1.0) for k in (k1, round(k1 / 2) + 1)]
    near, half = (found * found.T for found in sets)  # (n, n) of 0 and 1: neighbours of each other
    joins = near * (3 * (near @ half.T) > 2 * half.sum(dim=1))  # members most of whose own sets lie within
    weights = (2 * x @ x.T).exp() * (near + joins @ half > 0)  # softmax of the negative squared distance
    weights = (weights / weights.sum(dim=1, keepdim=True))[ranks[:, :k2]].mean(dim=1)
    shared = torch.stack([torch.minimum(weights, row).sum(dim=1) for row in weights])
    return (1 - shared / (2 - shared)).round(decimals=9)


def dbscan(distance: Tensor, radius: float, min_samples: int) -> Tensor:
    """(n,) clusters of density (Ester et al. 1996), each named by its first core; others are alone."""
    n, near = len(distance), distance <= round(radius, 9)
    cores = near.sum(dim=1) >= min_samples
    labels = torch.where(cores, torch.arange(n, device=distance.device), n)
    while True:  # the smallest name spreads from core to core, and at last to what is near one
        spread = torch.where(near & cores, labels, n).amin(dim=1)
        if torch.equal(spread[cores], labels[cores]):
            return alone(spread.masked_fill(spread == n, -1))
        labels = torch.where(cores, spread, n)


def alone(labels: Tensor) -> Tensor:
    """Give each image of no cluster, -1, a name of its own."""
    return torch.where(labels < 0, len(labels) + torch.arange(len(labels), device=labels.device), labels)


def disagreement(labels: Tensor, others: Tensor) -> Tensor:
    """How much the companions of each image differ between two clusterings, in [0, 1): (n,)."""
    a, b = labels[:, None] == labels, others[:, None] == others
    return 1 - (a & b).sum(dim=1).double() / (a | b).sum(dim=1)


def least_of_cluster(scores: Tensor, labels: Tensor) -> Tensor:
    return torch.where(labels[:, None] == labels, scores, torch.inf).amin(dim=1)


def train_step(model: SpCL, optimizer: torch.optim.Optimizer, images: Tensor, indices: Tensor) -> float:
    """One step: the loss. `indices` (B,) are the images' places in the data."""
    loss, x = model(images, indices)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    model.after_step(x, indices)
    return float(loss.detach())
