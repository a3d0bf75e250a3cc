"""MoCo v3 on ImageNet, ViT-S/16, as published (Chen et al. 2021, published code CONFIG.md).

    accelerate launch --num_processes 8 -m selfsup pretrain moco_v3_vit_imagenet --data.root PATH

Batch 4,096, AdamW at 1.5e-4 B / 256, decay 0.1 of every parameter, 40 epochs of warm-up, 300 epochs, temperature 0.2,
crops from 8 % of the image, ViT-S with 12 heads and the patch projection as it was drawn. Published: 73.2 % by linear
probe. Not run by us.
Departures: the momentum of an update is that of the step before it, there of the step after it; the blur is a true
Gaussian, there PIL's approximation by box filters; class token and positions are decayed as all else is, here too.
"""

from selfsup.augment import presets
from selfsup.methods.moco_v3 import MoCoV3
from selfsup.models.heads import PlainHead
from selfsup.models.timm import Timm
from selfsup.optim.optimizers import AdamW
from selfsup.optim.schedules import Cosine
from selfsup.pretraining import Run

recipe = Run(
    name="moco_v3_vit_imagenet",
    method=MoCoV3.Config(
        momentum=0.99, temperature=0.2, head=PlainHead.Config(hidden_layers=2), predictor=PlainHead.Config()
    ),
    encoder=Timm.Config(name="vit_small_patch16_224", num_heads=12, variant="moco_v3"),
    augment=presets.moco_v3(),
    optimizer=AdamW.Config(learning_rate=1.5e-4, scaling="linear", weight_decay=0.1, decay_norm_and_bias=True),
    schedule=Cosine(warmup_epochs=40),
    epochs=300,
    batch_size=4096,
    test_fraction=0.875,
    workers=12,
    evaluate_every=10,
)
