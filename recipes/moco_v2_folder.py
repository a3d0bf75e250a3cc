"""MoCo v2 on any folder of photographs, labelled or not.

    selfsup pretrain moco_v2_folder --data.root /photos

A ResNet-18 at 96 pixels, batch 64, with a queue of 4,096 older keys in which an image never meets itself. Every image
is decoded once, to 144 pixels, and kept in memory; with --data.canvas None images are decoded at full resolution for
every view instead.
"""

from selfsup.augment import presets
from selfsup.data.settings import Data
from selfsup.methods.moco import MoCo
from selfsup.models.resnet import ResNet
from selfsup.optim.optimizers import SGD
from selfsup.optim.schedules import Cosine
from selfsup.pretraining import Run

recipe = Run(
    name="moco_v2_folder",
    method=MoCo.Config(queue_size=4096, momentum=0.99, temperature=0.2),
    encoder=ResNet.Config(depth=18),
    augment=presets.moco_v2(size=96),
    data=Data(canvas=144),
    optimizer=SGD.Config(learning_rate=0.06, scaling="linear", weight_decay=1e-4),
    schedule=Cosine(warmup_epochs=5),
    epochs=100,
    batch_size=64,
    test_fraction=0.875,
)
