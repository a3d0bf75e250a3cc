"""All scores of a small batch at once: what `tiles` computes piece by piece, in few and fast operations.

In a small batch an operation costs more than what it computes; and on a CPU one with a condition takes ten times as
long as one with numbers alone.
"""

import torch
from torch import Tensor

from selfsup.losses.pairing import Pairing, as_numbers, diagonals, runs
from selfsup.losses.strips import Figures, Found

# Scores at most. On a CPU this was the faster way up to there, with a mask of positives four times as far; on a GPU it
# is not measured.
_SCORES = {"cpu": 2**18, "gpu": 2**22}


def is_small(rows: Tensor, columns: Tensor, pairing: Pairing, extra: Tensor | None) -> bool:
    """Whether `whole` is the way: for few scores, some of which count in every row."""
    room = _SCORES["cpu" if rows.device.type == "cpu" else "gpu"] * (1 if pairing.positive is None else 4)
    some_count = extra is not None or (pairing.left_out is None and len(columns) > bool(pairing.own))
    has_rivals = len(columns) > pairing.rivals_from
    return len(rows) * len(columns) <= room and some_count and has_rivals and rows.dtype == columns.dtype


def whole(
    rows: Tensor,
    columns: Tensor,
    extra: Tensor | None,
    pairing: Pairing,
    scale: float,
    for_rows: bool,
    for_columns: bool,
) -> tuple[Found, Tensor | None]:
    """The values of rows, as `tiles.mean_contrast` has them, and the gradients of their mean.

    Args:
        rows, columns, extra, pairing, scale: as there.
        for_rows: whether rows have a gradient.
        for_columns: whether columns have one; where they are the rows, the two are one gradient, that of rows.

    Returns:
        What was found, and the gradient of the columns (M, D), None where it is not asked for.
    """
    every = rows.new_empty(len(rows), len(columns) + (extra is not None))
    scores = torch.addmm(rows.new_empty(1), rows, columns.T, beta=0, alpha=scale, out=every[:, -len(columns) :])
    if extra is not None:
        every[:, 0] = extra
    positive, attraction = None, None
    if pairing.positive is not None:
        positive = _leave_out(as_numbers(pairing.positive, scores.dtype), pairing, 0)
        count = positive.sum(dim=1)
        share, usable = 1 / count.clamp(min=1), count > 0
        attraction = _sum_of(positive, scores, pairing) * share
    _leave_out(scores, pairing, -torch.inf)
    figures = _figures(scores, pairing, positive, _diagonals(scores, pairing.partner))
    if pairing.partner:
        attraction = figures.nearest
    weights = every.softmax(dim=1)
    values = every.amax(dim=1) - weights.amax(dim=1).log()  # log-sum-exps: the largest weight is far from rounding to 0
    values = values if attraction is None else values - attraction
    if positive is not None:
        values = torch.where(usable, values, 0)
        weights *= usable[:, None]
    to_extra = None if extra is None else weights[:, 0]
    if not (for_rows or for_columns):
        return Found(values, figures, to_extra, None), None
    weights = weights[:, -len(columns) :]
    for place in _diagonals(weights, pairing.partner):
        place.sub_(1)
    if positive is not None:
        weights.addcmul_(positive, share[:, None], value=-1)
    part = scale / len(rows)
    if columns is rows:
        return Found(values, figures, to_extra, _product(weights + weights.T, rows, part)), None
    to_rows = _product(weights, columns, part) if for_rows else None
    return Found(values, figures, to_extra, to_rows), _product(weights.T, rows, part) if for_columns else None


def _leave_out(matrix: Tensor, pairing: Pairing, value: float) -> Tensor:
    """`value` is written where a pair plays no part."""
    if pairing.left_out is not None:
        matrix.masked_fill_(pairing.left_out[slice(0, len(matrix)), slice(0, matrix.shape[1])], value)
    for place in _diagonals(matrix, pairing.own):
        place.fill_(value)
    return matrix


def _sum_of(positive: Tensor, scores: Tensor, pairing: Pairing) -> Tensor:
    """(B,) of the positives' scores. What is left out may be infinite, and then only a condition takes it away."""
    if pairing.left_out is not None:
        return torch.where(positive > 0, scores, 0).sum(dim=1)
    sums: Tensor = torch.linalg.vecdot(positive, scores)
    return sums


def _figures(scores: Tensor, pairing: Pairing, positive: Tensor | None, partners: list[Tensor]) -> Figures:
    """Of the scores of what counts; `partners` are places among them, which a rival is not."""
    if positive is not None:
        most = torch.finfo(scores.dtype).max
        others = torch.add(scores, positive, alpha=-most)[:, pairing.rivals_from :].amax(dim=1)
        return Figures(others.masked_fill_(others < -most / 2, -torch.inf), scores.amax(dim=1))
    if not partners:
        rivals = scores[:, pairing.rivals_from :].amax(dim=1)
        return Figures(rivals, torch.full_like(rivals, -torch.inf))
    nearest = torch.cat(partners)
    for place in partners:
        place.fill_(-torch.inf)
    rivals = scores[:, pairing.rivals_from :].amax(dim=1)
    for place, values in zip(partners, nearest.split([len(place) for place in partners]), strict=True):
        place.copy_(values)
    return Figures(rivals, nearest)


def _diagonals(matrix: Tensor, numbers: tuple[int, ...]) -> list[Tensor]:
    """What lies of the runs of `Pairing.own` or `Pairing.partner` in a matrix of all rows and columns."""
    return [place for _, place in diagonals(runs(numbers, len(matrix)), matrix)]


def _product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    return torch.addmm(b.new_empty(1), a, b, beta=0, alpha=scale)
