"""SimCLR on any folder of photographs, labelled or not, small or large.

    selfsup pretrain simclr_folder --data.root /photos

A ResNet-18 at 96 pixels, batch 64, so that it starts on a laptop and with a hundred images. Every image is decoded
once, to 144 pixels, and kept in memory; with --data.canvas None images are decoded at full resolution for every view.
For more images raise --batch-size; for detail raise the sizes (--augment.views.0.size, --augment.views.1.size,
--data.canvas).
"""

from selfsup.augment import presets
from selfsup.data.settings import Data
from selfsup.methods.simclr import SimCLR
from selfsup.models.heads import Head
from selfsup.models.resnet import ResNet
from selfsup.optim.optimizers import SGD
from selfsup.optim.schedules import Cosine
from selfsup.pretraining import Run

recipe = Run(
    name="simclr_folder",
    method=SimCLR.Config(temperature=0.2, head=Head.Config(hidden_layers=1, batch_norm="hidden")),
    encoder=ResNet.Config(depth=18),
    augment=presets.moco_v2(size=96),
    data=Data(canvas=144),
    optimizer=SGD.Config(learning_rate=0.06, scaling="linear", weight_decay=1e-4),
    schedule=Cosine(warmup_epochs=5),
    epochs=100,
    batch_size=64,
    test_fraction=0.875,
)
