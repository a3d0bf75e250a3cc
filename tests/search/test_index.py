"""Search: the order of a full sort in double precision, and a recall that is what it says."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from selfsup.search import index as module
from selfsup.search.approximate import KINDS, Graph
from selfsup.search.index import Index, kind_for
from selfsup.search.rows import inverse_lengths
from tests.search.test_duplicates import rows_alike


def sorted_by_cosine(queries: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """By sums over pairs in double precision, of equal cosines the lower row first."""
    found = torch.empty(len(queries), len(rows), dtype=torch.float64)
    for number, query in enumerate(queries.double()):
        products = (rows.double() * query).sum(dim=1)
        lengths = rows.double().norm(dim=1) * query.norm()
        found[number] = torch.where(lengths > 0, products / lengths.clamp(min=1e-300), 0.0)
    found, order = found.sort(dim=1, descending=True, stable=True)
    return found[:, :k], order[:, :k]


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
@pytest.mark.parametrize("k", [1, 10, 300])
def test_answers_are_those_of_a_full_sort(kind: Any, k: int) -> None:
    """Of approximate indexes where they look at all rows, with ties, rows of zeros, and k of all rows."""
    if kind != "flat":
        pytest.importorskip("faiss")
    rows = rows_alike()
    queries = torch.cat([rows[:30], torch.randn(10, 40, generator=torch.Generator().manual_seed(3))])
    index = Index.build(rows, kind)
    if index.approximate is not None:
        index.approximate.look(index.approximate.efforts()[-1])
    found, numbers = index.search(queries, k)
    cosines, expected = sorted_by_cosine(queries, rows, k)
    torch.testing.assert_close(found, cosines, rtol=0, atol=1e-12)
    assert numbers.shape == (40, k)
    near = (cosines[:, 1:] - cosines[:, :-1]).abs().min() if k > 1 else 1.0
    assert near == 0.0 or k == 1, "there are no ties"
    same = numbers == expected
    assert float(same.double().mean()) > 0.99  # cosines that differ by rounding alone may change places
    for query, place in (~same).nonzero().tolist():
        assert abs(float(cosines[query, place] - found[query, place])) < 1e-12
    equal = [row for row in (4, 20, 90, 91, 250)][:k]
    assert numbers[4, : len(equal)].tolist() == equal


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_the_recall_that_is_stated_is_that_on_new_queries(kind: Any) -> None:
    pytest.importorskip("faiss")
    generator = torch.Generator().manual_seed(4)
    rows = torch.randn(6000, 16, generator=generator)
    index = Index.build(rows, kind, recall=0.9)
    queries = torch.randn(1000, 16, generator=generator)
    found, exact = index.search(queries, 10)[1], Index(rows).search(queries, 10)[1]
    recall = float((found[:, :, None] == exact[:, None]).any(dim=2).double().mean())
    assert 0.86 < index.recall <= 1.0
    assert abs(index.recall - recall) < 0.03
    if kind == "ivf":
        assert index.recall < 0.99, "the effort is that of an exact search, and the test says little"


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_an_index_is_put_together_from_its_tensors(kind: str) -> None:
    pytest.importorskip("faiss")
    rows = torch.randn(2000, 8, generator=torch.Generator().manual_seed(5))
    built = Index.build(rows, kind, recall=0.9)  # type: ignore[arg-type]
    assert built.approximate is not None
    again = Index(rows, KINDS[kind](rows, inverse_lengths(rows), built.approximate.state()), built.measured)
    for one, other in zip(built.search(rows[:50], 7), again.search(rows[:50], 7), strict=True):
        assert torch.equal(one, other)


def change(name: str, make: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: state | {name: make(state[name].clone())}


def put(place: Any, value: float) -> Callable[[Tensor], Tensor]:
    def changed(tensor: Tensor) -> Tensor:
        tensor[place] = value
        return tensor

    return changed


@pytest.mark.parametrize(
    ("kind", "hostile"),
    [
        ("ivf", change("lists", put(3, 10_000))),
        ("ivf", change("lists", put(3, -1))),
        ("ivf", change("lists", lambda lists: lists[:-1])),
        ("ivf", change("centres", put(0, torch.nan))),
        ("ivf", change("centres", lambda centres: centres[:, :-1])),
        ("hnsw", change("links", put(0, 2000))),
        ("hnsw", change("links", put(0, -2))),
        ("hnsw", change("links", lambda links: links[:-1])),
        ("hnsw", change("layers", put(0, 30))),
        ("hnsw", change("layers", put(slice(None), 0))),
        ("hnsw", change("layers", lambda layers: layers[:-1])),
        ("hnsw", change("entry", lambda _: torch.tensor(2000))),
        ("hnsw", change("entry", lambda _: torch.tensor(-1))),
        ("hnsw", change("order", put(0, 2000))),
        ("hnsw", change("order", put(0, 1))),
    ],
)
def test_what_would_lead_out_of_an_index_is_refused(kind: str, hostile: Callable[[Any], Any]) -> None:
    """Whoever writes a run folder writes these tensors; faiss would follow them anywhere."""
    pytest.importorskip("faiss")
    rows = torch.randn(2000, 8, generator=torch.Generator().manual_seed(5))
    inverse = inverse_lengths(rows)
    state = KINDS[kind].learned(rows, inverse, 0, torch.empty(0, dtype=torch.int64)).state()
    KINDS[kind](rows, inverse, state)
    with pytest.raises(ValueError, match=r"^its (lists|graph) "):
        KINDS[kind](rows, inverse, hostile(state))


def test_a_link_to_a_row_of_a_lower_layer_is_refused() -> None:
    pytest.importorskip("faiss")
    rows = torch.randn(2000, 8, generator=torch.Generator().manual_seed(5))
    state = Graph.learned(rows, inverse_lengths(rows), 0, torch.empty(0, dtype=torch.int64)).state()
    layers, links = state["layers"], state["links"].clone()
    high, low = int((layers > 1).nonzero()[0, 0]), int((layers == 1).nonzero()[0, 0])
    begin = int((64 + (layers[:high].long() - 1) * 32).sum())
    links[begin + 64] = low  # the first link of its second layer
    with pytest.raises(ValueError, match="rows of lower layers"):
        Graph(rows, inverse_lengths(rows), state | {"links": links})


def test_few_rows_can_be_searched() -> None:
    one = torch.tensor([[3.0, 4.0]])
    for kind in ("auto", "ivf", "hnsw"):
        if kind != "auto":
            pytest.importorskip("faiss")
        cosines, rows = Index.build(one, kind).search(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), 1)  # type: ignore[arg-type]
        torch.testing.assert_close(cosines, torch.tensor([[0.6], [0.0]], dtype=torch.float64))
        assert rows.tolist() == [[0], [0]]


def test_what_auto_is(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.ones(4, 4)
    assert kind_for(rows, "auto") == "flat"
    with monkeypatch.context() as patched:
        patched.setattr(module, "EXACT_VALUES", 15)
        patched.setattr(module, "has_faiss", lambda: True)
        assert kind_for(rows, "auto") == "ivf"
        patched.setattr(module, "has_faiss", lambda: False)
        assert kind_for(rows, "auto") == "flat"
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ValueError, match="kind hnsw needs faiss, which is not installed; flat is exact"):
        Index.build(rows, "hnsw")


def test_what_cannot_be_asked_is_named() -> None:
    index = Index.build(torch.ones(4, 3))
    assert (index.kind, index.recall) == ("flat", 1.0)
    for k in (0, 5):
        with pytest.raises(ValueError, match=f"k is {k}; it must be between 1 and the number of rows, 4"):
            index.search(torch.ones(2, 3), k)
    with pytest.raises(ValueError, match="queries have 2 numbers a row, and the index 3"):
        index.search(torch.ones(2, 2), 1)
    with pytest.raises(ValueError, match="queries hold NaN"):
        index.search(torch.full((1, 3), torch.nan), 1)
    with pytest.raises(ValueError, match="recall is 0"):
        Index.build(torch.ones(4, 3), recall=0.0)
