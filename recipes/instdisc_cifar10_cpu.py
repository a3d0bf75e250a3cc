"""Instance discrimination on CIFAR-10 for two CPU cores: a ResNet of 0.3 M parameters, minutes instead of days.

    selfsup pretrain instdisc_cifar10_cpu --data.root PATH

Not a published setting: the softmax over 30,000 of the images, one view an image and so twice the epochs of the
recipes with two; batch 64 and a bank momentum of 0.1, since the random rows that a bank starts with take many epochs to
wash out at 0.5. Chosen by leave-one-out kNN on 6,000 training images: 0.396 after 16 epochs of 15,000, and 0.338 with
batch 128, a quarter of the rate, momentum 0.5 and 8 epochs.
"""

from dataclasses import replace

from selfsup.augment import presets
from selfsup.augment.views import Augment
from selfsup.data.settings import Data
from selfsup.methods.instdisc import InstDisc
from selfsup.models.resnet import ResNet
from selfsup.optim.optimizers import SGD
from selfsup.optim.schedules import Cosine
from selfsup.pretraining import Run

view = replace(presets.moco_cifar().views[0], crop_scale=(0.2, 1.0))

recipe = Run(
    name="instdisc_cifar10_cpu",
    method=InstDisc.Config(num_negatives=0, loss="softmax", temperature=0.1, momentum=0.1, output_dim=64),
    encoder=ResNet.Config(depth="small", stem="small"),
    augment=Augment(views=(view,)),
    data=Data(limit=30_000),
    optimizer=SGD.Config(learning_rate=0.24, scaling="linear", weight_decay=5e-4),
    schedule=Cosine(warmup_epochs=1),
    epochs=20,
    batch_size=64,
    workers=0,
)
