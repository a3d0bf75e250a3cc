"""SimCLRv2 with memory on CIFAR-10 for two CPU cores: a ResNet of 0.3 M parameters, minutes instead of days.

    selfsup pretrain simclr_v2_cifar10_cpu --data.root PATH

Not a published setting: batch 128 and a queue of 4,096 on 30,000 of the images.
"""

from selfsup.augment import presets
from selfsup.data.settings import Data
from selfsup.methods.simclr_v2 import SimCLRv2
from selfsup.models.heads import Head
from selfsup.models.resnet import ResNet
from selfsup.optim.optimizers import SGD
from selfsup.optim.schedules import Cosine
from selfsup.pretraining import Run

recipe = Run(
    name="simclr_v2_cifar10_cpu",
    method=SimCLRv2.Config(
        queue_size=4096,
        momentum=0.99,
        temperature=0.2,
        head=Head.Config(hidden_layers=2, hidden_dim=256, output_dim=64, batch_norm="hidden"),
    ),
    encoder=ResNet.Config(depth="small", stem="small"),
    augment=presets.moco_cifar(),
    data=Data(limit=30_000),
    optimizer=SGD.Config(learning_rate=0.12, scaling="linear", weight_decay=5e-4),
    schedule=Cosine(warmup_epochs=1),
    epochs=12,
    batch_size=128,
    workers=0,
)
