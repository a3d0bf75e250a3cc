"""The same features judged by others: scikit-learn, pytorch-metric-learning, the rule of Market-1501."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from selfsup.cluster.neighbours import nearest_neighbours
from selfsup.evaluation.features import Features
from selfsup.evaluation.knn import knn_accuracy, vote
from selfsup.evaluation.retrieval import retrieval_figures

pytest.importorskip("pytorch_metric_learning")
pytest.importorskip("sklearn")

from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN
from sklearn.neighbors import KNeighborsClassifier

NAMES = {
    "precision_at_1": "recall_at_1",
    "r_precision": "r_precision",
    "mean_average_precision_at_r": "map_at_r",
    "mean_average_precision": "map",
}


def features(kind: str, count: int, seed: int) -> Features:
    """Classes of ragged sizes, numbered far apart; noise alone, or clusters with noise; rows of any length."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(0, 144, (count,), generator=generator).double().sqrt().long()  # 12 of them
    centres = torch.randn(12, 16, generator=torch.Generator().manual_seed(99))
    rows = torch.randn(count, 16, generator=generator)
    if kind == "clustered":
        rows = rows + centres[classes]
    lengths = 0.5 + torch.rand(count, 1, generator=generator)
    return Features(rows * lengths, classes**2 * 1000 + 5, torch.arange(count))


@pytest.mark.parametrize("kind", ["random", "clustered"])
@pytest.mark.parametrize(("k", "temperature"), [(1, 0.1), (20, 0.07), (200, 0.1), (300, 1.0)])
def test_knn_equals_scikit_learn(kind: str, k: int, temperature: float) -> None:
    bank, queries = features(kind, 300, 0), features(kind, 120, 1)

    def weights(distances: np.ndarray) -> np.ndarray:
        weighed: np.ndarray = np.exp((1 - distances**2 / 2) / temperature)
        return weighed

    theirs = KNeighborsClassifier(n_neighbors=k, weights=weights, algorithm="brute")
    unit_bank, unit_queries = (F.normalize(part.features.double()).numpy() for part in (bank, queries))
    theirs.fit(unit_bank, bank.labels.numpy())
    similarities, found = nearest_neighbours(queries.features, bank.features, k, cosine=True)
    scores, classes = vote(similarities, bank.labels[found], temperature)
    assert np.array_equal(classes[:, 0].numpy(), theirs.predict(unit_queries))
    shares = scores[:, 0] / scores[:, : min(k, 12)].clamp(min=0).sum(dim=1)
    np.testing.assert_allclose(shares.numpy(), theirs.predict_proba(unit_queries).max(axis=1), rtol=1e-9)
    expected = theirs.score(unit_queries, queries.labels.numpy())
    assert knn_accuracy(bank, queries, k, temperature)["top1"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", ["random", "clustered"])
@pytest.mark.parametrize("leave_one_out", [True, False])
def test_retrieval_equals_pytorch_metric_learning(kind: str, leave_one_out: bool) -> None:
    queries = features(kind, 150, 2)
    gallery = None if leave_one_out else features(kind, 220, 3)
    if gallery is not None:  # some queries have nothing to find
        gallery = Features(*(values[gallery.labels != 25_005] for values in gallery))
    calculator = AccuracyCalculator(tuple(NAMES), device=torch.device("cpu"), knn_func=CustomKNN(CosineSimilarity()))
    sides = (queries,) if gallery is None else (queries, gallery)
    theirs = calculator.get_accuracy(*(value for side in sides for value in (side.features, side.labels)))
    ours = retrieval_figures(queries, gallery)
    for name, own in NAMES.items():
        assert ours[own] == pytest.approx(theirs[name], abs=1e-6), name
        assert 0 < ours[own] < 1


def market(queries: Features, gallery: Features, cameras: tuple[torch.Tensor, torch.Tensor]) -> dict[str, float]:
    """Market-1501 by loops: a query's ranking is of the gallery without its junk, which has its identity and camera."""
    unit, unit_gallery = (F.normalize(part.features.double()) for part in (queries, gallery))
    first_ranks, precisions = [], []
    for q in range(len(queries.labels)):
        same = (gallery.labels == queries.labels[q]).tolist()
        junk = [same[g] and bool(cameras[1][g] == cameras[0][q]) for g in range(len(same))]
        ranking = [g for g in range(len(same)) if not junk[g]]
        ranking.sort(key=lambda g: -float(unit[q] @ unit_gallery[g]))
        ranks = [rank for rank, g in enumerate(ranking, start=1) if same[g]]
        if ranks:
            first_ranks.append(ranks[0])
            precisions.append(sum(n / rank for n, rank in enumerate(ranks, start=1)) / len(ranks))
    cmc = {f"recall_at_{k}": sum(rank <= k for rank in first_ranks) / len(first_ranks) for k in (1, 5, 10)}
    return cmc | {"map": math.fsum(precisions) / len(precisions), "queries": len(first_ranks)}


def test_cmc_with_the_camera_rule_equals_a_loop() -> None:
    queries, gallery = features("clustered", 60, 4), features("clustered", 170, 5)  # other identities distract
    generator = torch.Generator().manual_seed(6)
    cameras = torch.randint(0, 6, (60,), generator=generator), torch.randint(0, 6, (170,), generator=generator)
    cameras[0][queries.labels == 49_005] = 3  # these find nothing that is not by their own camera
    cameras[1][gallery.labels == 49_005] = 3
    ours = retrieval_figures(queries, gallery, (1, 5, 10), cameras=cameras)
    expected = market(queries, gallery, cameras)
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value, abs=1e-12), name
    assert ours["queries_left_out"] == (queries.labels == 49_005).sum() > 0
    assert ours != retrieval_figures(queries, gallery, (1, 5, 10))
