"""SpCL on photographs of single animals for two CPU cores: a ResNet of 0.3 M parameters at 64 pixels.

    selfsup pretrain spcl_wildlife_cpu --data.root wildlife/nyala/train

Not a published setting: few epochs, a larger rate, random weights at the start, and neighbourhoods for seven images of
an animal: with the published ones (k1 30, eps 0.6, min_samples 4) the untrained encoder's features of the 1,205 images
form 9 clusters, one of 950 images; with these, 149. With --method.no-recluster
--method.no-self-paced it is the baseline that takes the clusters of the first epoch for good. Not run yet.
"""

from selfsup.augment import presets
from selfsup.data.sampling import ClassBalanced
from selfsup.data.settings import Data
from selfsup.methods.spcl import SpCL
from selfsup.models.resnet import ResNet
from selfsup.optim.optimizers import AdamW
from selfsup.optim.schedules import Cosine
from selfsup.pretraining import Run

recipe = Run(
    name="spcl_wildlife_cpu",
    method=SpCL.Config(k1=10, eps=0.5, min_samples=2),
    encoder=ResNet.Config(depth="small", stem="small"),
    augment=presets.reid(size=64, shift=4),
    data=Data(canvas=64),
    sampling=ClassBalanced(per_class=4, singletons="once", steps_per_epoch=50),
    optimizer=AdamW.Config(learning_rate=1e-3, weight_decay=5e-4),
    schedule=Cosine(),
    epochs=10,
    batch_size=64,
    workers=0,
)
