"""MoCo v3 on ImageNet, ResNet-50, as published (Chen et al. 2021, published code CONFIG.md).

    accelerate launch --num_processes 8 -m selfsup pretrain moco_v3_imagenet --data.root PATH

Batch 4,096, LARS at 0.3 B / 256, decay 1.5e-6, 10 epochs of warm-up, 1,000 epochs, momentum from 0.996, temperature 1,
crops from 20 % of the image, and a predictor whose last layer has no batch norm. Published: 74.6 % by linear probe; 300
epochs with decay 1e-6 and momentum from 0.99: 72.8 %. Not run by us.
Departures: the momentum of an update is that of the step before it, there of the step after it; the blur is a true
Gaussian, there PIL's approximation by box filters.
"""

from selfsup.augment import presets
from selfsup.methods.moco_v3 import MoCoV3
from selfsup.models.heads import PlainHead
from selfsup.models.resnet import ResNet
from selfsup.optim.optimizers import LARS
from selfsup.optim.schedules import Cosine
from selfsup.pretraining import Run

recipe = Run(
    name="moco_v3_imagenet",
    method=MoCoV3.Config(
        momentum=0.996,
        temperature=1.0,
        head=PlainHead.Config(hidden_layers=1),
        predictor=PlainHead.Config(batch_norm="hidden"),
    ),
    encoder=ResNet.Config(depth=50, zero_init_residual=True),
    augment=presets.moco_v3(crop_from=0.2),
    optimizer=LARS.Config(learning_rate=0.3, scaling="linear", weight_decay=1.5e-6, exclude=(), rate_in_buffer=False),
    schedule=Cosine(warmup_epochs=10),
    epochs=1000,
    batch_size=4096,
    test_fraction=0.875,
    workers=12,
    evaluate_every=10,
)
