"""Crop, flip, resize and blur: linear maps along the rows and along the columns of an image.

Crop, flip and resize of a sample are one matrix (S, H) for its rows and one (T, W) for its columns, so that a batch is
two batched matrix products. Pictures are held as planes, (C, B, H, W): each channel of a batch is one contiguous block,
which is what both the matrix products and the element-wise colour operations run fastest on.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from selfsup.augment.parameters import Interpolation
from selfsup.augment.size import Size, height_and_width
from selfsup.devices.moving import is_apple, send

Border = Literal["reflect", "zero"]
Fit = Literal["center", "whole"]

_BLOCK = 56  # new rows or columns that one banded matrix makes


def resized_crop(
    images: Tensor,
    boxes: Tensor,
    flip: Tensor,
    size: Size,
    interpolation: Interpolation,
    sizes: Tensor | None = None,
) -> Tensor:
    """Each image's box, flipped where told, resized as torchvision's `resized_crop` does it with antialiasing.

    Args:
        images: (B, C, H, W) uint8 or floating point.
        boxes: (B, 4) top, left, height, width in pixels of the original image, on the CPU.
        flip: (B,) bool, reverse the columns of the result, on the CPU.
        size: of the result: its side, or height and width S, T.
        interpolation: "bilinear" (triangle) or "bicubic" (Keys 1981, a = -1/2), both antialiased; "bicubic_aliased"
            without, as tf.image.resize does it, but for the steps of 1/1024 pixel in its table of weights.
        sizes: (B, 2) original height and width where each image was squeezed to H x W; None where it was not.

    Returns:
        (B, C, S, T) float32 in the scale of `images`; of uint8 images clamped to [0, 255], as cubic weights overshoot.
    """
    boxes = canvas_boxes(boxes, sizes, images.shape[-2], images.shape[-1])
    planes = crop_planes(images, boxes, flip, size, interpolation)
    if images.dtype == torch.uint8:
        planes.clamp_(0, 255)
    return planes.transpose(0, 1).contiguous()


def canvas_boxes(boxes: Tensor, sizes: Tensor | None, height: int, width: int) -> Tensor:
    """(B, 4) float32: boxes in pixels of the original images (`sizes`, (B, 2)) in pixels of a height x width canvas."""
    if sizes is None:
        return boxes.float()
    canvas = torch.tensor([height, width], dtype=torch.float64)
    return (boxes.double() * (canvas / sizes.double()).repeat(1, 2)).float()


def crop_planes(
    images: Tensor, boxes: Tensor, flip: Tensor, size: Size, interpolation: Interpolation, inside: bool = True
) -> Tensor:
    """The two batched matrix products of `resized_crop`.

    Args:
        images: (B, C, H, W).
        boxes: (B, 4) float32 top, left, height, width in pixels of `images`, on the CPU.
        flip: (B,) bool, on the CPU.
        size: the side, or height and width S, T.
        interpolation: as in `resized_crop`.
        inside: count only pixels of the box, as if it were cut out before it is resized: those with any part in it, so
            that no box is empty. Otherwise the pixels around it count too, as if the image were resized and cut after.

    Returns:
        (C, B, S, T) float32 planes, not clamped.
    """
    count, (height, width) = len(images), images.shape[-2:]
    shape = height_and_width(size)
    longer = max(shape)
    if inside:
        limits = torch.cat([boxes[:, :2].floor(), (boxes[:, :2] + boxes[:, 2:]).ceil()], dim=1)
    else:
        limits = torch.tensor([0.0, 0.0, height, width]).expand(count, 4)
    mirror = torch.stack([torch.zeros_like(flip), flip], dim=1)
    start, length = boxes[:, :2], boxes[:, 2:]
    if min(shape) < longer:
        # The shorter axis is drawn on to as many new pixels as the longer one has, in the same scale, and cut after.
        length = length * (longer / torch.tensor(shape))
        start = torch.where(mirror, start + boxes[:, 2:] - length, start)
    # Both axes are built in one go: (B, 6, 2), rows before columns.
    steering = torch.stack([start, length, mirror, limits[:, :2], limits[:, 2:], 0 * mirror], dim=1)
    block, window = longer, max(height, width)
    if count == 1 and longer > _BLOCK:
        block, reach = _BLOCK, 1 if interpolation == "bilinear" else 2
        steering, window = _split(steering[0], longer, reach)
    steering = steering.permute(1, 2, 0).flatten(1)  # (6, 2 B), or of the blocks of a lone sample
    matrices = _resize_matrices(send(steering, images.device), block, window, interpolation)
    rows, columns = matrices.chunk(2)
    if count > 1 or block == longer:
        row_parts: list[Part] = [(slice(0, shape[0]), slice(0, height), rows[:, : shape[0], :height])]
        column_parts: list[Part] = [(slice(0, shape[1]), slice(0, width), columns[:, : shape[1], :width])]
    else:
        row_offsets, column_offsets = steering[5].long().view(2, -1).tolist()
        row_parts = _parts(rows, row_offsets, longer, shape[0], height)
        column_parts = _parts(columns, column_offsets, longer, shape[1], width)
    return multiply_rows(multiply_columns(to_planes(images), column_parts, shape[1]), row_parts, shape[0])


# A block of new rows (or columns), the old ones it is made of, and the matrix (B, new, old) that makes it.
Part = tuple[slice, slice, Tensor]


def multiply_rows(planes: Tensor, parts: Sequence[Part], height: int) -> Tensor:
    """matrix @ picture: (C, B, H, W) -> (C, B, height, W)."""
    result = planes.new_empty(*planes.shape[:2], height, planes.shape[-1])
    # One product takes all pictures of one channel, or all channels of one picture.
    sources, targets = (x.transpose(0, 1) if planes.shape[1] == 1 else x for x in (planes, result))
    for source, target in zip(sources.unbind(), targets.unbind(), strict=True):
        for new, old, matrix in parts:
            _multiply_into(target[:, new], matrix.expand(len(source), -1, -1), source[:, old])
    return result


def multiply_columns(planes: Tensor, parts: Sequence[Part], width: int) -> Tensor:
    """picture @ matrix^T: (C, B, H, W) -> (C, B, H, width)."""
    result = planes.new_empty(*planes.shape[:3], width)
    sources, targets = (x.reshape(1, 1, -1, x.shape[-1]) if planes.shape[1] == 1 else x for x in (planes, result))
    for source, target in zip(sources.unbind(), targets.unbind(), strict=True):
        for new, old, matrix in parts:
            _multiply_into(target[:, :, new], source[:, :, old], matrix.transpose(1, 2))
    return result


def _multiply_into(target: Tensor, first: Tensor, second: Tensor) -> None:
    if is_apple(target.device):  # whose products are not trusted to be written with gaps
        target.copy_(torch.bmm(first, second))
    else:
        torch.bmm(first, second, out=target)


def to_planes(images: Tensor) -> Tensor:
    """(B, C, H, W) of any type to contiguous (C, B, H, W) float32."""
    planes = torch.empty_like(images.transpose(0, 1), dtype=torch.float32, memory_format=torch.contiguous_format)
    return planes.copy_(images.transpose(0, 1))


def _split(steering: Tensor, size: int, reach: int) -> tuple[Tensor, int]:
    """The blocks of the new pixels of a lone sample as intervals of their own, and how many old pixels each may need.

    The matrix of a large view is a band about its diagonal: blocks of it do the same with a third of the work. (The
    bands of several samples lie in several places.) From steering (6, 2) of the two axes to (blocks, 6, 2).
    """
    start, length, mirror, first, last, _ = steering  # (2,) each
    places = torch.tensor([min(place, size - _BLOCK) for place in range(0, size, _BLOCK)])[:, None]
    scale = length / size
    begin = start + scale * torch.where(mirror > 0, size - _BLOCK - places, places)  # (blocks, 2)
    margin = reach * scale.clamp(min=1.0) + 1
    offset = (begin - margin).floor().clamp(min=0.0)
    window = int((begin + _BLOCK * scale + margin - offset).max().ceil())
    same = [values.expand_as(begin) for values in (_BLOCK * scale, mirror, first, last)]
    return torch.stack([begin, *same, offset], dim=1), window


def _parts(matrices: Tensor, offsets: list[int], size: int, kept: int, extent: int) -> list[Part]:
    """The first `kept` new pixels of an axis that `_split` made, from the matrices (blocks, _BLOCK, window)."""
    parts = []
    for number, offset in enumerate(offsets):
        first = min(number * _BLOCK, size - _BLOCK)
        if first < kept:
            new, last = min(_BLOCK, kept - first), min(offset + matrices.shape[2], extent)
            matrix = matrices[number : number + 1, :new, : last - offset]
            parts.append((slice(first, first + new), slice(offset, last), matrix))
    return parts


def shift_planes(planes: Tensor, shift: Tensor, reach: int) -> Tensor:
    """Each sample moved by whole pixels, as if padded with black and cut again.

    Args:
        planes: (C, B, H, W).
        shift: (B, 2) int64, down and to the right, on the device of `planes`.
        reach: the largest shift.
    """
    windows = F.pad(planes, (reach,) * 4).unfold(2, planes.shape[2], 1).unfold(3, planes.shape[3], 1)
    down, right = (reach - shift).unbind(1)
    return windows[:, torch.arange(len(shift), device=planes.device), down, right]


def erase_(planes: Tensor, boxes: Tensor) -> None:
    """Set a box of each sample to 0; planes (C, B, H, W), boxes (B, 4) top, left, height, width on their device."""
    edges = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)  # top, left, bottom, right
    top, left, bottom, right = edges.T[:, :, None]
    rows, columns = (torch.arange(extent, device=planes.device) for extent in planes.shape[-2:])
    inside = ((rows >= top) & (rows < bottom))[:, :, None] & ((columns >= left) & (columns < right))[:, None, :]
    planes.masked_fill_(inside, 0.0)


def _resize_matrices(steering: Tensor, size: int, extent: int, interpolation: Interpolation) -> Tensor:
    """(N, size, extent) float32: the weights of the pixels of an axis in each pixel of the resized interval.

    The kernel widens with the scale when the interval shrinks, which is the antialiasing; not where the interpolation
    is aliased. Rows sum to one.

    Args:
        steering: (6, N) float32: start and length of the interval in pixels; 1 where the order of the new pixels is
            reversed, else 0; the first pixel that counts, and the one after the last; the pixel of the first column.
        size: number of new pixels.
        extent: number of old pixels.
        interpolation: as in `resized_crop`.
    """
    start, length, mirror, first, last, offset = steering[:, :, None]  # (N, 1) each
    places = torch.arange(0.5, size, device=start.device)  # centres of the new pixels
    places = mirror * size + (1 - 2 * mirror) * places
    scale = length / size
    centers = start + places * scale  # (N, size) in old pixels
    pixels = offset + torch.arange(0.5, extent, device=start.device)
    distance = (pixels[:, None, :] - centers[:, :, None]).abs_()
    if interpolation != "bicubic_aliased":
        distance.mul_(1.0 / scale.clamp(min=1.0)[:, :, None])
    weights = _triangle(distance) if interpolation == "bilinear" else keys_(distance)
    weights.mul_(((pixels > first) & (pixels < last))[:, None, :])
    return weights.div_(weights.sum(dim=-1, keepdim=True))


def _triangle(distance: Tensor) -> Tensor:
    """max(1 - d, 0), in place."""
    return distance.neg_().add_(1.0).clamp_(min=0.0)


def keys_(distance: Tensor) -> Tensor:
    """Cubic convolution with a = -1/2 (Keys 1981, eq. 15), 0 from 2 on, in place.

    Without a case for each piece: t^2 (t - 1) / 2 + s^2 (1 - 2 s), with t = max(2 - d, 0) and s = max(1 - d, 0).
    """
    t = distance.neg_().add_(2.0).clamp_(min=0.0)
    s = t - 1.0
    outer = t.mul_(t).mul_(s)
    s.clamp_(min=0.0)
    return s.mul(-2.0).add_(1.0).mul_(s).mul_(s).add_(outer, alpha=0.5)


def blur_planes(planes: Tensor, sigma: Tensor, kernel_size: int, border: Border) -> Tensor:
    """Gaussian blur, a width for each sample, as two passes of banded matrix products.

    Args:
        planes: (C, B, H, W) float32.
        sigma: (B,) float32 in pixels, on the device of `planes`.
        kernel_size: number of taps, odd; the taps sum to one.
        border: "reflect" as torchvision's `gaussian_blur`; "zero" as SimCLR's code, where borders darken.

    Returns:
        (C, B, H, W) float32.
    """
    radius = kernel_size // 2
    offsets = torch.arange(-radius, radius + 1, device=planes.device)
    taps = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    taps = taps / taps.sum(dim=1, keepdim=True)  # (B, taps)
    # A block of rows and the rows around it always meet the same band of taps: one small matrix serves all blocks.
    diagonal = torch.arange(_BLOCK + 2 * radius, device=planes.device) - torch.arange(
        _BLOCK, device=planes.device
    ).unsqueeze(1)
    inside = (diagonal >= 0) & (diagonal < kernel_size)
    band = taps[:, diagonal.clamp(0, kernel_size - 1)] * inside  # (B, block, block + 2 radius)

    def parts(size: int) -> list[Part]:
        blocks = [(start, min(_BLOCK, size - start)) for start in range(0, size, _BLOCK)]
        return [
            (
                slice(start, start + count),
                slice(start, start + count + 2 * radius),
                band[:, :count, : count + 2 * radius],
            )
            for start, count in blocks
        ]

    mode = "reflect" if border == "reflect" else "constant"
    height, width = planes.shape[-2:]
    planes = multiply_rows(F.pad(planes, (0, 0, radius, radius), mode=mode), parts(height), height)
    return multiply_columns(F.pad(planes, (radius, radius, 0, 0), mode=mode), parts(width), width)


def center_boxes(sizes: Tensor, size: Size, fraction: float, fit: Fit) -> Tensor:
    """The boxes that are seen at test time: (B, 4) float64 top, left, height, width of images of `sizes`, (B, 2).

    "center": `fraction` of the largest central box of the view's aspect ratio, the central square for a square view.
    "whole": `fraction` of both sides, whatever the aspect ratio becomes.
    """
    height, width = height_and_width(size)
    whole = sizes.double()
    fitting = torch.stack([whole[:, 1] * (height / width), whole[:, 0] * (width / height)], dim=1)
    sides = fraction * (whole if fit == "whole" else torch.minimum(whole, fitting))
    return torch.cat([(whole - sides) / 2, sides], dim=1)
