"""Gradient caching of a method on its own, without a trainer."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from selfsup.methods.base import Method
from selfsup.training.gradient_cache import GradientCache

CHUNKS = 4


class Engine:
    """What caching asks of accelerate."""

    def __init__(self, dtype: torch.dtype | None = None, scale: float = 1.0) -> None:
        self.dtype, self.scale = dtype, scale

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast("cpu", self.dtype, enabled=self.dtype is not None)

    def backward(self, loss: Tensor) -> None:
        (loss * self.scale).backward()


def cached(method: Method, mode: str = "chunk", chunks: int = CHUNKS, engine: Engine | None = None) -> GradientCache:
    return GradientCache(method, chunks, mode, engine or Engine())  # type: ignore[arg-type]


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
