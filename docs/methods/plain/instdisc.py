"""Instance discrimination in plain PyTorch (Wu et al. 2018), by noise-contrastive estimation as published."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-7  # of the authors' code


class InstDisc(nn.Module):
    """Each image is a class of its own: one view is to find the image's row in a bank of all images."""

    def __init__(
        self,
        encoder: nn.Module,  # images (B, C, S, S) -> features (B, feature_dim)
        feature_dim: int,
        num_images: int,  # n
        output_dim: int = 128,  # D
        temperature: float = 0.07,  # tau
        momentum: float = 0.5,  # of a bank row
    ) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(feature_dim, output_dim)
        self.temperature, self.momentum = temperature, momentum
        rows = (2 * torch.rand(num_images, output_dim) - 1) * (3 / output_dim) ** 0.5  # of norm about 1
        self.bank = nn.Buffer(rows)
        self.normaliser = nn.Buffer(torch.tensor(0.0))  # Z; 0: not estimated yet

    def forward(self, images: Tensor, indices: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = F.normalize(self.head(self.encoder(images)))  # (B, D)
        rows = torch.cat([indices[:, None], noise], dim=1)  # (B, 1 + K), the own image first
        scores = torch.einsum("bd,bkd->bk", features, self.bank[rows]) / self.temperature
        n = len(self.bank)
        estimate = n * scores.detach().exp().mean()  # Z from the first batch, kept ever after
        normaliser = torch.where(self.normaliser == 0, estimate, self.normaliser)
        probability = scores.exp() / normaliser  # (B, 1 + K)
        chance = noise.shape[1] / n  # K times the probability of noise, 1 / n
        own = -(probability[:, 0] / (probability[:, 0] + chance + EPSILON)).log()  # (B,)
        others = -(chance / (probability[:, 1:] + chance + EPSILON)).log().sum(dim=1)  # (B,)
        return (own + others).mean(), features.detach(), normaliser

    @torch.no_grad()
    def after_step(self, features: Tensor, indices: Tensor, normaliser: Tensor) -> None:
        self.normaliser.copy_(normaliser)
        self.bank[indices] = F.normalize(self.momentum * self.bank[indices] + (1 - self.momentum) * features)


def draw_noise(indices: Tensor, num_negatives: int, num_images: int) -> Tensor:
    """(B, K) other images of each, drawn uniformly with repeats."""
    drawn = torch.randint(num_images - 1, (len(indices), num_negatives), device=indices.device)
    return drawn + (drawn >= indices[:, None])  # the own image is skipped


def train_step(
    model: InstDisc, optimizer: torch.optim.Optimizer, images: Tensor, indices: Tensor, noise: Tensor
) -> float:
    """One step: the loss. `indices` (B,) are the images' places in the data, `noise` comes from `draw_noise`."""
    loss, features, normaliser = model(images, indices, noise)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    model.after_step(features, indices, normaliser)
    return float(loss.detach())
