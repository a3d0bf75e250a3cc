"""Positives and negatives of the histograms, beside a plain loop."""

import torch
from torch import Tensor

from selfsup.losses.contrastive import l2_normalize
from selfsup.monitor.similarities import similarities


def unit(count: int, seed: int) -> Tensor:
    return l2_normalize(torch.randn(count, 5, generator=torch.Generator().manual_seed(seed)))


def looped(rows: Tensor, partners: Tensor, images: int, labels: list[int] | None) -> tuple[list[float], list[float]]:
    positive, negative = [], []
    for i, row in enumerate(rows):
        for j, partner in enumerate(partners):
            cosine = float(row @ partner)
            if labels is None:
                if i == j and not torch.equal(row, partner):
                    positive.append(cosine)
                elif i % images != j % images and not torch.equal(partners[i], partner):
                    negative.append(cosine)
                continue
            mine, other = labels[i % images], labels[j % images]
            if i % images == j % images or (mine == other and mine >= 0):
                positive += [] if torch.equal(row, partner) else [cosine]
            else:
                negative.append(cosine)
    return positive, negative


def assert_as_looped(rows: Tensor, partners: Tensor, images: int, labels: list[int] | None) -> None:
    found = similarities(rows, partners, images, None if labels is None else torch.tensor(labels))
    for ours, wanted in zip(found, looped(rows, partners, images, labels), strict=True):
        torch.testing.assert_close(ours, torch.tensor(wanted))


def test_an_images_other_view_is_the_positive() -> None:
    a, b = unit(6, 0), unit(6, 1)
    assert_as_looped(a, b, 6, None)
    found = similarities(a, b, 6, None)
    torch.testing.assert_close(found.positive, (a * b).sum(dim=1))
    assert len(found.negative) == 6 * 5


def test_a_clusters_row_is_no_negative_of_its_images() -> None:
    memory, cluster = unit(3, 1), torch.tensor([0, 1, 0, 2, 2, 0])
    assert_as_looped(unit(6, 0), memory[cluster], 6, None)
    assert len(similarities(unit(6, 0), memory[cluster], 6, None).negative) == 36 - 9 - 1 - 4


def test_with_labels_classes_are_positives_and_no_row_is_its_own() -> None:
    rows = unit(6, 0)
    assert_as_looped(rows, rows, 6, [0, 0, 1, 1, 1, -1])
    assert len(similarities(rows, rows, 6, torch.tensor([0, 0, 1, 1, 1, -1])).positive) == 2 + 6
    assert_as_looped(rows, rows[[1, 0, 3, 2, 2, 5]], 6, [0, 0, 1, 1, 1, -1])  # others of the class, each a row itself
    assert_as_looped(rows, unit(6, 1), 3, [0, 1, 0])  # two views of three images


def test_without_positives_there_are_none() -> None:
    rows = unit(4, 0)
    assert len(similarities(rows, rows, 4, None).positive) == 0
