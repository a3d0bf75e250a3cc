"""k nearest neighbours: the weighted vote of Wu et al. over features, and how many neighbours fit the data."""

from itertools import product

import torch
from torch import Tensor

from selfsup import distributed
from selfsup.cluster.backends import Backend
from selfsup.cluster.neighbours import neighbour_tiles
from selfsup.devices.double import double_device
from selfsup.evaluation.accuracy import Hits
from selfsup.evaluation.features import Features
from selfsup.output import message

USUAL_K = 200  # of Wu et al. and all who follow them, on 50,000 images and more


def neighbours_of(asked: tuple[int, ...], labels: Tensor, leave_one_out: bool, told: bool = True) -> tuple[int, ...]:
    """The numbers of neighbours that vote among a bank of these labels, each once.

    Args:
        asked: what was asked for; empty: `USUAL_K`, or fewer where a class has fewer images than that, which could then
            never win, or the bank fewer than ten times as many.
        labels: (N,) of the bank.
        leave_one_out: whether each image of the bank asks all others.
        told: whether to say where it is not what was asked for, or is usual.
    """
    available = len(labels) - leave_one_out
    if not asked:
        smallest = int(labels.unique(return_counts=True)[1].min()) - leave_one_out
        k = max(1, min(USUAL_K, smallest, len(labels) // 10))
        if told and k < USUAL_K and distributed.rank() == 0:
            message(
                f"{k} neighbours vote and not the usual {USUAL_K}: of {available} images to be found, {smallest} are "
                "of the smallest class; --k decides it"
            )
        return (k,)
    for k in dict.fromkeys(asked):
        if told and k > available and distributed.rank() == 0:
            message(f"k is {k}, and there are {available} images to be found: all of them vote")
    return tuple(dict.fromkeys(min(k, available) for k in asked))


def vote(similarities: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Classes by the votes of neighbours: score_c = sum over neighbours of class c of exp(similarity / T).

    Only classes among a query's neighbours have a score, so that memory does not depend on how many classes there are.

    Args:
        similarities: (Q, k) cosine similarities.
        labels: (Q, k) int64 class of each neighbour, from 0.
        temperature: T.

    Returns:
        scores (Q, k) in the precision of `similarities`, best first, and their classes (Q, k); of equal scores the
        lower class stands first. Where the neighbours are of fewer than k classes, -inf and class -1 fill the end.
    """
    labels, order = labels.sort(dim=1, stable=True)
    begins = torch.zeros_like(labels)
    begins[:, 1:] = labels[:, 1:] != labels[:, :-1]
    place = begins.cumsum(dim=1)  # of a neighbour's class among those of its query, in ascending order
    classes = torch.full_like(labels, -1).scatter_(1, place, labels)
    votes = torch.exp(similarities.gather(1, order) / temperature)
    scores = torch.zeros_like(votes).scatter_add_(1, place, votes).masked_fill_(classes < 0, -torch.inf)
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    return scores, classes.gather(1, order)


def knn_hits(
    bank: Features,
    queries: Features | None,
    ks: tuple[int, ...],
    temperatures: tuple[float, ...],
    backend: Backend = "auto",
    device: torch.device | None = None,
) -> dict[tuple[int, float], Hits]:
    """Whether the vote finds the class of each query, for each (k, T); without queries all others judge a bank image.

    The neighbours are searched once, for the largest k, and judged tile by tile. A class that no neighbour has is not
    among the five.

    Args:
        bank, queries: features of any length with labels from 0, in any number and however far apart.
        ks, temperatures: all pairs of them are judged.
        backend: of the search; both give the same answer.
        device: where neighbours are found by torch, by default the CPU; that too where the device has no double
            precision. faiss searches on the CPU.

    Raises:
        ValueError: there are no labels, features are not finite, or k is larger than the bank.
    """
    asked = bank if queries is None else queries
    if min(bank.labels.min(), asked.labels.min()) < 0:
        raise ValueError("kNN needs labels: put the images of each class in a folder of its own")
    for part in (bank, asked):
        part.require_finite()
    place = torch.device("cpu") if device is None or backend == "faiss" else double_device(device)
    exclude = torch.arange(len(bank.labels), device=place) if queries is None else None
    tiles = neighbour_tiles(asked.features.to(place), bank.features.to(place), max(ks), backend, exclude, cosine=True)
    found: dict[tuple[int, float], list[Hits]] = {pair: [] for pair in product(ks, temperatures)}
    judged = 0
    for similarities, numbers in tiles:
        similarities, labels = similarities.cpu(), bank.labels[numbers.cpu()]
        wanted = asked.labels[judged : judged + len(labels), None]
        judged += len(labels)
        for (k, temperature), hits in found.items():
            right = vote(similarities[:, :k], labels[:, :k], temperature)[1][:, :5] == wanted
            hits.append(Hits(right[:, 0], right.any(dim=1)))
    return {pair: Hits(*map(torch.cat, zip(*hits, strict=True))) for pair, hits in found.items()}


def knn_choices(
    bank: Features, queries: Features | None, k: int, temperature: float, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """The class that the vote chooses for each query, (Q,) int64, and its share of all votes, (Q,) float64.

    Of what `knn_hits` judges, for one k and one T; the arguments and errors are its.
    """
    asked = bank if queries is None else queries
    for part in (bank, asked):
        part.require_finite()
    place = torch.device("cpu") if device is None else double_device(device)
    exclude = torch.arange(len(bank.labels), device=place) if queries is None else None
    tiles = neighbour_tiles(asked.features.to(place), bank.features.to(place), k, exclude=exclude, cosine=True)
    chosen, shares = list[Tensor](), list[Tensor]()
    for similarities, numbers in tiles:
        scores, classes = vote(similarities.cpu(), bank.labels[numbers.cpu()], temperature)
        chosen.append(classes[:, 0])
        shares.append(scores[:, 0] / scores.masked_fill(classes < 0, 0).sum(dim=1))
    return torch.cat(chosen), torch.cat(shares)


def knn_accuracies(
    bank: Features,
    queries: Features | None,
    ks: tuple[int, ...],
    temperatures: tuple[float, ...],
    backend: Backend = "auto",
    device: torch.device | None = None,
) -> dict[tuple[int, float], dict[str, float]]:
    """Top-1 and top-5 accuracy of the vote, the shares of `knn_hits`, for each (k, T)."""
    found = knn_hits(bank, queries, ks, temperatures, backend, device)
    return {pair: hits.figures for pair, hits in found.items()}


def knn_accuracy(
    bank: Features,
    queries: Features | None,
    k: int,
    temperature: float,
    backend: Backend = "auto",
    device: torch.device | None = None,
) -> dict[str, float]:
    """`knn_accuracies` for one k and one T."""
    return knn_accuracies(bank, queries, (k,), (temperature,), backend, device)[k, temperature]
