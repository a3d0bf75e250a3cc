"""SpCL from labelled animals of one kind to unlabelled ones of another: the published setting of domain adaptation.

    selfsup pretrain spcl_wildlife_uda --data.labelled-root wildlife/lion/train --data.root wildlife/nyala/train

As spcl_wildlife, with 64 labelled and 64 unlabelled images in every batch, batch norm of its own for each domain, and
one softmax over the labelled classes, the clusters and the single images (Ge et al. 2020, sections 3.2 and 4.1).
The encoder that is exported has the unlabelled domain's batch norm. Departures: those of spcl_wildlife. Not run yet.
"""

from selfsup.augment import presets
from selfsup.data.sampling import TwoDomains
from selfsup.data.settings import Data
from selfsup.methods.spcl import SpCL
from selfsup.models.resnet import ResNet
from selfsup.optim.optimizers import AdamW
from selfsup.optim.schedules import Steps
from selfsup.pretraining import Run

recipe = Run(
    name="spcl_wildlife_uda",
    method=SpCL.Config(domains="two"),
    encoder=ResNet.Config(depth=50, last_stride=1),
    augment=presets.reid(size=128, shift=6),
    data=Data(canvas=128),
    sampling=TwoDomains(per_class=4, steps_per_epoch=400),
    optimizer=AdamW.Config(learning_rate=3.5e-4, weight_decay=5e-4, decay_norm_and_bias=True),
    schedule=Steps(milestones=(20, 40)),
    epochs=50,
    batch_size=128,
    test_interpolation="bicubic",
    evaluate_every=10,
)
