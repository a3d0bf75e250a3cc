"""The linear probes that are trained on augmented images: the papers' as published, and a sweep of learning rates."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfsup.augment.size import Size, check_size
from selfsup.batch import Batch
from selfsup.config.checks import require
from selfsup.data.labelled import Labelled
from selfsup.data.settings import Data
from selfsup.evaluation.logistic import FeatureProbe
from selfsup.losses.contrastive import at_least_float32
from selfsup.methods.base import Method, Step
from selfsup.models.encoder import Encoder
from selfsup.optim.optimizers import SGD
from selfsup.optim.schedules import Cosine, Steps
from selfsup.stages.supervised import Supervised

PROTOCOLS = ("features", "moco", "simclr", "supcon", "sweep")


@dataclass(frozen=True, kw_only=True)
class Probe(Supervised):
    """A linear classifier trained on augmented images with a frozen backbone."""

    stored_as: ClassVar[str] = "linear"
    protocol: Literal["moco", "simclr", "supcon", "sweep"]
    # Of the classifier. normal: weights N(0, 0.01^2), bias 0; uniform: both within 1 / sqrt(D), as torch draws them.
    initialisation: Literal["zeros", "normal", "uniform"] = "zeros"
    labelled: Labelled = Labelled()  # the training images whose labels are used
    size: Size | None = None  # of the crops and of the test images, in pixels; None: as the encoder was trained

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size(self.size)


@dataclass(frozen=True, kw_only=True)
class Sweep(Probe):
    """Classifiers with several learning rates on one pass of the backbone; a part of the training images chooses."""

    stored_as: ClassVar[str] = "linear_sweep"
    learning_rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # each times optimizer's

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            min(self.learning_rates, default=0.0) > 0,
            f"learning_rates is {self.learning_rates}; give one or more values above 0",
        )
        require(
            len(set(self.learning_rates)) >= len(self.learning_rates),
            f"learning_rates is {self.learning_rates}; give each value once",
        )
        require(self.clip_norm is None, "clip_norm is of all classifiers' gradients together; leave it out of a sweep")


def probe_settings(protocol: str, data: Data) -> Probe | FeatureProbe:
    """The published settings of a protocol (see docs/protocols.md); any of them can be overridden.

    moco: He et al. 2020, section 4.1: SGD, rate 30 at batch 256, 100 epochs, a tenth at 60 and 80, no decay.
    simclr: Chen et al. 2020, published CIFAR command: Nesterov SGD, rate 0.1 B / 256, 100 epochs, cosine, zero start,
        crops as TensorFlow draws them.
    supcon: Khosla et al. 2020, published CIFAR command (SupContrast): SGD, rate 5 at batch 512, 100 epochs, a fifth at
        60, 75 and 90, crops of 0.2 to 1, no decay. The published probe of a SimCLR run has rate 1.
    sweep: our own: SGD, eight rates from 0.01 B / 256 to 30 B / 256 at once, 30 epochs, cosine, zero start.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"there is no protocol {protocol!r}; choose one of {', '.join(PROTOCOLS)}")
    if protocol == "features":
        return FeatureProbe(data=data)
    if protocol == "moco":
        return Probe(
            protocol="moco",
            data=data,
            epochs=100,
            batch_size=256,
            optimizer=SGD.Config(learning_rate=30.0, weight_decay=0.0),
            schedule=Steps(milestones=(60, 80), gamma=0.1),
            initialisation="normal",
        )
    if protocol == "simclr":
        return Probe(
            protocol="simclr",
            data=data,
            epochs=100,
            batch_size=512,
            optimizer=SGD.Config(learning_rate=0.1, nesterov=True, weight_decay=0.0),
            schedule=Cosine(),
            crop_sampler="tensorflow",
        )
    if protocol == "supcon":
        return Probe(
            protocol="supcon",
            data=data,
            epochs=100,
            batch_size=512,
            optimizer=SGD.Config(learning_rate=5.0, scaling="none", weight_decay=0.0),
            schedule=Steps(milestones=(60, 75, 90), gamma=0.2),
            initialisation="uniform",
            crop_scale=(0.2, 1.0),
        )
    return Sweep(
        protocol="sweep",
        data=data,
        epochs=30,
        batch_size=256,
        optimizer=SGD.Config(learning_rate=1.0, weight_decay=0.0),
        schedule=Cosine(),
    )


class LinearProbe(Method):
    """Classifiers on a frozen backbone that stays in evaluation mode, so that no statistic of it moves.

    Args:
        encoder: the backbone.
        num_classes: C.
        initialisation: as in `Probe`.
        learning_rates: one classifier for each, whose rate is so many times the optimizer's; without, one classifier.
    """

    accuracy_is = "accuracy"

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        initialisation: Literal["zeros", "normal", "uniform"],
        learning_rates: tuple[float, ...] = (),
    ):
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.learning_rates = learning_rates
        heads = [nn.Linear(encoder.feature_dim, num_classes) for _ in learning_rates or (1.0,)]
        self.heads = nn.ModuleList(heads)
        for head in heads:
            if initialisation != "uniform":
                nn.init.normal_(head.weight, std=0.01 if initialisation == "normal" else 0.0)
                nn.init.zeros_(head.bias)

    def rates(self) -> dict[str, float]:
        return {f"heads.{number}.": rate for number, rate in enumerate(self.learning_rates)}

    def train(self, mode: bool = True) -> "LinearProbe":
        super().train(mode)
        self.encoder.eval()
        return self

    def embed(self, view: Tensor) -> Tensor:
        with torch.no_grad():
            features: Tensor = self.encoder(view)
        return features

    def objective(self, embeddings: list[Tensor], views: list[Tensor], batch: Batch) -> Step:
        logits = [at_least_float32(head(embeddings[0])) for head in self.heads]  # of each classifier (B, C)
        # Of the sum every classifier gets the gradient of its own loss.
        loss = torch.stack([F.cross_entropy(own, batch.labels) for own in logits]).sum()
        accuracies = [(own.argmax(dim=1) == batch.labels).float().mean() for own in logits]
        names = [f"accuracy_rate_{rate:g}" for rate in self.learning_rates] or ["accuracy"]
        return Step(loss, dict(zip(names, accuracies, strict=True)), {})
