"""Nearest neighbours against a full sort in double precision, from every backend."""

import pytest
import torch
import torch.nn.functional as F

from selfsup.cluster import neighbours
from selfsup.cluster.neighbours import Backend, has_faiss, nearest_neighbours

BACKENDS: list[Backend] = ["torch", "faiss"]


def needs(backend: Backend) -> None:
    if backend == "faiss" and not has_faiss():
        pytest.skip("faiss is not installed")


def sorted_exactly(queries: torch.Tensor, bank: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """By similarity, then by the lower number."""
    products = queries.double() @ bank.double().T
    values, order = products.sort(dim=1, descending=True, stable=True)
    return values[:, :k], order[:, :k]


@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_a_full_sort(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    needs(backend)
    monkeypatch.setattr(neighbours, "_BANK", 70)  # several tiles, the last one ragged
    monkeypatch.setattr(neighbours, "_QUERIES", 9)
    generator = torch.Generator().manual_seed(0)
    bank = F.normalize(torch.randn(300, 8, generator=generator))
    bank[200:210] = bank[100:110]  # exact ties between tiles
    queries = torch.cat([F.normalize(torch.randn(20, 8, generator=generator)), bank[100:105]])
    values, found = nearest_neighbours(queries, bank, 50, backend)
    expected_values, expected = sorted_exactly(queries, bank, 50)
    assert torch.equal(found, expected)
    torch.testing.assert_close(values, expected_values, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_excluding_oneself(backend: Backend) -> None:
    needs(backend)
    bank = F.normalize(torch.randn(30, 4, generator=torch.Generator().manual_seed(1)))
    values, found = nearest_neighbours(bank, bank, 29, backend, exclude=torch.arange(30))
    assert (found != torch.arange(30)[:, None]).all()
    assert values.isfinite().all()


@pytest.mark.parametrize("k", [0, 31])
def test_k_must_fit(k: int) -> None:
    with pytest.raises(ValueError, match=f"k is {k}; it must be between 1 and .* 30"):
        nearest_neighbours(torch.ones(2, 4), torch.ones(30, 4), k)


def test_a_missing_faiss_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    assert not has_faiss()
    with pytest.raises(ValueError, match="faiss is not installed"):
        nearest_neighbours(torch.ones(2, 4), torch.ones(30, 4), 3, "faiss")
    nearest_neighbours(torch.ones(2, 4), torch.ones(30, 4), 3, "auto")
