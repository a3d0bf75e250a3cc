"""SimCLR on CIFAR-10, ResNet-18, by the command of the published code (google-research/simclr README).

    selfsup pretrain simclr_cifar10 --data.root PATH

Batch 512, LARS at 1.0 B / 256 = 2.0, 1,000 epochs with 10 of warm-up, temperature 0.5, colour strength 0.5, no blur.
Published: about 91 % by linear probe (ResNet-18, README). Our own figure on a GPU is still to be measured.
The loss is the published code's sum over both views, and the head has its three layers.
Departures: the network is torchvision's with a stem for small images; the authors' own has a projection in the first
block of every stage, the first one's too, and starts by variance scaling (--encoder.variant simclr has both). Those of
the augmentation are named in selfsup/augment/presets.py. Others report kNN 91.4 and linear 91.7 to 91.9 after 1,000
epochs, kNN 83.2 after 100 (dkobak/simclr-cifar10), not to be compared with ours: by SGD, grayscale 0.1, a head 1,024
wide, and kNN without weights with k = 10.
"""

from selfsup.augment import presets
from selfsup.methods.simclr import SimCLR
from selfsup.models.resnet import ResNet
from selfsup.optim.optimizers import LARS
from selfsup.optim.schedules import SimCLRCosine
from selfsup.pretraining import Run

recipe = Run(
    name="simclr_cifar10",
    method=SimCLR.Config(temperature=0.5, reduction="simclr"),
    encoder=ResNet.Config(depth=18, stem="cifar", zero_init_residual=True),
    augment=presets.simclr_cifar(),
    optimizer=LARS.Config(learning_rate=1.0, scaling="linear", weight_decay=1e-4),
    schedule=SimCLRCosine(warmup_epochs=10),
    epochs=1000,
    batch_size=512,
    test_interpolation="bicubic_aliased",
    evaluate_every=10,
)
