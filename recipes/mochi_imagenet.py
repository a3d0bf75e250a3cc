"""MoCHi (1024, 512, 256) on ImageNet, ResNet-50 (Kalantidis et al. 2020).

    accelerate launch --num_processes 8 -m selfsup pretrain mochi_imagenet --data.root PATH

MoCo v2's setting of 200 epochs with mixtures after the first ten. (N, s, s') has not been checked against the paper,
which has no published code. An image's own older keys in the queue are no negatives; in MoCo's code they are. Not run
by us.
"""

from selfsup.augment import presets
from selfsup.methods.mochi import MoCHi
from selfsup.models.resnet import ResNet
from selfsup.optim.optimizers import SGD
from selfsup.optim.schedules import Cosine
from selfsup.pretraining import Run

recipe = Run(
    name="mochi_imagenet",
    method=MoCHi.Config(queue_size=65_536, temperature=0.2, hardest=1024, pairs=512, with_query=256, warmup_epochs=10),
    encoder=ResNet.Config(depth=50),
    augment=presets.moco_v2(),
    optimizer=SGD.Config(learning_rate=0.03, weight_decay=1e-4, scaling="linear"),
    schedule=Cosine(per="epoch"),
    epochs=200,
    batch_size=256,
    test_fraction=0.875,
    workers=12,
    evaluate_every=10,
)
