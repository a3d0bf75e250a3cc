"""MoCo v1 on ImageNet, ResNet-50, as published (He et al. 2020).

    accelerate launch --num_processes 8 -m selfsup pretrain moco_v1_imagenet --data.root PATH

Batch 256, batch norm in 8 groups as on 8 GPUs, SGD at 0.03, decay 1e-4, a tenth at epochs 120 and 160 of 200, linear
head, queue 65,536, momentum 0.999, temperature 0.07. Published: 60.6 % by linear probe. Not run by us.
Departure: an image's own older keys in the queue are no negatives; in the published code they are.
"""

from selfsup.augment import presets
from selfsup.methods.moco import MoCo
from selfsup.models.heads import Head
from selfsup.models.resnet import ResNet
from selfsup.optim.optimizers import SGD
from selfsup.optim.schedules import Steps
from selfsup.pretraining import Run

recipe = Run(
    name="moco_v1_imagenet",
    method=MoCo.Config(queue_size=65_536, momentum=0.999, temperature=0.07, head=Head.Config(hidden_layers=0)),
    encoder=ResNet.Config(depth=50),
    augment=presets.moco_v1(),
    optimizer=SGD.Config(learning_rate=0.03, scaling="linear", weight_decay=1e-4),
    schedule=Steps(milestones=(120, 160)),
    epochs=200,
    batch_size=256,
    test_fraction=0.875,
    workers=12,
    evaluate_every=10,
)
