"""SimCLRv2 on ImageNet, ResNet-50 with selective kernels, with memory (Chen et al. 2020, "Big self-supervised models").

    accelerate launch --num_processes 32 -m selfsup pretrain simclr_v2_imagenet --data.root PATH

Batch 4,096, LARS at 0.1 sqrt(B) = 6.4, decay 1e-4, 800 epochs with 40 of warm-up, temperature 0.1, head of 3 layers;
keys by a momentum encoder (0.999) and 65,536 older ones. Larger: --encoder.depth 152 --encoder.width 3. Published by
linear probe (google-research/simclr README): 74.6 % for this network, 71.7 % for ResNet-50 without selective kernels
(--encoder.sk-ratio 0), 79.8 % for ResNet-152 3x with them. Without the memory ResNet-50 has 71.1 %, by the author's
word. Rates and epochs are the author's word, too; the code with the memory was never published, so its details are
ours. Departures of the augmentation are named in selfsup/augment/presets.py. Not run by us.
"""

from selfsup.augment import presets
from selfsup.methods.simclr_v2 import SimCLRv2
from selfsup.models.resnet import ResNet
from selfsup.optim.optimizers import LARS
from selfsup.optim.schedules import SimCLRCosine
from selfsup.pretraining import Run

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
    test_interpolation="bicubic_aliased",
    workers=12,
    evaluate_every=10,
)
