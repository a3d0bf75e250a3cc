"""Encoders and batches small enough to train in a blink."""

import torch
from torch import Tensor, nn

from selfsup.batch import Batch
from selfsup.models.encoder import Encoder


class Toy(Encoder):
    """A convolution and a pool, with or without batch norm: (B, 3, S, S) -> (B, 16)."""

    feature_dim = 16

    def __init__(self, batch_norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, 2, padding=1)
        self.norm = nn.BatchNorm2d(16) if batch_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.norm(self.conv(x))
        return maps.relu().mean(dim=(2, 3))


def toy(batch_norm: bool) -> Toy:
    torch.manual_seed(0)
    return Toy(batch_norm)


def global_batch(step: int, size: int, num_images: int = 1000) -> tuple[list[Tensor], Batch]:
    """Two views of `size` images, and their batch: a pure function of the step."""
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(size, 3, 8, 8, generator=generator)
    views = [images + 0.3 * torch.randn(size, 3, 8, 8, generator=generator) for _ in range(2)]
    indices = torch.randperm(num_images, generator=generator)[:size]
    return views, Batch(images.byte(), torch.full((size,), -1), indices)
