"""MoCo on CIFAR-10, ResNet-18, with the symmetric loss: the authors' CIFAR demo.

    selfsup pretrain moco_cifar10_symmetric --data.root PATH

Batch 512, SGD at 0.03 B / 256 = 0.06, decay 5e-4, 200 epochs of cosine whose last epoch has rate 0 (as in the demo),
linear head, queue 4,096, momentum 0.99, temperature 0.1, batch norm in 8 groups; each view is query and key once.
Published by kNN: 85.3, 88.5 and 89.7 after 200, 400 and 800 epochs, with k=200, T=0.1, on the 128 outputs of the head
against all training images: `selfsup knn RUN --layer embedding`; the kNN of the run is on the features.
Departures: the first convolution starts as the others do, there as torch starts a convolution; an image's own older
keys in the queue are no negatives, there they are. Not run by us.
"""

from selfsup.augment import presets
from selfsup.methods.moco import MoCo
from selfsup.models.heads import Head
from selfsup.models.resnet import ResNet
from selfsup.optim.optimizers import SGD
from selfsup.optim.schedules import Cosine
from selfsup.pretraining import Run

recipe = Run(
    name="moco_cifar10_symmetric",
    method=MoCo.Config(
        queue_size=4096, momentum=0.99, temperature=0.1, head=Head.Config(hidden_layers=0), symmetric=True
    ),
    encoder=ResNet.Config(depth=18, stem="cifar"),
    augment=presets.moco_cifar(),
    optimizer=SGD.Config(learning_rate=0.03, scaling="linear", weight_decay=5e-4),
    schedule=Cosine(per="epoch", first_epoch=1),
    epochs=200,
    batch_size=512,
    knn_bank=50_000,
    knn_queries=10_000,
    knn_k=200,
)
