"""SimCLR with a vision transformer on CIFAR-10 for two CPU cores: 0.8 M parameters, patches of 8 x 8 pixels.

    selfsup pretrain simclr_vit_cifar10_cpu --data.root PATH

Not a published setting: the encoder and the optimizer of moco_v3_cifar10_cpu, the views and the head of
simclr_cifar10_cpu. docs/results/transformers_cpu.md has what it gains over its untrained self.
"""

from dataclasses import replace

from selfsup.augment import presets
from selfsup.augment.views import Augment
from selfsup.data.settings import Data
from selfsup.methods.simclr import SimCLR
from selfsup.models.heads import Head
from selfsup.models.timm import Timm
from selfsup.optim.optimizers import AdamW
from selfsup.optim.schedules import Cosine
from selfsup.pretraining import Run

view = replace(presets.moco_cifar().views[0], crop_scale=(0.2, 1.0))

recipe = Run(
    name="simclr_vit_cifar10_cpu",
    method=SimCLR.Config(
        temperature=0.2, head=Head.Config(hidden_layers=1, hidden_dim=256, output_dim=64, batch_norm="hidden")
    ),
    encoder=Timm.Config(
        name="vit_tiny_patch16_224",
        image_size=32,
        patch_size=8,
        embed_dim=128,
        depth=4,
        num_heads=4,
        variant="moco_v3",
    ),
    augment=Augment(views=(view, view)),
    data=Data(limit=15_000),
    optimizer=AdamW.Config(learning_rate=1e-3, weight_decay=0.05),
    schedule=Cosine(warmup_epochs=1),
    epochs=6,
    batch_size=128,
    workers=0,
)
