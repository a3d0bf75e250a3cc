"""k-means by torch alone."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from selfsup.cluster.kmeans import kmeans
from selfsup.stages import cluster


def blobs(centres: int, each: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit rows around different directions, and which."""
    generator = torch.Generator().manual_seed(seed)
    middle = F.normalize(torch.randn(centres, 24, generator=generator))
    labels = torch.arange(centres).repeat(each)
    return F.normalize(middle[labels] + 0.05 * torch.randn(len(labels), 24, generator=generator)), labels


def test_every_step_is_lloyds() -> None:
    """Rows are with their nearest centre, and centres are the mean directions of the iteration before."""
    rows, _ = blobs(3, 20)
    before, _ = kmeans(rows, 5, 3, seed=1)
    after, objective = kmeans(rows, 5, 4, seed=1)
    assert len(before.unique()) == 5
    centres = torch.stack([F.normalize(rows[before == number].double().sum(dim=0), dim=0) for number in range(5)])
    cosines = rows.double() @ centres.T
    assert torch.equal(after, cosines.argmax(dim=1))
    assert objective == pytest.approx(float(cosines.amax(dim=1).mean()), abs=1e-6)


def test_the_mean_cosine_never_falls() -> None:
    rows, _ = blobs(6, 30)
    found = [kmeans(rows, 9, iterations, seed=0)[1] for iterations in range(1, 8)]
    assert all(later >= earlier - 1e-6 for earlier, later in itertools.pairwise(found))


def test_a_centre_without_rows_moves_to_a_row_that_is_far_from_its_own() -> None:
    """Five equal rows: of two centres on them one is empty, unless the row that stands apart is found."""
    rows = torch.cat([torch.eye(4)[:1].expand(5, 4), torch.eye(4)[1:2]])
    for seed in range(6):
        clusters, objective = kmeans(rows, 2, 3, seed)
        assert objective == pytest.approx(1)
        assert clusters[:5].unique().numel() == 1
        assert clusters[5] != clusters[0]


def test_clusters_are_found_without_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    rows, labels = blobs(4, 25)
    clusters, cosines = cluster.spherical_kmeans(rows, 4, 5, 25, seed=0)
    assert len(cosines) == 5
    pairs = {(int(a), int(b)) for a, b in zip(labels, clusters, strict=True)}
    assert len(pairs) == 4  # one cluster for each blob, by another number
    again, _ = cluster.spherical_kmeans(rows, 4, 5, 25, seed=0)
    assert torch.equal(again, clusters)
