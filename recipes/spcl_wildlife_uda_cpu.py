"""SpCL from labelled animals to unlabelled ones for two CPU cores: a ResNet of 0.3 M parameters at 64 pixels.

    selfsup pretrain simclr_wildlife_cpu --data.root wildlife/nyala
    selfsup pretrain spcl_wildlife_uda_cpu --data.labelled-root wildlife/lion --data.root wildlife/nyala \
        --start runs/simclr_wildlife_cpu

Not a published setting: 64 labelled and 64 unlabelled images in every batch, few epochs, and the neighbourhoods of
spcl_wildlife_cpu. With --method.no-recluster --method.no-self-paced it is the baseline that takes the clusters of the
first epoch for good. docs/results has its figures.
"""

from selfsup.augment import presets
from selfsup.data.sampling import TwoDomains
from selfsup.data.settings import Data
from selfsup.methods.spcl import SpCL
from selfsup.models.resnet import ResNet
from selfsup.optim.optimizers import AdamW
from selfsup.optim.schedules import Cosine
from selfsup.pretraining import Run

recipe = Run(
    name="spcl_wildlife_uda_cpu",
    method=SpCL.Config(k1=10, eps=0.5, min_samples=2, domains="two"),
    encoder=ResNet.Config(depth="small", stem="small"),
    augment=presets.reid(size=64, shift=4),
    data=Data(canvas=64),
    sampling=TwoDomains(per_class=4, steps_per_epoch=40),
    optimizer=AdamW.Config(learning_rate=3.5e-4, weight_decay=5e-4),
    schedule=Cosine(),
    epochs=10,
    batch_size=128,
    workers=0,
)
