"""Log-sum-exp of the scores of all rows with all columns, a tile of them at a time: what InfoNCE-like losses share.

Each score is formed once. Its share in the gradient is taken while it is at hand, so that the backward pass has only to
scale what there is: memory grows with rows and columns and not with their product, and nothing is computed twice. The
running maximum is that of Milakov and Gimelshein 2018, "Online normalizer calculation for softmax"; gradients formed in
the forward pass are those of Hsu et al. 2024, "Liger Kernel".
"""

from typing import Any

import torch
from torch import Tensor

from selfsup.losses.pairing import Pairing
from selfsup.losses.strips import Figures, Found, Strip
from selfsup.losses.whole import is_small, whole

# Rows and columns of a tile, and scores of a strip that are kept at once.
_CPU = {"height": 512, "width": 1024, "room": 2**23}
_GPU = {"height": 4096, "width": 16_384, "room": 2**25}


def mean_contrast(
    rows: Tensor, columns: Tensor, pairing: Pairing, extra: Tensor | None = None, scale: float = 1.0
) -> tuple[Tensor, Figures]:
    """Mean over rows i of log(exp(extra_i) + sum over the columns j that count of exp(scale row_i . column_j)).

    Where `pairing` has positives, the mean score of a row's positives is taken off its logarithm, and a row without
    positives counts as 0.

    Args:
        rows: (B, D) in float32 or better.
        columns: (M, D) of any precision, or of the rows' where they have a gradient; the rows themselves are taken
            once.
        pairing: which columns count for which rows.
        extra: (B,) a score of each row beside those with the columns, in the rows' precision.
        scale: what inner products are multiplied by, the inverse of a temperature.

    Returns:
        The mean (), which can be differentiated once in rows, columns and extra, and the figures of each row.
    """
    others = None if columns is rows else columns
    mean, *figures = _MeanContrast.apply(rows, others, extra, pairing, scale, torch.is_grad_enabled())
    return mean, Figures(*figures)


def log_sums(rows: Tensor, columns: Tensor, pairing: Pairing) -> tuple[Tensor, Figures]:
    """(B,) logarithms of each row, -inf where no column counts; as in `mean_contrast`, but columns are constant."""
    sums, *figures = _LogSumExp.apply(rows, columns, pairing, torch.is_grad_enabled())
    return sums, Figures(*figures)


class _MeanContrast(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        others: Tensor | None,
        extra: Tensor | None,
        pairing: Pairing,
        scale: float,
        wanted: bool,
    ) -> tuple[Tensor, ...]:
        for_rows, for_others, for_extra = (wanted and needed for needed in ctx.needs_input_grad[:3])
        columns = rows if others is None else others
        for_columns = for_others or (for_rows and others is None)
        with torch.autocast(rows.device.type, enabled=False):
            if is_small(rows, columns, pairing, extra):
                found, to_columns = whole(rows, columns, extra, pairing, scale, for_rows, for_columns)
                to_rows = found.to_rows
            else:
                to_columns = torch.zeros_like(columns) if for_columns else None
                found = _sweep(rows * scale, columns, extra, pairing, for_rows, to_columns)
                to_rows = None if found.to_rows is None else found.to_rows.mul_(scale / len(rows))
                if others is None and to_rows is not None and to_columns is not None:
                    to_rows += to_columns
        to_extra = found.to_extra / len(rows) if for_extra and found.to_extra is not None else None
        ctx.save_for_backward(to_rows, to_columns if for_others else None, to_extra)
        ctx.mark_non_differentiable(*found.figures)
        ctx.set_materialize_grads(False)
        return found.values.mean(), *found.figures

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None, *_: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_derivative()
        if gradient is None:
            return (None,) * 6
        found = [None if part is None else part * gradient for part in ctx.saved_tensors]
        return (*found, None, None, None)


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, columns: Tensor, pairing: Pairing, wanted: bool) -> tuple[Tensor, ...]:
        with torch.autocast(rows.device.type, enabled=False):
            found = _sweep(rows, columns, None, pairing, wanted and ctx.needs_input_grad[0], None)
        ctx.save_for_backward(found.to_rows)
        ctx.mark_non_differentiable(*found.figures)
        return found.values, *found.figures

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_derivative()
        (to_rows,) = ctx.saved_tensors
        return to_rows * gradient[:, None], None, None, None


def _refuse_second_derivative() -> None:
    # The gradients are constants here, so that a penalty on them would have no effect and nobody would know.
    if torch.is_grad_enabled():
        raise RuntimeError("a loss in tiles can be differentiated once; take its gradient without create_graph")


def tile_size(rows: int, columns: int, device: str, kept: bool) -> tuple[int, int]:
    """Rows and columns of a tile: the whole where it is small.

    On CPUs, of heights 128 to 1,024 and widths 512 to 4,096 these were the fastest with D = 128; the room for a strip
    hardly matters. On a GPU a tile must be large enough to keep it busy; there the sizes are not measured.

    Args:
        device: its type.
        kept: whether tiles are kept until the end of their strip, so that this, too, must not be large.
    """
    height, width, room = (_CPU if device == "cpu" else _GPU).values()
    if kept:
        height = max(128, min(height, room // max(1, columns)))
    return max(1, min(height, rows)), max(1, min(width, columns))


def _sweep(
    rows: Tensor, columns: Tensor, extra: Tensor | None, pairing: Pairing, for_rows: bool, to_columns: Tensor | None
) -> Found:
    """All rows, a strip at a time; the gradient of columns is written to `to_columns` where it is given."""
    kept = to_columns is not None
    height, width = tile_size(len(rows), len(columns), rows.device.type, kept)
    cuts = [slice(first, min(first + width, len(columns))) for first in range(0, len(columns), width)]
    store = rows.new_empty(len(cuts) if kept else 1, height * width)
    found = []
    for first in range(0, len(rows), height):
        place = slice(first, min(first + height, len(rows)))
        strip = Strip(rows, columns, pairing, place, cuts, store, for_rows)
        strip.add_up(None if extra is None else extra[place], kept)
        found.append(strip.finish(to_columns))
    if len(found) == 1:
        return found[0]
    values, figures, to_extra, to_rows = zip(*found, strict=True)
    return Found(
        torch.cat(values),
        Figures(*(torch.cat(parts) for parts in zip(*figures, strict=True))),
        None if extra is None else torch.cat(to_extra),
        torch.cat(to_rows) if for_rows else None,
    )
