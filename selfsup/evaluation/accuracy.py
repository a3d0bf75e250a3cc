"""How often a classifier is right, over all images and class by class."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from selfsup.devices.double import to_double


class Hits(NamedTuple):
    """For each of N images whether its class was found."""

    first: Tensor  # (N,) bool: is the first choice
    five: Tensor  # (N,) bool: is among the first five

    @property
    def figures(self) -> dict[str, float]:
        """The shares of images: "top1" and "top5"."""
        return {"top1": int(self.first.sum()) / len(self.first), "top5": int(self.five.sum()) / len(self.five)}


def top_hits(logits: Tensor, labels: Tensor) -> Hits:
    """Whether the class of a row is the highest, and among the five highest: (N, C), (N,).

    Of equal logits the lower class stands first.
    """
    ranked = logits.sort(dim=1, descending=True, stable=True).indices[:, :5]
    hits = ranked == labels[:, None]
    return Hits(hits[:, 0], hits.any(dim=1))


def top_figures(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """The shares of `top_hits`, "top1" and "top5"."""
    return top_hits(logits, labels).figures


def first_choices(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The probability of the most probable class, (N,) float64, and that class, of equal ones the lower: of (N, C)."""
    predicted = logits.sort(dim=1, descending=True, stable=True).indices[:, 0]
    return to_double(logits).softmax(dim=1).gather(1, predicted[:, None])[:, 0], predicted


def recalls(right: Tensor, labels: Tensor) -> dict[int, float]:
    """Of the images of each class the share that was found, by label, ascending; only of classes with an image.

    Args:
        right: (N,) bool, whether the first choice was right.
        labels: (N,) int64, on the same device.
    """
    present, classes, counts = labels.unique(return_inverse=True, return_counts=True)
    found = classes[right].bincount(minlength=len(present))
    return {
        label: hits / count
        for label, hits, count in zip(present.tolist(), found.tolist(), counts.tolist(), strict=True)
    }


def mean_recall(found: dict[int, float]) -> float:
    """Balanced accuracy: the mean of `recalls`, so that every class counts the same."""
    return sum(found.values()) / len(found)


def by_name(values: dict[int, float], name: Callable[[int], str]) -> dict[str, float]:
    """Values of labels by the names of their classes; with the label behind a name that several classes have."""
    names = {label: name(label) for label in values}
    several = len(set(names.values())) < len(names)
    return {f"{names[label]} ({label})" if several else names[label]: value for label, value in values.items()}
