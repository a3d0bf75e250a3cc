"""SpCL on handwritten characters for two CPU cores: a ResNet of 0.3 M parameters at 48 pixels.

    selfsup pretrain spcl_omniglot_cpu --data.root omniglot.npz

Not a published setting: the background set's drawings without their labels, never mirrored, 20 to a character. With
--method.no-recluster --method.no-self-paced it is the baseline that takes the clusters of the first epoch for good.
Not run yet.
"""

from dataclasses import replace

from selfsup.augment import presets
from selfsup.augment.views import Augment
from selfsup.data.sampling import ClassBalanced
from selfsup.data.settings import Data
from selfsup.methods.spcl import SpCL
from selfsup.models.resnet import ResNet
from selfsup.optim.optimizers import AdamW
from selfsup.optim.schedules import Cosine
from selfsup.pretraining import Run

view = replace(presets.reid(size=48, shift=4).views[0], flip=0.0)

recipe = Run(
    name="spcl_omniglot_cpu",
    method=SpCL.Config(k1=20),
    encoder=ResNet.Config(depth="small", stem="small"),
    augment=Augment(views=(view,)),
    data=Data(canvas=48, limit=5_000),
    sampling=ClassBalanced(per_class=4, singletons="once", steps_per_epoch=80),
    optimizer=AdamW.Config(learning_rate=1e-3, weight_decay=5e-4),
    schedule=Cosine(),
    epochs=10,
    batch_size=64,
    workers=0,
)
