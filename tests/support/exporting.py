"""Encoders with heads, drawn and never trained, as `selfsup export` takes them."""

from pathlib import Path
from typing import Any

import torch

from selfsup.evaluation.encoder import save_encoder
from selfsup.evaluation.feed import Preprocessing
from selfsup.models.encoder import Encoder
from selfsup.models.heads import Classifier, Head
from selfsup.models.resnet import ResNet
from selfsup.models.timm import Timm

RESNET = ResNet.Config(depth=18)
NARROW = ResNet.Config(depth=18, width=0.125)
SMALL = ResNet.Config(depth="small", stem="small", width=0.25)
SELECTIVE = ResNet.Config(depth=50, width=0.125, variant="simclr", sk_ratio=0.0625)
# Not the number of heads that is published for any width, and not the epsilon of anyone.
VIT = Timm.Config(name="vit_tiny_patch16_224", image_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=2)
PROJECTION = Head.Config(hidden_layers=1, output_dim=16, batch_norm="all")
CLASSES = Classifier.Config(num_classes=3, class_names=("cat", "dog", "a|b"))


def drawn(folder: Path, config: Encoder.Config, head: Any = PROJECTION, size: int = 32, **feed: Any) -> Path:
    """Export an encoder with a head and with statistics of batch norm that are not those it begins with."""
    torch.manual_seed(0)
    encoder = config.build()
    behind = head.build(encoder.feature_dim)
    for module in (*encoder.modules(), *behind.modules()):
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)  # type: ignore[arg-type]
            torch.nn.init.uniform_(module.running_var, 0.8, 1.2)  # type: ignore[arg-type]
    fed = {"fraction": 0.875, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3), **feed}
    folder.mkdir(parents=True, exist_ok=True)
    save_encoder(
        folder / "encoder.safetensors",
        encoder.state_dict(),
        config,
        Preprocessing(size=size, **fed),
        {"method": "SimCLR", "epochs": 2},
        (head, behind.state_dict()),
    )
    return folder
