"""SimCLR on handwritten characters for two CPU cores, a start for spcl_omniglot_cpu.

    selfsup pretrain simclr_omniglot_cpu --data.root omniglot.npz

Not a published setting: 5,000 drawings of the background set without their labels, views that are never mirrored.
"""

from selfsup.augment.parameters import Erase, View
from selfsup.augment.views import Augment
from selfsup.data.settings import Data
from selfsup.methods.simclr import SimCLR
from selfsup.models.heads import Head
from selfsup.models.resnet import ResNet
from selfsup.optim.optimizers import SGD
from selfsup.optim.schedules import Cosine
from selfsup.pretraining import Run

view = View(size=48, crop_scale=(0.4, 1.0), flip=0.0, erase=Erase(probability=0.5))

recipe = Run(
    name="simclr_omniglot_cpu",
    method=SimCLR.Config(
        temperature=0.2, head=Head.Config(hidden_layers=1, hidden_dim=256, output_dim=64, batch_norm="hidden")
    ),
    encoder=ResNet.Config(depth="small", stem="small"),
    augment=Augment(views=(view, view)),
    data=Data(canvas=48, labels="none", limit=5_000),
    optimizer=SGD.Config(learning_rate=0.12, scaling="linear", weight_decay=5e-4),
    schedule=Cosine(warmup_epochs=1),
    epochs=8,
    batch_size=128,
    workers=0,
)
