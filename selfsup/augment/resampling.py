"""Boxes of pictures resized by compiled code: to the bit what Pillow's `resize` makes, and what `files` makes by numpy.

Numba compiles it as this module is imported, or reads it from the disk, where it is kept for as long as this file does
not change. Every sum is vectorised along lines of pixels that lie side by side, so a picture is turned before its
columns are added. No product and sum are rounded together, so every processor makes the same.
"""

import math

import numpy as np
from numba import types

from selfsup.devices.kept import kept

_BITS = 22  # of a weight after the point, as Pillow has them: 32 less 8 of the pixel and 2 for what overshoots

_PIXELS, _READ = types.Array(types.uint8, 2, "C"), types.Array(types.uint8, 2, "C", readonly=True)
_MADE = types.Array(types.uint8, 3, "C")
_PLACES, _WEIGHTS = types.Array(types.int64, 2, "C"), types.Array(types.float32, 2, "C")
_FIRST, _COUNT, _TABLE = (
    types.Array(types.int64, 1, "C"),
    types.Array(types.int64, 1, "C"),
    types.Array(types.int32, 2, "C"),
)


class _Axis:
    """Of each of `size` new pixels along an axis the first old one, how many count, and their weights times 2**22."""

    def __init__(self, extent: int, start: np.float32, end: np.float32, size: int, cubic: bool) -> None:
        length = float(end - start)
        taps = 2 * math.ceil(max(length / size, 1.0) * (2 if cubic else 1)) + 1
        self.first, self.count = np.empty(size, np.int64), np.empty(size, np.int64)
        self.table = np.empty((size, taps), np.int32)
        _weigh(extent, float(start), length, cubic, self.first, self.count, self.table)
        # What no new pixel is made of is left out.
        self.used = slice(int(self.first[0]), int(self.first[-1] + self.count[-1]))
        self.first -= self.first[0]


def resize_box(pixels: np.ndarray, box: np.ndarray, cut: bool, cubic: bool, rows_first: bool, made: np.ndarray) -> None:
    """A box of a picture, resized with antialiasing as Pillow does it, to the bit.

    One axis is resized and rounded to whole values, then the other. Weights are of double precision, with the sum one,
    before they are rounded to multiples of 2**-22.

    Args:
        pixels: (H, W, C) uint8.
        box: (4,) float32 top, left, bottom, right, within the picture.
        cut: the box, of whole pixels, is cut out before it is resized; else the pixels around it count too.
        cubic: Keys' cubic, a = -1/2, in place of the triangle.
        rows_first: new rows are made before new columns.
        made: (C, S, T) uint8, which is written.
    """
    channels, height, width = made.shape
    if cut:
        top, left, bottom, right = box.astype(int)
        pixels, box = pixels[top:bottom, left:right], box - box[[0, 1, 0, 1]]
    rows = _Axis(pixels.shape[0], box[0], box[2], height, cubic)
    columns = _Axis(pixels.shape[1], box[1], box[3], width, cubic)
    part = np.array(pixels[rows.used, columns.used])
    lines = part.reshape(len(part), -1)
    if rows_first:
        lines = _resized(lines, 1, rows)
    turned = _resized(_turned(lines), channels, columns)
    lines = _turned(turned)[: len(lines)]
    if not rows_first:
        lines = _resized(lines, 1, rows)
    made[:] = lines[:, : channels * width].reshape(height, channels, width).transpose(1, 0, 2)


def _resized(lines: np.ndarray, step: int, axis: _Axis) -> np.ndarray:
    made = np.empty((step * len(axis.first), lines.shape[1]), np.uint8)
    _add(lines, step, axis.first, axis.count, axis.table, made)
    return made


def _turned(lines: np.ndarray) -> np.ndarray:
    """The columns of (n, m) uint8 as lines, each of n pixels and at most seven more without meaning."""
    words = np.empty((lines.shape[1], (len(lines) + 7) // 8), np.uint64)
    _turn(lines, words)
    return words.view(np.uint8)


@kept(types.void(types.int64, types.float64, types.float64, types.boolean, _FIRST, _COUNT, _TABLE))
def _weigh(
    extent: int, start: float, length: float, cubic: bool, first: np.ndarray, count: np.ndarray, table: np.ndarray
) -> None:
    size = len(first)
    scale = length / size
    wide = max(scale, 1.0)
    reach = wide * (2.0 if cubic else 1.0)
    exact = np.empty(table.shape[1], np.float64)
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


@kept(types.void(_PIXELS, types.Array(types.uint64, 2, "C")))
def _turn(lines: np.ndarray, words: np.ndarray) -> None:
    # Eight pixels at once become one word of 64 bits, whose lowest byte is the first one in memory.
    last = len(lines) - 1
    for block in range(words.shape[1]):
        for column in range(len(words)):
            word = np.uint64(0)
            for byte in range(8):
                word |= np.uint64(lines[min(8 * block + byte, last), column]) << np.uint64(8 * byte)
            words[column, block] = word


@kept(types.void(_PIXELS, types.int64, _FIRST, _COUNT, _TABLE, _PIXELS))
def _add(
    lines: np.ndarray, step: int, first: np.ndarray, count: np.ndarray, table: np.ndarray, made: np.ndarray
) -> None:
    # Weighted sums of lines. Of columns of C channels, which are C lines each, new ones come channel by channel.
    total = np.empty(lines.shape[1], np.int32)
    for new in range(len(first)):
        for channel in range(step):
            for place in range(len(total)):
                total[place] = 1 << (_BITS - 1)
            for tap in range(count[new]):
                weight, line = table[new, tap], lines[(first[new] + tap) * step + channel]
                for place in range(len(total)):
                    total[place] += weight * np.int32(line[place])
            target = made[channel * len(first) + new]
            for place in range(len(total)):
                target[place] = min(max(total[place] >> _BITS, 0), 255)


def sample_box(
    pixels: np.ndarray,
    rows: np.ndarray,
    row_weights: np.ndarray,
    columns: np.ndarray,
    column_weights: np.ndarray,
    made: np.ndarray,
) -> None:
    """A box resized with four pixels of each axis to a new one, as `files` does it: rows first, rounded at the end.

    Args:
        pixels: (H, W, C) uint8, contiguous.
        rows, columns: (S, 4) and (T, 4) int64 places in the picture.
        row_weights, column_weights: (S, 4) and (T, 4) float32.
        made: (C, S, T) uint8, contiguous, which is written.
    """
    channels, left, right = len(made), int(columns.min()), int(columns.max()) + 1
    block = np.empty(((right - left) * channels, 8), np.float32)
    flat = pixels.reshape(len(pixels), -1)
    _sample(flat, left * channels, rows, row_weights, (columns - left) * channels, column_weights, block, made)


@kept(types.void(_READ, types.int64, _PLACES, _WEIGHTS, _PLACES, _WEIGHTS, types.Array(types.float32, 2, "C"), _MADE))
def _sample(
    flat: np.ndarray,
    left: int,
    rows: np.ndarray,
    row_weights: np.ndarray,
    columns: np.ndarray,
    column_weights: np.ndarray,
    block: np.ndarray,
    made: np.ndarray,
) -> None:
    # Eight new rows at once, which lie beside each other, so that the sums along the columns are of vectors.
    channels, height, width = made.shape
    right = left + len(block)
    line = np.empty(len(block), np.float32)
    eight = np.empty((width, 8), np.uint8)
    for first in range(0, height, 8):
        count = min(8, height - first)
        for row in range(count):
            old, weight = rows[first + row], row_weights[first + row]
            a, b = flat[old[0], left:right], flat[old[1], left:right]
            c, d = flat[old[2], left:right], flat[old[3], left:right]
            u, v, w, z = weight[0], weight[1], weight[2], weight[3]
            for place in range(len(line)):
                total = np.float32(a[place]) * u
                total += np.float32(b[place]) * v
                total += np.float32(c[place]) * w
                line[place] = total + np.float32(d[place]) * z
            for place in range(len(line)):
                block[place, row] = line[place]
        for channel in range(channels):
            for column in range(width):
                weight = column_weights[column]
                u, v, w, z = weight[0], weight[1], weight[2], weight[3]
                # Of signed places those below zero would have to be looked for.
                e, f = np.uint64(columns[column, 0] + channel), np.uint64(columns[column, 1] + channel)
                g, h = np.uint64(columns[column, 2] + channel), np.uint64(columns[column, 3] + channel)
                for row in range(8):
                    total = block[e, row] * u
                    total += block[f, row] * v
                    total += block[g, row] * w
                    total += block[h, row] * z
                    eight[column, row] = np.uint8(min(max(np.rint(total), np.float32(0)), np.float32(255)))
            for row in range(count):
                target = made[channel, first + row]
                for column in range(width):
                    target[column] = eight[column, row]
