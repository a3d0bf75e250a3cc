"""All pairs of rows above a cosine, exactly, of hundreds of thousands to millions of rows.

Most pairs are ruled out by a few numbers a row. Turned so that the first axes hold the most of all rows, a unit row x
is a beginning p of d numbers and a rest of length r. By Cauchy and Schwarz the cosine of two rows is at most

    p . p' + r r',

one product of d + 1 numbers in the place of D. (As prefixes of sparse vectors are used by Anastasiu and Karypis 2014,
L2AP.) What this bound cannot rule out is compared in double precision, so no pair is lost and none is made up.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from selfsup.cluster.neighbours import first_equal_rows
from selfsup.devices.double import double_device, to_double
from selfsup.search.rows import CHUNK, check_rows, cosines, inverse_lengths, sample, unit_rows

MOST = 2**26  # pairs
_TILE = {"cpu": (1024, 2048)}  # rows and columns that are compared at once, so that their products stay in the cache
_LARGE_TILE = (8192, 16_384)
_LEARNED_FROM = 16_384  # rows that say where the axes lie
_TRIED_ON = 2048  # rows whose pairs say how many numbers are worth while
_COSTS_OF_A_PAIR = (10, 50_000)  # of looking at its bound, and of comparing it again, in multiplications
_PENDING = 2**20  # pairs that wait to be compared again
_ROUNDING = 1e-12  # of a cosine in double precision


class Pairs(NamedTuple):
    """Rows that are alike, ordered by the first row, then by the second."""

    first: Tensor  # (P,) int64
    second: Tensor  # (P,) int64, larger than `first`
    similarity: Tensor  # (P,) float64: the cosine
    equal: Tensor  # (P,) bool: every number of the one is that of the other


def near_duplicates(
    features: Tensor, similarity: float, *, most: int = MOST, advance: Callable[[int], None] = lambda rows: None
) -> Pairs:
    """All pairs of rows whose cosine is at least `similarity`: those of a plain loop in double precision.

    Rows that are equal number by number are each paired with the first of them alone, and that one stands for all of
    them: a million black images are a million pairs, and not half of 10^12. Rows of zeros are like none.

    The products are taken on the device of the features, and must not be rounded more than single precision is:
    no TF32, if torch was told to use it. Beside the features as many numbers again are needed at most, a tenth to a
    quarter where the bound is worth while.

    Args:
        features: (N, D) float32, finite; may be mapped from a file.
        similarity: above 0 and at most 1.
        most: pairs that may be found.
        advance: is told of rows that have been compared with all after them.

    Raises:
        ValueError: features are of another form; `similarity` is not in its range; there are too many pairs.
    """
    check_rows(features)
    if not 0 < similarity <= 1:
        raise ValueError(f"similarity is {similarity}; it is a cosine, above 0 and at most 1, such as 0.95")
    first = first_equal_rows(features.to(double_device(features.device))).cpu()
    inverse = inverse_lengths(features).cpu()
    own = torch.arange(len(features))
    again = ((first != own) & (inverse > 0)).nonzero()[:, 0]
    rows = ((first == own) & (inverse > 0)).nonzero()[:, 0]
    advance(len(features) - len(rows))
    pairs = _distinct(features, rows, inverse, similarity, advance, most, len(again))
    one, two = torch.cat([pairs.first, first[again]]), torch.cat([pairs.second, again])
    cosine = torch.cat([pairs.similarity, torch.ones(len(again), dtype=torch.float64)])
    equal = torch.arange(len(one)) >= len(pairs.first)
    order = (one * len(features) + two).argsort()
    return Pairs(one[order], two[order], cosine[order], equal[order])


def _distinct(
    features: Tensor,
    rows: Tensor,
    inverse: Tensor,
    similarity: float,
    advance: Callable[[int], None],
    most: int,
    of_equal: int,
) -> Pairs:
    """Pairs of `rows`, of which no two are equal; with those `of_equal` rows they are `most` at most."""
    found = [Pairs(*(torch.empty(0, dtype=kind) for kind in (torch.int64, torch.int64, torch.float64, torch.bool)))]
    waiting: list[tuple[Tensor, Tensor]] = []

    def compare() -> None:
        first, second = (rows[torch.cat(part)] for part in zip(*waiting, strict=True))
        cosine = cosines(features, first, features, second)
        near = cosine >= similarity - _ROUNDING
        found.append(Pairs(first[near], second[near], cosine[near], torch.zeros(int(near.sum()), dtype=torch.bool)))
        waiting.clear()
        if of_equal + sum(len(part.first) for part in found) > most:
            raise ValueError(
                f"more than {most:,} pairs of rows have a cosine of {similarity:g} at least; give a higher similarity"
            )

    if len(rows) < 2:
        advance(len(rows))
    else:
        sketch, margin = _sketch(features, rows, inverse, similarity)
        pending = 0
        for pairs in _above(sketch, similarity - margin, advance):
            waiting.append(pairs)
            pending += len(pairs[0])
            if pending > _PENDING:
                compare()
                pending = 0
        if waiting:
            compare()
    return Pairs(*(torch.cat(column) for column in zip(*found, strict=True)))


def _above(sketch: Tensor, least: float, advance: Callable[[int], None]) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of sketches (n, d) whose product is at least `least`, tile by tile: two (m,) int64 on the CPU, i < j."""
    height, width = _TILE.get(sketch.device.type, _LARGE_TILE)
    space = sketch.new_empty(height * width)  # for all tiles: new memory would cost as much time as the products
    for top in range(0, len(sketch), height):
        strip = sketch[top : top + height]
        for left in range(top, len(sketch), width):
            columns = sketch[left : left + width]
            products = space[: len(strip) * len(columns)].view(len(strip), len(columns))
            torch.mm(strip, columns.T, out=products)
            # The maximum is read at the speed of memory; a comparison would write as many answers.
            high = (products.amax(dim=1) >= least).nonzero()[:, 0]
            if len(high):
                of, column = (products[high] >= least).nonzero(as_tuple=True)
                first, second = high[of].cpu() + top, column.cpu() + left
                later = second > first
                yield first[later], second[later]
        advance(len(strip))


def _sketch(features: Tensor, rows: Tensor, inverse: Tensor, similarity: float) -> tuple[Tensor, float]:
    """Of each row a few numbers whose products bound the cosines from above, and by how much rounding may undercut it.

    Returns:
        (n, d + 1) float32, or the unit rows themselves where that is no more work; the margin.
    """
    dimension, device = features.shape[1], features.device
    margin = 4 * (2 * dimension + 4) * torch.finfo(torch.float32).eps
    some = rows[sample(len(rows), _LEARNED_FROM, 0)]
    units = to_double(unit_rows(features[some.to(device)], inverse[some]))
    axes = torch.linalg.eigh(units.T @ units).eigenvectors.flip(1)  # the one that holds most comes first
    tried = units[sample(len(units), _TRIED_ON, 1).to(units.device)]
    kept = _worth_while(tried, axes, similarity - margin)
    parts = []
    for part in rows.split(CHUNK):
        unit = unit_rows(features[part.to(device)], inverse[part])
        if kept < dimension:
            beginning = unit @ axes[:, :kept].to(device, torch.float32)
            rest = _rest(to_double(beginning), margin).to(device, torch.float32)
            unit = torch.cat([beginning, rest[:, None]], dim=1)
        parts.append(unit)
    return torch.cat(parts), margin


def _rest(beginnings: Tensor, margin: float) -> Tensor:
    """Lengths of what is left of unit rows, (n,) float64, too long rather than too short."""
    return (1 + margin - beginnings.square().sum(dim=1)).clamp(min=0).sqrt()


def _worth_while(units: Tensor, axes: Tensor, least: float) -> int:
    """How many axes, of a unit row's D, make the least work: more to multiply, or more pairs to compare again."""
    dimension = units.shape[1]
    look, compare = _COSTS_OF_A_PAIR
    turned = units @ axes
    costs = {}
    for kept in (16, 32, 48, 64, 96, 128, 192, 256, dimension):
        if kept <= dimension:
            beginnings = turned[:, :kept]
            rest = _rest(beginnings, 0.0)
            bounds = beginnings @ beginnings.T + rest[:, None] * rest
            above = int((bounds >= least).sum()) - len(units)
            costs[kept] = kept + look + compare * max(above, 0) / max(1, len(units) * (len(units) - 1))
    return min(costs, key=lambda kept: costs[kept])
