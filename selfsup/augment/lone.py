"""Views of large images on a CPU, one image at a time: each is worked on while it lies in the cache.

What is linear is not applied at once. Pixels x stand for scale x + offset, two numbers that brightness, contrast and
the normalisation change, and a clamp to [0, 1] is one of x to other bounds: only saturation, hue, blur and the clamps
that can act pass over the pixels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from selfsup.augment.banded import Crop, Workspace, blurred, cropped, crops
from selfsup.augment.color import LUMA, hue_parts
from selfsup.augment.parameters import BRIGHTNESS, CONTRAST, HUE, SATURATION, Parameters, View
from selfsup.augment.threads import in_threads

_PART = 8  # images that one thread takes at a time
_DARK = 1e-3  # below this scale pixels are multiplied by it before they are clamped


class _Numbers(NamedTuple):
    """Those of one sample, see `Parameters`."""

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
    hue: tuple[int, bool, float]  # its parts, see `color.hue_parts`


def lone_views(view: View, images: Tensor, boxes: Tensor | None, parameters: Parameters) -> Tensor:
    """One view of a batch.

    Args:
        view: its configuration.
        images: (B, C, H, W) uint8, on the CPU.
        boxes: (B, 4) float32 in pixels of `images`; None where these are crops of the view's size already.
        parameters: of the B samples.

    Returns:
        (B, S, T, C) float32, normalised.
    """
    result = torch.empty(len(images), *view.shape, len(view.mean))
    hues = zip(*(part.tolist() for part in hue_parts(parameters.factors[:, HUE])), strict=True)
    numbers = [_Numbers(*values) for values in zip(*(column.tolist() for column in parameters[1:]), hues, strict=True)]

    def work(part: slice) -> None:
        space = Workspace()
        flip = parameters.flip[part]
        cuts = [None] * len(flip) if boxes is None else crops(boxes[part], flip, view.size, view.interpolation)
        for image, cut, values, out in zip(images[part], cuts, numbers[part], result[part], strict=True):
            _view(view, image, cut, values, space, out)

    in_threads(work, [slice(start, start + _PART) for start in range(0, len(images), _PART)], images.device)
    return result


class _Picture:
    """Pixels x, (S, C, T), that stand for scale x + offset."""

    def __init__(self, x: Tensor, scale: float, offset: float, space: Workspace) -> None:
        self.x, self.scale, self.offset, self.space = x, scale, offset, space

    @property
    def weights(self) -> Sequence[float]:
        """Of the channels in the gray picture. One channel of three that are the same, see `_gray`, has their sum."""
        channels = self.x.shape[1]
        return LUMA if channels == len(LUMA) else [1 / channels] * channels

    def settle(self) -> None:
        """Apply what is pending."""
        if self.scale != 1:
            self.x.mul_(self.scale)
        if self.offset != 0:
            self.x.add_(self.offset)
        self.scale, self.offset = 1.0, 0.0

    def clamp(self, low: bool, high: bool) -> None:
        """To at least 0, to at most 1, or both."""
        if self.scale < _DARK:
            self.settle()
        least = -self.offset / self.scale if low else None
        most = (1 - self.offset) / self.scale if high else None
        self.x.clamp_(least, most)

    def gray(self) -> Tensor:
        """The gray picture of x, (S, T)."""
        gray = self.space.take("gray", self.x.shape[0], self.x.shape[2])
        if self.x.shape[1] == len(LUMA):
            red, green, blue = self.x.unbind(1)
            return torch.mul(red, LUMA[0], out=gray).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])
        return torch.mean(self.x, dim=1, out=gray).mul_(sum(self.weights))

    def gray_mean(self) -> float:
        """The mean of the gray picture of scale x + offset."""
        means = self.x.flatten(1).mean(dim=0).view(self.x.shape[1], -1).mean(dim=1).tolist()
        mean: float = sum(weight * value for weight, value in zip(self.weights, means, strict=True))
        return self.scale * mean + self.offset * sum(self.weights)


class _GrayPicture(_Picture):
    """One channel, (S, 1, T), that stands for three which are the same."""

    @property
    def weights(self) -> Sequence[float]:
        return [sum(LUMA)]


def _view(view: View, image: Tensor, cut: Crop | None, numbers: _Numbers, space: Workspace, out: Tensor) -> None:
    """One view of one image (C, H, W), written to (S, T, C)."""
    if cut is None:
        source = (image.flip(-1) if numbers.flip else image).transpose(0, 1)
        picture = _Picture(space.take("first", *source.shape).copy_(source), 1 / 255, 0.0, space)
    else:
        picture = _Picture(cropped(image, cut, space), 1 / 255, 0.0, space)
        if view.interpolation != "bilinear":  # cubic weights overshoot
            picture.clamp(low=True, high=True)
    if view.shift > 0:
        picture.x = _shifted(picture.x, *numbers.shift)
    if numbers.grayscale and view.grayscale_first:
        picture = _gray(picture)
    if numbers.jitter:
        _jitter(picture, numbers, view.jitter.additive_brightness)
    if numbers.grayscale and not view.grayscale_first:
        picture = _gray(picture)
    if numbers.blur:
        if view.blur.border == "zero" and picture.offset != 0:
            picture.settle()
        reflect = view.blur.border == "reflect"
        picture.x = blurred(picture.x, numbers.sigma, view.blur.kernel_size, reflect, space)
    if numbers.solarize:
        # A value of one half or more becomes 1 - value, which is the smaller one of the two.
        picture.settle()
        torch.minimum(picture.x, torch.sub(1, picture.x, out=space.take("second", *picture.x.shape)), out=picture.x)
    for channel, (mean, std) in enumerate(zip(view.mean, view.std, strict=True)):
        plane = picture.x[:, channel % picture.x.shape[1]]
        torch.add(torch.tensor((picture.offset - mean) / std), plane, alpha=picture.scale / std, out=out[:, :, channel])
    if view.erase.probability > 0:
        top, left, height, width = numbers.erase
        out[top : top + height, left : left + width] = 0


def _gray(picture: _Picture) -> _Picture:
    gray = picture.space.take("one", picture.x.shape[0], 1, picture.x.shape[2])
    gray[:, 0] = picture.gray()
    return _GrayPicture(gray, picture.scale, picture.offset * sum(picture.weights), picture.space)


def _jitter(picture: _Picture, numbers: _Numbers, additive_brightness: bool) -> None:
    """`color.jitter_` of one picture."""
    for operation in numbers.order:
        factor = numbers.factors[operation]
        if operation == BRIGHTNESS and additive_brightness:
            picture.offset += factor
            picture.clamp(low=factor < 0, high=factor >= 0)
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
            picture.offset *= factor + (1 - factor) * sum(picture.weights)
            if factor > 1:
                picture.clamp(low=True, high=True)
        elif operation == HUE and factor != 0 and picture.x.shape[1] == len(LUMA):
            picture.x = _hue(picture.x, numbers.hue, picture.space)


def _hue(x: Tensor, parts: tuple[int, bool, float], space: Workspace) -> Tensor:
    """`color.hue_` of one picture (S, 3, T), by the same arithmetic; it may be overwritten."""
    thirds, opposite, rest = parts
    colours = [x[:, (channel - thirds) % 3] for channel in range(3)]
    red, green, blue = colours
    low, high, middle, bound = space.take("hue", 4, x.shape[0], x.shape[2])
    torch.minimum(red, green, out=low)
    torch.maximum(red, green, out=high)
    torch.maximum(low, torch.minimum(high, blue, out=middle), out=middle)
    torch.minimum(low, blue, out=low)
    torch.maximum(high, blue, out=high)
    torch.sub(high, low, out=bound).mul_(1 - abs(rest))
    side = space.take("second", *x.shape)
    for channel in range(3):
        torch.sub(colours[channel - 2], colours[channel - 1], out=side[:, channel])
    torch.minimum(side, bound[:, None], out=side)
    torch.maximum(side, bound.neg_()[:, None], out=side)
    turned = x
    if thirds:
        turned = space.take("third", *x.shape)
        for channel, colour in enumerate(colours):
            turned[:, channel] = colour
    torch.lerp(turned, middle[:, None], -1.0, out=turned).sub_(side, alpha=rest / (1 - abs(rest)))
    if opposite:
        torch.sub(torch.add(low, high, out=middle)[:, None], turned, out=turned)
    return torch.clamp(turned, low[:, None], high[:, None], out=turned)


def _shifted(x: Tensor, down: int, right: int) -> Tensor:
    """Moved by whole pixels; black comes in."""
    height, _, width = x.shape
    result = torch.zeros_like(x)
    result[max(down, 0) : height + min(down, 0), :, max(right, 0) : width + min(right, 0)] = x[
        max(-down, 0) : height - max(down, 0), :, max(-right, 0) : width - max(right, 0)
    ]
    return result
