"""XBM on Cars196, ResNet-50: a cross-batch memory as large as the training set (Wang et al. 2020).

    selfsup pretrain xbm_cars --data.root PATH

The sample configuration of the published code, but for the data: batch 64 of 16 classes with 4 images each, 128-d
embeddings, contrastive loss over similarities with margin 0.5, memory filled after 1,000 steps, rate 1e-4, decay 5e-4.
35,000 steps; tested on the central 224 of 256 pixels.
Not run yet.
Departures: the code has Adam with the decay in the gradient and a rate that falls on plateaus of the test recall,
here it is AdamW with a warm-up and a cosine; it starts from ImageNet weights, this from random ones; its ResNet-50
has no ReLU after the first batch norm and ends in global max pooling, this one is torchvision's; its head starts with
a normal distribution by its outputs and bias 0, ours as torch starts a linear layer; its images are first resized to
256 pixels, which a crop that is resized anyway does not need.
"""

from selfsup.augment.parameters import View
from selfsup.augment.presets import IMAGENET_MEAN, IMAGENET_STD
from selfsup.augment.views import Augment
from selfsup.data.sampling import ClassBalanced
from selfsup.methods.pair_losses import SimilarityContrastive
from selfsup.methods.xbm import XBM
from selfsup.models.resnet import ResNet
from selfsup.optim.optimizers import AdamW
from selfsup.optim.schedules import Cosine
from selfsup.pretraining import Run

recipe = Run(
    name="xbm_cars",
    method=XBM.Config(loss=SimilarityContrastive.Config(margin=0.5), memory_size=8054, memory_start=1000),
    encoder=ResNet.Config(depth=50),
    augment=Augment(views=(View(size=224, crop_scale=(0.2, 1.0), mean=IMAGENET_MEAN, std=IMAGENET_STD),)),
    sampling=ClassBalanced(per_class=4),
    optimizer=AdamW.Config(learning_rate=1e-4, weight_decay=5e-4, decay_norm_and_bias=True),
    schedule=Cosine(warmup_epochs=1),
    epochs=280,
    batch_size=64,
    test_fraction=0.875,
)
