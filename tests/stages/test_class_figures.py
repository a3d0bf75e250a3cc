"""kNN and the linear probes say how each class fares, beside the figures that they always had."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from selfsup.data.settings import Data
from selfsup.data.sources import open_source
from selfsup.evaluation.encoder import load_encoder
from selfsup.evaluation.features import Features, extract
from selfsup.evaluation.knn import knn_accuracies, vote
from selfsup.evaluation.logistic import FeatureProbe, fit_logistic, zeros
from selfsup.stages.base import Result
from selfsup.stages.knn import run_knn
from selfsup.stages.linear import run_linear
from selfsup.stages.probes import Probe, probe_settings
from selfsup.stages.settings import KNN
from tests.support.classified import CLASSES, paintings
from tests.support.encoders import PLAIN, SMALL, export_untrained

CPU = torch.device("cpu")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Test images of three of four classes, of ragged sizes; the one that is missing is neither first nor last."""
    paintings(tmp_path / "data" / "train", 48)
    paintings(tmp_path / "data" / "test", 30, ("ant", "cat", "dog"), first=900)
    return tmp_path / "data"


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    return export_untrained(tmp_path / "run", SMALL, PLAIN)


def features(encoder: Path, data: Path) -> tuple[Features, Features]:
    exported = load_encoder(encoder)
    train, test = (open_source(str(data), part) for part in ("train", "test"))
    return extract(exported.encoder, train, PLAIN.center(), CPU), extract(exported.encoder, test, PLAIN.center(), CPU)


def require_classes(result: Result, prefix: str, predicted: list[int], labels: list[int]) -> None:
    """The recalls and their mean, counted image by image."""
    counts: dict[str, list[bool]] = defaultdict(list)
    for choice, label in zip(predicted, labels, strict=True):
        counts[CLASSES[label]].append(choice == label)
    expected = {name: sum(right) / len(right) for name, right in counts.items()}
    assert len(set(expected.values())) > 1
    assert result.about["per_class_recall"] == pytest.approx(expected, abs=1e-12)
    assert result.figures[f"{prefix}_balanced_accuracy"] == pytest.approx(sum(expected.values()) / 3, abs=1e-12)
    right = [choice == label for choice, label in zip(predicted, labels, strict=True)]
    assert result.figures[f"{prefix}_top1"] == pytest.approx(sum(right) / len(right), abs=1e-12)
    assert list(result.figures) == [f"{prefix}_top1", f"{prefix}_top5", f"{prefix}_balanced_accuracy"]


def test_knn_says_how_each_class_fares(encoder: Path, data: Path) -> None:
    bank, asked = features(encoder, data)
    settings = KNN(data=Data(root=str(data)), k=(3, 20), temperature=(0.1, 1.0), workers=0, device="cpu")
    found = run_knn(encoder, settings).results
    known, queries = (torch.nn.functional.normalize(part.features.double()) for part in (bank, asked))
    for result in found:
        k, temperature = result.protocol["k"], result.protocol["temperature"]
        nearest = (queries @ known.T).topk(k, dim=1)
        predicted = vote(nearest.values, bank.labels[nearest.indices], temperature)[1][:, 0]
        require_classes(result, "knn", predicted.tolist(), asked.labels.tolist())
    assert len(found) == 4
    pairs = {(result.protocol["k"], result.protocol["temperature"]): result.figures for result in found}
    for pair, figures in knn_accuracies(bank, asked, (3, 20), (0.1, 1.0)).items():
        assert {"top1": pairs[pair]["knn_top1"], "top5": pairs[pair]["knn_top5"]} == figures


def test_leaving_one_out_judges_the_training_images(encoder: Path, data: Path) -> None:
    settings = KNN(data=Data(root=str(data)), k=(5,), mode="leave_one_out", workers=0, device="cpu")
    found = run_knn(encoder, settings).results[0]
    assert list(found.about["per_class_recall"]) == list(CLASSES)


def test_the_probe_on_features_says_how_each_class_fares(encoder: Path, data: Path) -> None:
    bank, asked = features(encoder, data)
    settings = FeatureProbe(data=Data(root=str(data)), l2=(0.01,), workers=0, device="cpu")
    classifier, _ = fit_logistic(bank.features, bank.labels, zeros(bank.features, 4), 0.01, settings.iterations)
    predicted = classifier(asked.features).argmax(dim=1)
    require_classes(run_linear(encoder, settings).results[0], "linear", predicted.tolist(), asked.labels.tolist())


def test_a_probe_on_augmented_images_says_how_each_class_fares(
    encoder: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = probe_settings("simclr", Data(root=str(data)))
    assert isinstance(settings, Probe)
    logits: list[Features] = []
    judge = Probe.logits
    monkeypatch.setattr(Probe, "logits", lambda *given: logits.append(judge(*given)) or logits[-1])
    small = replace(settings, epochs=2, batch_size=16, workers=0, device="cpu")
    result = run_linear(encoder, small).results[0]
    (judged,) = logits
    require_classes(result, "linear", judged.features.argmax(dim=1).tolist(), judged.labels.tolist())
