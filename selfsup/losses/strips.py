"""Some rows against all columns, tile by tile: sums of exponentials and what follows from them. See `tiles`."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from selfsup.losses.pairing import Pairing, Run, diagonals, runs


class Figures(NamedTuple):
    """Of each row, (B,) and without gradient; a highest score is -inf where there is none to be the highest."""

    rival: Tensor  # the highest score of what counts and is not positive
    # The partner's score; with a mask of positives, the highest of all columns, which is a positive's if it is above
    # `rival`; else -inf.
    nearest: Tensor


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
        self.own, self.partner = (runs(numbers, len(rows)) for numbers in (pairing.own, pairing.partner))
        self.extra: Tensor | None = None
        # What there is after the first tile. None of it is made before: in a small batch each operation tells.
        self.top: Tensor | None = None  # (b,) highest score so far, never -inf, from which -inf cannot be subtracted
        self.total: Tensor | None = None  # (b,) sum of exponentials relative to it
        self.tops: list[Tensor] = []  # the highest score that the exponentials of each tile are relative to
        self.rival: Tensor | None = None  # (b,) as in `Figures`
        self.nearest: Tensor | None = None
        self.count: Tensor | None = None  # (b,) of the positives: their number, and the sum of their scores
        self.pull: Tensor | None = None
        self.softmax: Tensor | None = None  # (b, D) sums of columns, weighed by exponentials; and of the positives
        self.pulling: Tensor | None = None

    def add_up(self, extra: Tensor | None, kept: bool) -> None:
        """Sums of the exponentials relative to the highest score so far; and of columns, unless tiles are kept.

        Args:
            extra: (b,) scores that are summed, too.
        """
        if extra is not None:
            self.extra, self.top, self.total = extra, extra, torch.ones_like(extra)
        for number, cut in enumerate(self.cuts):
            columns = self.columns[cut]
            if columns.dtype != self.rows.dtype:
                columns = columns.to(torch.promote_types(columns.dtype, self.rows.dtype))
            scores = torch.mm(self.rows, columns.T, out=self.tile(number))
            self.leave_out(scores, cut, -torch.inf)
            positive = self.positives(cut)
            shrink = self.raise_top(self.look(scores, positive, cut))
            sums = scores.sub_(self.tops[-1][:, None]).exp_().sum(dim=1)
            self.total = _shrunk_plus(self.total, shrink, sums)
            if self.for_rows and not kept:
                scaled = None if self.softmax is None or shrink is None else self.softmax * shrink[:, None]
                self.softmax = _plus_product(scaled, scores, columns)
                if positive is not None:
                    self.pulling = _plus_product(self.pulling, positive.to(columns.dtype), columns)

    def raise_top(self, highest: Tensor) -> Tensor | None:
        """The highest scores of a tile, (b,), join those of the tiles before; what sums relative to these shrink by."""
        if self.top is None:
            self.top = highest.clamp(min=torch.finfo(highest.dtype).min)
            shrink = None
        else:
            before, self.top = self.top, torch.maximum(self.top, highest)
            shrink = (before - self.top).exp_()
        self.tops.append(self.top)
        return shrink

    def look(self, scores: Tensor, positive: Tensor | None, cut: slice) -> Tensor:
        """Take note of rivals and positives of a tile: the highest scores of all, (b,)."""
        if positive is None:
            highest = scores.amax(dim=1)
            self.rival = _higher(self.rival, self.without_partners(scores, highest, cut))
            if self.partner:
                self.pull = torch.empty_like(highest) if self.pull is None else self.pull
                for rows, partners in self.diagonals(self.partner, scores, cut.start):
                    self.pull[rows] = partners
            return highest
        self.count = _plus(self.count, positive.sum(dim=1, dtype=scores.dtype))
        self.pull = _plus(self.pull, torch.where(positive, scores, 0).sum(dim=1))
        rivals = scores.masked_fill(positive, -torch.inf)[:, max(0, self.pairing.rivals_from - cut.start) :]
        self.rival = _higher(self.rival, rivals.amax(dim=1) if rivals.shape[1] else None)
        highest = scores.amax(dim=1)
        self.nearest = _higher(self.nearest, highest)
        return highest

    def without_partners(self, scores: Tensor, highest: Tensor, cut: slice) -> Tensor | None:
        """The highest scores of a tile's rivals, (b,), where no score is a positive's; `highest` are those of all."""
        first = max(0, self.pairing.rivals_from - cut.start)
        rivals = scores[:, first:] if first else scores
        if not rivals.shape[1]:
            return None
        places = [partners for _, partners in self.diagonals(self.partner, rivals, cut.start + first)]
        if not places:
            return rivals.amax(dim=1) if first else highest
        partners = [place.clone() for place in places]
        for place in places:
            place.fill_(-torch.inf)
        others = rivals.amax(dim=1)
        for place, scores_there in zip(places, partners, strict=True):
            place.copy_(scores_there)
        return others

    def finish(self, to_columns: Tensor | None) -> Found:
        """What the sums say; the gradient of columns is added to `to_columns` (M, D)."""
        assert self.top is not None  # there is a tile
        assert self.total is not None
        whole = self.total.clamp(min=torch.finfo(self.total.dtype).tiny)
        values = self.top + self.total.log()
        usable, share = None, None
        if self.count is not None and self.pull is not None:
            usable, share = self.count > 0, 1 / self.count.clamp(min=1)
            values = torch.where(usable, values - self.pull * share, 0)
        elif self.pull is not None:
            values = values.sub_(self.pull)
        to_rows = None
        if to_columns is not None:
            to_rows = self.weigh(whole, usable, share, to_columns)
        elif self.softmax is not None:
            to_rows = self.softmax / whole[:, None]
            if self.pulling is not None and share is not None:
                to_rows = to_rows - self.pulling * share[:, None]
            self.attract_to_partners(to_rows)
        to_extra = None if self.extra is None else (self.extra - self.top).exp_() / whole
        if usable is not None:
            to_rows = None if to_rows is None else to_rows * usable[:, None]
            to_extra = None if to_extra is None else to_extra * usable
        return Found(values, self.figures(values), to_extra, to_rows)

    def figures(self, like: Tensor) -> Figures:
        """Those of all tiles, with what there is none of."""
        nothing = torch.full_like(like, -torch.inf)
        nearest = self.pull if self.pairing.partner else self.nearest
        return Figures(nothing if self.rival is None else self.rival, nothing if nearest is None else nearest)

    def weigh(self, whole: Tensor, usable: Tensor | None, share: Tensor | None, to_columns: Tensor) -> Tensor | None:
        """The kept exponentials become the softmax, less what attracts, and that the gradients."""
        means = self.rows / self.all_rows
        means = means if usable is None else means * usable[:, None]
        to_rows = None
        for number, cut in enumerate(self.cuts):
            weights, top = self.tile(number), self.tops[number]
            if number == len(self.cuts) - 1:
                weights.div_(whole[:, None])
            else:
                weights.mul_(((top - self.tops[-1]).exp_() / whole)[:, None])
            positive = self.positives(cut)
            if positive is not None and share is not None:
                weights.sub_(positive * share[:, None])
            for _, partners in self.diagonals(self.partner, weights, cut.start):
                partners.sub_(1)
            if self.for_rows:
                to_rows = _plus_product(to_rows, weights, self.columns[cut])
            to_columns[cut].addmm_(weights.T, means)
        return to_rows

    def attract_to_partners(self, to_rows: Tensor) -> None:
        """The column of each row's partner is taken off its gradient (b, D)."""
        for run in self.partner:
            start, end = max(run.row, self.place.start), min(run.row + run.rows, self.place.stop)
            if start < end:
                first = run.column - run.row + start
                to_rows[start - self.place.start :][: end - start] -= self.columns[first : first + end - start]

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
        for _, place in self.diagonals(self.own, tile, cut.start):
            place.fill_(value)
        return tile

    def diagonals(self, runs: list[Run], tile: Tensor, first_column: int) -> Iterator[tuple[slice, Tensor]]:
        """What lies of `runs` in a tile whose columns begin with `first_column`: rows of the tile, and the places."""
        return diagonals(runs, tile, self.place.start, first_column)


# What there is so far and what a tile adds; the first tile is taken as it is.


def _plus(so_far: Tensor | None, more: Tensor) -> Tensor:
    return more if so_far is None else so_far + more


def _shrunk_plus(so_far: Tensor | None, shrink: Tensor | None, more: Tensor) -> Tensor:
    return more if so_far is None or shrink is None else torch.addcmul(more, so_far, shrink)


def _higher(so_far: Tensor | None, found: Tensor | None) -> Tensor | None:
    return so_far if found is None else found if so_far is None else torch.maximum(so_far, found)


def _plus_product(so_far: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    return a @ b if so_far is None else torch.addmm(so_far, a, b)
