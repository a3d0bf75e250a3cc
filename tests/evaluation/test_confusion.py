"""Figures of classes and of calibration: by plain loops in double precision, and by scikit-learn."""

import math

import numpy as np
import pytest
import torch

from selfsup.evaluation.accuracy import by_name, mean_recall, recalls, top_figures, top_hits
from selfsup.evaluation.confusion import calibration_error, class_figures, confusion_matrix


def drawn(count: int, classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are right more often than not, and labels; the last class is never a label."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes - 1, (count,), generator=generator)
    logits = torch.randn(count, classes, generator=generator)
    logits[torch.arange(count), labels] += 1.0
    logits[:, 0] -= 100.0  # never predicted
    return logits, labels


@pytest.mark.parametrize("classes", [4, 9])
def test_figures_of_classes_are_those_of_plain_loops_and_of_scikit_learn(classes: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    logits, labels = drawn(300, classes, classes)
    predicted = logits.argmax(dim=1)
    matrix = confusion_matrix(labels, predicted, classes)
    naive = [[0] * classes for _ in range(classes)]
    for label, taken in zip(labels.tolist(), predicted.tolist(), strict=True):
        naive[label][taken] += 1
    assert matrix.tolist() == naive
    numbers = list(range(classes))
    theirs = metrics.confusion_matrix(labels.numpy(), predicted.numpy(), labels=numbers)
    assert matrix.tolist() == theirs.tolist()
    precision, recall, _, images = metrics.precision_recall_fscore_support(
        labels.numpy(), predicted.numpy(), labels=numbers, zero_division=np.nan
    )
    for number, found in enumerate(class_figures(matrix)):
        for ours, other in ((found.precision, precision[number]), (found.recall, recall[number])):
            assert math.isnan(other) if ours is None else ours == pytest.approx(other, abs=1e-12)
        assert found.images == images[number]
    assert class_figures(matrix)[0].precision is None
    assert class_figures(matrix)[-1].recall is None
    each = recalls(predicted == labels, labels)
    assert list(each) == sorted(set(labels.tolist()))
    expected = metrics.recall_score(labels.numpy(), predicted.numpy(), labels=list(each), average=None)
    assert list(each.values()) == pytest.approx(list(expected), abs=1e-12)
    balanced = metrics.recall_score(labels.numpy(), predicted.numpy(), labels=list(each), average="macro")
    assert mean_recall(each) == pytest.approx(balanced, abs=1e-12)
    top = metrics.top_k_accuracy_score(labels.numpy(), logits.numpy(), k=1, labels=numbers)
    assert top_figures(logits, labels)["top1"] == pytest.approx(top, abs=1e-12)
    if classes > 5:
        five = metrics.top_k_accuracy_score(labels.numpy(), logits.numpy(), k=5, labels=numbers)
        assert top_hits(logits, labels).figures["top5"] == pytest.approx(five, abs=1e-12)


def naive_calibration_error(confidence: list[float], right: list[bool], bins: int) -> float:
    total = 0.0
    for number in range(bins):
        inside = [i for i, sure in enumerate(confidence) if number / bins < sure <= (number + 1) / bins]
        if inside:
            accuracy = sum(right[i] for i in inside) / len(inside)
            mean = sum(confidence[i] for i in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(accuracy - mean)
    return total


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_the_calibration_error_is_that_of_a_plain_loop(bins: int) -> None:
    logits, labels = drawn(400, 6, 1)
    confidence = logits.double().softmax(dim=1).max(dim=1).values
    # The ends of bins belong to the lower one; a confidence of one is in the last.
    confidence[:6] = torch.tensor([0.25, 0.5, 0.75, 1.0, 1.0, 1 / 15], dtype=torch.float64)
    right = logits.argmax(dim=1) == labels
    found = calibration_error(confidence, right, bins)
    assert found == pytest.approx(naive_calibration_error(confidence.tolist(), right.tolist(), bins), abs=1e-12)
    assert calibration_error(confidence, right) == calibration_error(confidence, right, 15)


def test_calibration_of_known_answers() -> None:
    sure = torch.full((10,), 0.8)
    right = torch.arange(10) < 8
    assert calibration_error(sure, right) == pytest.approx(0.0, abs=1e-7)
    assert calibration_error(sure, ~right) == pytest.approx(0.6, abs=1e-7)


def test_classes_of_one_name_are_told_apart() -> None:
    assert by_name({0: 0.5, 2: 1.0}, lambda label: f"c{label}") == {"c0": 0.5, "c2": 1.0}
    assert by_name({0: 0.5, 2: 1.0}, lambda label: "same") == {"same (0)": 0.5, "same (2)": 1.0}
