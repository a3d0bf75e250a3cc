"""Nearest neighbours against a full sort in double precision, from every backend."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from selfsup.cluster import neighbours
from selfsup.cluster.backends import Backend, has_faiss
from selfsup.cluster.neighbours import nearest_neighbours

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
    monkeypatch.setattr(neighbours, "_VALUES", 70 * 8)  # several tiles, the last one ragged
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
def test_cosines_of_rows_of_any_length(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    needs(backend)
    monkeypatch.setattr(neighbours, "_VALUES", 70 * 8)
    monkeypatch.setattr(neighbours, "_QUERIES", 9)
    generator = torch.Generator().manual_seed(2)
    bank, queries = (torch.randn(n, 8, generator=generator) * torch.arange(1, n + 1)[:, None] for n in (300, 25))
    bank[77] = 0
    unit_bank, unit_queries = (F.normalize(rows.double()) for rows in (bank, queries))
    for k in (20, 300):
        values, found = nearest_neighbours(queries, bank, k, backend, cosine=True)
        expected_values, expected = sorted_exactly(unit_queries, unit_bank, k)
        assert torch.equal(found, expected)
        torch.testing.assert_close(values, expected_values, rtol=0, atol=1e-12)
    assert (values[found == 77] == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [7, 33, 66])  # where a matrix product sums equal rows differently
def test_equal_rows_tie_to_the_last_bit(backend: Backend, size: int) -> None:
    needs(backend)
    generator = torch.Generator().manual_seed(0)
    bank = torch.randn(1, 128, generator=generator).expand(size, -1).contiguous()
    values, found = nearest_neighbours(torch.randn(5, 128, generator=generator), bank, size, backend, cosine=True)
    assert (values == values[:, :1]).all()
    assert torch.equal(found, torch.arange(size).expand(5, -1))


def collapsed(count: int, seed: int) -> torch.Tensor:
    """(N, 64) single-precision rows that differ by less than its products resolve."""
    generator = torch.Generator().manual_seed(seed)
    center = F.normalize(torch.randn(1, 64, generator=torch.Generator().manual_seed(9)))
    return F.normalize(center + 2e-5 * torch.randn(count, 64, generator=generator))


@pytest.mark.parametrize("cosine", [True, False])
@pytest.mark.parametrize("leave_one_out", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
def test_more_ties_in_single_precision_than_spare_candidates(
    backend: Backend, leave_one_out: bool, cosine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs(backend)
    monkeypatch.setattr(neighbours, "_QUERIES", 7)
    monkeypatch.setattr(neighbours, "_DOUBLES", 2048)  # several tiles of the whole comparison, too
    bank = collapsed(300, 1)
    bank[250:280] = bank[100:130]  # and rows that tie to the last bit
    queries = bank if leave_one_out else torch.cat([collapsed(9, 2), F.normalize(torch.randn(3, 64))])
    exclude = torch.arange(300) if leave_one_out else None
    values, found = nearest_neighbours(queries, bank, 10, backend, exclude, cosine=cosine)
    exact = [[float((row.double() * other.double()).sum()) for other in bank] for row in queries]  # equal rows tie
    if cosine:
        lengths = bank.double().norm(dim=1)
        exact = (torch.tensor(exact, dtype=torch.float64) / lengths / queries.double().norm(dim=1)[:, None]).tolist()
    for row, products in enumerate(exact):
        numbers = sorted(set(range(300)) - ({row} if leave_one_out else set()), key=lambda n: (-products[n], n))[:10]
        assert values[row].tolist() == pytest.approx([products[n] for n in numbers], rel=0, abs=1e-14)
        assert found[row].tolist() == numbers


def test_the_first_of_equal_rows() -> None:
    rows = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    rows[[7, 20, 49]] = rows[3].clone()
    rows[30] = rows[29].clone()
    wanted = torch.arange(50)
    wanted[[7, 20, 49]], wanted[30] = 3, 29
    assert torch.equal(neighbours.first_equal_rows(rows), wanted)


@pytest.mark.parametrize("dim", [1, 3, 16, 37])
def test_compiled_products_are_those_of_numpy(dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """To rounding; and rows that are equal have equal products to the bit, wherever they stand."""
    pytest.importorskip("numba")
    generator = torch.Generator().manual_seed(4)
    bank, queries = (torch.randn(n, dim, generator=generator) for n in (90, 70))
    bank[[5, 44, 89]] = bank[17].clone()
    scale = torch.rand(90, generator=generator, dtype=torch.float64)
    numbers = torch.randint(90, (70, 31), generator=generator)
    numbers[:, :4] = torch.tensor([5, 17, 44, 89])
    for inverse in (None, scale.index_fill(0, torch.tensor([5, 17, 44, 89]), 0.5)):
        found = neighbours.similarities_of(queries, bank, inverse, numbers)
        exact = (queries.double()[:, None] * bank[numbers].double()).sum(dim=2)
        if inverse is not None:
            exact *= inverse[numbers] / queries.double().norm(dim=1, keepdim=True)
        torch.testing.assert_close(found, exact, rtol=0, atol=1e-13)
        assert (found[:, 1:4] == found[:, :1]).all()
        with monkeypatch.context() as patch:
            patch.setattr(neighbours, "_compiled_products", lambda: None)
            torch.testing.assert_close(
                neighbours.similarities_of(queries, bank, inverse, numbers), found, rtol=0, atol=1e-13
            )
    transposed = bank.T.contiguous().T  # as tensors may lie
    exact = (queries.double() @ bank.double().T).gather(1, numbers)
    torch.testing.assert_close(
        neighbours.similarities_of(queries, transposed, None, numbers), exact, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_memory_is_of_tiles(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither Q x N similarities nor a second bank: no tensor made on the way is larger than its tile."""
    needs(backend)
    monkeypatch.setattr(neighbours, "_VALUES", 512 * 16)
    monkeypatch.setattr(neighbours, "_QUERIES", 32)
    monkeypatch.setattr(neighbours, "_DOUBLES", 4096)
    bank, queries = torch.randn(20_000, 16), torch.randn(70, 16)

    class Largest(TorchFunctionMode):
        size = 0

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = function(*args, **(kwargs or {}))
            for tensor in made if isinstance(made, tuple | list) else [made]:
                # A part of the bank is no memory of its own.
                if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() != bank.data_ptr():
                    self.size = max(self.size, tensor.untyped_storage().nbytes())
            return made

    with Largest() as largest:
        nearest_neighbours(queries, bank, 20, backend, cosine=True)
    assert 8 * len(bank) <= largest.size < 2 * 8 * len(bank)  # one double for each bank row: its length


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
