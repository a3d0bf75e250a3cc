"""Runs small enough for a test: a narrow ResNet on generated images."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from selfsup.augment import presets
from selfsup.augment.views import Augment
from selfsup.data.sampling import ClassBalanced, Sampling, Shuffled, TwoDomains
from selfsup.data.settings import Data
from selfsup.data.shapes import CLASSES, shapes
from selfsup.methods.base import Method
from selfsup.methods.instdisc import InstDisc
from selfsup.methods.metric import Metric
from selfsup.methods.mochi import MoCHi
from selfsup.methods.moco import MoCo
from selfsup.methods.moco_v3 import MoCoV3
from selfsup.methods.pair_losses import Margin, Proxy
from selfsup.methods.simclr import SimCLR
from selfsup.methods.simclr_v2 import SimCLRv2
from selfsup.methods.spcl import SpCL
from selfsup.methods.supcon import SupCon
from selfsup.methods.supmoco import SupMoCo
from selfsup.methods.xbm import XBM
from selfsup.models.heads import Head, PlainHead
from selfsup.models.resnet import ResNet
from selfsup.optim.optimizers import SGD
from selfsup.optim.schedules import Cosine
from selfsup.pretraining import Run

QUICK = ("instdisc", "moco", "simclr", "spcl", "xbm")  # one with each kind of state, for tests of every method
HEAD = Head.Config(output_dim=16)
NORMED = Head.Config(hidden_layers=2, output_dim=16, batch_norm="all")
PLAIN = PlainHead.Config(hidden_dim=32, output_dim=16)
MOCO = MoCo.Config(queue_size=40, momentum=0.9, head=HEAD, batch_norm_splits=2)
SPCL = SpCL.Config(k1=8, k2=3, min_samples=2, eps=0.7)
METHODS: dict[str, Method.Config] = {
    "simclr": SimCLR.Config(temperature=0.2, head=Head.Config(hidden_layers=1, output_dim=16)),
    "simclr_v2": SimCLRv2.Config(queue_size=40, momentum=0.9, head=NORMED, temperature=0.2),
    "moco_v1": replace(MOCO, head=Head.Config(hidden_layers=0, output_dim=16), temperature=0.07),
    "moco": MOCO,
    "moco_symmetric": replace(MOCO, symmetric=True, final_momentum=0.99),
    "moco_v3": MoCoV3.Config(momentum=0.9, head=replace(PLAIN, hidden_layers=2), predictor=PLAIN),
    "mochi": MoCHi.Config(
        queue_size=40,
        momentum=0.9,
        head=HEAD,
        batch_norm_splits=2,
        hardest=8,
        pairs=6,
        with_query=3,
        warmup_epochs=0.5,
    ),
    "supcon": SupCon.Config(head=HEAD, temperature=0.2),
    "supmoco": SupMoCo.Config(queue_size=40, momentum=0.9, head=HEAD, batch_norm_splits=2, temperature=0.2),
    "instdisc": InstDisc.Config(num_negatives=20, output_dim=16),
    "instdisc_softmax": InstDisc.Config(num_negatives=0, loss="softmax", output_dim=16, proximal_weight=0.5),
    "metric_proxy": Metric.Config(loss=Proxy.Config(), output_dim=16),
    "metric_margin": Metric.Config(loss=Margin.Config(), output_dim=16),
    "xbm": XBM.Config(output_dim=16, memory_size=40, memory_start=3, drift_every=4, drift_images=8),
    "spcl": SPCL,
    "spcl_domains": replace(SPCL, domains="two"),
}
# One view of each image; and how batches are formed, and of what, where that is not all alike.
ONE_VIEW = ("instdisc", "instdisc_softmax", "metric_proxy", "metric_margin", "xbm", "spcl", "spcl_domains")
SAMPLING: dict[str, Sampling] = {
    "metric_proxy": ClassBalanced(per_class=4),
    "metric_margin": ClassBalanced(per_class=4),
    "xbm": ClassBalanced(per_class=4),
    "spcl": ClassBalanced(per_class=4, singletons="once", steps_per_epoch=8),
    "spcl_domains": TwoDomains(per_class=4, steps_per_epoch=8),
}
TWO_DOMAINS = ("spcl_domains",)


def tiny_run(folder: Path, method: str = "simclr", root: str = "shapes:128", **changes: Any) -> Run:
    """16 steps in 2 epochs over 128 shapes, or over the images of `root`."""
    views = presets.moco_cifar(size=16).views
    run = Run(
        name="tiny",
        folder=str(folder),
        method=METHODS[method],
        encoder=ResNet.Config(depth="small", stem="small", width=0.25),
        augment=Augment(views=views[:1] if method in ONE_VIEW else views),
        sampling=SAMPLING.get(method, Shuffled()),
        data=Data(root=root, labelled_root=root if method in TWO_DOMAINS else ""),
        optimizer=SGD.Config(learning_rate=0.1, weight_decay=1e-4),
        schedule=Cosine(),
        epochs=2,
        batch_size=16,
        evaluate_every=0,
        workers=0,
        device="cpu",
        report=False,
    )
    return replace(run, **changes)


def array_file(path: Path, count: int) -> Path:
    """An .npz file of shapes, which is read faster than they are drawn."""
    source = shapes(count)
    np.savez(path, images=source.images.numpy(), labels=source.labels.numpy())
    return path


def photographs(folder: Path, count: int = 64) -> Path:
    """JPEG files of many sizes, those of each class in a folder of their own."""
    source = shapes(count)
    for number in range(count):
        place = folder / CLASSES[int(source.labels[number])]
        place.mkdir(parents=True, exist_ok=True)
        picture = PIL.Image.fromarray(np.array(source.load(number)))
        picture.resize((40 + number % 7, 30 + number % 5)).save(place / f"{number:03}.jpg")
    return folder
