"""Some rows against all columns, tile by tile: sums of exponentials and what follows from them. See `tiles`."""

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


@dataclass(frozen=True)
class Pairing:
    """What columns are to rows. By default all of them count, and none is a positive.

    Args:
        own: rows are as many equal blocks as there are numbers; column own[k] + i plays no part in row i of block k.
        left_out: pairs that play no part.
        partner: column partner + i is no rival of row i, but counts.
        rivals_from: the first column that may be a rival.
        positive: pairs whose scores are to be high, unless they play no part.
    """

    own: tuple[int, ...] = ()
    left_out: Mask | None = None
    partner: int | None = None
    rivals_from: int = 0
    positive: Mask | None = None


class Figures(NamedTuple):
    """Of each row, (B,) and without gradient; a highest score is -inf where there is none to be the highest."""

    rival: Tensor  # the highest score of what counts and is neither positive nor partner
    positive: Tensor  # the highest score of a positive
    positives: Tensor  # the number of them, in the rows' precision


class Found(NamedTuple):
    """What rows came to. Gradients are those of each row's own value, and None where nobody asks for them."""

    values: Tensor  # (b,)
    figures: Figures
    to_extra: Tensor | None  # (b,)
    to_rows: Tensor | None  # (b, D)


class Strip:
    """The rows at `place` against all columns: first `add_up`, then `finish`.

    Args:
        rows, columns, pairing: as for `tiles.mean_contrast`.
        place: which rows.
        cuts: the columns of each tile.
        store: (1, n), room for the scores of one tile, which the next one overwrites; or (number of tiles, n), where
            they are to be kept because columns have a gradient, which waits for the sums over whole rows.
        for_rows: whether rows have a gradient.
    """

    def __init__(
        self,
        rows: Tensor,
        columns: Tensor,
        pairing: Pairing,
        place: slice,
        cuts: list[slice],
        store: Tensor,
        for_rows: bool,
    ) -> None:
        self.rows, self.columns, self.pairing, self.place = rows[place], columns, pairing, place
        self.cuts, self.store, self.all_rows, self.for_rows = cuts, store, len(rows), for_rows
        nothing = self.rows.new_full((len(self.rows),), -torch.inf)
        self.rival = self.positive = nothing
        self.extra: Tensor | None = None
        self.count = self.pull = torch.zeros_like(nothing)  # of the positives: their number, and the sum of scores
        self.top, self.total = torch.full_like(nothing, torch.finfo(rows.dtype).min), self.count
        self.tops: list[Tensor] = []  # the highest score that the exponentials of each tile are relative to
        self.softmax = self.pulling = self.count[:, None]  # (b, D) sums of columns, weighed by exponentials; positives

    def add_up(self, extra: Tensor | None, kept: bool) -> None:
        """Sums of the exponentials relative to the highest score so far; and of columns, unless tiles are kept.

        Args:
            extra: (b,) scores that are summed, too.
        """
        if extra is not None:
            self.extra, self.top, self.total = extra, extra, torch.ones_like(extra)
        for number, cut in enumerate(self.cuts):
            columns = self.columns[cut]
            columns = columns.to(torch.promote_types(columns.dtype, self.rows.dtype))
            scores = torch.mm(self.rows, columns.T, out=self.tile(number))
            self.leave_out(scores, cut, -torch.inf)
            positive = self.positives(cut)
            highest = self.look(scores, positive, cut)
            top = torch.maximum(self.top, highest)  # never -inf, from which -inf cannot be subtracted
            sums = scores.sub_(top[:, None]).exp_().sum(dim=1)
            shrink = (self.top - top).exp_()
            self.total = torch.addcmul(sums, self.total, shrink)
            if self.for_rows and not kept:
                self.softmax = torch.addmm(self.softmax * shrink[:, None], scores, columns)
                if positive is not None:
                    self.pulling = torch.addmm(self.pulling, positive.to(columns.dtype), columns)
            self.top = top
            self.tops.append(top)

    def look(self, scores: Tensor, positive: Tensor | None, cut: slice) -> Tensor:
        """Take note of rivals and positives of a tile: the highest scores of all, (b,)."""
        if positive is None:
            others, highest = self.highest(scores, cut)
        else:
            self.count = self.count + positive.sum(dim=1)
            self.pull = self.pull + torch.where(positive, scores, 0).sum(dim=1)
            nearest = scores.masked_fill(~positive, -torch.inf).amax(dim=1)
            others = scores.masked_fill(positive, -torch.inf).amax(dim=1)
            self.positive, highest = torch.maximum(self.positive, nearest), torch.maximum(nearest, others)
        if cut.start >= self.pairing.rivals_from:
            self.rival = torch.maximum(self.rival, others)
        return highest

    def highest(self, scores: Tensor, cut: slice) -> tuple[Tensor, Tensor]:
        """The highest scores of a tile (b,), without the partners' and with them."""
        if self.pairing.partner is None or cut.start < self.pairing.rivals_from:
            highest = scores.amax(dim=1)
            return highest, highest
        number = self.pairing.partner + self.place.start - cut.start
        if not -len(scores) < number < scores.shape[1]:
            highest = scores.amax(dim=1)
            return highest, highest
        diagonal = scores.diagonal(number)
        partners = diagonal.clone()
        diagonal.fill_(-torch.inf)
        others = scores.amax(dim=1)
        diagonal.copy_(partners)
        highest = others.clone()
        here = highest[max(0, -number) :][: len(partners)]
        torch.maximum(here, partners, out=here)
        return others, highest

    def finish(self, to_columns: Tensor | None) -> Found:
        """What the sums say; the gradient of columns is added to `to_columns` (M, D)."""
        whole = self.total.clamp(min=torch.finfo(self.total.dtype).tiny)
        values = self.top + self.total.log()
        usable, share = None, None
        if self.pairing.positive is not None:
            usable, share = self.count > 0, 1 / self.count.clamp(min=1)
            values = torch.where(usable, values - self.pull * share, 0)
        to_rows = None
        if to_columns is not None:
            to_rows = self.weigh(whole, usable, share, to_columns)
        elif self.for_rows:
            to_rows = self.softmax / whole[:, None]
            to_rows = to_rows if share is None else to_rows - self.pulling * share[:, None]
        to_extra = None if self.extra is None else (self.extra - self.top).exp_() / whole
        if usable is not None:
            to_rows = None if to_rows is None else to_rows * usable[:, None]
            to_extra = None if to_extra is None else to_extra * usable
        return Found(values, Figures(self.rival, self.positive, self.count), to_extra, to_rows)

    def weigh(self, whole: Tensor, usable: Tensor | None, share: Tensor | None, to_columns: Tensor) -> Tensor | None:
        """The kept exponentials become the softmax, less what attracts, and that the gradients."""
        means = self.rows / self.all_rows
        means = means if usable is None else means * usable[:, None]
        to_rows = torch.zeros_like(self.rows) if self.for_rows else None
        for number, cut in enumerate(self.cuts):
            weights = self.tile(number).mul_(((self.tops[number] - self.top).exp_() / whole)[:, None])
            positive = self.positives(cut)
            if positive is not None and share is not None:
                weights.sub_(positive * share[:, None])
            if to_rows is not None:
                to_rows.addmm_(weights, self.columns[cut])
            to_columns[cut].addmm_(weights.T, means)
        return to_rows

    def tile(self, number: int) -> Tensor:
        """(b, m) where the scores of a tile lie."""
        cut = self.cuts[number]
        shape = len(self.rows), cut.stop - cut.start
        return self.store[min(number, len(self.store) - 1), : shape[0] * shape[1]].view(shape)

    def positives(self, cut: slice) -> Tensor | None:
        """(b, m) bool, those of a tile that play a part."""
        if self.pairing.positive is None:
            return None
        mask = self.pairing.positive[self.place, cut].clone()
        return self.leave_out(mask, cut, False)

    def leave_out(self, tile: Tensor, cut: slice, value: float) -> Tensor:
        """`value` is written where a pair plays no part."""
        if self.pairing.left_out is not None:
            tile.masked_fill_(self.pairing.left_out[self.place, cut], value)
        for block, own in enumerate(self.pairing.own):
            size = self.all_rows // len(self.pairing.own)
            start, end = (min(max(row - self.place.start, 0), len(tile)) for row in (block * size, (block + 1) * size))
            fill_diagonal(tile[start:end], own - block * size + self.place.start + start - cut.start, value)
        return tile


def fill_diagonal(tile: Tensor, number: int, value: float) -> None:
    """Write a value where column is row + number; nothing where there is no such place."""
    # A diagonal needs no index tensor.
    if -len(tile) < number < tile.shape[1]:
        tile.diagonal(number).fill_(value)
