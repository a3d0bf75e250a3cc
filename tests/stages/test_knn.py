"""The weighted vote against the published code's figures and against a loop."""

import math

import pytest
import torch
import torch.nn.functional as F
from figures import golden

from selfsup.cluster.neighbours import nearest_neighbours
from selfsup.stages.embed import Features
from selfsup.stages.knn import KNN, knn_accuracy, vote


@pytest.mark.parametrize("variant", ["a", "b", "c"])
def test_golden_vote(variant: str) -> None:
    figures = golden("knn_vote")
    k, temperature = int(figures[f"k_{variant}"]), float(figures[f"T_{variant}"])
    num_classes = int(figures["num_classes"])
    similarities, found = nearest_neighbours(figures["features"], figures["bank"], k)
    scores = vote(similarities, figures["labels"][found], num_classes, temperature)
    expected = figures[f"scores_{variant}"]
    largest = expected.amax(dim=1, keepdim=True)
    assert ((scores - expected).abs() <= 1e-5 * largest).all()
    ranked = scores.sort(dim=1, descending=True, stable=True)
    pred = torch.where(ranked.values > 0, ranked.indices, -1)
    assert torch.equal(pred, figures[f"pred_{variant}"])
    bank = Features(figures["bank"], figures["labels"], torch.arange(300))
    queries = Features(figures["features"], figures["query_labels"], torch.arange(40))
    accuracy = knn_accuracy(bank, queries, k, temperature)
    assert accuracy["top1"] == pytest.approx(float(figures[f"top1_acc_{variant}"]), abs=1e-12)


def features(count: int, classes: int, seed: int) -> Features:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    return Features(torch.randn(count, 6, generator=generator) + labels[:, None], labels, torch.arange(count))


def test_leave_one_out_equals_a_loop() -> None:
    bank, k, temperature, hits = features(60, 4, 0), 7, 0.2, 0
    unit = F.normalize(bank.features).double()
    for row in range(60):
        others = sorted((n for n in range(60) if n != row), key=lambda n: -float(unit[row] @ unit[n]))[:k]
        scores = [0.0] * 4
        for n in others:
            scores[int(bank.labels[n])] += math.exp(float(unit[row] @ unit[n]) / temperature)
        hits += scores.index(max(scores)) == int(bank.labels[row])
    assert knn_accuracy(bank, None, k, temperature)["top1"] == pytest.approx(hits / 60)


def test_bad_input() -> None:
    bank = features(20, 2, 0)
    with pytest.raises(ValueError, match="needs labels"):
        knn_accuracy(bank._replace(labels=torch.full((20,), -1)), None, 3, 0.1)
    with pytest.raises(ValueError, match="NaN"):
        knn_accuracy(bank._replace(features=bank.features * torch.nan), None, 3, 0.1)
    with pytest.raises(ValueError, match=r"temperature is 0\.001"):
        KNN(temperature=0.001)
