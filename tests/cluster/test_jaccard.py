"""Sparse Jaccard distances against the published figures and a dense loop over sets."""

import tracemalloc

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from selfsup.cluster import jaccard
from selfsup.cluster.jaccard import jaccard_graph
from tests.support.figures import golden


def dense(graph):
    """(N, N) with 1 where nothing is stored; a stored 0 is a distance."""
    distances = np.ones(graph.shape)
    pairs = graph.tocoo()
    distances[pairs.row, pairs.col] = pairs.data
    return distances


def clustered(size, dim, clusters, spread, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(clusters, dim, generator=generator)
    which = torch.randint(clusters, (size,), generator=generator)
    return F.normalize(centers[which] + spread * torch.randn(size, dim, generator=generator))


def by_sets(features, k1, k2):
    """Zhong et al. 2017, equations 3 to 9, with Python sets; `k + 1` as in the published slices of k1 columns."""
    features = features.double()
    similarity = features @ features.T
    ranks = similarity.argsort(dim=1, descending=True, stable=True)[:, :k1].tolist()
    size = len(ranks)

    def reciprocal(i, k):
        return {j for j in ranks[i][: k + 1] if i in ranks[j][: k + 1]}

    weights = np.zeros((size, size))
    for i in range(size):
        near = reciprocal(i, k1)
        members = set(near)
        for candidate in near:
            half = reciprocal(candidate, round(k1 / 2))
            if len(half & near) > 2 / 3 * len(half):
                members |= half
        columns = sorted(members)
        exponentials = np.exp(2 * similarity[i, columns].numpy() - 2)
        weights[i, columns] = exponentials / exponentials.sum()
    weights = np.stack([weights[ranks[i][:k2]].mean(axis=0) for i in range(size)])
    shared = np.minimum(weights[:, None], weights[None]).sum(axis=2)
    return np.maximum(1 - shared / (2 - shared), 0)


@pytest.mark.parametrize(("k1", "name"), [("k1", "distance"), ("k1_small", "distance_k1_small")])
def test_golden(k1, name):
    g = golden("jaccard")
    graph = jaccard_graph(g["features"], 1.0, int(g[k1]), int(g["k2"]))
    assert np.abs(dense(graph) - g[name].numpy()).max() < 1e-5


@pytest.mark.parametrize(("k1", "k2"), [(12, 3), (9, 1), (7, 7), (1, 1), (200, 6)])
def test_equals_sets_in_chunks_of_every_kind(k1, k2, monkeypatch):
    for name, value in (("_ROWS", 17), ("_PAIRS", 100), ("_CELLS", 700), ("_TERMS", 300)):
        monkeypatch.setattr(jaccard, name, value)
    features = clustered(90, 12, 9, 0.8)
    graph = jaccard_graph(features, 1.0, k1, k2)
    expected = by_sets(features, min(k1, 90), k2)
    np.testing.assert_allclose(dense(graph), expected, atol=1e-6)


def test_a_radius_keeps_what_lies_within():
    features = clustered(90, 12, 9, 0.8)
    everything, near = (dense(jaccard_graph(features, radius, 12, 3)) for radius in (1.0, 0.5))
    assert 0.05 < (everything <= 0.5).mean() < (everything < 1).mean()
    np.testing.assert_array_equal(near, np.where(everything <= 0.5, everything, 1))
    np.testing.assert_array_equal(near, near.T)


def test_equal_images_are_at_distance_zero():
    """As many as there may be, and 0 is stored: a collapsed encoder must show as one cluster."""
    graph = jaccard_graph(F.normalize(torch.ones(50, 4)), 0.6, 30, 6)
    assert graph.nnz == 2500
    assert np.abs(graph.data).max() < 1e-9


def test_memory_stays_far_below_all_pairs():
    size = 6000
    features = clustered(size, 16, 150, 0.3)
    tracemalloc.start()  # what numpy and scipy allocate; the neighbours are torch's, in tiles
    graph = jaccard_graph(features, 0.62)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < size * size * 4 / 2
    assert size < graph.nnz < 100 * size


def test_fractions_lie_on_one_side_of_the_radius_whatever_the_rounding() -> None:
    """Images that share four of six neighbours may be at 0.5 exactly: pairs within it must not depend on a last bit."""
    generator = torch.Generator().manual_seed(0)
    features = F.normalize(torch.randn(120, 6, generator=generator, dtype=torch.float64))
    expected = jaccard_graph(features, 0.5, 10, 6)
    assert (expected.data == 0.5).sum() >= 4
    for _ in range(5):
        moved = features * (1 + 1e-14 * torch.randn(features.shape, generator=generator, dtype=torch.float64))
        found = jaccard_graph(moved, 0.5, 10, 6)
        assert np.array_equal(found.indptr, expected.indptr)
        assert np.array_equal(found.indices, expected.indices)
