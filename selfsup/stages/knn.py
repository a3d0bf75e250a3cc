"""Weighted k-nearest-neighbour classification (Wu et al. 2018, section 3.4)."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from selfsup.cluster.neighbours import Backend, nearest_neighbours
from selfsup.data.sources import open_source, open_test
from selfsup.stages.base import Evaluated, Result, Stage, data_of
from selfsup.stages.embed import Features, Reading
from selfsup.stages.encoder import Layer, load_encoder
from selfsup.trainer import device_for


@dataclass(frozen=True, kw_only=True)
class KNN(Reading):
    """Settings of the kNN evaluation."""

    layer: Layer = "backbone"  # embedding: what the loss was about, as Wu et al. and MoCo's CIFAR demo do
    k: int = 200  # neighbours; at most the number of labelled training images
    temperature: float = 0.1  # T: each neighbour votes exp(similarity / T)
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        if self.k < 1:
            raise ValueError(f"k is {self.k}; it must be at least 1")


def check_temperature(temperature: float) -> None:
    """Raise ValueError for a temperature at which votes would overflow or mean nothing."""
    if temperature < 0.002:
        raise ValueError(f"the kNN temperature is {temperature}; it must be at least 0.002 (0.07 and 0.1 are usual)")


def vote(similarities: Tensor, labels: Tensor, num_classes: int, temperature: float) -> Tensor:
    """Class scores from neighbours: score_c = sum over neighbours of class c of exp(similarity / T).

    Args:
        similarities: (Q, k) cosine similarities.
        labels: (Q, k) int64 class of each neighbour.
        num_classes: C.
        temperature: T.

    Returns:
        (Q, C) scores in the precision of `similarities`; of equal scores the lower class wins.
    """
    scores = similarities.new_zeros(len(similarities), num_classes)
    return scores.scatter_add_(1, labels, torch.exp(similarities / temperature))


def knn_accuracy(
    bank: Features,
    queries: Features | None,
    k: int,
    temperature: float,
    backend: Backend = "auto",
    device: torch.device | None = None,
) -> dict[str, float]:
    """Top-1 and top-5 accuracy of the vote; without queries each bank image is judged by all others.

    The neighbours are found on `device`, by default the CPU.

    Raises:
        ValueError: there are no labels, features are not finite, or k is larger than the bank.
    """
    asked = bank if queries is None else queries
    if min(bank.labels.min(), asked.labels.min()) < 0:
        raise ValueError("kNN needs labels: put the images of each class in a folder of its own")
    if not (bank.features.isfinite().all() and asked.features.isfinite().all()):
        raise ValueError("the features hold NaN or infinity; the encoder has diverged")
    exclude = torch.arange(len(bank.labels), device=device) if queries is None else None
    unit_bank, unit_asked = (F.normalize(part.features.to(device or "cpu")) for part in (bank, asked))
    similarities, found = (part.cpu() for part in nearest_neighbours(unit_asked, unit_bank, k, backend, exclude))
    num_classes = int(max(bank.labels.max(), asked.labels.max())) + 1
    scores = vote(similarities, bank.labels[found], num_classes, temperature)
    ranked = scores.sort(dim=1, descending=True, stable=True).indices
    hits = ranked == asked.labels[:, None]
    return {"top1": hits[:, :1].any(1).double().mean().item(), "top5": hits[:, :5].any(1).double().mean().item()}


def run_knn(path: Path, settings: KNN) -> Evaluated:
    """kNN of an exported encoder: bank from the training part, queries from the test part where there is one.

    Args:
        path: a run folder or an encoder.safetensors.
        settings: with `data.root` set.
    """
    exported = load_encoder(path)
    device = device_for(settings.device)
    encoder, center = exported.network(settings.layer).to(device), exported.feed.center()
    data = settings.data
    parts = [open_source(data.root, "train", labels=data.labels, limit=data.limit)]
    test = open_test(data.root, data.labels)
    if test is not None:
        parts.append(test)
    bank, *rest = (settings.features(encoder, part, center, device) for part in parts)
    k = min(settings.k, len(bank.labels) - (not rest))
    figures = knn_accuracy(bank, rest[0] if rest else None, k, settings.temperature, settings.backend, device)
    protocol = {
        "k": k,
        "temperature": settings.temperature,
        "metric": "cosine",
        "layer": settings.layer,
        "transform": exported.feed.transform,
        "bank_images": len(bank.labels),
        "query_images": len(rest[0].labels) if rest else len(bank.labels),
        "split": "train to test" if rest else "leave one out",
    }
    found = {f"knn_{name}": value for name, value in figures.items()}
    return Evaluated([Result(stage="knn", figures=found, protocol=protocol, about=exported.about)])


STAGE = Stage(run=run_knn, defaults=lambda path, protocol: KNN(data=data_of(path)))
