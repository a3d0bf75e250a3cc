"""Multi-similarity on small pictures of cars for two CPU cores: a ResNet of 0.3 M parameters at 64 pixels.

    selfsup pretrain metric_cars_cpu --data.root PATH

Not a published setting: batch 64 of 16 classes with 4 images each; every image is decoded once, to 72 pixels, and kept.
Another loss by changing `loss` in a copy of this file. The 20 epochs have not been run yet. 6 epochs (378 steps) are
too few: the recall@1 within a batch rose from 0.05 to 0.16, while among the unseen classes the encoder's features had
0.047, less than those of the untrained one, 0.063.
"""

from selfsup.augment.parameters import View
from selfsup.augment.presets import IMAGENET_MEAN, IMAGENET_STD
from selfsup.augment.views import Augment
from selfsup.config import Data
from selfsup.data.sampling import ClassBalanced
from selfsup.methods.metric import Metric
from selfsup.methods.pair_losses import MultiSimilarity
from selfsup.models.resnet import ResNet
from selfsup.optim import AdamW
from selfsup.pretrain import Run
from selfsup.schedules import Cosine

recipe = Run(
    name="metric_cars_cpu",
    method=Metric.Config(loss=MultiSimilarity.Config()),
    encoder=ResNet.Config(depth="small", stem="small"),
    augment=Augment(views=(View(size=64, crop_scale=(0.2, 1.0), mean=IMAGENET_MEAN, std=IMAGENET_STD),)),
    data=Data(canvas=72),
    sampling=ClassBalanced(per_class=4),
    optimizer=AdamW.Config(learning_rate=1e-3, weight_decay=0.01),
    schedule=Cosine(warmup_epochs=1),
    epochs=20,
    batch_size=64,
    workers=0,
)
