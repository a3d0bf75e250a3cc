"""Groups and what stays of them, and diverse subsets: those of plain loops."""

import numpy as np
import pytest
import torch
from torch import Tensor

from selfsup.search.diverse import diverse_subset
from selfsup.search.duplicates import Pairs, near_duplicates
from selfsup.search.groups import Groups, grouped
from tests.search.test_duplicates import rows_alike


def pairs_of(edges: dict[tuple[int, int], float], equal: tuple[tuple[int, int], ...] = ()) -> Pairs:
    """Of dictionaries, in order."""
    listed = sorted({**edges, **dict.fromkeys(equal, 1.0)}.items())
    first, second = (torch.tensor([pair[at] for pair, _ in listed], dtype=torch.int64) for at in (0, 1))
    cosines = torch.tensor([cosine for _, cosine in listed], dtype=torch.float64)
    return Pairs(first, second, cosines, torch.tensor([pair in equal for pair, _ in listed], dtype=torch.bool))


def plain(rows: Tensor, similarity: float, weight: Tensor) -> tuple[list[int], list[bool]]:
    """The group of each row, and whether it stays, from the matrix of all cosines."""
    values = rows.double()
    lengths = values.norm(dim=1)
    cosines = values @ values.T / (lengths[:, None] * lengths).clamp(min=1e-300)
    alike = (cosines >= similarity - 1e-12) & (lengths > 0) & (lengths > 0)[:, None]
    groups, count = [-1] * len(rows), 0
    for start in range(len(rows)):
        others = [number for number in alike[start].nonzero()[:, 0].tolist() if number != start]
        if groups[start] >= 0 or not others:
            continue
        waiting = [start]
        while waiting:
            row = waiting.pop()
            if groups[row] < 0:
                groups[row] = count
                waiting += alike[row].nonzero()[:, 0].tolist()
        count += 1
    stays = [False] * len(rows)
    for row in sorted(range(len(rows)), key=lambda row: (-int(weight[row]), row)):
        stays[row] = not any(stays[other] for other in alike[row].nonzero()[:, 0].tolist())
    return groups, stays


@pytest.mark.parametrize("similarity", [0.5, 0.9, 0.99])
def test_groups_are_those_of_a_plain_loop(similarity: float) -> None:
    rows = rows_alike()
    weight = torch.from_numpy(np.random.default_rng(0).integers(0, 9, len(rows)))
    found = grouped(len(rows), near_duplicates(rows, similarity), weight)
    groups, stays = plain(rows, similarity, weight)
    assert found.group.tolist() == groups
    assert found.stays.tolist() == stays
    assert 0 < sum(stays) < len(rows)
    check_what_stands(found, rows, similarity)


def check_what_stands(found: Groups, rows: Tensor, similarity: float) -> None:
    """What goes is like what stands in its place: of all that stay the nearest."""
    unit = torch.nn.functional.normalize(rows.double())
    cosines = unit @ unit.T
    for row, stands in enumerate(found.stands_for.tolist()):
        assert bool(found.stays[stands])
        if found.stays[row]:
            assert (stands, float(found.similarity[row])) == (row, 1.0)
            continue
        assert float(found.similarity[row]) == pytest.approx(float(cosines[row, stands]), abs=1e-12)
        assert float(cosines[row, stands]) >= similarity - 1e-9
        assert float(cosines[row][found.stays].max()) == pytest.approx(float(cosines[row, stands]), abs=1e-9)


def test_the_ends_of_a_chain_may_both_stay() -> None:
    found = grouped(5, pairs_of({(0, 1): 0.95, (1, 2): 0.96, (2, 3): 0.97}), torch.tensor([5, 1, 1, 4, 9]))
    assert found.group.tolist() == [0, 0, 0, 0, -1]
    assert found.stays.tolist() == [True, False, False, True, True]
    assert found.stands_for.tolist() == [0, 0, 3, 3, 4]
    assert found.similarity.tolist() == [1.0, 0.95, 0.97, 1.0, 1.0]


def test_the_heaviest_of_equal_rows_stays() -> None:
    pairs = pairs_of({(0, 1): 0.95}, equal=((0, 3), (0, 4)))
    found = grouped(5, pairs, torch.tensor([1, 2, 0, 3, 3]))
    assert found.stays.tolist() == [False, False, True, True, False]
    assert found.stands_for.tolist() == [3, 3, 2, 3, 3]
    assert found.similarity.tolist() == [1.0, 0.95, 1.0, 1.0, 1.0]
    lighter = grouped(5, pairs, torch.tensor([1, 4, 0, 3, 3]))
    assert lighter.stays.tolist() == [False, True, True, False, False]
    assert lighter.stands_for.tolist() == [1, 1, 2, 1, 1]


def test_without_pairs_all_stay() -> None:
    found = grouped(3, near_duplicates(torch.eye(3), 0.9), torch.zeros(3, dtype=torch.int64))
    assert found.group.tolist() == [-1] * 3
    assert found.stays.tolist() == [True] * 3


# Diverse subsets


def farthest_first(rows: Tensor, count: int) -> tuple[list[int], float]:
    """By a plain loop over all rows and all that are taken."""
    unit = torch.nn.functional.normalize(rows.double())
    taken = [int((unit @ unit.mean(dim=0)).argmax())]
    while len(taken) < count:
        nearest = [
            max(float(unit[row] @ unit[other]) for other in taken) if row not in taken else 9.0
            for row in range(len(rows))
        ]
        taken.append(nearest.index(min(nearest)))
    covered = (unit @ unit[taken].T).max(dim=1).values
    covered[taken] = 1.0
    return taken, float(covered.min())


def test_a_subset_is_that_of_a_plain_loop() -> None:
    rows = torch.randn(80, 12, generator=torch.Generator().manual_seed(2)) * torch.linspace(0.01, 100, 80)[:, None]
    told: list[int] = []
    expected, covered = farthest_first(rows, 25)
    found = diverse_subset(rows, 25, advance=told.append)
    assert found.rows.tolist() == expected
    assert found.covered == pytest.approx(covered, abs=1e-5)
    assert sum(told) == 25
    assert diverse_subset(rows, 9).rows.tolist() == expected[:9]
    assert diverse_subset(rows, 9).covered < covered


def test_no_row_is_taken_twice() -> None:
    for rows in (torch.ones(6, 3), torch.zeros(6, 3), torch.eye(6)):
        found = diverse_subset(rows, 6)
        assert sorted(found.rows.tolist()) == list(range(6))
        assert found.covered == 1.0
    assert diverse_subset(torch.ones(1, 3), 1).rows.tolist() == [0]


@pytest.mark.parametrize("count", [0, 7])
def test_a_subset_of_too_many_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"a subset of {count} is wanted; it must be between 1 and .* 6"):
        diverse_subset(torch.ones(6, 3), count)
