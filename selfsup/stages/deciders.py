"""What makes classes of features: a trained classifier, or the nearest neighbours in a bank of labelled images."""

from pathlib import Path
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from selfsup.cluster.neighbours import neighbour_tiles
from selfsup.data.opening import labelled_part, open_part
from selfsup.data.settings import Data
from selfsup.data.sources import Source
from selfsup.evaluation.encoder import Exported
from selfsup.evaluation.features import Features
from selfsup.evaluation.knn import neighbours_of, vote
from selfsup.models.heads import Classifier
from selfsup.runtime import arithmetic
from selfsup.stages.knn import check_classes


class Decided(NamedTuple):
    """The first choices for each image, the most probable first."""

    classes: Tensor  # (N, top) int64, on the CPU; -1 where there is none
    probabilities: Tensor  # (N, top) on the CPU; 0 where there is no class


class Decider(Protocol):
    """Features to classes."""

    names: tuple[str, ...]  # of the classes, in the order of their numbers

    def __call__(self, features: Tensor, top: int) -> Decided:
        """Of features (N, D) float32 on the device, the first `top` choices."""


class ByClassifier:
    """The softmax of a classifier's logits; of equal ones the lower class stands first.

    Args:
        head: on the device.
    """

    def __init__(self, head: Classifier) -> None:
        self.head, self.names = head, class_names(head)

    @torch.no_grad()
    def __call__(self, features: Tensor, top: int) -> Decided:
        with arithmetic.full_precision():
            probabilities = self.head(features).float().cpu().softmax(dim=1)
        found = probabilities.sort(dim=1, descending=True, stable=True)
        return Decided(found.indices[:, :top], found.values[:, :top])


class ByBank:
    """The vote of `selfsup knn`: each class's share of the votes of the k nearest images.

    Args:
        bank: features of the labelled images.
        names: of the classes.
        k: neighbours, at most as many as there are.
        temperature: T; each neighbour votes exp(similarity / T).
        device: where neighbours are found.
    """

    def __init__(
        self, bank: Features, names: tuple[str, ...], k: int, temperature: float, device: torch.device
    ) -> None:
        self.bank, self.labels, self.names = bank.features.to(device), bank.labels, names
        self.k, self.temperature = k, temperature

    def __call__(self, features: Tensor, top: int) -> Decided:
        parts = []
        for similarities, numbers in neighbour_tiles(features, self.bank, self.k, cosine=True):
            scores, classes = vote(similarities.cpu(), self.labels[numbers.cpu()], self.temperature)
            votes = scores.clamp(min=0)  # where there is no class, -inf
            parts.append((classes[:, :top], (votes / votes.sum(dim=1, keepdim=True))[:, :top]))
        classes, shares = (torch.cat(column) for column in zip(*parts, strict=True))
        lacking = (0, top - classes.shape[1])  # fewer neighbours than choices
        return Decided(F.pad(classes, lacking, value=-1), F.pad(shares, lacking, value=0.0))


def class_names(head: Classifier) -> tuple[str, ...]:
    """What a classifier calls its classes; their numbers where it has no names."""
    return head.config.class_names or tuple(map(str, range(head.config.num_classes)))


def require_classifier(exported: Exported, path: Path, otherwise: str) -> Classifier:
    """The head of a classifier.

    Args:
        exported: what was read.
        path: that it was read from.
        otherwise: another way, a line of the message.

    Raises:
        ValueError: it is an encoder alone.
    """
    if not isinstance(exported.head, Classifier):
        raise ValueError(
            f"{path} has no classifier; make one: selfsup finetune {path} --data.root LABELLED\n{otherwise}"
        )
    return exported.head


def open_bank(data: Data) -> Source:
    """The labelled images of `data`, of its training part where it has one.

    Raises:
        ValueError: as `open_source`; the images have no labels, or are of one class.
    """
    source = labelled_part(open_part(data, "train"), "train")
    check_classes(source, None)
    return source


def neighbours_that_vote(asked: int | None, bank: Features) -> int:
    """How many, as `selfsup knn` has it: None is the usual number, or fewer of few images."""
    return neighbours_of(() if asked is None else (asked,), bank.labels, leave_one_out=False)[0]
