"""XBM on small pictures of cars for two CPU cores: `metric_cars_cpu` with a memory of the last 512 embeddings.

    selfsup pretrain xbm_cars_cpu --data.root cars --start runs/simclr_cars_cpu

Not a published setting: the memory counts from step 700 of the 1,012, when the rate has fallen to a quarter. Watch
feature_drift, which tells how fast embeddings in the memory grow old: with the memory from step 200 they moved by a
squared distance of 1 to 1.9 in 50 steps, at the end by less than 0.01.

The memory brings nothing here: on test classes Recall@1 is 0.1256 with it and 0.1288 without (one seed each). Nor did
it, on 858 images of training classes left out, with a memory of 1,024, from step 200, at a rate of 1e-4, for 8 and 12
epochs, with frozen batch norm, in batches of 8 and of 4; at 3e-5 it had 0.183 against 0.169, both below where they
started. Within a batch the net is right for a third of the anchors only: it does not lack the negatives yet that a
memory gives.
"""

from selfsup.augment.parameters import View
from selfsup.augment.presets import IMAGENET_MEAN, IMAGENET_STD
from selfsup.augment.views import Augment
from selfsup.data.sampling import ClassBalanced
from selfsup.data.settings import Data
from selfsup.methods.pair_losses import MultiSimilarity
from selfsup.methods.xbm import XBM
from selfsup.models.resnet import ResNet
from selfsup.optim.optimizers import AdamW
from selfsup.optim.schedules import Cosine
from selfsup.pretraining import Run

recipe = Run(
    name="xbm_cars_cpu",
    method=XBM.Config(loss=MultiSimilarity.Config(), memory_size=512, memory_start=700, drift_every=50),
    encoder=ResNet.Config(depth="small", stem="small"),
    augment=Augment(views=(View(size=64, crop_scale=(0.4, 1.0), mean=IMAGENET_MEAN, std=IMAGENET_STD),)),
    data=Data(canvas=72),
    sampling=ClassBalanced(per_class=4),
    optimizer=AdamW.Config(learning_rate=3e-4, weight_decay=0.01),
    schedule=Cosine(warmup_epochs=1),
    epochs=4,
    batch_size=16,
    workers=0,
)
