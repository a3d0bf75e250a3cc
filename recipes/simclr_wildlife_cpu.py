"""SimCLR on photographs of single animals for two CPU cores, a start for spcl_wildlife_cpu.

    selfsup pretrain simclr_wildlife_cpu --data.root wildlife/nyala

Not a published setting: the training photographs without their identities.
"""

from selfsup.augment.parameters import Jitter, View
from selfsup.augment.views import Augment
from selfsup.data.settings import Data
from selfsup.methods.simclr import SimCLR
from selfsup.models.heads import Head
from selfsup.models.resnet import ResNet
from selfsup.optim.optimizers import SGD
from selfsup.optim.schedules import Cosine
from selfsup.pretraining import Run

view = View(
    size=64,
    crop_scale=(0.3, 1.0),
    flip=0.5,
    jitter=Jitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, probability=0.8),
    grayscale=0.1,
)

recipe = Run(
    name="simclr_wildlife_cpu",
    method=SimCLR.Config(
        temperature=0.2, head=Head.Config(hidden_layers=1, hidden_dim=256, output_dim=64, batch_norm="hidden")
    ),
    encoder=ResNet.Config(depth="small", stem="small"),
    augment=Augment(views=(view, view)),
    data=Data(canvas=72, labels="none"),
    optimizer=SGD.Config(learning_rate=0.12, scaling="linear", weight_decay=5e-4),
    schedule=Cosine(warmup_epochs=1),
    epochs=20,
    batch_size=128,
    workers=0,
)
