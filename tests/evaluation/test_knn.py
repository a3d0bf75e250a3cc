"""The weighted vote against the published code's figures and against a loop."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F

from selfsup.cluster import neighbours
from selfsup.cluster.backends import Backend
from selfsup.cluster.neighbours import nearest_neighbours
from selfsup.data.identity import identity
from selfsup.data.settings import Data
from selfsup.data.sources import open_source
from selfsup.evaluation.features import Features
from selfsup.evaluation.feed import Preprocessing
from selfsup.evaluation.knn import knn_accuracies, knn_accuracy, vote
from selfsup.models.resnet import ResNet
from selfsup.stages.base import Result
from selfsup.stages.knn import run_knn
from selfsup.stages.settings import KNN
from tests.support.encoders import export_untrained
from tests.support.figures import golden
from tools.benchmarks import knn


@pytest.mark.parametrize("variant", ["a", "b", "c"])
def test_golden_vote(variant: str) -> None:
    figures = golden("knn_vote")
    k, temperature = int(figures[f"k_{variant}"]), float(figures[f"T_{variant}"])
    num_classes = int(figures["num_classes"])
    similarities, found = nearest_neighbours(figures["features"], figures["bank"], k)
    ranked = vote(similarities, figures["labels"][found], temperature)
    scores = torch.zeros(len(found), num_classes, dtype=torch.float64)
    for row, (values, classes) in enumerate(zip(*ranked, strict=True)):
        scores[row, classes[classes >= 0]] = values[classes >= 0]
    expected = figures[f"scores_{variant}"]
    largest = expected.amax(dim=1, keepdim=True)
    assert ((scores - expected).abs() <= 1e-5 * largest).all()
    pred = figures[f"pred_{variant}"]
    shared = min(k, pred.shape[1])
    assert torch.equal(ranked[1][:, :shared], pred[:, :shared])
    assert (ranked[1][:, shared:] == -1).all()
    assert (pred[:, shared:] == -1).all()
    bank = Features(figures["bank"], figures["labels"], torch.arange(300))
    queries = Features(figures["features"], figures["query_labels"], torch.arange(40))
    accuracy = knn_accuracy(bank, queries, k, temperature)
    assert accuracy["top1"] == pytest.approx(float(figures[f"top1_acc_{variant}"]), abs=1e-12)


def features(count: int, classes: int, seed: int) -> Features:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    return Features(torch.randn(count, 6, generator=generator) + labels[:, None], labels, torch.arange(count))


def naive(bank: Features, queries: Features, k: int, temperature: float) -> dict[str, float]:
    """By loops; where both are the same images, each is judged by the others."""
    unit_bank, unit_queries = (F.normalize(part.features.double()) for part in (bank, queries))
    hits = [0, 0]
    for row, wanted in enumerate(queries.labels.tolist()):
        others = [n for n in range(len(bank.labels)) if bank is not queries or n != row]
        others.sort(key=lambda n: (-float(unit_queries[row] @ unit_bank[n]), n))
        scores: dict[int, float] = {}
        for n in others[:k]:
            label = int(bank.labels[n])
            scores[label] = scores.get(label, 0) + math.exp(float(unit_queries[row] @ unit_bank[n]) / temperature)
        best = sorted(scores, key=lambda label: (-scores[label], label))
        hits[0] += wanted in best[:1]
        hits[1] += wanted in best[:5]
    return {"top1": hits[0] / len(queries.labels), "top5": hits[1] / len(queries.labels)}


@pytest.mark.parametrize("backend", ["torch", "faiss"])
@pytest.mark.parametrize("leave_one_out", [False, True])
def test_all_pairs_in_one_search(backend: Backend, leave_one_out: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_QUERIES", 9)
    monkeypatch.setattr(neighbours, "_VALUES", 16 * 6)
    searched = []

    def search(*args: Any, **settings: Any) -> Any:
        searched.append(args[2])
        return neighbours.neighbour_tiles(*args, **settings)

    monkeypatch.setattr("selfsup.evaluation.knn.neighbour_tiles", search)
    bank, queries = features(60, 8, 0), features(31, 8, 1)
    asked = None if leave_one_out else queries
    found = knn_accuracies(bank, asked, (7, 40, 2), (0.2, 0.05), backend)
    assert list(found) == [(7, 0.2), (7, 0.05), (40, 0.2), (40, 0.05), (2, 0.2), (2, 0.05)]
    assert searched == [40]
    for (k, temperature), figures in found.items():
        assert figures == pytest.approx(naive(bank, queries if asked else bank, k, temperature), abs=1e-12)
        assert 0 < figures["top1"] < figures["top5"] <= 1
    assert knn_accuracy(bank, asked, 40, 0.05, backend) == found[40, 0.05]


def test_classes_far_apart_take_no_memory() -> None:
    bank, queries = features(60, 4, 0), features(30, 4, 1)
    far = [part._replace(labels=part.labels * 10**15 + 7) for part in (bank, queries)]
    assert knn_accuracy(*far, 9, 0.1) == knn_accuracy(bank, queries, 9, 0.1)


def test_of_equal_scores_the_lower_class_wins() -> None:
    scores, classes = vote(torch.tensor([[0.5, 0.5, 0.25, 0.5]]), torch.tensor([[9, 3, 9, 7]]), 0.5)
    assert classes.tolist() == [[9, 3, 7, -1]]
    assert scores[0].tolist() == pytest.approx([math.e + math.exp(0.5), math.e, math.e, -math.inf])


def save_tiny_encoder(folder: Path) -> None:
    config = ResNet.Config(depth="small", width=0.25)
    feed = Preprocessing(size=8, fraction=1.0, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    export_untrained(folder, config, feed)


def arrays(path: Path, train: list[int], test: list[int] | None) -> str:
    """Noise with these classes."""
    generator = np.random.default_rng(0)
    parts = {"train": train} | ({"test": test} if test is not None else {})
    found = {f"x_{name}": generator.integers(0, 256, (len(y), 8, 8, 3), dtype=np.uint8) for name, y in parts.items()}
    np.savez(path, **found, **{f"y_{name}": np.array(y) for name, y in parts.items()})  # type: ignore[arg-type]
    return str(path)


def run(folder: Path, root: str, canvas: int | None = None, **settings: Any) -> list[Result]:
    data = Data(root=root, canvas=canvas)
    return run_knn(folder, KNN(data=data, workers=0, device="cpu", **settings)).results


def test_results_of_a_list(tmp_path: Path) -> None:
    save_tiny_encoder(tmp_path)
    root = arrays(tmp_path / "some.npz", [0, 1, 2] * 5, [2, 1, 0, 0])
    results = run(tmp_path, root, k=(500, 3, 15), temperature=(0.1, 0.07))
    said = [(result.protocol["k"], result.protocol["temperature"]) for result in results]
    assert said == [(15, 0.1), (15, 0.07), (3, 0.1), (3, 0.07)]  # cut to the bank, and then said once
    assert results[2].protocol == {
        "k": 3,
        "temperature": 0.1,
        "metric": "cosine",
        "layer": "backbone",
        "transform": "centre 1.0 of the short side, resized to 8",
        "canvas": None,
        "data": identity("auto", open_source(str(root)), open_source(str(root), "test")),
        "bank_images": 15,
        "query_images": 4,
        "classes": 3,
        "split": "train to test",
    }
    assert run(tmp_path, root, mode="train_test", k=(3,))[0].protocol == results[2].protocol
    assert run(tmp_path, root, canvas=8)[0].protocol["canvas"] == 8  # images were squeezed to a square first
    (alone,) = run(tmp_path, root, mode="leave_one_out")
    assert (alone.protocol["k"], alone.protocol["query_images"], alone.protocol["split"]) == (
        1,
        15,
        "leave one out",
    )  # a tenth
    (alone,) = run(tmp_path, root, mode="leave_one_out", k=(200,))
    assert alone.protocol["k"] == 14


def test_what_cannot_be_judged_is_refused_before_features_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny_encoder(tmp_path)
    monkeypatch.setattr("selfsup.stages.knn.features_of", None)
    lacking = arrays(tmp_path / "lacking.npz", [0, 1, 2] * 3, [2, 5, 0, 3, 5])
    with pytest.raises(ValueError, match=r"2 of the test classes have no training image: 3, 5\n.*retrieval"):
        run(tmp_path, lacking)
    with pytest.raises(ValueError, match="only one class"):
        run(tmp_path, arrays(tmp_path / "one.npz", [4] * 9, [4]))
    photographs = tmp_path / "animals"
    for place in ("train/ape", "train/bat", "test/bat", "test/cow"):
        (photographs / place).mkdir(parents=True)
        PIL.Image.new("RGB", (9, 9)).save(photographs / place / "1.png")
    with pytest.raises(ValueError, match="1 of the test classes have no training image: cow\n"):
        run(tmp_path, str(photographs))
    with pytest.raises(ValueError, match="no test part"):
        run(tmp_path, str(photographs / "train"), mode="train_test")


def test_bad_input() -> None:
    bank = features(20, 2, 0)
    with pytest.raises(ValueError, match="needs labels"):
        knn_accuracy(bank._replace(labels=torch.full((20,), -1)), None, 3, 0.1)
    with pytest.raises(ValueError, match="NaN"):
        knn_accuracy(bank._replace(features=bank.features * torch.nan), None, 3, 0.1)
    with pytest.raises(ValueError, match="NaN"):
        knn_accuracy(bank, bank._replace(features=bank.features / 0), 3, 0.1)
    for temperature in (0.001, math.nan):
        with pytest.raises(ValueError, match=f"temperature is {temperature}"):
            KNN(temperature=(0.1, temperature))
    with pytest.raises(ValueError, match="no kNN temperature"):
        KNN(temperature=())
    for k in ((3, 0), (-1,)):
        with pytest.raises(ValueError, match=f"k is {min(k)}; give"):
            KNN(k=k)


def test_the_measurement_at_scale_runs_what_the_command_runs() -> None:
    pytest.importorskip("faiss")
    figures = [knn.knn_memory(3000, 20, 8, backend) for backend in ("torch", "faiss")]
    assert figures[0]["top1"] == figures[1]["top1"]
    assert figures[0]["peak_gb"] > 0.05
