"""A checkpoint as another project saves it, and the parts that many of them have."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from tests.support.tensorflow_bundle import write_bundle

Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class File:
    """What one project saves: content, and what its own code computes of images."""

    layout: str
    content: dict[str, Any]  # as it is saved; for TensorFlow and safetensors tensors by name
    features: Forward
    embedding: Forward | None = None  # of the features
    options: dict[str, Any] = field(default_factory=dict)
    beside: dict[str, dict[str, Any]] = field(default_factory=dict)  # JSON files by name
    kind: str = "pth"
    size: int = 32  # pixels of a side
    prefix: str = ""  # of the encoder's names, as they are read

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.beside.items():
            (folder / name).write_text(json.dumps(content))
        path = (
            folder / {"pth": "weights.pth", "safetensors": "model.safetensors", "tf": "model.ckpt-1.index"}[self.kind]
        )
        if self.kind == "pth":
            torch.save(self.content, path)
        elif self.kind == "safetensors":
            safetensors.torch.save_file({n: t.contiguous().clone() for n, t in self.content.items()}, path)
        else:
            write_bundle(path, self.content)
        return path


def module(**parts: nn.Module) -> Any:  # its parts are found by their names
    whole = nn.Module()
    for name, part in parts.items():
        whole.add_module(name, part)
    return whole


def wrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As DistributedDataParallel and DataParallel name them."""
    return {f"module.{name}": tensor for name, tensor in state.items()}


def mlp(*sizes: int, norm: str = "none", affine: bool = True) -> nn.Sequential:
    """Linear layers with ReLU between; norm "hidden" or "all": batch norm, and no bias before it."""
    layers: list[nn.Module] = []
    for number, (a, b) in enumerate(pairwise(sizes)):
        last = number == len(sizes) - 2
        normed = norm == "all" or (norm == "hidden" and not last)
        layers.append(nn.Linear(a, b, bias=not normed))
        layers += [nn.BatchNorm1d(b, affine=affine or not last)] if normed else []
        layers += [] if last else [nn.ReLU()]
    return nn.Sequential(*layers)


OPTIMIZER = {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
