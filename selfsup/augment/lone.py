"""Views of large images on a CPU, one image at a time: each is worked on while it lies in the cache.

A picture is held as (S, C, T), a row of each channel after the other: so is a product along its rows one matrix product
for all channels, and so is one along its columns. What is linear is not applied at once. A picture x stands for
scale x + offset, two numbers that brightness, contrast and the normalisation change, and a clamp to [0, 1] is one of x
to other bounds: only saturation, hue, blur and clamps that can act pass over the pixels.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from selfsup.augment.color import LUMA, hue_parts
from selfsup.augment.parameters import BRIGHTNESS, CONTRAST, HUE, SATURATION, Interpolation, Parameters, View

_BLOCK = 32  # new rows or columns that one product makes: the matrices are bands about their diagonals
_BLACK = 1e-3  # below this scale a picture is multiplied by it before it is clamped
_TAIL = 5.0  # deviations of a Gaussian; what lies further out is less than a rounding of the sum


class Sample(NamedTuple):
    """The numbers of one sample, see `Parameters`."""

    box: list[float]  # in pixels of the images at hand
    flip: bool
    factors: list[float]
    order: list[int]
    jitter: bool
    grayscale: bool
    blur: bool
    solarize: bool
    sigma: float
    shift: list[int]
    erase: list[int]


def samples_of(parameters: Parameters, boxes: Tensor) -> list[Sample]:
    """The samples of a batch, with boxes (B, 4) in pixels of the images at hand."""
    columns = parameters._replace(boxes=boxes)
    return [Sample(*values) for values in zip(*(column.tolist() for column in columns), strict=True)]


class Picture:
    """One picture on its way through a view: scale x + offset, x (S, C, T)."""

    def __init__(self, x: Tensor, scale: float) -> None:
        self.x, self.scale, self.offset = x, scale, 0.0

    @property
    def channels(self) -> int:
        return self.x.shape[1]

    def settle(self) -> None:
        """Apply what is pending."""
        if self.scale != 1:
            self.x.mul_(self.scale)
        if self.offset != 0:
            self.x.add_(self.offset)
        self.scale, self.offset = 1.0, 0.0

    def clamp(self, low: bool, high: bool) -> None:
        """To at least 0, at most 1, or both."""
        if self.scale < _BLACK:
            self.settle()
        least = -self.offset / self.scale if low else None
        most = (1 - self.offset) / self.scale if high else None
        self.x.clamp_(least, most)

    def gray(self) -> Tensor:  # (S, T)
        """The gray picture of x."""
        if self.channels != len(LUMA):
            return self.x.mean(dim=1)
        red, green, blue = self.x.unbind(1)
        gray: Tensor = red.mul(LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])
        return gray

    def gray_mean(self) -> float:
        """The mean of the gray picture of scale x + offset."""
        means = self.x.flatten(1).mean(dim=0).view(self.channels, -1).mean(dim=1).tolist()
        weights = self.weights()
        mean = sum(weight * value for weight, value in zip(weights, means, strict=True))
        return self.scale * mean + self.offset * sum(weights)

    def weights(self) -> Sequence[float]:
        """Of the channels in the gray picture; gray pictures have one channel only, which stands for three."""
        return LUMA if self.channels == len(LUMA) else [1 / self.channels] * self.channels


class GrayPicture(Picture):
    """Red, green and blue are the same, (S, 1, T)."""

    def gray(self) -> Tensor:
        return self.x[:, 0] * sum(LUMA)

    def weights(self) -> Sequence[float]:
        return [sum(LUMA)]


def lone_view(view: View, image: Tensor, sample: Sample, cropped: bool, out: Tensor) -> None:
    """One view of one image.

    Args:
        view: its configuration.
        image: (C, H, W) uint8.
        sample: its numbers.
        cropped: `image` is a crop of the view's size already.
        out: (S, T, C) float32, written to.
    """
    if cropped:
        picture = Picture((image.flip(-1) if sample.flip else image).transpose(0, 1).float().contiguous(), 1 / 255)
    else:
        picture = Picture(_crop(view, image, sample), 1.0)
        if view.interpolation != "bilinear":  # cubic weights overshoot
            picture.clamp(low=True, high=True)
    if view.shift > 0:
        picture.x = _shifted(picture.x, *sample.shift)
    if sample.grayscale and view.grayscale_first:
        picture = _gray(picture)
    if sample.jitter:
        _jitter(picture, sample, view.jitter.additive_brightness)
    if sample.grayscale and not view.grayscale_first:
        picture = _gray(picture)
    if sample.blur:
        _blur(picture, sample.sigma, view)
    if sample.solarize:
        # A value of one half or more becomes 1 - value, which is the smaller one of the two.
        picture.settle()
        picture.x = torch.minimum(picture.x, 1 - picture.x)
    for channel, (mean, std) in enumerate(zip(view.mean, view.std, strict=True)):
        plane = picture.x[:, channel if channel < picture.channels else 0]
        shift = torch.tensor((picture.offset - mean) / std)
        torch.add(shift, plane, alpha=picture.scale / std, out=out[:, :, channel])
    if view.erase.probability > 0:
        top, left, height, width = sample.erase
        out[top : top + height, left : left + width] = 0


def _gray(picture: Picture) -> Picture:
    gray = GrayPicture(picture.gray()[:, None], picture.scale)
    gray.offset = picture.offset * sum(picture.weights())
    return gray


def _jitter(picture: Picture, sample: Sample, additive_brightness: bool) -> None:
    """`color.jitter_` of one picture."""
    for operation in sample.order:
        factor = sample.factors[operation]
        if operation == BRIGHTNESS and additive_brightness:
            picture.offset += factor
            picture.clamp(low=factor < 0, high=factor > 0)
        elif operation == BRIGHTNESS:
            picture.scale *= factor
            picture.offset *= factor
            if factor > 1:
                picture.clamp(low=False, high=True)
        elif operation == CONTRAST:
            mean = picture.gray_mean()
            picture.scale *= factor
            picture.offset = factor * picture.offset + (1 - factor) * mean
            if factor > 1:
                picture.clamp(low=True, high=True)
        elif operation == SATURATION and factor != 1:
            torch.lerp(picture.gray()[:, None], picture.x, factor, out=picture.x)
            picture.offset *= factor + (1 - factor) * sum(picture.weights())
            if factor > 1:
                picture.clamp(low=True, high=True)
        elif operation == HUE and factor != 0 and picture.channels == len(LUMA):
            picture.x = _hue(picture.x, factor)


def _hue(x: Tensor, turns: float) -> Tensor:
    """`color.hue_` of one picture (S, 3, T), which may be overwritten."""
    ((rotations, opposite, rest),) = hue_parts([turns])
    colours = [x[:, (channel - rotations) % 3] for channel in range(3)]
    red, green, blue = colours
    low, high = torch.minimum(red, green), torch.maximum(red, green)
    middle = torch.minimum(high, blue)
    torch.maximum(low, middle, out=middle)
    torch.minimum(low, blue, out=low)
    torch.maximum(high, blue, out=high)
    bound = torch.sub(high, low).mul_(1 - abs(rest))
    side = torch.empty_like(x)
    for channel in range(3):
        torch.sub(colours[channel - 2], colours[channel - 1], out=side[:, channel])
    torch.clamp(side, -bound[:, None], bound[:, None], out=side)
    if rotations:
        turned = torch.empty_like(x)
        for channel, colour in enumerate(colours):
            torch.lerp(colour, middle, -1.0, out=turned[:, channel])
    else:
        turned = torch.lerp(x, middle[:, None], -1.0, out=x)
    turned.sub_(side, alpha=rest / (1 - abs(rest)))
    if opposite:
        torch.sub((low + high)[:, None], turned, out=turned)
    return torch.clamp(turned, low[:, None], high[:, None], out=turned)


def _crop(view: View, image: Tensor, sample: Sample) -> Tensor:
    """The box in [0, 1], flipped where told, but for the overshoot of cubic weights: (S, C, T)."""
    top, left, height, width = sample.box
    first_row, first_column = math.floor(top), math.floor(left)
    part = image[:, first_row : math.ceil(top + height), first_column : math.ceil(left + width)]
    part = part.transpose(0, 1).float()  # (H, C, W)
    part = part.contiguous()
    rows = _axis(top - first_row, height, view.shape[0], part.shape[0], False, view.interpolation, 1 / 255)
    columns = _axis(left - first_column, width, view.shape[1], part.shape[2], sample.flip, view.interpolation, 1.0)
    return _rows(rows, _columns(columns, part))


class Band(NamedTuple):
    """A matrix (new, old) that is zero far from its diagonal."""

    matrix: Tensor
    blocks: list[tuple[slice, slice]]  # of new pixels, and the old ones that they are made of


def _rows(band: Band, x: Tensor) -> Tensor:
    """matrix @ picture: (H, C, W) -> (S, C, W)."""
    result = x.new_empty(len(band.matrix), *x.shape[1:])
    source, target = x.flatten(1), result.view(len(result), -1)
    for new, old in band.blocks:
        torch.mm(band.matrix[new, old], source[old], out=target[new])
    return result


def _columns(band: Band, x: Tensor) -> Tensor:
    """picture @ matrix^T: (H, C, W) -> (H, C, T)."""
    result = x.new_empty(*x.shape[:2], len(band.matrix))
    source, target = x.flatten(0, 1), result.view(-1, result.shape[2])
    for new, old in band.blocks:
        torch.mm(source[:, old], band.matrix[new, old].T, out=target[:, new])
    return result


def _axis(
    start: float, length: float, size: int, extent: int, mirror: bool, interpolation: Interpolation, factor: float
) -> Band:
    """The weights, times `factor`, of `extent` old pixels in `size` new ones of an interval."""
    scale = length / size
    widening = 1.0 if interpolation == "bicubic_aliased" else max(scale, 1.0)
    reach = widening * (1 if interpolation == "bilinear" else 2)
    centers = np.arange(0.5, size) * scale
    centers = start + (length - centers if mirror else centers)
    first = np.floor(centers - reach + 0.5).astype(np.int64)  # the first pixel whose centre is within reach
    taps = math.ceil(2 * reach) + 1
    pixels = first[:, None] + np.arange(taps)
    distance = np.abs(pixels + 0.5 - centers[:, None]) / widening
    if interpolation == "bilinear":
        weights = np.maximum(1 - distance, 0)
    else:
        t, s = np.maximum(2 - distance, 0), np.maximum(1 - distance, 0)
        weights = 0.5 * t * t * (t - 1) + s * s * (1 - 2 * s)
    weights *= (pixels >= 0) & (pixels < extent)
    weights *= factor / weights.sum(axis=1, keepdims=True)
    margin = taps + 1  # for pixels outside, whose weight is 0
    pixels += margin
    matrix = np.zeros((size, extent + 2 * margin), dtype=np.float32)
    np.put_along_axis(matrix, pixels, weights.astype(np.float32), axis=1)
    blocks = []
    for begin in range(0, size, _BLOCK):
        end = min(begin + _BLOCK, size)
        low, high = sorted((int(first[begin]), int(first[end - 1])))
        blocks.append((slice(begin, end), slice(max(low, 0), min(high + taps, extent))))
    return Band(torch.from_numpy(matrix)[:, margin : margin + extent], blocks)


def _shifted(x: Tensor, down: int, right: int) -> Tensor:
    """Moved by whole pixels; black comes in."""
    height, _, width = x.shape
    result = torch.zeros_like(x)
    result[max(down, 0) : height + min(down, 0), :, max(right, 0) : width + min(right, 0)] = x[
        max(-down, 0) : height - max(down, 0), :, max(-right, 0) : width - max(right, 0)
    ]
    return result


def _blur(picture: Picture, sigma: float, view: View) -> None:
    """`geometry.blur_planes` of one picture."""
    if view.blur.border == "zero" and picture.offset != 0:
        picture.settle()
    radius = min(view.blur.kernel_size // 2, math.ceil(_TAIL * sigma))
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    taps /= taps.sum()
    height, width = view.shape
    rows = _taps_band(taps, height, view.blur.border == "reflect")
    columns = rows if width == height else _taps_band(taps, width, view.blur.border == "reflect")
    picture.x = _columns(columns, _rows(rows, picture.x))


def _taps_band(taps: np.ndarray, size: int, reflect: bool) -> Band:
    """The matrix (size, size) of a convolution."""
    radius = len(taps) // 2
    wide = size + 2 * radius
    # Each row of the matrix is the one above it, one further to the right: a row that is one longer, cut anew.
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
