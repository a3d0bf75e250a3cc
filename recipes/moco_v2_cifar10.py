"""MoCo v2 on CIFAR-10, ResNet-18: the authors' CIFAR demo with the MLP head of v2.

    selfsup pretrain moco_v2_cifar10 --data.root PATH

Batch 512, SGD at 0.03 B / 256 = 0.06, decay 5e-4, 200 epochs of cosine counted from 1, whose last has rate 0, queue
4,096, momentum 0.99, temperature 0.1, batch norm in 8 groups, of any number of processes. The demo
(linear head) reports kNN 82.6, 86.3 and 88.7 after 200, 400 and 800 epochs; with --method.symmetric 85.3, 88.5 and
89.7. That is with k=200, T=0.1, on the 128 outputs of the head against all training images: `selfsup knn RUN --layer
embedding`; the kNN of the run is on the features.
Departures: the head; the first convolution starts as the others do, there as torch starts a convolution; an image's
own older keys in the queue are no negatives, there they are. Our own figure on a GPU is still to be measured.
"""

from selfsup.augment import presets
from selfsup.methods.moco import MoCo
from selfsup.models.resnet import ResNet
from selfsup.optim.optimizers import SGD
from selfsup.optim.schedules import Cosine
from selfsup.pretraining import Run

recipe = Run(
    name="moco_v2_cifar10",
    method=MoCo.Config(queue_size=4096, momentum=0.99, temperature=0.1),
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
