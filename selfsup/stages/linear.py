"""Linear classification on frozen features: the probes of MoCo and SimCLR as published, and a fast one."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfsup import checkpoint
from selfsup.augment.views import Augment
from selfsup.config import Data
from selfsup.data.batch import Batch
from selfsup.data.sources import Source, open_source
from selfsup.folder import RunFolder
from selfsup.methods.base import Method, Step
from selfsup.models.resnet import ResNet
from selfsup.optim import SGD
from selfsup.randomness import Stream, permutation
from selfsup.schedules import Cosine, Steps
from selfsup.stages import supervised
from selfsup.stages.base import Evaluated, Result, Stage, data_of
from selfsup.stages.embed import Features, Reading
from selfsup.stages.encoder import Exported, load_encoder
from selfsup.stages.supervised import Supervised, plain_view, require_labels
from selfsup.trainer import device_for

PROTOCOLS = ("features", "moco", "simclr")


@dataclass(frozen=True, kw_only=True)
class Probe(Supervised):
    """A linear classifier trained on augmented images with a frozen backbone."""

    protocol: Literal["moco", "simclr"]
    initial_std: float = 0.01  # of the classifier's weights


@dataclass(frozen=True, kw_only=True)
class FeatureProbe(Reading):
    """Multinomial logistic regression by L-BFGS on features computed once, without augmentation."""

    l2: tuple[float, ...] = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # tried on a tenth of the training images
    iterations: int = 200

    def __post_init__(self) -> None:
        if not self.l2 or min(self.l2) < 0:
            raise ValueError(f"l2 is {self.l2}; give one or more values of at least 0")


def probe_settings(protocol: str, data: Data) -> Probe | FeatureProbe:
    """The published settings of a protocol (see docs/protocols.md); any of them can be overridden.

    moco: He et al. 2020, section 4.1: SGD, rate 30 at batch 256, 100 epochs, a tenth at 60 and 80, no decay.
    simclr: Chen et al. 2020, published CIFAR command: Nesterov SGD, rate 0.1 B / 256, 100 epochs, cosine, zero start.
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
            initial_std=0.01,
        )
    return Probe(
        protocol="simclr",
        data=data,
        epochs=100,
        batch_size=512,
        optimizer=SGD.Config(learning_rate=0.1, nesterov=True, weight_decay=0.0),
        schedule=Cosine(),
        initial_std=0.0,
    )


class LinearProbe(Method):
    """A classifier on a frozen backbone that stays in evaluation mode, so that no statistic of it moves."""

    def __init__(self, encoder: ResNet, num_classes: int, initial_std: float):
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.classifier = nn.Linear(encoder.feature_dim, num_classes)
        nn.init.normal_(self.classifier.weight, std=initial_std)
        nn.init.zeros_(self.classifier.bias)

    def train(self, mode: bool = True) -> "LinearProbe":
        super().train(mode)
        self.encoder.eval()
        return self

    def embed(self, view: Tensor) -> Tensor:
        with torch.no_grad():
            return self.encoder(view)

    def objective(self, embeddings: list[Tensor], views: list[Tensor], batch: Batch) -> Step:
        logits = self.classifier(embeddings[0]).float()  # (B, classes)
        loss = F.cross_entropy(logits, batch.labels)
        accuracy = (logits.argmax(dim=1) == batch.labels).float().mean()
        return Step(loss, {"accuracy": accuracy.detach()}, {})


def run_linear(path: Path, settings: Probe | FeatureProbe) -> Evaluated:
    """Probe an exported encoder; trained on the training part, judged on the test part, at the last epoch.

    Args:
        path: a run folder or an encoder.safetensors.
        settings: from `probe_settings`, with `data.root` set.

    Raises:
        ValueError: no labels, no test part, or the data do not fit the settings.
    """
    exported = load_encoder(path)
    data = settings.data
    train = open_source(data.root, "train", labels=data.labels, limit=data.limit)
    test = open_source(data.root, "test", labels=data.labels)
    require_labels(train, test)
    if isinstance(settings, FeatureProbe):
        return _on_features(exported, train, test, settings)
    return _with_augmentation(path, exported, train, test, settings)


def _common(exported: Exported, train: Source, test: Source) -> dict[str, Any]:
    return {
        "layer": "backbone",
        "train_images": len(train),
        "test_images": len(test),
        "transform": exported.feed.transform,
    }


# On features


def _on_features(exported: Exported, train: Source, test: Source, settings: FeatureProbe) -> Evaluated:
    device = device_for(settings.device)
    encoder, center = exported.encoder.to(device), exported.feed.center()
    known, asked = (settings.features(encoder, part, center, device) for part in (train, test))
    figures = probe_features(known, asked, settings.l2, settings.iterations, device)
    protocol = {
        "protocol": "features",
        "classifier": "logistic regression by L-BFGS on standardised features, without augmentation",
        "l2_tried": settings.l2,
        "chosen_on": "a tenth of the training images" if len(settings.l2) > 1 else "nothing",
        **_common(exported, train, test),
    }
    about = exported.about | {"l2": figures.pop("l2")}
    return Evaluated([Result(stage="linear_features", figures=figures, protocol=protocol, about=about)])


def probe_features(
    known: Features,
    asked: Features,
    l2: tuple[float, ...],
    iterations: int = 200,
    device: torch.device | None = None,
) -> dict[str, Any]:
    """Top-1 accuracy of logistic regression on standardised features.

    The l2 weight is chosen on a tenth of the training images, never on the test images, and the regression is then
    fitted on all of them.

    Args:
        known: (N, D) training features.
        asked: (M, D) test features.
        l2: weights tried, of l2/2 |W|^2 beside the mean cross-entropy.
        iterations: of L-BFGS, at most.
        device: where it is fitted; by default the CPU.
    """
    mean, std = known.features.mean(dim=0), known.features.std(dim=0) + 1e-6
    x, y = ((known.features - mean) / std).to(device or "cpu"), known.labels.to(device or "cpu")
    num_classes = int(y.max()) + 1
    chosen = l2[0]
    if len(l2) > 1:
        order = permutation(0, Stream.SUBSET, len(x)).to(x.device)
        held, kept = order.tensor_split([max(1, len(x) // 10)])
        scores = {}
        classifier = None
        for weight in sorted(l2, reverse=True):  # from the smoothest, each starting from the one before
            classifier = fit_logistic(x[kept], y[kept], num_classes, weight, iterations, start=classifier)
            scores[weight] = _accuracy(classifier, x[held], y[held])
        chosen = max(scores, key=lambda weight: (scores[weight], weight))
    classifier = fit_logistic(x, y, num_classes, chosen, iterations)
    test = ((asked.features - mean) / std).to(x.device)
    return {"linear_top1": _accuracy(classifier, test, asked.labels.to(x.device)), "l2": chosen}


def fit_logistic(
    x: Tensor, y: Tensor, num_classes: int, l2: float, iterations: int, start: nn.Linear | None = None
) -> nn.Linear:
    """Minimise mean cross-entropy + l2/2 |W|^2 by L-BFGS: x (N, D), y (N,) -> a linear classifier."""
    classifier = nn.Linear(x.shape[1], num_classes, device=x.device)
    with torch.no_grad():
        classifier.weight.copy_(start.weight if start else torch.zeros_like(classifier.weight))
        classifier.bias.copy_(start.bias if start else torch.zeros_like(classifier.bias))
    optimizer = torch.optim.LBFGS(
        classifier.parameters(),
        max_iter=iterations,
        tolerance_grad=1e-6,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(classifier(x), y) + 0.5 * l2 * classifier.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return classifier


@torch.no_grad()
def _accuracy(classifier: nn.Linear, x: Tensor, y: Tensor) -> float:
    return (classifier(x).argmax(dim=1) == y).double().mean().item()


# With augmentation


def _with_augmentation(path: Path, exported: Exported, train: Source, test: Source, settings: Probe) -> Evaluated:
    parent = path if path.is_dir() else path.parent
    stage = f"linear_{settings.protocol}"
    folder = RunFolder(Path(settings.folder) if settings.folder else parent / stage)
    num_classes = int(train.labels.max()) + 1
    before = _digest(exported.encoder)
    trained = supervised.train(
        settings,
        lambda: LinearProbe(exported.encoder, num_classes, settings.initial_std),
        train,
        Augment(views=(plain_view(exported.feed),)),
        folder,
        {"encoder": exported.sha256},
    )
    outcome, method = trained.outcome, cast(LinearProbe, trained.method)
    if _digest(method.encoder) != before:
        raise RuntimeError("the frozen backbone was changed by the probe")
    if not outcome.finished:
        return Evaluated([], outcome.reason, outcome.signal)
    network = nn.Sequential(method.encoder, method.classifier)
    figures = settings.judge(network, test, exported.feed.center(), trained.device)
    protocol = {
        "protocol": settings.protocol,
        "epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "peak_learning_rate": settings.optimizer.peak(settings.batch_size),
        "weight_decay": settings.optimizer.weight_decay,
        **_common(exported, train, test),
    }
    about = exported.about | {"seed": settings.seed, "probe_folder": str(folder.path)}
    found = {f"linear_{name}": value for name, value in figures.items()}
    return Evaluated([Result(stage=stage, figures=found, protocol=protocol, about=about)])


def _digest(module: nn.Module) -> str:
    return hashlib.sha256(checkpoint.serialize(module.state_dict())).hexdigest()


STAGE = Stage(
    run=run_linear, defaults=lambda path, protocol: probe_settings(protocol, data_of(path)), protocols=PROTOCOLS
)
