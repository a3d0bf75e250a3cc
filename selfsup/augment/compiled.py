"""Views on a CPU by compiled loops, which pass over the pixels of a sample a few times while they lie in the cache."""

import logging
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from selfsup.augment.color import hue_parts
from selfsup.augment.parameters import HUE, Parameters, View
from selfsup.augment.table import LENGTH, REACH, table_of, widens
from selfsup.augment.threads import in_threads

_TOGETHER = 16 * 32**2  # pixels of the views that lie in the cache together
_PART = 8  # times as many are one thread's, so that the memory it works in is worth reserving

_log = logging.getLogger(__name__)


class Loops(NamedTuple):
    """What is compiled, at the first call or before: then it is read from a folder."""

    crop: Callable[..., None]
    color: Callable[..., None]
    blur: Callable[..., None]
    rows: int
    pixels: int


@cache
def loops() -> Loops | None:
    """None where numba cannot be imported, which is logged once."""
    try:
        from selfsup.augment import color_loops, crop_loops
    except ImportError as error:
        _log.warning("numba cannot be imported (%s): torch makes views on the CPU, several times slower", error)
        return None
    up_to_date(crop_loops.compiled_with, [crop_loops.crop])
    up_to_date(color_loops.compiled_with, [color_loops.color, color_loops.blur])
    return Loops(crop_loops.crop, color_loops.color, color_loops.blur, crop_loops.ROWS, color_loops.PIXELS)


def up_to_date(told: Any, functions: list[Any]) -> None:
    """Compile functions anew where `told`, the `compiled_with` of their file, knows other constants than Python does.

    What numba keeps on disk follows the file of a function, and not those that its constants are from.
    """
    if told() != told.py_func():
        for function in (*functions, told):
            function.recompile()


def views_by_loops(view: View, images: Tensor, boxes: Tensor, parameters: Parameters, cropped: bool) -> Tensor:
    """One view of a batch; there must be `loops`.

    Args:
        view: its configuration.
        images: (B, C, H, W) uint8, on the CPU.
        boxes: (B, 4) float32 in pixels of `images`.
        parameters: of the B samples.
        cropped: `images` are crops of the view's size already.

    Returns:
        (B, S, T, C) float32, normalised.
    """
    maker = _Maker(view, images, table_of(view, parameters, boxes), parameters, cropped)
    result = torch.empty(len(images), *view.shape, images.shape[1])
    step = _PART * maker.together
    parts = [slice(start, start + step) for start in range(0, len(images), step)]
    in_threads(lambda part: maker.make(part, result[part]), parts, images.device)
    return result


class _Maker:
    """Makes parts of a batch, each with memory of its own to work in."""

    def __init__(self, view: View, images: Tensor, numbers: Tensor, parameters: Parameters, cropped: bool) -> None:
        found = loops()
        assert found is not None
        self.loops, self.view = found, view
        self.images = images.contiguous().flatten(1).numpy()
        self.shape = tuple(images.shape[1:])
        self.table = numbers.numpy()
        self.hues = torch.stack([part.float() for part in hue_parts(parameters.factors[:, HUE])], dim=1).numpy()
        self.blurred, self.erase = parameters.blur.tolist(), parameters.erase.tolist()
        self.reach = 0 if cropped else REACH[view.interpolation]
        self.together = max(1, _TOGETHER // (view.shape[0] * view.shape[1]))

    def make(self, part: slice, out: Tensor) -> None:
        """The views of some samples, to (n, S, T, C)."""
        view, (channels, _, _width), (rows, columns) = self.view, self.shape, self.view.shape
        planes = np.zeros(self.together * channels * rows * columns + columns, np.float32)
        crop_space, gray = self._crop_space(part), np.empty(self.loops.pixels, np.float32)
        radius = view.blur.kernel_size // 2
        lines = (columns + 2 * radius + 2, channels * columns, radius + 2)
        blur_space = tuple(np.zeros(length, np.float32) for length in lines)
        for start in range(part.start, min(part.stop, len(self.table)), self.together):
            some = slice(start, min(start + self.together, part.stop))
            numbers, made = self.table[some], out[start - part.start : some.stop - part.start].view(-1).numpy()
            images = self.images[some].reshape(-1)
            self.loops.crop(images, self.shape, numbers, view.shape, self.reach, widens(view), planes, crop_space)
            additive = view.jitter.additive_brightness
            self.loops.color(planes, channels, rows * columns, numbers, self.hues[some], additive, gray, made)
            if any(self.blurred[some]):
                reflect = view.blur.border == "reflect"
                self.loops.blur(planes, channels, view.shape, numbers, radius, reflect, blur_space, made)
        if view.erase.probability > 0:
            for picture, (top, left, height, across) in zip(out, self.erase[part], strict=True):
                picture[top : top + height, left : left + across] = 0

    def _crop_space(self, part: slice) -> tuple[Any, ...]:
        """For `crop`; the most taps are those of the longest box."""
        (_, height, width), shape = self.shape, self.view.shape
        long = self.loops.rows * max(width, shape[1])
        reduced = (self.table[part, LENGTH : LENGTH + 2] / shape).max(axis=0, initial=1.0)
        taps = np.minimum(np.ceil(2 * self.reach * reduced) + 1, (height, width)).astype(int)
        lines = [np.empty(long, np.float32) for _ in range(2)]
        begins = [np.empty(size, np.int64) for size in shape]
        return (*lines, *begins, *(np.empty(size * most, np.float32) for size, most in zip(shape, taps, strict=True)))
