"""Near duplicates are those of a plain loop in double precision, whatever is ruled out on the way."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from selfsup.search import duplicates
from selfsup.search.duplicates import Pairs, near_duplicates
from selfsup.search.rows import inverse_lengths


def rows_alike(count: int = 300, dimension: int = 40, rank: int = 6, seed: int = 0) -> Tensor:
    """Rows of all lengths near a space of few dimensions; some near others, some equal, some of zeros."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, rank, generator=generator) @ torch.randn(rank, dimension, generator=generator)
    rows += 0.3 * torch.randn(count, dimension, generator=generator)
    twins = torch.arange(5, count, 7)
    rows[twins] = rows[twins - 3] + 0.5 * torch.rand(len(twins), 1, generator=generator) * torch.randn(
        len(twins), dimension, generator=generator
    )
    rows *= 10 ** torch.linspace(-6, 6, count)[torch.randperm(count, generator=generator), None]
    rows[[20, 90, 91, 250]] = rows[4].clone()
    rows[[30, 31]] = 0.0
    rows[40] = -rows[41]
    rows[50] = 3 * rows[51]
    return rows


class Plainly:
    """Every pair of rows, in double precision."""

    def __init__(self, rows: Tensor) -> None:
        values = rows.double().numpy()
        lengths = [float(np.sqrt((row * row).sum())) for row in values]
        count = range(len(values))
        self.first = [next(one for one in count if np.array_equal(values[one], values[other])) for other in count]
        self.cosines = {
            (one, other): float((values[one] * values[other]).sum() / (lengths[one] * lengths[other]))
            for one in count
            for other in count[one + 1 :]
            if lengths[one] and lengths[other]
        }

    def pairs(self, similarity: float) -> dict[tuple[int, int], float]:
        """Those of at least this cosine; of equal rows the first stands for all."""
        return {
            (one, other): cosine
            for (one, other), cosine in self.cosines.items()
            if self.first[other] == one
            or (self.first[one] == one and self.first[other] == other and cosine >= similarity - 1e-12)
        }


@pytest.fixture(scope="module")
def plainly() -> Plainly:
    return Plainly(rows_alike())


def as_dictionary(pairs: Pairs) -> dict[tuple[int, int], float]:
    keys = list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    assert keys == sorted(set(keys)), "out of order, or twice"
    return dict(zip(keys, pairs.similarity.tolist(), strict=True))


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_TILE", {"cpu": (7, 13)})
    monkeypatch.setattr(duplicates, "_PENDING", 5)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("kept", [16, 40, None])
def test_pairs_are_those_of_a_plain_loop(kept: int | None, plainly: Plainly, monkeypatch: pytest.MonkeyPatch) -> None:
    """With few numbers a row, with all of them, and with as many as are worth while."""
    if kept is not None:
        monkeypatch.setattr(duplicates, "_worth_while", lambda *_: kept)
    rows = rows_alike()
    for similarity, least in ((0.5, 1000), (0.9, 60), (0.99, 20), (1.0, 5)):
        expected, found = plainly.pairs(similarity), near_duplicates(rows, similarity)
        assert len(expected) >= least, "the rows are a poor test"
        pairs = as_dictionary(found)
        assert pairs.keys() == expected.keys()
        assert max(abs(pairs[pair] - expected[pair]) for pair in expected) < 1e-12
        equal = {pair for pair, same in zip(pairs, found.equal.tolist(), strict=True) if same}
        assert equal == {(4, 20), (4, 90), (4, 91), (4, 250)}


def test_no_bound_is_below_the_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows within the first axes but for rounding have no rest to speak of; its error must not rule pairs out."""
    generator = torch.Generator().manual_seed(1)
    for rank in (16, 3, 60):
        rows = torch.randn(400, rank, generator=generator) @ torch.randn(rank, 60, generator=generator)
        monkeypatch.setattr(duplicates, "_worth_while", lambda *_: 16)
        sketch, margin = duplicates._sketch(rows, torch.arange(400), inverse_lengths(rows), 0.9)
        assert sketch.shape == (400, 17)
        unit = rows.double() * inverse_lengths(rows)[:, None]
        below = (unit @ unit.T - sketch.double() @ sketch.double().T).max()
        assert below < margin < 1e-3


def test_few_pairs_are_compared_again(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []
    cosines: Callable[..., Tensor] = duplicates.cosines

    def counted(one: Tensor, first: Tensor, other: Tensor, second: Tensor) -> Tensor:
        compared.append(len(first))
        return cosines(one, first, other, second)

    monkeypatch.setattr(duplicates, "cosines", counted)
    rows = rows_alike(1000, 100, 12)
    pairs = near_duplicates(rows, 0.95)
    assert len(pairs.first) > 50
    assert sum(compared) < 5 * len(pairs.first)
    unit = rows.double() * inverse_lengths(rows)[:, None]
    axes = torch.linalg.eigh(unit.T @ unit).eigenvectors.flip(1)
    assert duplicates._worth_while(unit, axes, 0.95) < 50


def test_a_pair_on_the_border_is_one() -> None:
    rows = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 1.0], [0.0, 0.0]])
    assert as_dictionary(near_duplicates(rows, 0.6)) == pytest.approx({(0, 1): 0.6, (1, 2): 0.8})
    assert as_dictionary(near_duplicates(rows, 0.6 + 1e-9)) == pytest.approx({(1, 2): 0.8})


def test_many_equal_rows_are_few_pairs() -> None:
    pairs = near_duplicates(torch.ones(20_000, 8), 0.9, most=20_000)
    assert pairs.first.unique().tolist() == [0]
    assert pairs.second.tolist() == list(range(1, 20_000))
    assert bool(pairs.equal.all())


def test_one_row_is_like_none() -> None:
    told: list[int] = []
    pairs = near_duplicates(torch.ones(1, 8), 0.9, advance=told.append)
    assert (len(pairs.first), sum(told)) == (0, 1)


def test_rows_that_are_done_are_told_of() -> None:
    told: list[int] = []
    near_duplicates(rows_alike(), 0.9, advance=told.append)
    assert sum(told) == 300


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"similarity": 0.0}, "similarity is 0.0"),
        ({"similarity": 1.01}, "similarity is 1.01"),
        ({"similarity": float("nan")}, "similarity is nan"),
        ({"features": torch.ones(3, 4, dtype=torch.float64)}, "float64"),
        ({"features": torch.ones(0, 4)}, r"\(0, 4\)"),
        ({"features": torch.tensor([[1.0, torch.inf]])}, "NaN or infinity"),
        ({"similarity": 0.1, "most": 10}, "more than 10 pairs .* give a higher similarity"),
    ],
)
def test_what_cannot_be_done_is_named(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"features": rows_alike(), "similarity": 0.9}
    with pytest.raises(ValueError, match=message):
        near_duplicates(**given | change)
