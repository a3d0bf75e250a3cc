"""Views one sample after the other in double precision, by plain loops and torchvision: what fast paths are held to."""

import math

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from selfsup.augment.parameters import Parameters, View

LUMA = torch.tensor([0.2989, 0.587, 0.114], dtype=torch.float64)[:, None, None]


def slow_view(view: View, image: Tensor, numbers: Parameters, row: int) -> Tensor:
    """One view of an image (C, H, W) uint8 by the numbers of a row: (C, S, T) float64, normalised."""
    x = _crop(view, image.double() / 255, numbers.boxes[row].tolist()).clamp(0, 1)
    x = x.flip(-1) if numbers.flip[row] else x
    return finished(view, x, numbers, row)


def finished(view: View, x: Tensor, numbers: Parameters, row: int) -> Tensor:
    """All that comes after the flip, of (C, S, T) float64 in [0, 1]."""
    down, right = numbers.shift[row].tolist()
    height, width = view.shape
    x = TF.crop(TF.pad(x, [view.shift]), view.shift - down, view.shift - right, height, width)
    gray = bool(numbers.grayscale[row])
    if gray and view.grayscale_first:
        x = _gray(x).expand_as(x)
    if numbers.jitter[row]:
        for operation in numbers.order[row].tolist():
            x = _change(x, operation, numbers.factors[row, operation].item(), view.jitter.additive_brightness)
    if gray and not view.grayscale_first:
        x = _gray(x).expand_as(x)
    if numbers.blur[row]:
        x = _blur(x, numbers.sigma[row].item(), view)
    if numbers.solarize[row]:
        x = torch.where(x >= 0.5, 1 - x, x)
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (view.mean, view.std))
    x = (x - mean) / std
    top, left, height, width = numbers.erase[row].tolist()
    x[:, top : top + height, left : left + width] = 0
    return x


def _gray(x: Tensor) -> Tensor:
    return (x * LUMA).sum(dim=0, keepdim=True) if len(x) == 3 else x.mean(dim=0, keepdim=True)


def _change(x: Tensor, operation: int, factor: float, additive: bool) -> Tensor:
    if operation == 3:
        return TF.adjust_hue(x, factor) if len(x) == 3 else x
    if operation == 0:
        return (x + factor if additive else x * factor).clamp(0, 1)
    target = _gray(x).mean() if operation == 1 else _gray(x)
    return (factor * x + (1 - factor) * target).clamp(0, 1)


def _crop(view: View, x: Tensor, box: list[int]) -> Tensor:
    top, left, height, width = box
    rows = _weights(view.interpolation, height, view.shape[0])
    columns = _weights(view.interpolation, width, view.shape[1])
    return rows @ x[:, top : top + height, left : left + width] @ columns.T


def _weights(interpolation: str, old: int, new: int) -> Tensor:
    """Of `old` pixels in each of `new` ones."""
    weights = torch.zeros(new, old, dtype=torch.float64)
    widening = 1.0 if interpolation == "bicubic_aliased" else max(old / new, 1.0)
    for place in range(new):
        for pixel in range(old):
            distance = abs(pixel + 0.5 - (place + 0.5) * old / new) / widening
            weights[place, pixel] = max(1 - distance, 0) if interpolation == "bilinear" else _keys(distance)
    return weights / weights.sum(dim=1, keepdim=True)


def _keys(d: float) -> float:
    if d < 1:
        return 1.5 * d**3 - 2.5 * d**2 + 1
    return -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2 if d < 2 else 0.0


def _blur(x: Tensor, sigma: float, view: View) -> Tensor:
    radius = view.blur.kernel_size // 2
    taps = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(-radius, radius + 1)]
    for axis in (1, 2):
        length, blurred = x.shape[axis], torch.zeros_like(x)
        for place in range(length):
            for offset, tap in zip(range(-radius, radius + 1), taps, strict=True):
                old = place + offset
                if view.blur.border == "reflect":
                    old = abs(old) if old < length else 2 * (length - 1) - old
                if 0 <= old < length:
                    blurred.select(axis, place).add_(x.select(axis, old), alpha=tap / sum(taps))
        x = blurred
    return x
