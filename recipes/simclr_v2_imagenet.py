"""SimCLRv2 on ImageNet, ResNet-50 with selective kernels, with memory (Chen et al. 2020, "Big self-supervised models").

    accelerate launch --num_processes 32 -m selfsup pretrain simclr_v2_imagenet --data.root PATH

Batch 4,096, LARS at 0.1 sqrt(B) = 6.4, decay 1e-4, 800 epochs with 40 of warm-up, temperature 0.1, head of 3 layers;
keys by a momentum encoder (0.999) and 65,536 older ones. Larger: --encoder.depth 152 --encoder.width 3. Published by
linear probe: 71.7 % for ResNet-50 without selective kernels, 79.8 % for ResNet-152 3x with them; without the memory
about one point less. Not run by us.
"""

from selfsup.augment import presets
from selfsup.methods.simclr_v2 import SimCLRv2
from selfsup.models.resnet import ResNet
from selfsup.optim import LARS
from selfsup.pretrain import Run
from selfsup.schedules import SimCLRCosine

recipe = Run(
    name="simclr_v2_imagenet",
    method=SimCLRv2.Config(queue_size=65_536, momentum=0.999, temperature=0.1, reduction="simclr"),
    encoder=ResNet.Config(depth=50, sk_ratio=0.0625, variant="simclr"),
    augment=presets.simclr(),
    optimizer=LARS.Config(learning_rate=0.1, scaling="sqrt", weight_decay=1e-4),
    schedule=SimCLRCosine(warmup_epochs=40),
    epochs=800,
    batch_size=4096,
    test_fraction=0.875,
    workers=12,
    evaluate_every=10,
)
