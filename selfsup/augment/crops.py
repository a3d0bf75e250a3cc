"""The height and width of random crops, as the two libraries draw them that the published code relies on.

Both take the first of a fixed number of attempts that fits, and each attempt is two numbers in [0, 1): a sample's crop
stays a pure function of its numbers.
"""

from typing import Literal

import torch
from torch import Tensor

Sampler = Literal["torchvision", "tensorflow"]
LEAST_COVERED = 0.1  # share of the image below which a crop is rejected by SimCLR's call of TensorFlow's sampler


def shapes(
    sampler: Sampler, numbers: Tensor, sizes: Tensor, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """The first (height, width) that fits, (B, 2) int64, else the fallback; and whether one was found, (B,) bool.

    Args:
        sampler: "torchvision": RandomResizedCrop (Szegedy et al. 2015): area and log ratio are uniform, the fallback
            is the largest box of an allowed ratio. "tensorflow": sample_distorted_bounding_box
            (sample_distorted_bounding_box_op.cc, GenerateRandomCrop) as SimCLR calls it (data_util.py): height and
            ratio are uniform, boxes below a tenth of the area are rejected, the fallback is the whole image.
        numbers: (B, 2 attempts) float64 in [0, 1).
        sizes: (B, 2) int64, height and width of the images.
        scale: smallest and largest share of the image's area.
        ratio: smallest and largest width over height.

    Arithmetic is in double precision, so that every device rounds to the same pixel; TensorFlow's is single.
    """
    height, width = sizes[:, :1].double(), sizes[:, 1:].double()
    attempt = _torchvision if sampler == "torchvision" else _tensorflow
    heights, widths, fits = attempt(numbers, height, width, scale, ratio)
    found, first = fits.max(dim=1)  # the position of the first one that is true
    drawn = torch.cat([heights.gather(1, first[:, None]), widths.gather(1, first[:, None])], dim=1)
    if sampler == "tensorflow":
        fallback = torch.cat([height, width], dim=1)
    else:
        narrow, wide = ratio
        tall = torch.minimum(height, (width / narrow).round())  # only what the allowed ratios cut off is lost
        broad = torch.minimum(width, (height * wide).round())
        fallback = torch.cat([tall, broad], dim=1).clamp(min=1)
    return torch.where(found[:, None], drawn, fallback).long(), found


def corners(sampler: Sampler, numbers: Tensor, sizes: Tensor, shape: Tensor, found: Tensor) -> Tensor:
    """Top and left of the crops, (B, 2) int64, from two numbers of each, (B, 2); fallbacks lie in the centre.

    TensorFlow never draws the last position that there would be room for.
    """
    room = sizes - shape
    choices = room + 1 if sampler == "torchvision" else room.clamp(min=1)
    return torch.where(found[:, None], (numbers * choices).long(), room // 2)


def between(numbers: Tensor, low: float, high: float) -> Tensor:
    """Numbers in [0, 1) stretched to [low, high)."""
    return numbers * (high - low) + low


def _torchvision(
    numbers: Tensor, height: Tensor, width: Tensor, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Heights, widths and whether they fit, (B, attempts) each."""
    area = height * width * between(numbers[:, 0::2], *scale)
    low, high = (torch.tensor(end, dtype=torch.float64).log().item() for end in ratio)
    aspect = between(numbers[:, 1::2], low, high).exp()
    widths, heights = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    return heights, widths, (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)


def _tensorflow(
    numbers: Tensor, height: Tensor, width: Tensor, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Heights, widths and whether they fit, (B, attempts) each."""
    whole = height * width
    least, most = scale[0] * whole, scale[1] * whole
    aspect = between(numbers[:, 1::2], *ratio)  # width over height
    lowest, highest = (least / aspect).sqrt().round(), (most / aspect).sqrt().round()
    # The largest height whose rounded width is within the image.
    fitting = ((width + 0.5 - 1e-7) / aspect).floor()
    fitting = fitting - ((fitting * aspect).round() > width).double()
    highest = torch.where((highest * aspect).round() > width, fitting, highest)
    highest = torch.minimum(highest, height)
    lowest = torch.minimum(lowest, highest)
    heights = lowest + (numbers[:, 0::2] * (highest - lowest + 1)).floor()
    # Where rounding alone left the allowed areas, one row more or less is tried.
    heights = heights + (heights * (heights * aspect).round() < least).double()
    heights = heights - (heights * (heights * aspect).round() > most).double()
    widths = (heights * aspect).round()
    area = heights * widths
    fits = (area >= least) & (area <= most) & (area / whole >= LEAST_COVERED)
    return heights, widths, fits & (heights > 0) & (widths > 0) & (heights <= height) & (widths <= width)
