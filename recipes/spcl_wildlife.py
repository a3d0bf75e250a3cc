"""SpCL on photographs of single animals, without labels: re-identification by the published setting (Ge et al. 2020).

    selfsup pretrain spcl_wildlife --data.root wildlife/nyala/train

ResNet-50 with a last stage of stride 1, batches of 16 clusters with 4 images each, 50 epochs of 400 steps, rate 3.5e-4
divided by 10 after 20 and 40 epochs, decay 5e-4, temperature 0.05, memory momentum 0.2, clusters from Jaccard
distances (k1 30, k2 6) by DBSCAN at 0.6 and, for the criterion, 0.58 and 0.62 (Ge et al. 2020, section 4.1).
Images are resized cubically, at test time too.
Departures: the published code starts from an encoder trained on ImageNet with labels, this from random weights or, by
--start, from an encoder trained before: clusters are poorer at first. Its Adam adds the decay to the gradient, AdamW
subtracts it from the weights, of norms and biases too, as there. Images are 128 x 128 pixels, the size of the data,
where people are 256 x 128 and vehicles 224 x 224, and are shifted by up to 6 pixels, there by 10. Batch norm is not
over the 16 images of each of four GPUs but over 64, or over what --method.batch-norm says. What is erased becomes the
mean. Published figures are the best over epochs.
Not run yet.
"""

from selfsup.augment import presets
from selfsup.data.sampling import ClassBalanced
from selfsup.data.settings import Data
from selfsup.methods.spcl import SpCL
from selfsup.models.resnet import ResNet
from selfsup.optim.optimizers import AdamW
from selfsup.optim.schedules import Steps
from selfsup.pretraining import Run

recipe = Run(
    name="spcl_wildlife",
    method=SpCL.Config(),
    encoder=ResNet.Config(depth=50, last_stride=1),
    augment=presets.reid(size=128, shift=6),
    data=Data(canvas=128),
    sampling=ClassBalanced(per_class=4, singletons="once", steps_per_epoch=400),
    optimizer=AdamW.Config(learning_rate=3.5e-4, weight_decay=5e-4, decay_norm_and_bias=True),
    schedule=Steps(milestones=(20, 40)),
    epochs=50,
    batch_size=64,
    test_interpolation="bicubic",
    evaluate_every=10,
)
