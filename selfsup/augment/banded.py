"""Crop and blur of one picture on a CPU: products with matrices that are zero far from their diagonals.

A picture is (H, C, W), a row of each channel after the other: so is a product along its rows one matrix product for all
channels, and so is one along its columns.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from selfsup.augment.parameters import Interpolation
from selfsup.augment.size import Size, height_and_width

_BLOCK = 32  # new rows or columns that one product makes
_TAIL = 5.0  # deviations of a Gaussian; what lies further out is less than a rounding of the sum


class Workspace:
    """Memory that one thread uses for one picture after the other: fresh memory costs more than the work in it."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """A float32 tensor of any values; it takes the memory of the one that had the name before."""
        length = math.prod(shape)
        held = self._held.get(name)
        if held is None or len(held) < length:
            held = self._held[name] = torch.empty(length)
        return held[:length].view(shape)


class Taps(NamedTuple):
    """The old pixels of an axis of which each new one is made."""

    first: np.ndarray  # (S,) int64, the first of them, which may lie outside
    weights: np.ndarray  # (S, taps) float32, 0 outside


class Crop(NamedTuple):
    """How the box of one picture is resized."""

    part: tuple[slice, slice]  # the rows and columns with any part in the box
    rows: Taps  # counted from the part's corner
    columns: Taps


class Band(NamedTuple):
    """A matrix (new, old) that is zero far from its diagonal."""

    matrix: Tensor
    blocks: list[tuple[slice, slice]]  # of new pixels, and the old ones that they are made of


def crops(boxes: Tensor, flip: Tensor, size: Size, interpolation: Interpolation) -> list[Crop]:
    """What `geometry.crop_planes` does to each of a few pictures; arguments as there."""
    box, mirrors = boxes.double().numpy(), np.stack([np.zeros(len(flip), dtype=bool), flip.numpy()], axis=1)
    low = np.floor(box[:, :2])
    high = np.ceil(box[:, :2] + box[:, 2:])
    rows, columns = (
        _taps(box[:, a] - low[:, a], box[:, 2 + a], (high - low)[:, a], mirrors[:, a], new, interpolation)
        for a, new in enumerate(height_and_width(size))
    )
    corners, ends = low.astype(int).tolist(), high.astype(int).tolist()
    return [
        Crop((slice(corner[0], end[0]), slice(corner[1], end[1])), Taps(*taps[:2]), Taps(*taps[2:]))
        for corner, end, *taps in zip(corners, ends, *rows, *columns, strict=True)
    ]


def _taps(
    start: np.ndarray, length: np.ndarray, extent: np.ndarray, mirror: np.ndarray, size: int, interpolation: str
) -> tuple[np.ndarray, np.ndarray]:
    """First pixels (n, size) and weights (n, size, taps) of n intervals of an axis, (n,) float64 each."""
    start, length, extent, mirror = (values[:, None] for values in (start, length, extent, mirror))
    scale = length / size
    widening = np.ones_like(scale) if interpolation == "bicubic_aliased" else np.maximum(scale, 1.0)
    reach = widening * (1 if interpolation == "bilinear" else 2)
    centers = np.arange(0.5, size) * scale
    centers = start + np.where(mirror, length - centers, centers)
    first = np.floor(centers - reach + 0.5)  # the first pixel whose centre is within reach
    places = np.arange(math.ceil(2 * reach.max()) + 1)
    distance = np.abs((first + 0.5 - centers)[:, :, None] + places) / widening[:, :, None]
    if interpolation == "bilinear":
        weights = np.maximum(1 - distance, 0)
    else:  # as `geometry.keys_`
        t, s = np.maximum(2 - distance, 0), np.maximum(1 - distance, 0)
        weights = 0.5 * t * t * (t - 1) + s * s * (1 - 2 * s)
    pixels = first[:, :, None] + places
    weights *= (pixels >= 0) & (pixels < extent[:, :, None])
    weights /= weights.sum(axis=2, keepdims=True)
    return first.astype(np.int64), weights.astype(np.float32)


def cropped(image: Tensor, crop: Crop, space: Workspace) -> Tensor:
    """(C, H, W) of any type to (S, C, T) float32, in the scale of the image, not clamped."""
    part = image[:, crop.part[0], crop.part[1]].transpose(0, 1)
    pixels = space.take("second", *part.shape).copy_(part)
    columns = _band(crop.columns, part.shape[2], space, "columns")
    narrowed = _columns(columns, pixels, space.take("third", *part.shape[:2], len(columns.matrix)))
    rows = _band(crop.rows, part.shape[0], space, "rows")
    return _rows(rows, narrowed, space.take("first", len(rows.matrix), *narrowed.shape[1:]))


def blurred(x: Tensor, sigma: float, kernel_size: int, reflect: bool, space: Workspace) -> Tensor:
    """`geometry.blur_planes` of one picture, (S, C, T), which may lie in the space's "first" or "third" memory."""
    radius = min(kernel_size // 2, math.ceil(_TAIL * sigma))
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    taps /= taps.sum()
    rows = _convolution(taps, x.shape[0], reflect)
    columns = rows if x.shape[2] == x.shape[0] else _convolution(taps, x.shape[2], reflect)
    return _columns(columns, _rows(rows, x, space.take("second", *x.shape)), space.take("fourth", *x.shape))


def _rows(band: Band, x: Tensor, out: Tensor) -> Tensor:
    """matrix @ picture: (H, C, W) -> (S, C, W)."""
    source, target = x.flatten(1), out.flatten(1)
    for new, old in band.blocks:
        torch.mm(band.matrix[new, old], source[old], out=target[new])
    return out


def _columns(band: Band, x: Tensor, out: Tensor) -> Tensor:
    """picture @ matrix^T: (H, C, W) -> (H, C, T)."""
    source, target, matrix = x.flatten(0, 1), out.flatten(0, 1), band.matrix.T
    for new, old in band.blocks:
        torch.mm(source[:, old], matrix[old, new], out=target[:, new])
    return out


def _band(taps: Taps, extent: int, space: Workspace, name: str) -> Band:
    """The matrix of the taps of an axis of `extent` old pixels, in the memory of that name."""
    size, count = taps.weights.shape
    margin = count + 1  # for pixels outside, whose weight is 0
    wide = extent + 2 * margin
    matrix = space.take(name, size, wide).zero_()
    corners = taps.first + np.arange(margin, size * wide, wide)
    matrix.view(-1).numpy()[corners[:, None] + np.arange(count)] = taps.weights
    first = taps.first.tolist()
    blocks = []
    for begin in range(0, size, _BLOCK):
        end = min(begin + _BLOCK, size)
        low, high = sorted((first[begin], first[end - 1]))
        blocks.append((slice(begin, end), slice(max(low, 0), min(high + count, extent))))
    return Band(matrix[:, margin : margin + extent], blocks)


def _convolution(taps: np.ndarray, size: int, reflect: bool) -> Band:
    """The matrix (size, size) of a convolution; what lies outside is the reflection or zero."""
    radius = len(taps) // 2
    wide = size + 2 * radius
    # Each row of the matrix is the one above it, one further to the right: rows that are one longer, cut anew.
    flat = np.zeros(size * (wide + 1), dtype=np.float32)
    flat.reshape(size, wide + 1)[:, : len(taps)] = taps
    padded = flat[: size * wide].reshape(size, wide)
    matrix = padded[:, radius : radius + size]
    if reflect and radius > 0:
        matrix[:, 1 : radius + 1] += padded[:, :radius][:, ::-1]
        matrix[:, size - 1 - radius : size - 1] += padded[:, radius + size :][:, ::-1]
    blocks = []
    for begin in range(0, size, _BLOCK):
        end = min(begin + _BLOCK, size)
        blocks.append((slice(begin, end), slice(max(begin - radius, 0), min(end + radius, size))))
    return Band(torch.from_numpy(matrix), blocks)
