"""The loops of colours and blur on a CPU, compiled by numba: see `compiled`, which calls them, and `crop_loops`.

The arithmetic is that of `color` and `geometry`, which are the reference.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
# Types are inferred by numba, which has none of its own.

import math

import numpy as np
from numba import njit

from selfsup.augment.color import LUMA
from selfsup.augment.parameters import BRIGHTNESS, CONTRAST, HUE, SATURATION
from selfsup.augment.table import BLUR, FACTORS, GRAY, JITTER, MEAN, ORDER, SIGMA, SOLARIZE
from selfsup.devices.kept import inlined, kept

PIXELS = 1024  # whose colours are changed together
_TAIL = 5.0  # deviations of a Gaussian; what lies further out is less than a rounding of the sum
_ZERO, _ONE, _TWO = (np.float32(value) for value in (0, 1, 2))
_RED, _GREEN, _BLUE = (np.float32(value) for value in LUMA)
_U1, _U2, _U3 = (np.uint64(value) for value in (1, 2, 3))
_0 = np.int64(0)


# As in `crop_loops`: numba compiles in what stands in a function's own file, so each file tells its constants itself.
_COMPILED_IN = (*LUMA, BRIGHTNESS, CONTRAST, SATURATION, HUE, BLUR, FACTORS, GRAY, JITTER, MEAN, ORDER, SIGMA, SOLARIZE)
CONSTANTS = tuple(map(float, _COMPILED_IN))  # of one type, which a loop over them needs


@kept("float64()")
def compiled_with():
    """A number that tells one table of constants from another."""
    told = 0.0
    for constant in CONSTANTS:
        told = 31 * told + constant
    return told


@inlined
def _scaled(x, place, length, factor, added):
    """clamp(factor x + added), in place."""
    a = np.uint64(place)
    for i in range(np.uint64(length)):
        x[a + i] = min(max(x[a + i] * factor + added, _ZERO), _ONE)


@inlined
def _blended(x, place, length, factor, gray):
    """clamp(factor x + (1 - factor) gray), in place."""
    a = np.uint64(place)
    for i in range(np.uint64(length)):
        x[a + i] = min(max(x[a + i] * factor + (_ONE - factor) * gray[i], _ZERO), _ONE)


@inlined
def _luma(x, place, step, channels, length, gray):
    """`color.luma` of some pixels."""
    a, step, n = np.uint64(place), np.uint64(step), np.uint64(length)
    b, c = a + step, a + step + step
    if channels == 3:
        for i in range(n):
            gray[i] = _RED * x[a + i] + _GREEN * x[b + i] + _BLUE * x[c + i]
        return
    share = np.float32(1 / channels)
    for i in range(n):
        gray[i] = share * x[a + i]
    for _ in range(1, channels):
        a += step
        for i in range(n):
            gray[i] += share * x[a + i]


@njit(nogil=True, error_model="numpy", fastmath={"reassoc", "nsz"})
def _total(gray, length):
    """The sum of some pixels, in any order."""
    total = _ZERO
    for i in range(np.uint64(length)):
        total += gray[i]
    return float(total)


@inlined
def _turned_hue(x, place, step, length, parts):
    """`color.hue_` of some pixels, by the same arithmetic."""
    thirds, opposite, rest = parts[0], parts[1], parts[2]
    left, right = thirds == -_ONE, thirds == _ONE
    bounded, steep = _ONE - abs(rest), rest / (_ONE - abs(rest))
    sign = _ONE - _TWO * opposite
    a, step = np.uint64(place), np.uint64(step)
    b, c = a + step, a + step + step
    for i in range(np.uint64(length)):
        u, v, w = x[a + i], x[b + i], x[c + i]
        red = w if right else (v if left else u)
        green = u if right else (w if left else v)
        blue = v if right else (u if left else w)
        low, high = min(red, green), max(red, green)
        middle = max(low, min(high, blue))
        low, high = min(low, blue), max(high, blue)
        bound, both = (high - low) * bounded, opposite * (low + high)
        red, green, blue = (
            both + sign * (_TWO * red - middle - steep * min(max(green - blue, -bound), bound)),
            both + sign * (_TWO * green - middle - steep * min(max(blue - red, -bound), bound)),
            both + sign * (_TWO * blue - middle - steep * min(max(red - green, -bound), bound)),
        )
        x[a + i] = min(max(red, low), high)
        x[b + i] = min(max(green, low), high)
        x[c + i] = min(max(blue, low), high)


@inlined
def _jittered(planes, place, length, layout, numbers, hue, slots, additive, gray):
    """`color.jitter_` of some pixels, as far as it is neither contrast nor nothing."""
    channels, pixels = layout
    for slot in range(slots[0], slots[1]):
        kind = int(numbers[ORDER + slot])
        factor = numbers[FACTORS + kind]
        if kind == BRIGHTNESS:
            for channel in range(channels):
                kept, added = (_ONE, factor) if additive else (factor, _ZERO)
                _scaled(planes, place + channel * pixels, length, kept, added)
        elif kind == SATURATION and factor != _ONE:
            _luma(planes, place, pixels, channels, length, gray)
            for channel in range(channels):
                _blended(planes, place + channel * pixels, length, factor, gray)
        elif kind == HUE and factor != _ZERO and channels == 3:
            _turned_hue(planes, place, pixels, length, hue)


@inlined
def _finished(x, place, step, length, channels, numbers, out, target):
    """Some pixels solarized and normalised, to (pixels, C)."""
    a, step, n, o = np.uint64(place), np.uint64(step), np.uint64(length), np.uint64(target)
    if numbers[SOLARIZE] > 0:  # a value of one half or more becomes 1 - value, which is the smaller one of the two
        for channel in range(channels):
            b = a + step * np.uint64(channel)
            for i in range(n):
                x[b + i] = min(x[b + i], _ONE - x[b + i])
    if channels == 3:
        b, c = a + step, a + step + step
        red, green, blue = numbers[MEAN], numbers[MEAN + 1], numbers[MEAN + 2]
        by_red, by_green, by_blue = numbers[MEAN + 3], numbers[MEAN + 4], numbers[MEAN + 5]
        for i in range(n):
            k = o + _U3 * i
            out[k] = (x[a + i] - red) * by_red
            out[k + _U1] = (x[b + i] - green) * by_green
            out[k + _U2] = (x[c + i] - blue) * by_blue
        return
    wide = np.uint64(channels)
    for channel in range(channels):
        mean, factor = numbers[MEAN + channel], numbers[MEAN + channels + channel]
        for i in range(n):
            out[o + wide * i] = (x[a + i] - mean) * factor
        a, o = a + step, o + _U1


@inlined
def _grayed(planes, place, length, layout, gray):
    """`color.grayscale_` of some pixels."""
    channels, pixels = layout
    _luma(planes, place, pixels, channels, length, gray)
    for channel in range(channels):
        _blended(planes, place + channel * pixels, length, _ZERO, gray)


@inlined
def _slots(numbers):
    """Where in a sample's order of jitters the contrast comes, and how many of them there are."""
    count = 4 if numbers[JITTER] > 0 else 0
    for slot in range(count):
        if numbers[ORDER + slot] == CONTRAST and numbers[FACTORS + CONTRAST] != _ONE:
            return slot, count
    return count, count


@kept("void(float32[::1], int64, int64, float32[:, ::1], float32[:, ::1], boolean, float32[::1], float32[::1])")
def color(planes, channels, pixels, table, hues, additive, gray, out):
    """All that changes colours, and what follows where that is no blur: in two passes, as contrast needs a mean.

    Args:
        planes: those of the samples, changed in place.
        channels: C.
        pixels: S T.
        table: as in `crop`.
        hues: (B, 3) float32, see `color.hue_parts`.
        additive: whether brightness is added.
        gray: `PIXELS` float32 to work in.
        out: float32, becomes (B, S, T, C) but for what is blurred.
    """
    layout = (channels, pixels)
    for sample in range(len(table)):
        numbers, hue, origin = table[sample], hues[sample], sample * channels * pixels
        slot, count = _slots(numbers)
        total = 0.0
        for begin in range(0, pixels, PIXELS):
            place, length = origin + begin, min(PIXELS, pixels - begin)
            if numbers[GRAY] == 1:
                _grayed(planes, place, length, layout, gray)
            _jittered(planes, place, length, layout, numbers, hue, (_0, slot), additive, gray)
            if slot < count:
                _luma(planes, place, pixels, channels, length, gray)
                total += _total(gray, length)
        factor = numbers[FACTORS + CONTRAST]
        added = np.float32((1 - factor) * (total / pixels))
        for begin in range(0, pixels, PIXELS):
            place, length = origin + begin, min(PIXELS, pixels - begin)
            if slot < count:
                for channel in range(channels):
                    _scaled(planes, place + channel * pixels, length, factor, added)
                _jittered(planes, place, length, layout, numbers, hue, (slot + 1, count), additive, gray)
            if numbers[GRAY] == 2:
                _grayed(planes, place, length, layout, gray)
            if numbers[BLUR] == 0:
                _finished(planes, place, pixels, length, channels, numbers, out, origin + begin * channels)


@inlined
def _added(x, before, after, weights, tap, out, target, length):
    """Two pairs of lines, of the weights of two taps, added to a line."""
    a, b, c, d = np.uint64(before[0]), np.uint64(after[0]), np.uint64(before[1]), np.uint64(after[1])
    v, w, o = weights[tap], weights[tap + 1], np.uint64(target)
    for i in range(np.uint64(length)):
        out[o + i] += v * (x[a + i] + x[b + i]) + w * (x[c + i] + x[d + i])


@inlined
def _weighed(x, place, weight, out, target, length):
    """A line of one weight."""
    a, o = np.uint64(place), np.uint64(target)
    for i in range(np.uint64(length)):
        out[o + i] = weight * x[a + i]


@inlined
def _row(row, size, reflect, origin, zero):
    """Where a row begins that may lie outside of a plane: its reflection, or a row of zeros."""
    rows, columns = size
    if row < 0 or row >= rows:
        if not reflect:
            return zero
        row = -row if row < 0 else 2 * (rows - 1) - row
    return origin + row * columns


@inlined
def _gaussian(sigma, radius, weights):
    """The weights of the taps from the middle one on, and a zero; returns how far they reach."""
    radius = min(radius, math.ceil(_TAIL * sigma))
    total = 0.0
    for tap in range(2 * radius + 1):
        total += math.exp(-0.5 * ((tap - radius) / sigma) ** 2)
    for tap in range(radius + 1):
        weights[tap] = math.exp(-0.5 * (tap / sigma) ** 2) / total
    weights[radius + 1] = _ZERO
    return radius


@kept(
    "void(float32[::1], int64, UniTuple(int64, 2), float32[:, ::1], int64, boolean, UniTuple(float32[::1], 3), "
    "float32[::1])"
)
def blur(planes, channels, size, table, radius, reflect, space, out):
    """Blurred where told, and what follows: row by row, each of them along the columns first.

    Args:
        planes: those of the samples, and a row of zeros.
        channels: C.
        size: S, T.
        table: as in `crop`.
        radius: the largest.
        reflect: what lies outside: the reflection, or zero.
        space: float32 to work in: T + 2 radius + 2, which holds zeros where borders are zero; C T; and radius + 2.
        out: as in `color`.
    """
    (rows, columns), (line, lines, weights) = size, space
    margin, zero = radius + 1, len(planes) - columns
    for sample in range(len(table)):
        numbers, target = table[sample], sample * channels * rows * columns
        if numbers[BLUR] == 0:
            continue
        reach = _gaussian(float(numbers[SIGMA]), radius, weights)
        for row in range(rows):
            for channel in range(channels):
                origin, place = target + channel * rows * columns, channel * columns
                _weighed(planes, origin + row * columns, weights[0], line, margin, columns)
                for tap in range(1, reach + 1, 2):  # by twos; the weight after the last one is zero
                    near, far = tap, min(tap + 1, reach)
                    above = _row(row - near, size, reflect, origin, zero), _row(row - far, size, reflect, origin, zero)
                    below = _row(row + near, size, reflect, origin, zero), _row(row + far, size, reflect, origin, zero)
                    _added(planes, above, below, weights, tap, line, margin, columns)
                if reflect:
                    for tap in range(1, reach + 1):
                        line[margin - tap] = line[margin + tap]
                        line[margin + columns - 1 + tap] = line[margin + columns - 1 - tap]
                _weighed(line, margin, weights[0], lines, place, columns)
                for tap in range(1, reach + 1, 2):
                    before, after = (margin - tap, margin - tap - 1), (margin + tap, margin + tap + 1)
                    _added(line, before, after, weights, tap, lines, place, columns)
            _finished(lines, _0, columns, columns, channels, numbers, out, target + row * columns * channels)
