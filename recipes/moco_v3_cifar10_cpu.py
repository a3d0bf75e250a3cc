"""MoCo v3 on CIFAR-10 for two CPU cores: a vision transformer of 0.8 M parameters, patches of 8 x 8 pixels.

    selfsup pretrain moco_v3_cifar10_cpu --data.root PATH

Not a published setting: batch 128, views of MoCo on CIFAR-10 with crops of at least a fifth of the image, solarized in
the second view, and a narrow head. docs/results/transformers_cpu.md has what it gains over its untrained self.
"""

from dataclasses import replace

from selfsup.augment import presets
from selfsup.augment.views import Augment
from selfsup.data.settings import Data
from selfsup.methods.moco_v3 import MoCoV3
from selfsup.models.heads import PlainHead
from selfsup.models.timm import Timm
from selfsup.optim.optimizers import AdamW
from selfsup.optim.schedules import Cosine
from selfsup.pretraining import Run

view = replace(presets.moco_cifar().views[0], crop_scale=(0.2, 1.0))
narrow = PlainHead.Config(hidden_dim=512, output_dim=64)

recipe = Run(
    name="moco_v3_cifar10_cpu",
    method=MoCoV3.Config(momentum=0.99, temperature=0.2, head=replace(narrow, hidden_layers=2), predictor=narrow),
    encoder=Timm.Config(
        name="vit_tiny_patch16_224",
        image_size=32,
        patch_size=8,
        embed_dim=128,
        depth=4,
        num_heads=4,
        variant="moco_v3",
    ),
    augment=Augment(views=(view, replace(view, solarize=0.2))),
    data=Data(limit=15_000),
    optimizer=AdamW.Config(learning_rate=1e-3, weight_decay=0.05),
    schedule=Cosine(warmup_epochs=1),
    epochs=6,
    batch_size=128,
    workers=0,
)
