"""XBM on Cars196, ResNet-50: a cross-batch memory as large as the training set (Wang et al. 2020).

    selfsup pretrain xbm_cars --data.root PATH

The sample configuration of the published code, but for the data: batch 64 of 16 classes with 4 images each, 128-d
embeddings, contrastive loss over similarities with margin 0.5, memory filled after 1,000 steps, rate 1e-4, decay 5e-4.
Departures: the code has Adam with the decay in the gradient and a rate that falls on plateaus, here it is AdamW with a
cosine; and it starts from ImageNet weights, this from random ones. Not run yet.
"""

from selfsup.augment.parameters import View
from selfsup.augment.presets import IMAGENET_MEAN, IMAGENET_STD
from selfsup.augment.views import Augment
from selfsup.data.sampling import ClassBalanced
from selfsup.methods.pair_losses import SimilarityContrastive
from selfsup.methods.xbm import XBM
from selfsup.models.resnet import ResNet
from selfsup.optim import AdamW
from selfsup.pretrain import Run
from selfsup.schedules import Cosine

recipe = Run(
    name="xbm_cars",
    method=XBM.Config(loss=SimilarityContrastive.Config(margin=0.5), memory_size=8054, memory_start=1000),
    encoder=ResNet.Config(depth=50),
    augment=Augment(views=(View(size=224, crop_scale=(0.2, 1.0), mean=IMAGENET_MEAN, std=IMAGENET_STD),)),
    sampling=ClassBalanced(per_class=4),
    optimizer=AdamW.Config(learning_rate=1e-4, weight_decay=5e-4),
    schedule=Cosine(warmup_epochs=1),
    epochs=280,
    batch_size=64,
    evaluate_every=10,
)
