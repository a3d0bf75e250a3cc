"""Exported encoders that have seen nothing."""

from pathlib import Path

import torch
from torch import Tensor

from selfsup.evaluation.encoder import save_encoder
from selfsup.evaluation.feed import Preprocessing
from selfsup.models.encoder import Encoder
from selfsup.models.heads import Classifier
from selfsup.models.resnet import ResNet

SMALL = ResNet.Config(depth="small", stem="small", width=0.25)
PLAIN = Preprocessing(size=16, fraction=1.0, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def export_untrained(folder: Path, config: Encoder.Config, feed: Preprocessing, factor: float = 1.0) -> Path:
    """Export an encoder with the weights that torch draws now, times `factor`; returns the file of weights."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor * factor for name, tensor in config.build().state_dict().items()}
    save_encoder(folder / "encoder.safetensors", state, config, feed, {})
    return folder / "encoder.safetensors"


def export_classifier(folder: Path, names: tuple[str, ...], images: Tensor, seed: int = 0) -> Path:
    """Export an encoder and a classifier of these classes, with weights as drawn; returns the folder.

    Args:
        folder: where.
        names: of the classes; none: two classes without names.
        images: (N, 3, 16, 16) as the network is fed, among which the classes are spread: its logits have no mean there.
        seed: of the weights.
    """
    torch.manual_seed(seed)
    encoder = SMALL.build().eval()
    config = Classifier.Config(num_classes=len(names) or 2, class_names=names)
    head = config.build(encoder.feature_dim)
    with torch.no_grad():
        features = encoder(images)
        head.linear.weight.normal_().div_(features.std())
        head.linear.bias.copy_(-head.linear.weight @ features.mean(dim=0))
    folder.mkdir(parents=True, exist_ok=True)
    tensors = (config, head.state_dict())
    save_encoder(folder / "encoder.safetensors", encoder.state_dict(), SMALL, PLAIN, {}, tensors)
    return folder
