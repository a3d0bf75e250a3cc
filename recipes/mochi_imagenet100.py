"""MoCHi (1024, 1024, 128) on a hundred classes of ImageNet, ResNet-50 (Kalantidis et al. 2020).

    accelerate launch --num_processes 4 -m selfsup pretrain mochi_imagenet100 --data.root PATH

MoCo v2 with queue 16,384, batch 128, SGD at 0.03, decay 1e-4, 200 epochs of cosine, temperature 0.2, ten epochs without
mixtures. The setting is a third party's reading of the paper, which has no published code. An image's own older keys
in the queue are no negatives; in MoCo's code they are. Not run by us.
"""

from selfsup.augment import presets
from selfsup.methods.mochi import MoCHi
from selfsup.models.resnet import ResNet
from selfsup.optim.optimizers import SGD
from selfsup.optim.schedules import Cosine
from selfsup.pretraining import Run

recipe = Run(
    name="mochi_imagenet100",
    method=MoCHi.Config(queue_size=16_384, temperature=0.2, hardest=1024, pairs=1024, with_query=128, warmup_epochs=10),
    encoder=ResNet.Config(depth=50),
    augment=presets.moco_v2(),
    optimizer=SGD.Config(learning_rate=0.03, weight_decay=1e-4, scaling="none"),
    schedule=Cosine(per="epoch"),
    epochs=200,
    batch_size=128,
    test_fraction=0.875,
    workers=12,
    evaluate_every=10,
)
