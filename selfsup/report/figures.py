"""Figures of a report, each by the function that evaluations use, with its protocol."""

from typing import Any

import torch
from torch import Tensor, nn

from selfsup.augment.views import Augment, Views
from selfsup.data.loader import evaluation_batches
from selfsup.data.sources import Source
from selfsup.evaluation.accuracy import first_choices, recalls
from selfsup.evaluation.confusion import confusion_matrix
from selfsup.evaluation.features import Features
from selfsup.evaluation.knn import knn_accuracy, knn_choices, neighbours_of
from selfsup.losses.diagnostics import effective_rank, feature_health
from selfsup.models.heads import Classifier
from selfsup.report.contents import Confusion, Mistake, Protocol, Spectrum
from selfsup.report.encoding import Feeding, unit
from selfsup.report.pictures import Examples
from selfsup.report.verdict import Share

TEMPERATURE = 0.1  # of the kNN votes
BANK = 10_000  # labelled images that vote, at most
SPECTRUM = 5_000  # images whose singular values are taken
FEW = 512  # the same where there is little time
PAIRS = 256  # images whose two views are compared
WORST = 24  # mistakes that are shown
CLASSES = 60  # of a confusion matrix, at most: the ones with the most mistakes where there are more


class Judging:
    """kNN on one set of images, by one protocol, for several encoders.

    Args:
        labels: of the bank.
        leave_one_out: whether the images of the bank ask each other.
        device: of the search.
    """

    def __init__(self, labels: Tensor, leave_one_out: bool, device: torch.device) -> None:
        self.k = neighbours_of((), labels, leave_one_out, told=False)[0]
        self.leave_one_out, self.device = leave_one_out, device

    def share(self, bank: Features, queries: Features | None) -> Share:
        """How many of the queries, or of the bank's images, find their class."""
        asked = bank if queries is None else queries
        accuracy = knn_accuracy(bank, queries, self.k, TEMPERATURE, device=self.device)
        return Share(round(accuracy["top1"] * len(asked.labels)), len(asked.labels))

    def choices(self, bank: Features, queries: Features | None) -> tuple[Tensor, Tensor]:
        """The class that each is taken for, and its share of the votes."""
        return knn_choices(bank, queries, self.k, TEMPERATURE, device=self.device)

    def protocol(self, bank: Features, queries: Features | None) -> Protocol:
        """How the figures came about."""
        return {
            "figure": "weighted kNN, top-1",
            "k": self.k,
            "temperature": TEMPERATURE,
            "metric": "cosine",
            "split": "leave one out" if queries is None else "train to test",
            "images that vote": len(bank.labels),
            "images that are judged": len((bank if queries is None else queries).labels),
        }


def classified(head: Classifier, features: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """What a classifier takes each row for, (N,) int64, and its probability, (N,) float64."""
    with torch.no_grad():
        logits = torch.cat([head.to(device)(rows.to(device)).float().cpu() for rows in features.split(4096)])
    probability, chosen = first_choices(logits)
    return chosen, probability


def confusion(
    asked: Features, chosen: Tensor, shares: Tensor, names: list[str], examples: Examples, protocol: Protocol
) -> Confusion:
    """Which classes are taken for which; the most confident mistakes first.

    Args:
        asked: the images that were judged, with labels below C.
        chosen, shares: (N,) of each the class it was taken for, and how sure that was.
        names: of the C classes.
        examples: of the source that `asked.indices` count in.
        protocol: how it came about.
    """
    matrix = confusion_matrix(asked.labels, chosen, len(names))
    found = recalls(chosen == asked.labels, asked.labels)
    images = matrix.sum(dim=1).tolist()
    per_class = sorted(((names[label], share, images[label]) for label, share in found.items()), key=lambda row: row[1])
    wrong = (chosen != asked.labels).nonzero()[:, 0]
    worst = wrong[shares[wrong].argsort(descending=True, stable=True)][:WORST].tolist()
    mistakes = [
        Mistake(examples(int(asked.indices[row])), names[int(chosen[row])], float(shares[row])) for row in worst
    ]
    kept = _hardest(matrix)
    if len(kept) < len(names):
        protocol = protocol | {"classes shown": f"the {len(kept)} of {len(names)} with the most mistakes"}
    shown = matrix[kept][:, kept].tolist()
    return Confusion(shown, [names[label] for label in kept.tolist()], mistakes, per_class, protocol)


def _hardest(matrix: Tensor) -> Tensor:
    """The classes that are shown, ascending: those with images, or with the most mistakes where they are many."""
    present = ((matrix.sum(dim=0) + matrix.sum(dim=1)) > 0).nonzero()[:, 0]
    if len(present) <= CLASSES:
        return present
    mistakes = matrix.sum(dim=1) - matrix.diagonal()
    return mistakes.argsort(descending=True, stable=True)[:CLASSES].sort().values


def spectrum(features: Tensor, protocol: Protocol, most: int = SPECTRUM) -> Spectrum:
    """Singular values of features about their mean; RankMe of the features, and the directions in which they differ.

    Args:
        features: (N, D), finite.
        protocol: what they are of.
        most: rows that are taken.
    """
    rows = features[:most].double()
    centred = rows - rows.mean(dim=0)
    gram = centred @ centred.T if rows.shape[0] < rows.shape[1] else centred.T @ centred
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().flip(0)
    health = feature_health(unit(rows.float()), unit(rows.float()))
    figures = {
        "rank_me": effective_rank(rows),
        "feature_rank": effective_rank(centred),
        "feature_std": float(health["feature_std"]),
        "uniformity": float(health["uniformity"]),
    }
    shares = (singular / singular.sum().clamp(min=1e-300)).tolist()
    return Spectrum(shares, figures, protocol | {"images": len(rows), "dimensions": rows.shape[1]})


class Seen:
    """Images as a run saw them: the views of the first images of its data, in its first epoch.

    Args:
        augment: of the run.
        seed: of the run.
        source: its training images.
        feeding: how they are read.
    """

    def __init__(self, augment: Augment, seed: int, source: Source, feeding: Feeding) -> None:
        self._views, self._source, self._feeding = Views(augment, seed), source, feeding
        self.augment, self.seed = self._views.augment, seed

    def __call__(self, rows: Tensor) -> tuple[list[Tensor], Tensor]:
        """The views of these images, each (B, C, S, T) on the device, and the rows that could be read."""
        feeding = self._feeding
        part = self._source.select(rows)
        part.tolerated = 1.0
        crop = None if feeding.canvas is not None else _OfRows(self._views, rows)
        batches = evaluation_batches(
            part, batch_size=len(rows), device=feeding.device, canvas=feeding.canvas, crop=crop, workers=0
        )
        (batch,) = batches
        own = rows[batch.indices.cpu()]
        return self._views(batch._replace(indices=own), 0, feeding.device), own

    def alignment(self, network: nn.Module, rows: Tensor) -> dict[str, float]:
        """`feature_health` of the first two views of these images, as the network sees them; () where it is one."""
        views, _ = self(rows)
        if len(views) < 2:
            return {}
        with torch.no_grad():
            pair = [unit(network(view).float().cpu()) for view in views[:2]]
        return {name: float(value) for name, value in feature_health(*pair).items()}


class _OfRows:
    """The crops of images that are counted by their place among `rows`."""

    def __init__(self, views: Views, rows: Tensor) -> None:
        self._views, self._rows = views, rows

    def __call__(self, images: Any, indices: Tensor, epoch: int) -> tuple[Tensor, ...]:
        return self._views.crop(images, self._rows[indices], 0)
