"""SimCLR v1 on ImageNet, ResNet-50, as published (Chen et al. 2020, sections 2 and B.6).

    accelerate launch --num_processes 32 -m selfsup pretrain simclr_imagenet --data.root PATH

Batch 4,096, LARS at 0.3 B / 256 = 4.8, decay 1e-6, 100 epochs with 10 of warm-up, temperature 0.1, full augmentation
with the brightness of the first version (added), cubic resizing at test time.
Departures: the network is torchvision's; the authors' own differs in max-pooling (padded at the right and the bottom
alone) and in its start, at depth 50 not in its shortcuts (--encoder.variant simclr has all of it). The decay is the
paper's; the README's command has 1e-4. Those of the augmentation are named in selfsup/augment/presets.py.
Published: 64.5 % by linear probe after 100 epochs, 69.1 % after 1,000 (google-research/simclr README). Not run by us.
"""

from selfsup.augment import presets
from selfsup.methods.simclr import SimCLR
from selfsup.models.heads import Head
from selfsup.models.resnet import ResNet
from selfsup.optim.optimizers import LARS
from selfsup.optim.schedules import SimCLRCosine
from selfsup.pretraining import Run

recipe = Run(
    name="simclr_imagenet",
    method=SimCLR.Config(temperature=0.1, reduction="simclr", head=Head.Config(hidden_layers=1, batch_norm="all")),
    encoder=ResNet.Config(depth=50, zero_init_residual=True),
    augment=presets.simclr(additive_brightness=True),
    optimizer=LARS.Config(learning_rate=0.3, scaling="linear", weight_decay=1e-6),
    schedule=SimCLRCosine(warmup_epochs=10),
    epochs=100,
    batch_size=4096,
    test_fraction=0.875,
    test_interpolation="bicubic_aliased",
    workers=12,
    evaluate_every=10,
)
