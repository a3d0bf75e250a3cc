"""XBM on small pictures of cars for two CPU cores: `metric_cars_cpu` with a memory of the last 2,048 embeddings.

    selfsup pretrain xbm_cars_cpu --data.root PATH

Not a published setting: batch 64 of 16 classes with 4 images each, and a memory that fills after 200 steps. The figure
to watch is feature_drift, which tells how fast embeddings in the memory grow old. Not run yet.
"""

from selfsup.augment.parameters import View
from selfsup.augment.presets import IMAGENET_MEAN, IMAGENET_STD
from selfsup.augment.views import Augment
from selfsup.config import Data
from selfsup.data.sampling import ClassBalanced
from selfsup.methods.pair_losses import MultiSimilarity
from selfsup.methods.xbm import XBM
from selfsup.models.resnet import ResNet
from selfsup.optim import AdamW
from selfsup.pretrain import Run
from selfsup.schedules import Cosine

recipe = Run(
    name="xbm_cars_cpu",
    method=XBM.Config(loss=MultiSimilarity.Config(), memory_size=2048, memory_start=200, drift_every=50),
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
