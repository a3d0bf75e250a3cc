"""A few rows that cover all: farthest-first traversal."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from selfsup.search.rows import CHUNK, check_rows, inverse_lengths, unit_rows


class Subset(NamedTuple):
    """Rows in the order in which they were taken: the first n of them are the subset of n."""

    rows: Tensor  # (n,) int64
    covered: float  # the smallest cosine of any row with the nearest of them


def diverse_subset(features: Tensor, count: int, *, advance: Callable[[int], None] = lambda rows: None) -> Subset:
    """Rows that lie far from each other, and near to all: k-center by farthest-first traversal (Gonzalez 1985).

    The first is the row nearest to the mean of all directions; each further one is the row farthest, by the angle, from
    all that are taken, of equally far ones the lowest. No choice of as many rows leaves any row less than half as far
    from the nearest, in the distance of unit rows.

    Every step reads all rows once: count x N x D multiplications in single precision. Beside the features it needs a
    few numbers a row.

    Args:
        features: (N, D) float32, finite; may be mapped from a file. A row of zeros is at right angles to all.
        count: rows that are wanted, at most N.
        advance: is told of each row that is taken.

    Raises:
        ValueError: features are of another form, or `count` is not in its range.
    """
    check_rows(features)
    if not 1 <= count <= len(features):
        raise ValueError(f"a subset of {count} is wanted; it must be between 1 and the number of rows, {len(features)}")
    inverse = inverse_lengths(features)
    scale = inverse.float().to(features.device)
    mean = torch.zeros(features.shape[1], dtype=torch.float64)
    for start in range(0, len(features), CHUNK):
        rows = slice(start, start + CHUNK)
        mean += unit_rows(features[rows], inverse[rows]).cpu().double().sum(dim=0)
    towards = (features @ mean.to(features.device, torch.float32)).mul_(scale)
    taken = [_first(towards, largest=True)]
    advance(1)
    nearest = _cosines_with(features, scale, taken[0])
    while len(taken) < count:
        nearest[taken[-1]] = torch.inf  # never again, also among rows that are all alike
        taken.append(_first(nearest, largest=False))
        torch.maximum(nearest, _cosines_with(features, scale, taken[-1]), out=nearest)
        advance(1)
    nearest[taken[-1]] = torch.inf
    return Subset(torch.tensor(taken), min(1.0, float(nearest.min())))


def _cosines_with(features: Tensor, scale: Tensor, row: int) -> Tensor:
    return torch.mv(features, features[row] * scale[row]).mul_(scale)


def _first(values: Tensor, largest: bool) -> int:
    """The lowest position of the largest, or smallest, value."""
    extreme = values.max() if largest else values.min()
    return int((values == extreme).nonzero()[0, 0])
