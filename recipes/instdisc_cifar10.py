"""Instance discrimination on CIFAR-10, ResNet-18, as published (Wu et al. 2018; lemniscate.pytorch `cifar.py`).

    selfsup pretrain instdisc_cifar10 --data.root PATH

The softmax over all 50,000 images, temperature 0.1, bank momentum 0.5; batch 128, SGD at 0.03 whatever the batch, decay
5e-4, 200 epochs with drops at 120 and 160; crops and colours, no flip. For the paper's noise-contrastive estimation:
--method.loss nce --method.num-negatives 4096. The published kNN (k = 200, T = 0.1) is on the 128 outputs of the head:
`selfsup knn RUN --layer embedding`.
Departures: convolutions start with a normal distribution by their outputs, there as torch starts them; the last,
smaller batch of an epoch is dropped, there it is kept. Not run yet.
"""

from selfsup.augment import presets
from selfsup.methods.instdisc import InstDisc
from selfsup.models.resnet import ResNet
from selfsup.optim.optimizers import SGD
from selfsup.optim.schedules import Steps
from selfsup.pretraining import Run

recipe = Run(
    name="instdisc_cifar10",
    method=InstDisc.Config(num_negatives=0, loss="softmax", temperature=0.1),
    encoder=ResNet.Config(depth=18, stem="cifar"),
    augment=presets.instdisc_cifar(),
    optimizer=SGD.Config(learning_rate=0.03, scaling="none", weight_decay=5e-4),
    schedule=Steps(milestones=(120, 160)),
    epochs=200,
    batch_size=128,
    evaluate_every=5,
)
