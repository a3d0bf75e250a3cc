"""Boxes of pictures resized by compiled code: to the bit what Pillow's `resize` makes, and what `files` makes by numpy.

Numba compiles it as this module is imported, or reads it from the disk, where it is kept for as long as this file does
not change. Every sum is vectorised along lines of pixels that lie side by side, so a picture is turned before its
columns are added. No product and sum are rounded together, so every processor makes the same.
"""

import math
from collections.abc import Callable
from pickle import UnpicklingError
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit, types

_BITS = 22  # of a weight after the point, as Pillow has them: 32 less 8 of the pixel and 2 for what overshoots

_PICTURE = types.Array(types.uint8, 3, "C", readonly=True)
_MADE = types.Array(types.uint8, 3, "C")
_FLOATS = types.Array(types.float32, 1, "C")
_PLACES, _WEIGHTS = types.Array(types.int64, 2, "C"), types.Array(types.float32, 2, "C")

Function = TypeVar("Function", bound=Callable[..., Any])


def _kept(*arguments: Any) -> Callable[[Function], Function]:
    """A decorator: compiled for these types; each time anew where nothing can be kept on the disk, or is damaged."""

    def decorate(function: Function) -> Function:
        signature = types.void(*arguments)
        try:
            made: Any = njit(signature, cache=True, nogil=True, error_model="numpy")(function)
        except (RuntimeError, OSError, EOFError, UnpicklingError):
            made = njit(signature, nogil=True, error_model="numpy")(function)
        return cast(Function, made)

    return decorate


def _part(function: Function) -> Function:
    """A decorator: compiled with what calls it."""
    made: Any = njit(nogil=True, error_model="numpy")(function)
    return cast(Function, made)


@_part
def _weights(
    extent: int, start: float, length: float, size: int, cubic: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each of `size` new pixels along an axis the first old one, how many count, and their weights times 2**22."""
    scale = length / size
    wide = max(scale, 1.0)
    reach = wide * (2.0 if cubic else 1.0)
    first, count = np.empty(size, np.int64), np.empty(size, np.int64)
    exact = np.empty(2 * math.ceil(reach) + 1, np.float64)
    table = np.empty((size, len(exact)), np.int32)
    for new in range(size):
        center = start + (new + 0.5) * scale
        low = max(int(center - reach + 0.5), 0)
        taps = min(int(center + reach + 0.5), extent) - low
        total = 0.0
        for tap in range(taps):
            d = abs((tap + low - center + 0.5) * (1.0 / wide))
            if not cubic:
                exact[tap] = max(1.0 - d, 0.0)
            elif d < 1.0:
                exact[tap] = (1.5 * d - 2.5) * d * d + 1.0
            else:
                exact[tap] = (((d - 5.0) * d + 8.0) * d - 4.0) * -0.5 if d < 2.0 else 0.0
            total += exact[tap]
        for tap in range(taps):
            weight = exact[tap] / total * (1 << _BITS)
            table[new, tap] = int(weight - 0.5 if weight < 0 else weight + 0.5)
        first[new], count[new] = low, taps
    return first, count, table


@_part
def _turned(lines: np.ndarray, count: int) -> np.ndarray:
    """The first `count` columns of (n, m) uint8 as lines, each of n pixels and at most seven more without meaning.

    Eight pixels at once become one word of 64 bits, whose lowest byte is the first one in memory.
    """
    words = np.empty((count, (len(lines) + 7) // 8), np.uint64)
    for block in range(words.shape[1]):
        for column in range(count):
            word = np.uint64(0)
            for byte in range(8):
                word |= np.uint64(lines[min(8 * block + byte, len(lines) - 1), column]) << np.uint64(8 * byte)
            words[column, block] = word
    return words.view(np.uint8)


@_part
def _added(lines: np.ndarray, step: int, axis: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    """New lines, uint8, as weighted sums of old ones: of pixel p of the axis, old ones are step p, step p + 1, ...

    Of columns of C channels, which are C lines each, new ones come channel by channel.
    """
    first, count, weights = axis
    made = np.empty((step * len(first), lines.shape[1]), np.uint8)
    total = np.empty(lines.shape[1], np.int32)
    for new in range(len(first)):
        for channel in range(step):
            total[:] = 1 << (_BITS - 1)
            for tap in range(count[new]):
                weight, line = weights[new, tap], lines[(first[new] + tap) * step + channel]
                for place in range(len(total)):
                    total[place] += weight * np.int32(line[place])
            target = made[channel * len(first) + new]
            for place in range(len(total)):
                target[place] = min(max(total[place] >> _BITS, 0), 255)
    return made


@_kept(_PICTURE, _FLOATS, types.boolean, types.boolean, types.boolean, _MADE)
def resize_box(pixels: np.ndarray, box: np.ndarray, cut: bool, cubic: bool, rows_first: bool, made: np.ndarray) -> None:
    """A box of a picture, resized with antialiasing as Pillow does it, to the bit.

    One axis is resized and rounded to whole values, then the other. Weights are of double precision, with the sum one,
    before they are rounded to multiples of 2**-22.

    Args:
        pixels: (H, W, C) uint8, contiguous.
        box: (4,) float32 top, left, bottom, right, within the picture.
        cut: the box, of whole pixels, is cut out before it is resized; else the pixels around it count too.
        cubic: Keys' cubic, a = -1/2, in place of the triangle.
        rows_first: new rows are made before new columns.
        made: (C, S, T) uint8, contiguous, which is written.
    """
    channels, height, width = made.shape
    top, left = (int(box[0]), int(box[1])) if cut else (0, 0)
    bottom, right = (int(box[2]), int(box[3])) if cut else pixels.shape[:2]
    rows = _weights(bottom - top, box[0] - top, box[2] - box[0], height, cubic)
    columns = _weights(right - left, box[1] - left, box[3] - box[1], width, cubic)
    # What no new pixel is made of is left out.
    above, before = rows[0][0], columns[0][0]
    below, after = rows[0][-1] + rows[1][-1], columns[0][-1] + columns[1][-1]
    flat = pixels.reshape(len(pixels), -1)[
        top + above : top + below, (left + before) * channels : (left + after) * channels
    ]
    lines = np.ascontiguousarray(flat)
    rows[0][:] -= above
    columns[0][:] -= before
    if rows_first:
        lines = _added(lines, 1, rows)
    lines = _turned(_added(_turned(lines, lines.shape[1]), channels, columns), len(lines))
    if not rows_first:
        lines = _added(lines, 1, rows)
    for row in range(height):
        for channel in range(channels):
            made[channel, row] = lines[row, channel * width : (channel + 1) * width]


@_kept(_PICTURE, _PLACES, _WEIGHTS, _PLACES, _WEIGHTS, _MADE)
def sample_box(
    pixels: np.ndarray,
    rows: np.ndarray,
    row_weights: np.ndarray,
    columns: np.ndarray,
    column_weights: np.ndarray,
    made: np.ndarray,
) -> None:
    """A box resized with four pixels of each axis to a new one, as `files.sample`: rows first, rounded at the end.

    Args:
        pixels: (H, W, C) uint8, contiguous.
        rows, columns: (S, 4) and (T, 4) int64 places in the picture.
        row_weights, column_weights: (S, 4) and (T, 4) float32.
        made: (C, S, T) uint8, contiguous, which is written.
    """
    channels, height, width = made.shape
    flat = pixels.reshape(len(pixels), -1)
    left = columns.min() * channels
    right = (columns.max() + 1) * channels
    # Eight new rows at once, which lie beside each other, so that the sums along the columns are of vectors.
    block = np.empty((right - left, 8), np.float32)
    new = np.empty(8, np.float32)
    for first in range(0, height, 8):
        count = min(8, height - first)
        for row in range(count):
            old, weight = rows[first + row], row_weights[first + row]
            a, b = flat[old[0], left:right], flat[old[1], left:right]
            c, d = flat[old[2], left:right], flat[old[3], left:right]
            u, v, w, z = weight[0], weight[1], weight[2], weight[3]
            for place in range(right - left):
                total = np.float32(a[place]) * u
                total += np.float32(b[place]) * v
                total += np.float32(c[place]) * w
                total += np.float32(d[place]) * z
                block[place, row] = total
        for column in range(width):
            old, weight = columns[column], column_weights[column]
            u, v, w, z = weight[0], weight[1], weight[2], weight[3]
            for channel in range(channels):
                skip = channel - left
                a, b = block[old[0] * channels + skip], block[old[1] * channels + skip]
                c, d = block[old[2] * channels + skip], block[old[3] * channels + skip]
                for row in range(8):
                    total = a[row] * u
                    total += b[row] * v
                    total += c[row] * w
                    total += d[row] * z
                    new[row] = min(max(np.rint(total), np.float32(0)), np.float32(255))
                for row in range(count):
                    made[channel, first + row, column] = np.uint8(new[row])
