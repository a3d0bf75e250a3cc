"""SimCLR on CIFAR-10 for two CPU cores: a ResNet of 0.3 M parameters, minutes instead of days.

    selfsup pretrain simclr_cifar10_cpu --data.root PATH

Not a published setting: batch 256, SGD, and augmentation as for MoCo on CIFAR-10.
"""

from selfsup.augment import presets
from selfsup.config import Data
from selfsup.methods.simclr import SimCLR
from selfsup.models.heads import Head
from selfsup.models.resnet import ResNet
from selfsup.optim import SGD
from selfsup.pretrain import Run
from selfsup.schedules import Cosine

recipe = Run(
    name="simclr_cifar10_cpu",
    method=SimCLR.Config(
        temperature=0.2, head=Head.Config(hidden_layers=1, hidden_dim=256, output_dim=64, batch_norm="hidden")
    ),
    encoder=ResNet.Config(depth="small", stem="small"),
    augment=presets.moco_cifar(),
    data=Data(limit=30_000),
    optimizer=SGD.Config(learning_rate=0.12, scaling="linear", weight_decay=5e-4),
    schedule=Cosine(warmup_epochs=1),
    epochs=12,
    batch_size=256,
    workers=0,
)
