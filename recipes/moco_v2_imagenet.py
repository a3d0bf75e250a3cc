"""MoCo v2 on ImageNet, ResNet-50, as published (Chen et al. 2020, "Improved baselines").

    accelerate launch --num_processes 8 -m selfsup pretrain moco_v2_imagenet --data.root PATH

Batch 256, batch norm in 8 groups as on 8 GPUs, SGD at 0.03, decay 1e-4, 200 epochs of cosine, queue 65,536, momentum
0.999, temperature 0.2. Published: 67.5 % by linear probe after 200 epochs, 71.1 % after 800. Not run by us.
Departures: an image's own older keys in the queue are no negatives, in the published code they are; the blur is a true
Gaussian, there PIL's approximation by box filters.
"""

from selfsup.augment import presets
from selfsup.methods.moco import MoCo
from selfsup.models.resnet import ResNet
from selfsup.optim.optimizers import SGD
from selfsup.optim.schedules import Cosine
from selfsup.pretraining import Run

recipe = Run(
    name="moco_v2_imagenet",
    method=MoCo.Config(queue_size=65_536, momentum=0.999, temperature=0.2),
    encoder=ResNet.Config(depth=50),
    augment=presets.moco_v2(),
    optimizer=SGD.Config(learning_rate=0.03, scaling="linear", weight_decay=1e-4),
    schedule=Cosine(per="epoch"),
    epochs=200,
    batch_size=256,
    test_fraction=0.875,
    workers=12,
    evaluate_every=10,
)
