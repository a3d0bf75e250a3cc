"""MoCHi (128, 64, 32) on CIFAR-10 for two CPU cores: a ResNet of 0.3 M parameters, minutes instead of days.

    selfsup pretrain mochi_cifar10_cpu --data.root PATH

Not a published setting: batch 64, batch norm in 4 parts and a queue of 4,096, on 30,000 of the images. The small batch
was chosen for MoCo v2 by leave-one-out kNN on 6,000 training images, after 8 epochs of 15,000: 0.404; at 256 0.399.
"""

from selfsup.augment import presets
from selfsup.data.settings import Data
from selfsup.methods.mochi import MoCHi
from selfsup.models.heads import Head
from selfsup.models.resnet import ResNet
from selfsup.optim.optimizers import SGD
from selfsup.optim.schedules import Cosine
from selfsup.pretraining import Run

recipe = Run(
    name="mochi_cifar10_cpu",
    method=MoCHi.Config(
        queue_size=4096,
        batch_norm_splits=4,
        momentum=0.99,
        temperature=0.2,
        head=Head.Config(output_dim=64),
        hardest=128,
        pairs=64,
        with_query=32,
        warmup_epochs=2,
    ),
    encoder=ResNet.Config(depth="small", stem="small"),
    augment=presets.moco_cifar(),
    data=Data(limit=30_000),
    optimizer=SGD.Config(learning_rate=0.24, scaling="linear", weight_decay=5e-4),
    schedule=Cosine(warmup_epochs=1),
    epochs=12,
    batch_size=64,
    workers=0,
)
