"""Runs small enough for a test: a narrow ResNet on generated images."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from selfsup.augment import presets
from selfsup.augment.views import Augment
from selfsup.config import Data
from selfsup.data.sampling import ClassBalanced, Sampling, Shuffled
from selfsup.methods.base import Method
from selfsup.methods.instdisc import InstDisc
from selfsup.methods.moco import MoCo
from selfsup.methods.simclr import SimCLR
from selfsup.methods.spcl import SpCL
from selfsup.methods.xbm import XBM
from selfsup.models.heads import Head
from selfsup.models.resnet import ResNet
from selfsup.optim import SGD
from selfsup.pretrain import Run
from selfsup.schedules import Cosine

METHODS: dict[str, Method.Config] = {
    "simclr": SimCLR.Config(temperature=0.2, head=Head.Config(hidden_layers=1, output_dim=16)),
    "moco": MoCo.Config(queue_size=40, momentum=0.9, head=Head.Config(output_dim=16), batch_norm_splits=2),
    "instdisc": InstDisc.Config(num_negatives=20, output_dim=16),
    "xbm": XBM.Config(output_dim=16, memory_size=40, memory_start=3, drift_every=4, drift_images=8),
    "spcl": SpCL.Config(k1=8, k2=3, min_samples=2, eps=0.7),
}
# One view of each image; and how batches are formed.
ONE_VIEW = ("instdisc", "xbm", "spcl")
SAMPLING: dict[str, Sampling] = {
    "xbm": ClassBalanced(per_class=4),
    "spcl": ClassBalanced(per_class=4, singletons="once", steps_per_epoch=8),
}


def tiny_run(folder: Path, method: str = "simclr", **changes: Any) -> Run:
    """16 steps in 2 epochs over 128 shapes."""
    views = presets.moco_cifar(size=16).views
    run = Run(
        name="tiny",
        folder=str(folder),
        method=METHODS[method],
        encoder=ResNet.Config(depth="small", stem="small", width=0.25),
        augment=Augment(views=views[:1] if method in ONE_VIEW else views),
        sampling=SAMPLING.get(method, Shuffled()),
        data=Data(root="shapes:128"),
        optimizer=SGD.Config(learning_rate=0.1, weight_decay=1e-4),
        schedule=Cosine(),
        epochs=2,
        batch_size=16,
        evaluate_every=0,
        workers=0,
        device="cpu",
    )
    return replace(run, **changes)
