"""Instance discrimination on CIFAR-10 for two CPU cores: a ResNet of 0.3 M parameters, minutes instead of days.

    selfsup pretrain instdisc_cifar10_cpu --data.root PATH

Not a published setting: the softmax over 30,000 of the images, with one view an image and so twice the epochs of
simclr_cifar10_cpu for the same work. Not run yet in full. The rate is a first guess, from one short run each on 6,000
images, by kNN (k=200, T=0.1) on 2,000 test images: 0.312 after 5 of 6 epochs; at four times the rate 0.280 after 4,
and 0.293 after 5 of 6 with temperature 0.2 besides.
"""

from dataclasses import replace

from selfsup.augment import presets
from selfsup.augment.views import Augment
from selfsup.config import Data
from selfsup.methods.instdisc import InstDisc
from selfsup.models.resnet import ResNet
from selfsup.optim import SGD
from selfsup.pretrain import Run
from selfsup.schedules import Cosine

view = replace(presets.moco_cifar().views[0], crop_scale=(0.2, 1.0))

recipe = Run(
    name="instdisc_cifar10_cpu",
    method=InstDisc.Config(num_negatives=0, loss="softmax", temperature=0.1, output_dim=64),
    encoder=ResNet.Config(depth="small", stem="small"),
    augment=Augment(views=(view,)),
    data=Data(limit=30_000),
    optimizer=SGD.Config(learning_rate=0.03, scaling="linear", weight_decay=5e-4),
    schedule=Cosine(warmup_epochs=1),
    epochs=20,
    batch_size=128,
    workers=0,
)
