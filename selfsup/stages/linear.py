"""Linear classification on frozen features: the probes of MoCo and SimCLR as published, and a fast one."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfsup import checkpoint, distributed
from selfsup.augment.parameters import View
from selfsup.augment.views import Augment, Views
from selfsup.config import Data
from selfsup.data.batch import Batch
from selfsup.data.sources import Source, open_source
from selfsup.folder import RunFolder
from selfsup.methods.base import Method, Step
from selfsup.models.resnet import ResNet
from selfsup.optim import SGD
from selfsup.pretrain import fingerprint, make_loader
from selfsup.randomness import Stream, permutation
from selfsup.schedules import Cosine, Steps
from selfsup.stages.embed import Features, Reading, extract
from selfsup.stages.encoder import Exported, Feed, load_encoder
from selfsup.trainer import Training, fit, make_accelerator

PROTOCOLS = ("features", "moco", "simclr")


@dataclass(frozen=True, kw_only=True)
class Probe(Training):
    """A linear classifier trained on augmented images with a frozen backbone."""

    protocol: Literal["moco", "simclr"]
    data: Data = Data()
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


def run_linear(path: Path, settings: Probe | FeatureProbe, device: torch.device | None = None) -> dict[str, Any]:
    """Probe an exported encoder; trained on the training part, judged on the test part, at the last epoch.

    Args:
        path: a run folder or an encoder.safetensors.
        settings: from `probe_settings`, with `data.root` set.
        device: of the feature probe; an augmented probe runs where its accelerator says.

    Returns:
        figures with the whole protocol; "linear_top1" is absent when the probe was interrupted.

    Raises:
        ValueError: no labels, no test part, or the data do not fit the settings.
    """
    exported = load_encoder(path)
    data = settings.data
    train = open_source(data.root, "train", labels=data.labels, limit=data.limit)
    test = open_source(data.root, "test", labels=data.labels)
    require_labels(train, test)
    if isinstance(settings, FeatureProbe):
        figures = _on_features(exported, train, test, settings, device or torch.device("cpu"))
    else:
        figures = _with_augmentation(path, exported, train, test, settings)
    return figures | {
        "layer": "backbone",
        "train_images": len(train),
        "test_images": len(test),
        "transform": exported.feed.transform,
        "encoder_sha256": exported.sha256,
    }


def require_labels(train: Source, test: Source) -> None:
    """Raise ValueError where a classifier cannot be trained and judged."""
    for name, source in (("training", train), ("test", test)):
        if int(source.labels.min()) < 0:
            raise ValueError(f"the {name} images have no labels; put the images of each class in a folder of its own")
    missing = sorted(set(test.labels.tolist()) - set(train.labels.tolist()))
    if missing:
        raise ValueError(f"test classes {missing[:5]} have no training image; a probe cannot learn them")
    if len(train.labels.unique()) < 2:
        raise ValueError("there is only one class; a classifier needs at least two")


# On features


def _on_features(
    exported: Exported, train: Source, test: Source, settings: FeatureProbe, device: torch.device
) -> dict[str, Any]:
    encoder, center = exported.encoder.to(device), exported.feed.center()
    known, asked = (settings.features(encoder, part, center, device) for part in (train, test))
    figures = probe_features(known, asked, settings.l2, settings.iterations, device)
    return figures | {
        "protocol": "features: L-BFGS logistic regression, standardised, l2 chosen on a tenth of the training images"
    }


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


def probe_view(feed: Feed) -> View:
    """Random resized crop and flip, nothing else, as both papers train their probes."""
    return View(size=feed.size, crop_scale=(0.08, 1.0), flip=0.5, mean=feed.mean, std=feed.std)


def _with_augmentation(path: Path, exported: Exported, train: Source, test: Source, settings: Probe) -> dict[str, Any]:
    accelerator = make_accelerator(settings)
    parent = path if path.is_dir() else path.parent
    folder = RunFolder(Path(settings.folder) if settings.folder else parent / f"linear_{settings.protocol}")
    views = Views(Augment(views=(probe_view(exported.feed),)), settings.seed)
    loader = make_loader(settings, settings.data, train, views, accelerator)
    torch.manual_seed(settings.seed)
    num_classes = int(train.labels.max()) + 1
    method = LinearProbe(exported.encoder, num_classes, settings.initial_std)

    def evaluate() -> dict[str, float]:
        judged = extract(
            nn.Sequential(method.encoder, method.classifier),
            test,
            exported.feed.center(),
            accelerator.device,
            canvas=settings.data.canvas,
            workers=settings.workers,
        )
        return {"linear_top1": (judged.features.argmax(dim=1) == judged.labels).double().mean().item()}

    before = _digest(method.encoder)
    facts = {"images": fingerprint(train), "encoder": exported.sha256}
    with folder.claimed(settings, facts, accelerator.device):
        outcome = fit(method, loader, views, settings, folder, accelerator)
    if _digest(method.encoder) != before:
        raise RuntimeError("the frozen backbone was changed by the probe")
    figures: dict[str, Any] = evaluate() if outcome.finished else {}
    return figures | {
        "protocol": settings.protocol,
        "epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "peak_learning_rate": settings.optimizer.peak(settings.batch_size),
        "reason": outcome.reason,
        "signal": outcome.signal,
        "probe_folder": str(folder.path),
        "processes": distributed.world_size(),
    }


def _digest(module: nn.Module) -> str:
    return hashlib.sha256(checkpoint.serialize(module.state_dict())).hexdigest()
