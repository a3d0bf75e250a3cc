"""SupCon on CIFAR-10 for two CPU cores: a ResNet of 0.3 M parameters, minutes instead of days.

    selfsup pretrain supcon_cifar10_cpu --data.root PATH

Not a published setting: batch 256 on 30,000 of the images, with everything but the loss as in simclr_cifar10_cpu, so
that the two show what the labels add. Not run yet in full; 4 epochs on 6,000 images gave a kNN of 0.378 (k=200, T=0.1,
on 2,000 test images), and 0.326 after the first of them.
"""

from dataclasses import replace

from selfsup.augment import presets
from selfsup.augment.views import Augment
from selfsup.data.settings import Data
from selfsup.methods.supcon import SupCon
from selfsup.models.heads import Head
from selfsup.models.resnet import ResNet
from selfsup.optim.optimizers import SGD
from selfsup.optim.schedules import Cosine
from selfsup.pretraining import Run

view = replace(presets.moco_cifar().views[0], crop_scale=(0.2, 1.0))

recipe = Run(
    name="supcon_cifar10_cpu",
    # The factor temperature / base_temperature is 1 here: it would only scale the rate.
    method=SupCon.Config(
        temperature=0.2,
        base_temperature=0.2,
        head=Head.Config(hidden_layers=1, hidden_dim=256, output_dim=64, batch_norm="hidden"),
    ),
    encoder=ResNet.Config(depth="small", stem="small"),
    augment=Augment(views=(view, view)),
    data=Data(limit=30_000),
    optimizer=SGD.Config(learning_rate=0.12, scaling="linear", weight_decay=5e-4),
    schedule=Cosine(warmup_epochs=1),
    epochs=10,
    batch_size=256,
    workers=0,
)
