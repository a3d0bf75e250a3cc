"""Crops of pictures of any size by PIL, in a loader's worker: what `geometry` does to batches of one size."""

from collections.abc import Sequence

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from selfsup.augment.geometry import Fit, Interpolation, center_boxes
from selfsup.augment.parameters import Size, height_and_width

_RESAMPLING = {"bilinear": PIL.Image.Resampling.BILINEAR, "bicubic": PIL.Image.Resampling.BICUBIC}


def crop_files(images: Sequence[PIL.Image.Image], boxes: Tensor, size: Size, interpolation: Interpolation) -> Tensor:
    """`resized_crop` without the flip for pictures of any size, by PIL, in a loader's worker.

    Args:
        images: B pictures; any mode, read as RGB.
        boxes: (B, 4) int64 top, left, height, width.
        size: the side, or height and width S, T.
        interpolation: "bilinear" or "bicubic".

    Returns:
        (B, 3, S, T) uint8.
    """
    wanted_height, wanted_width = height_and_width(size)
    crops = []
    for image, (top, left, height, width) in zip(images, boxes.tolist(), strict=True):
        # Cut first: PIL's resize(box=...) would let the pixels around the box in.
        part = image.crop((left, top, left + width, top + height)).convert("RGB")
        crops.append(np.asarray(part.resize((wanted_width, wanted_height), _RESAMPLING[interpolation])))
    return to_tensor(crops)


def center_files(
    images: Sequence[PIL.Image.Image], size: Size, fraction: float, interpolation: Interpolation, fit: Fit
) -> Tensor:
    """The box of `center_boxes` of each picture, resized by PIL: (B, 3, S, T) uint8."""
    wanted_height, wanted_width = height_and_width(size)
    boxes = center_boxes(torch.tensor([(image.height, image.width) for image in images]), size, fraction, fit)
    crops = []
    for image, (top, left, height, width) in zip(images, boxes.tolist(), strict=True):
        part = image.convert("RGB").resize(
            (wanted_width, wanted_height), _RESAMPLING[interpolation], box=(left, top, left + width, top + height)
        )
        crops.append(np.asarray(part))
    return to_tensor(crops)


def to_tensor(pictures: list[np.ndarray]) -> Tensor:
    """B pictures (S, T, 3) uint8 as one contiguous tensor (B, 3, S, T)."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
