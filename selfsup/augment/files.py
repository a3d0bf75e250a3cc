"""Crops of pictures of any size in a loader's worker: what `geometry` does to batches of one size.

PIL's resizing is always antialiased; without antialiasing only four pixels of each axis make a new one, and these alone
are read, whatever the size of the picture.
"""

from collections.abc import Sequence

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from selfsup.augment.bands import Picture, in_channels
from selfsup.augment.geometry import Fit, center_boxes, keys_
from selfsup.augment.parameters import Interpolation
from selfsup.augment.size import Size, height_and_width

_RESAMPLING = {"bilinear": PIL.Image.Resampling.BILINEAR, "bicubic": PIL.Image.Resampling.BICUBIC}


def crop_files(images: Sequence[Picture], boxes: Tensor, size: Size, interpolation: Interpolation) -> Tensor:
    """`resized_crop` without the flip for pictures of any size, by PIL, in a loader's worker.

    Args:
        images: B pictures; Pillow's, of any mode, are read as RGB.
        boxes: (B, 4) int64 top, left, height, width.
        size: the side, or height and width S, T.
        interpolation: as in `geometry.resized_crop`.

    Returns:
        (B, C, S, T) uint8.
    """
    wanted_height, wanted_width = height_and_width(size)
    crops = []
    for image, (top, left, height, width) in zip(images, boxes.tolist(), strict=True):
        # Cut first: PIL's resize(box=...) would let the pixels around the box in.
        part = in_channels(image.crop((left, top, left + width, top + height)))
        if interpolation == "bicubic_aliased":
            crops.append(_sampled(part, (0, 0, height, width), (wanted_height, wanted_width)))
        else:
            crops.append(np.asarray(part.resize((wanted_width, wanted_height), _RESAMPLING[interpolation])))
    return to_tensor(crops)


def center_files(
    images: Sequence[Picture], size: Size, fraction: float, interpolation: Interpolation, fit: Fit
) -> Tensor:
    """The box of `center_boxes` of each picture, resized: (B, C, S, T) uint8."""
    wanted_height, wanted_width = height_and_width(size)
    boxes = center_boxes(torch.tensor([(image.height, image.width) for image in images]), size, fraction, fit)
    crops = []
    for image, (top, left, height, width) in zip(images, boxes.tolist(), strict=True):
        picture = in_channels(image)
        if interpolation == "bicubic_aliased":
            crops.append(_sampled(picture, (top, left, height, width), (wanted_height, wanted_width)))
        else:
            box = (left, top, left + width, top + height)
            crops.append(np.asarray(picture.resize((wanted_width, wanted_height), _RESAMPLING[interpolation], box=box)))
    return to_tensor(crops)


def _sampled(picture: Picture, box: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
    values = sample(torch.from_numpy(np.array(picture)), box, size)
    return values.round().clamp(0, 255).to(torch.uint8).numpy()


def sample(pixels: Tensor, box: tuple[float, float, float, float], size: tuple[int, int]) -> Tensor:
    """A box resized with four pixels of each axis to a new one, cubic and without antialiasing ("bicubic_aliased").

    Args:
        pixels: (H, W, C) of any type.
        box: top, left, height, width in pixels; those around it count too.
        size: height and width S, T of the result.

    Returns:
        (S, T, C) float32, not clamped.
    """
    top, left, height, width = box
    rows, row_weights = _taps(top, height, size[0], pixels.shape[0])
    columns, column_weights = _taps(left, width, size[1], pixels.shape[1])
    _, across, channels = pixels.shape
    whole = pixels.flatten(1)
    if rows.numel() < len(whole):  # of a large picture the rows that count
        whole, rows = whole.index_select(0, rows.flatten()), torch.arange(rows.numel()).view_as(rows)
    # Each time along the first axis, so that what is added up lies side by side.
    made = _added(whole.float(), rows, row_weights).view(size[0], across, channels)
    made = _added(made.transpose(0, 1).flatten(1), columns, column_weights)
    return made.view(size[1], size[0], channels).transpose(0, 1)


def _added(rows: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """The sum of four rows for each new one: (n, m) float32, and places and weights (size, 4) -> (size, m)."""
    total = rows.index_select(0, places[:, 0]).mul_(weights[:, :1])
    for tap in range(1, 4):
        total.addcmul_(rows.index_select(0, places[:, tap]), weights[:, tap : tap + 1])
    return total


def _taps(start: float, length: float, size: int, extent: int) -> tuple[Tensor, Tensor]:
    """The four pixels of an axis of which each new one is made, (size, 4) int64, and their weights, which sum to one.

    Pixels outside of the picture have no weight.
    """
    centers = start + torch.arange(0.5, size, dtype=torch.float64) * (length / size)
    places = (centers - 0.5).floor()[:, None] + torch.arange(-1, 3)
    weights = keys_((places + 0.5 - centers[:, None]).abs_())
    weights *= (places >= 0) & (places < extent)
    weights /= weights.sum(dim=1, keepdim=True)
    return places.long().clamp(0, extent - 1), weights.float()


def to_tensor(pictures: list[np.ndarray]) -> Tensor:
    """B pictures (S, T, C) uint8 as one contiguous tensor (B, C, S, T)."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
