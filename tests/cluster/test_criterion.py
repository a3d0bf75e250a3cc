"""The self-paced criterion against tables of all pairs of images."""

import pytest
import torch

from selfsup.cluster.criterion import disagreement, independence_threshold, reliable, renumber, set_apart


def clusterings(seed, size=60, clusters=8):
    """A clustering, one that is tighter and one that is looser, each with noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, clusters, (size,), generator=generator)
    tight = torch.where(torch.rand(size, generator=generator) < 0.15, -1, labels)
    loose = torch.where(labels == 3, 2, labels)
    loose = torch.where((labels < 0) & (torch.rand(size, generator=generator) < 0.5), 1, loose)
    return [set_apart(each) for each in (labels, tight, loose)]


def same(labels):
    return (labels[:, None] == labels[None]).double()


def by_tables(a, b):
    a, b = same(a), same(b)
    return 1 - torch.minimum(a, b).sum(dim=1) / torch.maximum(a, b).sum(dim=1)


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_published_rule(seed):
    """The published loop: scores of a cluster are the least of its members', fresh labels for those who leave."""
    labels, tight, loose = clusterings(seed)
    compactness, independence = by_tables(labels, tight), by_tables(labels, loose)
    torch.testing.assert_close(disagreement(labels, tight), compactness, rtol=0, atol=1e-15)
    of_cluster = {
        c: (min(compactness[labels == c].tolist()), min(independence[labels == c].tolist()), int((labels == c).sum()))
        for c in labels.unique().tolist()
    }
    ranked = sorted(score for _, score, size in of_cluster.values() if size > 1)
    threshold = ranked[min(len(ranked) - 1, round(0.9 * len(ranked)))]
    found = independence_threshold(labels, loose)
    assert found is not None
    assert found.item() == pytest.approx(threshold, abs=1e-15)
    threshold -= 0.2 * seed  # also with a threshold of earlier, which clusters may miss
    result = reliable(labels, tight, loose, threshold)
    kept = [
        of_cluster[c][1] <= threshold and compactness[i].item() <= of_cluster[c][0]
        for i, c in enumerate(labels.tolist())
    ]
    assert 0 < sum(kept) < len(kept) or threshold < 0
    for i in range(len(labels)):
        if kept[i]:
            assert result[i] == labels[i]
        else:
            assert (result == result[i]).sum() == 1


def test_threshold_is_the_quantile_over_clusters_not_over_images():
    """Ten clusters of two, one of them larger: a cluster counts once however many it holds."""
    labels = torch.cat([torch.arange(10).repeat_interleave(2), torch.zeros(20).long()])
    loose = labels.clone()
    loose[loose == 9] = 8
    assert independence_threshold(labels, loose) == 0.5  # number round(9.0) of 0, ..., 0, 0.5, 0.5
    assert independence_threshold(labels, labels) == 0
    assert independence_threshold(torch.arange(5), torch.arange(5)) is None


def test_an_image_that_a_tighter_clustering_drops_leaves():
    labels, loose = torch.tensor([0, 0, 0, 0, 1, 1]), torch.tensor([0, 0, 0, 0, 1, 1])
    tight = set_apart(torch.tensor([0, 0, 0, -1, 1, 1]))
    assert reliable(labels, tight, loose, 0.0).tolist() == [0, 0, 0, 2, 1, 1]
    assert reliable(labels, tight, set_apart(torch.tensor([0, 0, 0, 0, -1, -1])), 0.0).tolist() == [0, 0, 0, 1, 2, 3]
    assert reliable(labels, labels, labels, torch.nan).tolist() == list(range(6))


def test_labels_of_their_own():
    assert set_apart(torch.tensor([-1, 1, 0, -1, 1])).tolist() == [2, 1, 0, 3, 1]
    assert set_apart(torch.full((3,), -1)).tolist() == [0, 1, 2]
    assert renumber(torch.tensor([7, 2, 7, 9])).tolist() == [1, 0, 1, 2]
