"""Which columns count for which rows: what the tiles of a loss are told of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Same:
    """The mask of pairs of equal numbers, formed part by part: `mask[rows, columns]` of two slices, as a tensor's.

    Args:
        rows: (B,) int64.
        columns: (M,) int64.
        nobody: columns of a number below 0 are in the mask of every row.
        kept: where given, column kept + i is not in the mask of row i.
    """

    rows: Tensor
    columns: Tensor
    nobody: bool = False
    kept: int | None = None

    def __getitem__(self, place: tuple[slice, slice]) -> Tensor:
        rows, columns = place
        numbers = self.columns[columns]
        mask = self.rows[rows, None] == numbers
        if self.nobody:
            mask |= numbers < 0
        if self.kept is not None:
            fill_diagonal(mask, self.kept + rows.start - columns.start, False)
        return mask


Mask = Tensor | Same  # (B, M) bool


def as_numbers(mask: Mask, dtype: torch.dtype) -> Tensor:
    """(B, M): 1 where a mask is True, else 0. Most often without the mask itself, which takes longer."""
    if isinstance(mask, Tensor):
        return mask.to(dtype)
    if mask.nobody or mask.kept is not None:
        return mask[slice(0, len(mask.rows)), slice(0, len(mask.columns))].to(dtype)
    found = mask.rows.new_empty(len(mask.rows), len(mask.columns), dtype=dtype)
    return torch.eq(mask.rows[:, None], mask.columns, out=found)


@dataclass(frozen=True)
class Pairing:
    """What columns are to rows. By default all of them count, and none is a positive.

    Args:
        own: rows are as many equal blocks as there are numbers; column own[k] + i plays no part in row i of block k.
        left_out: pairs that play no part.
        partner: rows are as many equal blocks as there are numbers; column partner[k] + i, which plays a part, is the
            positive of row i of block k. Instead of `positive`.
        rivals_from: the first column that may be a rival.
        positive: pairs whose scores are to be high, unless they play no part.
    """

    own: tuple[int, ...] = ()
    left_out: Mask | None = None
    partner: tuple[int, ...] = ()
    rivals_from: int = 0
    positive: Mask | None = None


class Run(NamedTuple):
    """Pairs of a row and a column that go up together: (row, column), (row + 1, column + 1), and so on."""

    row: int
    rows: int
    column: int


def runs(numbers: tuple[int, ...], rows: int) -> list[Run]:
    """The pairs of `Pairing.own` or `partner`; blocks that continue each other are one."""
    size = rows // max(1, len(numbers))
    found: list[Run] = []
    for block, number in enumerate(numbers):
        if found and number == found[-1].column + found[-1].rows:
            found[-1] = found[-1]._replace(rows=found[-1].rows + size)
        else:
            found.append(Run(block * size, size, number))
    return found


def diagonals(pairs: list[Run], tile: Tensor, row: int = 0, column: int = 0) -> Iterator[tuple[slice, Tensor]]:
    """What lies of some runs in a tile whose first pair is (row, column): rows of the tile, and the places."""
    height, width = tile.shape
    down, right = tile.stride()
    for block, count, first in pairs:
        start, end = max(block - row, 0), min(block + count - row, height)
        number = first - block + row - column  # of the diagonal, as `Tensor.diagonal` counts them
        start = max(start, -number)
        length = min(end - start, width - start - number)
        if length > 0:
            begin = tile.storage_offset() + start * down + (start + number) * right
            yield slice(start, start + length), tile.as_strided((length,), (down + right,), begin)


def fill_diagonal(tile: Tensor, number: int, value: float) -> None:
    """Write a value where column is row + number; nothing where there is no such place."""
    # A diagonal needs no index tensor.
    if -len(tile) < number < tile.shape[1]:
        tile.diagonal(number).fill_(value)
