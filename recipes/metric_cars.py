"""Multi-similarity on Cars196, ResNet-50: retrieval among classes that were never trained on (Wang et al. 2019).

    selfsup pretrain metric_cars --data.root PATH

The published code's setting for ResNet-50 (research-ms-loss, example_resnet50.yaml), but for the data: batch 80 of 16
classes with 5 images each, 512-d embeddings, crops of 0.16 to 1 to 227 pixels, tested on the central 227 of 256, beta
40, rate 3e-5 and decay 5e-4, 3,000 steps with drops at 1,200 and 2,400. Another loss by changing `loss` in a copy of
this file.
Departures: the code starts from ImageNet weights and leaves their batch norm as it is, this starts from random ones or,
by --start, from an encoder trained before, so its figures are not to be expected (random weights want a larger rate and
more steps); its Adam adds the decay to the gradient, AdamW subtracts it from the weights; its head starts with a normal
distribution by its outputs and bias 0, ours as torch starts a linear layer. The paper's own network is BN-Inception.
Not run yet.
"""

from selfsup.augment.parameters import View
from selfsup.augment.presets import IMAGENET_MEAN, IMAGENET_STD
from selfsup.augment.views import Augment
from selfsup.data.sampling import ClassBalanced
from selfsup.methods.metric import Metric
from selfsup.methods.pair_losses import MultiSimilarity
from selfsup.models.resnet import ResNet
from selfsup.optim.optimizers import AdamW
from selfsup.optim.schedules import Steps
from selfsup.pretraining import Run

recipe = Run(
    name="metric_cars",
    method=Metric.Config(loss=MultiSimilarity.Config(beta=40.0), output_dim=512),
    encoder=ResNet.Config(depth=50),
    augment=Augment(views=(View(size=227, crop_scale=(0.16, 1.0), mean=IMAGENET_MEAN, std=IMAGENET_STD),)),
    sampling=ClassBalanced(per_class=5, steps_per_epoch=100),
    optimizer=AdamW.Config(learning_rate=3e-5, weight_decay=5e-4, decay_norm_and_bias=True),
    schedule=Steps(milestones=(12, 24)),
    epochs=30,
    batch_size=80,
    test_fraction=227 / 256,
)
