"""SupCon on CIFAR-10, ResNet-50, as published (Khosla et al. 2020; SupContrast README).

    selfsup pretrain supcon_cifar10 --data.root PATH

Batch 1,024, SGD at 0.5 whatever the batch, decay 1e-4, 1,000 epochs of SupContrast's cosine with 10 of warm-up from a
rate of 0.01, temperature 0.1, head of one hidden layer. Published: 96.0 % by linear probe, the best over its epochs,
where SimCLR in the same code has 93.6 %.
Departures: batch norm is over all processes, there over each GPU's part; the last, smaller batch is dropped, which
makes 48 steps an epoch, there it is kept, which makes 49. Not run yet.
"""

from dataclasses import replace

from selfsup.augment import presets
from selfsup.augment.presets import CIFAR10_MEAN, CIFAR10_STD
from selfsup.augment.views import Augment
from selfsup.methods.supcon import SupCon
from selfsup.models.resnet import ResNet
from selfsup.optim.optimizers import SGD
from selfsup.optim.schedules import SupConCosine
from selfsup.pretraining import Run

view = replace(presets.supcon_cifar().views[0], mean=CIFAR10_MEAN, std=CIFAR10_STD)

recipe = Run(
    name="supcon_cifar10",
    method=SupCon.Config(temperature=0.1),
    encoder=ResNet.Config(depth=50, stem="cifar"),
    augment=Augment(views=(view, view)),
    optimizer=SGD.Config(learning_rate=0.5, scaling="none", weight_decay=1e-4),
    schedule=SupConCosine(warmup_epochs=10, warmup_from=0.01 / 0.5),  # from a rate of 0.01: a share of the peak
    epochs=1000,
    batch_size=1024,
    evaluate_every=10,
)
