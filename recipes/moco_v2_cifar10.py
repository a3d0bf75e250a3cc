"""MoCo v2 on CIFAR-10, ResNet-18: the authors' CIFAR demo with the MLP head of v2.

    selfsup pretrain moco_v2_cifar10 --data.root PATH

Batch 512, SGD at 0.03 B / 256 = 0.06, decay 5e-4, 200 epochs of cosine, queue 4,096, momentum 0.99, temperature 0.1,
batch norm in 8 groups. The demo (linear head) reports kNN 82.6, 86.3 and
88.7 (k=200, T=0.1) after 200, 400 and 800 epochs; with --method.symmetric 85.3, 88.5 and 89.7.
Our own figure on a GPU is still to be measured.
"""

from selfsup.augment import presets
from selfsup.methods.moco import MoCo
from selfsup.models.resnet import ResNet
from selfsup.optim import SGD
from selfsup.pretrain import Run
from selfsup.schedules import Cosine

recipe = Run(
    name="moco_v2_cifar10",
    method=MoCo.Config(queue_size=4096, momentum=0.99, temperature=0.1),
    encoder=ResNet.Config(depth=18, stem="cifar"),
    augment=presets.moco_cifar(),
    optimizer=SGD.Config(learning_rate=0.03, scaling="linear", weight_decay=5e-4),
    schedule=Cosine(per="epoch"),
    epochs=200,
    batch_size=512,
    evaluate_every=5,
)
