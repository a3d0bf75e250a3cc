"""The numbers that steer the making of a view, sample by sample, as compiled kernels and loops read them: one table."""

import torch
from torch import Tensor

from selfsup.augment.parameters import Parameters, View

# Where a sample's numbers lie in its row; those of the two axes, rows before columns, are neighbours. FIRST and LAST
# are the pixels that count: the first one, and the one after the last. GRAY is 1 before the jitter, 2 after it, 0 for
# none; the mean of each channel is followed by 1 / std of each.
START, LENGTH, FIRST, LAST = 0, 2, 4, 6
FLIP, DOWN, RIGHT, JITTER = 8, 9, 10, 11
FACTORS, ORDER, GRAY, BLUR = 12, 16, 20, 21
SIGMA, SOLARIZE, ERASE, MEAN = 22, 23, 24, 28

# What the kernel of a resize reaches, in pixels: it widens as a box shrinks, unless the interpolation is aliased.
REACH = {"bilinear": 1, "bicubic": 2, "bicubic_aliased": 2}


def widens(view: View) -> bool:
    """Whether the resize of a view is antialiased."""
    return view.interpolation != "bicubic_aliased"


def table_of(view: View, numbers: Parameters, boxes: Tensor) -> Tensor:
    """(B, 28 + 2 C) float32, on the CPU.

    Args:
        view: its configuration.
        numbers: of the B samples, on the CPU.
        boxes: (B, 4) float32, those of the crops in pixels of the images at hand.
    """
    ends = boxes[:, :2] + boxes[:, 2:]
    gray = numbers.grayscale * (1 if view.grayscale_first else 2)
    flags = (gray, numbers.blur, numbers.sigma, numbers.solarize)
    normalisation = torch.tensor([*view.mean, *(1 / std for std in view.std)]).expand(len(boxes), -1)
    columns = [boxes, boxes[:, :2].floor(), ends.ceil(), numbers.flip[:, None], numbers.shift, numbers.jitter[:, None]]
    columns += [numbers.factors, numbers.order, *(flag[:, None] for flag in flags), numbers.erase, normalisation]
    return torch.cat([column.float() for column in columns], dim=1)
