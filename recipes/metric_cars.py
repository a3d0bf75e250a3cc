"""Multi-similarity on Cars196, ResNet-50: retrieval among classes that were never trained on (Wang et al. 2019).

    selfsup pretrain metric_cars --data.root PATH

Batch 80 of 16 classes with 5 images each, 512-d embeddings, 224 pixels, AdamW at 1e-4. Another loss by changing
`loss` in a copy of this file. The paper starts from ImageNet weights, this from random ones or, by --start, from an
encoder trained before, so its figures are not to be expected. Not run yet.
"""

from selfsup.augment.parameters import View
from selfsup.augment.presets import IMAGENET_MEAN, IMAGENET_STD
from selfsup.augment.views import Augment
from selfsup.data.sampling import ClassBalanced
from selfsup.methods.metric import Metric
from selfsup.methods.pair_losses import MultiSimilarity
from selfsup.models.resnet import ResNet
from selfsup.optim import AdamW
from selfsup.pretrain import Run
from selfsup.schedules import Cosine

recipe = Run(
    name="metric_cars",
    method=Metric.Config(loss=MultiSimilarity.Config(), output_dim=512),
    encoder=ResNet.Config(depth=50),
    augment=Augment(views=(View(size=224, crop_scale=(0.2, 1.0), mean=IMAGENET_MEAN, std=IMAGENET_STD),)),
    sampling=ClassBalanced(per_class=5),
    optimizer=AdamW.Config(learning_rate=1e-4, weight_decay=5e-4),
    schedule=Cosine(warmup_epochs=1),
    epochs=200,
    batch_size=80,
    evaluate_every=10,
)
