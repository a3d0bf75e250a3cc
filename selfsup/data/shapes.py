"""A generated data set whose classes are shapes; place, size, tilt and colours say nothing about the class.

Each image is one of ten shapes in random colours (either may be the lighter), on a background with a gradient of its
own and small clutter, with noise over all. Raw pixels hardly tell the classes apart, a network that has learnt to look
past colour and place does: a data set for tests and for trying things out without a download.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from selfsup import randomness
from selfsup.data.base import ArraySource
from selfsup.randomness import Stream

CLASSES = ("disc", "ring", "square", "frame", "triangle", "plus", "cross", "bars", "star", "tee")
_SEED = 0
_CHUNK = 250  # images drawn at once, so that the planes stay in the processor's cache
_CLUTTER = 5  # spots per image
_NOISE = 0.12
_NUMBERS = 24 + 8 * _CLUTTER  # random numbers per image, the noise apart


def shapes(count: int, size: int = 32, split: Literal["train", "test"] = "train") -> ArraySource:
    """`count` images of `size` x `size` pixels; image i is of class i mod 10.

    A pure function of its arguments, drawn in double precision with the project's own random numbers: image i of a
    split is the same whatever the count. The splits share no image.
    """
    if count < 1 or size < 8:
        raise ValueError(f"{count} shapes of {size} pixels; wanted at least 1 of at least 8 pixels")
    indices = torch.arange(count)
    images = torch.cat([_draw(chunk, size, split == "test") for chunk in indices.split(_CHUNK)])
    return ArraySource(images, indices % len(CLASSES), CLASSES, f"shapes-{split}")


def _draw(indices: Tensor, size: int, split: int) -> Tensor:  # (B,) -> (B, 3, S, S) uint8
    numbers = randomness.uniform(_SEED, Stream.SHAPES, indices, _NUMBERS, epoch=split)
    main, clutter = numbers[:, :24], numbers[:, 24:].unflatten(1, (_CLUTTER, 8))
    axis = (torch.arange(size, dtype=torch.float64) + 0.5) * 2 / size - 1
    y, x = axis[:, None], axis[None, :]  # the image is [-1, 1] x [-1, 1]
    pixel = 2 / size

    ground, figure = _colours(main[:, 0:9])
    image = _shaded(ground, main[:, 9:12], x, y)
    for spot in clutter.unbind(1):
        image = _blend(image, spot[:, 5:8, None, None], _coverage(_spot(spot, x, y), pixel))
    image = _blend(
        image, _shaded(figure, main[:, 12:15], x, y), _coverage(_figure(main[:, 15:19], indices, x, y), pixel)
    )

    words = randomness.random_bits(_SEED, Stream.SHAPES, indices, -(-3 * size * size // 4), epoch=split, view=1)
    grain = (words[..., None] >> torch.tensor([0, 8, 16, 24])) & 255  # four noise values from each word
    noise: Tensor = grain.flatten(1)[:, : 3 * size * size].unflatten(1, (3, size, size)) / 255 - 0.5
    image = image + _NOISE * noise
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)


def _colours(numbers: Tensor) -> tuple[Tensor, Tensor]:  # (B, 9) -> two of (B, 3, 1, 1)
    """Colours whose mean lightness differs by 0.35 to 0.65, so that the figure shows in gray, too."""
    light = numbers[:, :1]
    other = (light + 0.35 + 0.3 * numbers[:, 1:2]).remainder(1)
    hues = (numbers[:, 2:8] - 0.5).unflatten(1, (2, 3))
    hues = 0.8 * (hues - hues.mean(2, keepdim=True))
    return (light + hues[:, 0])[..., None, None], (other + hues[:, 1])[..., None, None]


def _shaded(colour: Tensor, numbers: Tensor, x: Tensor, y: Tensor) -> Tensor:  # -> (B, 3, S, S)
    """A colour with a linear gradient of lightness."""
    angle, slope = 2 * math.pi * numbers[:, 0], 0.25 * numbers[:, 1]
    ramp = slope[:, None, None] * (angle.cos()[:, None, None] * x + angle.sin()[:, None, None] * y)
    return colour + ramp[:, None]


def _spot(numbers: Tensor, x: Tensor, y: Tensor) -> Tensor:  # (B, 8) -> (B, S, S) distance
    """A small ellipse anywhere."""
    across, down, width, height = (numbers[:, i, None, None] for i in range(4))
    dx, dy = x - (2 * across - 1), y - (2 * down - 1)
    wide, high = 0.06 + 0.16 * width, 0.06 + 0.16 * height
    return (((dx / wide) ** 2 + (dy / high) ** 2).sqrt() - 1) * torch.minimum(wide, high)


def _figure(numbers: Tensor, indices: Tensor, x: Tensor, y: Tensor) -> Tensor:  # (B, 4) -> (B, S, S) distance
    """The shape of class i mod 10, at a random place, in a random size, a little tilted."""
    radius = 0.38 + 0.24 * numbers[:, 0, None, None]
    room = 0.95 - radius
    dx = x - room * (2 * numbers[:, 1, None, None] - 1)
    dy = y - room * (2 * numbers[:, 2, None, None] - 1)
    tilt = 0.4 * (numbers[:, 3, None, None] - 0.5)
    u = (tilt.cos() * dx + tilt.sin() * dy) / radius
    v = (tilt.cos() * dy - tilt.sin() * dx) / radius
    distance = torch.empty_like(u)
    for label in range(len(CLASSES)):
        mine = indices % len(CLASSES) == label
        distance[mine] = _outline(CLASSES[label], u[mine], v[mine])
    return distance * radius


def _outline(name: str, u: Tensor, v: Tensor) -> Tensor:
    """Distance to the outline, negative inside, in units of the shape's radius (near the outline; more is not seen)."""
    if name == "disc":
        return torch.hypot(u, v) - 0.9
    if name == "ring":
        return (torch.hypot(u, v) - 0.72).abs() - 0.2
    if name == "square":
        return _box(u, v, 0.8, 0.8)
    if name == "frame":
        return _box(u, v, 0.64, 0.64).abs() - 0.18
    if name == "triangle":
        return torch.maximum(0.866 * u.abs() - 0.5 * (v + 0.2), v + 0.2 - 0.5) - 0.25
    if name == "plus":
        return torch.minimum(_box(u, v, 0.95, 0.26), _box(u, v, 0.26, 0.95))
    if name == "cross":
        a, b = (u + v) * math.sqrt(0.5), (u - v) * math.sqrt(0.5)
        return torch.minimum(_box(a, b, 1.1, 0.24), _box(a, b, 0.24, 1.1))
    if name == "bars":
        return _box(u.abs() - 0.52, v, 0.26, 0.9)
    if name == "star":
        return _star(u, v)
    return torch.minimum(_box(u, v + 0.6, 0.9, 0.26), _box(u, v - 0.15, 0.26, 0.75))  # tee


def _box(u: Tensor, v: Tensor, half_width: float, half_height: float) -> Tensor:
    return torch.maximum(u.abs() - half_width, v.abs() - half_height)


def _star(u: Tensor, v: Tensor) -> Tensor:
    """Five points: fold the plane onto half a point, then it is one straight edge from tip to notch."""
    tip, notch = 1.1, 0.48
    sector = 2 * math.pi / 5
    angle = (torch.atan2(u, -v) + sector / 2).remainder(sector) - sector / 2
    along, aside = torch.hypot(u, v) * angle.cos(), torch.hypot(u, v) * angle.sin().abs()
    edge = (notch * math.cos(sector / 2) - tip, notch * math.sin(sector / 2))
    return (edge[1] * (along - tip) - edge[0] * aside) / math.hypot(*edge)


def _coverage(distance: Tensor, pixel: float) -> Tensor:
    """The share of each pixel that lies inside."""
    return (0.5 - distance / pixel).clamp(0, 1)


def _blend(image: Tensor, colour: Tensor, coverage: Tensor) -> Tensor:
    return image + (colour - image) * coverage[:, None]
