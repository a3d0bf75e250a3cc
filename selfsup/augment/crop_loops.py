"""The loops of crops on a CPU, compiled by numba: see `compiled`, which calls them.

The arithmetic is that of `geometry`, which is the reference. Each sample is worked on by itself, by its row of the
`table`, some rows at a time, while they lie in the cache.

The inner loops stand in functions of their own, on flat arrays and with unsigned places: of places that may be negative
the compiler would make no vectors. All that `crop` calls stands in this file: what is kept on disk is compiled anew
when this file changes, or when the numbers of other files that are compiled in do (`compiled.up_to_date`).
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
# Types are inferred by numba, which has none of its own.

import math

import numpy as np

from selfsup.augment.table import DOWN, FIRST, FLIP, LAST, LENGTH, RIGHT, START
from selfsup.devices.kept import inlined, kept

ROWS = 32  # that are made together
# Other constants would make double precision of what is computed with them, or of places.
_ZERO, _ONE, _LEVEL, _INFINITY = (np.float32(value) for value in (0, 1, 1 / 255, math.inf))
_U1, _U2, _U3, _U4 = (np.uint64(value) for value in (1, 2, 3, 4))
_0, _1 = np.int64(0), np.int64(1)  # as arguments: for 0 and 1 written out functions would be compiled once more


# Of other files, as they were when this was compiled.
CONSTANTS = (START, LENGTH, FIRST, LAST, FLIP, DOWN, RIGHT)


@kept("float64()")
def compiled_with():
    """A number that tells one table of constants from another."""
    told = 0.0
    for constant in CONSTANTS:
        told = 31 * told + constant
    return told


@inlined
def _taps(numbers, axis, extent, size, mirror, reach, widens, begin, weights):
    """The old pixels of each new one along an axis: the first of them and their weights; returns their number."""
    start, length = float(numbers[START + axis]), float(numbers[LENGTH + axis])
    first, last = max(int(numbers[FIRST + axis]), 0), min(int(numbers[LAST + axis]), extent)
    scale = length / size
    widening = max(scale, 1.0) if widens else 1.0
    count = min(math.ceil(2 * reach * widening), last - first)
    for place in range(size):
        center = start + ((size - 1 - place if mirror else place) + 0.5) * scale
        low = min(max(math.floor(center - reach * widening + 0.5), first), last - count)
        total = 0.0
        for tap in range(count):
            distance = abs(low + tap + 0.5 - center) / widening
            if reach == 1:
                weight = max(1 - distance, 0.0)
            else:  # as `geometry.keys_`
                t, s = max(2 - distance, 0.0), max(1 - distance, 0.0)
                weight = 0.5 * t * t * (t - 1) + s * s * (1 - 2 * s)
            weights[place * count + tap] = weight
            total += weight
        for tap in range(place * count, place * count + count):
            weights[tap] /= total
        begin[place] = low
    return count


@inlined
def _mixed(x, origin, step, length, begin, weights, count, first, last, out):
    """New lines first..last of some length, each the weighted sum of `count` old ones, which begin at its `begin`."""
    step, n, k, first = np.uint64(step), np.uint64(length), np.uint64(count), np.uint64(first)
    for line in range(first, np.uint64(last)):
        o, w = (line - first) * n, line * k
        a = np.uint64(origin + begin[line] * step)
        p, q = weights[w], weights[w + _U1] if count > 1 else _ZERO
        b = a + step if count > 1 else a
        if count <= 2:
            for i in range(n):
                out[o + i] = p * np.float32(x[a + i]) + q * np.float32(x[b + i])
            continue
        r, s = weights[w + _U2], weights[w + _U3] if count > 3 else _ZERO
        c = b + step
        d = c + step if count > 3 else c
        for i in range(n):
            near = p * np.float32(x[a + i]) + q * np.float32(x[b + i])
            out[o + i] = near + (r * np.float32(x[c + i]) + s * np.float32(x[d + i]))
        for tap in range(_U4, k):
            d += step
            p = weights[w + tap]
            for i in range(n):
                out[o + i] += p * np.float32(x[d + i])


@inlined
def _turned(x, rows, columns, low, high, factor, out, target, step):
    """Rows become columns, in another unit and cut to what lies between low and high."""
    n, o, step = np.uint64(columns), np.uint64(target), np.uint64(step)
    for row in range(np.uint64(rows)):
        for column in range(n):
            out[o + step * column + row] = min(max(x[n * row + column] * factor, low), high)


@inlined
def _crop(images, origin, shape, numbers, size, reach, widens, planes, target, space):
    """`geometry.crop_planes` and `shift_planes` of a sample, in [0, 1]."""
    (channels, height, width), (rows, columns) = shape, size
    lines, across, row_begin, begin, row_weights, weights = space
    row_count = _taps(numbers, _0, height, rows, numbers[FLIP] < 0, reach, widens, row_begin, row_weights)
    count = _taps(numbers, _1, width, columns, numbers[FLIP] > 0, reach, widens, begin, weights)
    left, wide = min(begin[0], begin[columns - 1]), abs(begin[columns - 1] - begin[0]) + count
    down, aside = int(numbers[DOWN]), int(numbers[RIGHT])
    first_column, last_column = max(-aside, 0), columns - max(aside, 0)
    end = rows - max(down, 0)
    for first in range(max(-down, 0), end, ROWS):
        last = min(first + ROWS, end)
        some = last - first
        for channel in range(channels):
            corner = origin + channel * height * width + left
            _mixed(images, corner, width, wide, row_begin, row_weights, row_count, first, last, lines)
            _turned(lines, some, wide, -_INFINITY, _INFINITY, _ONE, across, _0, some)
            _mixed(across, -left * some, some, some, begin, weights, count, first_column, last_column, lines)
            place = target + (channel * rows + first + down) * columns + first_column + aside
            _turned(lines, last_column - first_column, some, _ZERO, _ONE, _LEVEL, planes, place, columns)


@inlined
def _flipped(crops, origin, shape, numbers, planes, target):
    """The same of a sample that a worker cropped."""
    channels, rows, columns = shape
    down, aside = int(numbers[DOWN]), int(numbers[RIGHT])
    first, last = max(-aside, 0), columns - max(aside, 0)
    for channel in range(channels):
        for row in range(max(-down, 0), rows - max(down, 0)):
            n, line = np.uint64(last - first), origin + (channel * rows + row) * columns
            o = np.uint64(target + (channel * rows + row + down) * columns + first + aside)
            if numbers[FLIP] > 0:
                a = np.uint64(line + columns - 1 - first)
                for i in range(n):
                    planes[o + i] = np.float32(crops[a - i]) * _LEVEL
            else:
                a = np.uint64(line + first)
                for i in range(n):
                    planes[o + i] = np.float32(crops[a + i]) * _LEVEL


@kept(
    "void(uint8[::1], UniTuple(int64, 3), float32[:, ::1], UniTuple(int64, 2), int64, boolean, float32[::1], "
    "Tuple((float32[::1], float32[::1], int64[::1], int64[::1], float32[::1], float32[::1])))"
)
def crop(images, shape, table, size, reach, widens, planes, space):
    """The crops of some samples, flipped and shifted.

    Args:
        images: uint8, those of the samples one after the other.
        shape: of each of them: C, H, W.
        table: (B, 28 + 2 C) float32, see `table.table_of`.
        size: height and width S, T.
        reach: of the kernel of the resize, in pixels; 0 for crops of the view's size.
        widens: whether it does so as boxes shrink.
        planes: float32, becomes (B, C, S, T) in [0, 1], and whatever comes after.
        space: to work in: two arrays of `ROWS` times the larger of W and T; S and T for the first pixels of rows and
            columns; and as many times the most taps of a new pixel for their weights.
    """
    channels, height, width = shape
    pixels = size[0] * size[1]
    for sample in range(len(table)):
        numbers, origin, target = table[sample], sample * channels * height * width, sample * channels * pixels
        if numbers[DOWN] != 0 or numbers[RIGHT] != 0:
            for place in range(target, target + channels * pixels):
                planes[place] = _ZERO
        if reach > 0:
            _crop(images, origin, shape, numbers, size, reach, widens, planes, target, space)
        else:
            _flipped(images, origin, shape, numbers, planes, target)
