"""Multi-similarity on small pictures of cars for two CPU cores: a ResNet of 0.3 M parameters at 64 pixels.

    selfsup pretrain simclr_cars_cpu --data.root cars
    selfsup pretrain metric_cars_cpu --data.root cars --start runs/simclr_cars_cpu

Not a published setting: from an encoder that has seen no label, small batches of 4 classes with 4 images each, 4
epochs; every image is decoded once, to 72 pixels, and kept. Another loss by changing `loss` in a copy of this file.
Chosen by Recall@1 on 20 training classes that were left out: from random weights with batch 64 it was below raw pixels.
"""

from selfsup.augment.parameters import View
from selfsup.augment.presets import IMAGENET_MEAN, IMAGENET_STD
from selfsup.augment.views import Augment
from selfsup.data.sampling import ClassBalanced
from selfsup.data.settings import Data
from selfsup.methods.metric import Metric
from selfsup.methods.pair_losses import MultiSimilarity
from selfsup.models.resnet import ResNet
from selfsup.optim.optimizers import AdamW
from selfsup.optim.schedules import Cosine
from selfsup.pretraining import Run

recipe = Run(
    name="metric_cars_cpu",
    method=Metric.Config(loss=MultiSimilarity.Config()),
    encoder=ResNet.Config(depth="small", stem="small"),
    augment=Augment(views=(View(size=64, crop_scale=(0.4, 1.0), mean=IMAGENET_MEAN, std=IMAGENET_STD),)),
    data=Data(canvas=72),
    sampling=ClassBalanced(per_class=4),
    optimizer=AdamW.Config(learning_rate=3e-4, weight_decay=0.01),
    schedule=Cosine(warmup_epochs=1),
    epochs=4,
    batch_size=16,
    workers=0,
)
