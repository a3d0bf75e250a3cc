"""DBSCAN on a sparse graph against scikit-learn's on the dense one."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from selfsup.cluster.dbscan import dbscan
from selfsup.cluster.jaccard import jaccard_graph
from tests.support.figures import golden


def test_golden():
    g = golden("jaccard")
    graph = jaccard_graph(g["features"], 0.62, int(g["k1"]), int(g["k2"]))
    for radius in (58, 60, 62):  # one graph for all three
        labels, expected = dbscan(graph, radius / 100, 4), g[f"dbscan_{radius}"]
        assert torch.equal(labels == -1, expected == -1)
        pairs = set(zip(labels.tolist(), expected.tolist(), strict=True))
        assert len(pairs) == len(set(labels.tolist())) == len(set(expected.tolist()))


@pytest.mark.parametrize("radius", [0.01, 0.05, 0.1, 0.3, 2.0])
@pytest.mark.parametrize("min_samples", [2, 4, 9])
def test_equals_scikit_learn(radius, min_samples):
    """Also in the numbers of clusters and in which of two clusters a border point joins."""
    others = pytest.importorskip("sklearn.cluster")
    points = np.random.default_rng(3).uniform(size=(150, 2))
    points[20:26] = points[19]  # at distance 0
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    rows, columns = np.nonzero(distances <= 2 * radius)
    graph = csr_array((distances[rows, columns], (rows, columns)), shape=distances.shape)
    expected = others.DBSCAN(eps=radius, min_samples=min_samples, metric="precomputed").fit_predict(distances)
    np.testing.assert_array_equal(dbscan(graph, radius, min_samples).numpy(), expected)
