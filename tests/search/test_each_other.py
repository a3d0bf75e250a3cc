"""The nearest rows of every row by an index: a recall that is what it says, and the clusters of an exact search."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from selfsup.cluster.dbscan import dbscan
from selfsup.cluster.jaccard import jaccard_graph
from selfsup.cluster.neighbours import nearest_neighbours
from selfsup.evaluation.clustering import adjusted_rand_index, contingency
from selfsup.methods import spcl
from selfsup.pretraining import pretrain
from selfsup.search import each_other
from selfsup.search.each_other import nearest_of_each
from tests.support.tiny import tiny_run

pytest.importorskip("faiss")


def groups(count: int, dim: int, each: int) -> Tensor:
    """Unit rows around directions, `each` of them around one."""
    generator = torch.Generator().manual_seed(1)
    centres = F.normalize(torch.randn(count // each, dim, generator=generator)).repeat_interleave(each, dim=0)
    return F.normalize(centres + 0.8 * torch.randn(count, dim, generator=generator) / dim**0.5)


def recall_at_10(rows: Tensor, found: Tensor) -> float:
    cosines = nearest_neighbours(rows, rows, 10, cosine=True)[0]
    own = (F.normalize(rows.double())[:, None] * F.normalize(rows.double())[found[:, :10]]).sum(dim=2)
    return float((own >= cosines[:, -1:] - 1e-9).double().mean())


@pytest.mark.parametrize("dim", [24, 700])
def test_the_recall_is_what_it_says(dim: int) -> None:
    rows = groups(3000, dim, 25)
    nearest = nearest_of_each(rows, 30, recall=0.95)
    assert nearest.numbers.shape == (3000, 30)
    assert ((nearest.numbers >= 0) & (nearest.numbers < 3000)).all()
    assert (nearest.numbers == torch.arange(3000)[:, None]).any(dim=1).all(), "a row is nearest to itself"
    assert all(len(set(row)) == 30 for row in nearest.numbers.tolist())
    assert 0.9 < nearest.recall <= 1
    assert abs(recall_at_10(rows, nearest.numbers) - nearest.recall) < 0.02


def test_clusters_are_those_of_an_exact_search() -> None:
    rows = groups(3000, 700, 25)
    exact = dbscan(jaccard_graph(rows, 0.6), 0.6, 4)
    by_index = dbscan(jaccard_graph(rows, 0.6, neighbours=nearest_of_each(rows, 30).numbers), 0.6, 4)
    assert int(exact.max()) > 50
    strangers = torch.arange(3000).roll(30)[:, None] + torch.arange(30)  # are neighbours where they are said to be
    assert int(dbscan(jaccard_graph(rows, 0.6, neighbours=strangers % 3000), 0.6, 4).max()) != int(exact.max())
    assert adjusted_rand_index(contingency(exact, by_index)) >= 0.99


def test_where_lists_do_not_reach_the_recall_all_rows_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(each_other, "_CANDIDATES", 1)
    monkeypatch.setattr(each_other, "_DIMENSIONS", 2)  # in which next to nothing is near
    rows = torch.randn(900, 40, generator=torch.Generator().manual_seed(2))
    nearest = nearest_of_each(rows, 12)
    assert nearest.recall == 1.0
    assert torch.equal(nearest.numbers, nearest_neighbours(rows, rows, 12, cosine=True)[1])


def test_no_row_lacks_a_neighbour() -> None:
    """Though one list holds few rows."""
    rows = torch.cat([groups(2000, 16, 400), torch.eye(16)[:5] * torch.tensor([[3.0]])])
    nearest = nearest_of_each(rows, 64, recall=0.3)
    assert int(nearest.numbers.min()) >= 0


@pytest.mark.parametrize(("most", "neighbours", "by_index"), [
    (2**41, "auto", False), (1, "auto", True), (1, "exact", False), (2**41, "approximate", True),
])  # fmt: skip
def test_spcl_takes_an_index_where_there_are_many_images(
    most: int, neighbours: Any, by_index: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spcl, "_EXACT_PRODUCTS", most)
    asked = list[int]()

    def nearest(features: Tensor, k: int) -> Any:
        asked.append(len(features))
        return nearest_of_each(features, k)

    monkeypatch.setattr(spcl, "nearest_of_each", nearest)
    run = tiny_run(tmp_path, "spcl", root="shapes:64", epochs=1, evaluate_every=0, max_steps=1)
    pretrain(replace(run, method=replace(run.method, neighbours=neighbours)))
    assert bool(asked) == by_index
