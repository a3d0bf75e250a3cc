"""Instance discrimination on ImageNet, ResNet-18, as published (Wu et al. 2018; lemniscate.pytorch `main.py`).

    accelerate launch --num_processes 4 -m selfsup pretrain instdisc_imagenet --data.root PATH

Noise-contrastive estimation with 4,096 negatives, Z from the first batch, temperature 0.07, bank momentum 0.5; batch
256, SGD at 0.03, decay 1e-4, 200 epochs with drops at 120 and 160. The bank has 1.28 million rows of 128 numbers, 656
MB (half of that with --method.bank-dtype bfloat16). Published: 41.0 %, and 46.8 % with ResNet-50 (--encoder.depth 50),
by kNN with k = 200 and T = 0.07, of the 128 outputs of the head on test images against the rows of the bank as
training left them. Nearest to it here is `selfsup knn RUN --layer embedding --temperature 0.07`, which computes all
training images anew. The authors' later release, with ResNet-50, --method.loss softmax and --method.num-negatives
65536, has 58.5 % by linear probe.
Departures: the last, smaller batch of an epoch is dropped, there it is kept; batch norm is over all processes, there
over each GPU's part. Not run yet.
"""

from selfsup.augment import presets
from selfsup.methods.instdisc import InstDisc
from selfsup.models.resnet import ResNet
from selfsup.optim.optimizers import SGD
from selfsup.optim.schedules import Steps
from selfsup.pretraining import Run

recipe = Run(
    name="instdisc_imagenet",
    method=InstDisc.Config(num_negatives=4096, temperature=0.07),
    encoder=ResNet.Config(depth=18),
    augment=presets.instdisc(),
    optimizer=SGD.Config(learning_rate=0.03, scaling="linear", weight_decay=1e-4),
    schedule=Steps(milestones=(120, 160)),
    epochs=200,
    batch_size=256,
    test_fraction=0.875,
    workers=12,
    evaluate_every=10,
)
