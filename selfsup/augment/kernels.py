"""The Triton kernels of views on a GPU: see `on_device`, which launches them.

The arithmetic is that of `geometry` and `color`, which are the reference. Each program makes some pixels of one sample
in all channels, (PADDED, PIXELS); nothing is gathered, sorted or chosen on the way, so the numbers of a sample alone
steer it.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Arguments of kernels are pointers and numbers that only Triton's compiler has types for.

import triton
import triton.language as tl

from selfsup.augment import table
from selfsup.augment.parameters import BRIGHTNESS, CONTRAST, HUE

# Where a sample's numbers lie in its row of the table, see there.
_START, _LENGTH, _FIRST, _LAST = (tl.constexpr(place) for place in (table.START, table.LENGTH, table.FIRST, table.LAST))
_FLIP, _DOWN, _RIGHT, _JITTER = (tl.constexpr(place) for place in (table.FLIP, table.DOWN, table.RIGHT, table.JITTER))
_FACTORS, _ORDER, _GRAY, _BLUR = (tl.constexpr(place) for place in (table.FACTORS, table.ORDER, table.GRAY, table.BLUR))
_SIGMA, _SOLARIZE, _ERASE, _MEAN = (
    tl.constexpr(place) for place in (table.SIGMA, table.SOLARIZE, table.ERASE, table.MEAN)
)
_BRIGHTNESS, _CONTRAST, _HUE = (tl.constexpr(kind) for kind in (BRIGHTNESS, CONTRAST, HUE))


@triton.jit
def _tile(CHANNELS: tl.constexpr, PADDED: tl.constexpr, PIXELS: tl.constexpr):
    """The sample of this program, its channels (PADDED, 1), and its pixels (1, PIXELS) counted row by row."""
    channel = tl.arange(0, PADDED)[:, None]
    pixel = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)[None, :]
    return tl.program_id(0).to(tl.int64), channel, pixel, channel < CHANNELS


@triton.jit
def _taps(numbers, AXIS: tl.constexpr, place, size, mirror, REACH: tl.constexpr, WIDENS: tl.constexpr):
    """The centre of a new pixel among the old ones, the first old one within reach, their number, and the widening."""
    scale = tl.load(numbers + _LENGTH + AXIS) / size
    place = tl.where(mirror, size - 1 - place, place)
    center = tl.load(numbers + _START + AXIS) + (place + 0.5) * scale
    widening = tl.maximum(scale, 1.0) if WIDENS else scale * 0 + 1.0
    reach = REACH * widening
    return center, tl.floor(center - reach + 0.5), tl.ceil(2 * reach).to(tl.int32) + 1, widening


@triton.jit
def _weight(numbers, AXIS: tl.constexpr, old, center, widening, REACH: tl.constexpr):
    """Of an old pixel in a new one: the triangle or Keys' cubic, 0 outside of the box."""
    distance = tl.abs(old + 0.5 - center) / widening
    if REACH == 1:
        weight = tl.maximum(1 - distance, 0)
    else:
        t = tl.maximum(2 - distance, 0)
        s = tl.maximum(1 - distance, 0)
        weight = 0.5 * t * t * (t - 1) + s * s * (1 - 2 * s)
    inside = (old >= tl.load(numbers + _FIRST + AXIS)) & (old < tl.load(numbers + _LAST + AXIS))
    return tl.where(inside, weight, 0.0), inside


@triton.jit
def columns_kernel(images, table, out, by_sample, by_channel, by_row, by_column, wide, height, columns,
                    REACH: tl.constexpr, WIDENS: tl.constexpr, CHANNELS: tl.constexpr, PADDED: tl.constexpr,
                    PIXELS: tl.constexpr):  # fmt: skip
    """Boxes made narrower or wider, and flipped: (B, C, H, W) -> (B, C, H, T)."""
    sample, channel, pixel, kept = _tile(CHANNELS, PADDED, PIXELS)
    numbers = table + sample * wide
    row, column = pixel // columns, pixel % columns
    flip = tl.load(numbers + _FLIP) > 0
    center, first, count, widening = _taps(numbers, 1, column, columns, flip, REACH, WIDENS)
    within = (row >= tl.load(numbers + _FIRST)) & (row < tl.load(numbers + _LAST)) & (row < height)
    source = images + sample * by_sample + channel * by_channel + row * by_row
    total = tl.zeros([PADDED, PIXELS], tl.float32)
    weights = tl.zeros([1, PIXELS], tl.float32)
    for tap in range(count):
        weight, inside = _weight(numbers, 1, first + tap, center, widening, REACH)
        old = (first + tap).to(tl.int32) * by_column
        total += weight * tl.load(source + old, mask=kept & within & inside, other=0).to(tl.float32)
        weights += weight
    target = out + (sample * CHANNELS + channel) * height * columns + pixel
    tl.store(target, total / weights, mask=kept & (row < height))


@triton.jit
def _shifted(numbers, pixel, kept, rows, columns):
    """The row and the column that a pixel of the view shows, and whether they are in the picture."""
    row = pixel // columns - tl.load(numbers + _DOWN).to(tl.int32)
    column = pixel % columns - tl.load(numbers + _RIGHT).to(tl.int32)
    return row, column, kept & (row >= 0) & (row < rows) & (column >= 0) & (column < columns)


@triton.jit
def rows_kernel(narrowed, table, out, wide, height, rows, columns, REACH: tl.constexpr, WIDENS: tl.constexpr,
                 CHANNELS: tl.constexpr, PADDED: tl.constexpr, PIXELS: tl.constexpr):  # fmt: skip
    """Made lower or higher, shifted, and cut to [0, 1]: (B, C, H, T) -> (B, C, S, T)."""
    sample, channel, pixel, kept = _tile(CHANNELS, PADDED, PIXELS)
    numbers = table + sample * wide
    row, column, within = _shifted(numbers, pixel, kept, rows, columns)
    new = tl.minimum(tl.maximum(row, 0), rows - 1)
    center, first, count, widening = _taps(numbers, 0, new, rows, False, REACH, WIDENS)
    source = narrowed + (sample * CHANNELS + channel) * height * columns + column
    total = tl.zeros([PADDED, PIXELS], tl.float32)
    weights = tl.zeros([1, PIXELS], tl.float32)
    for tap in range(count):
        weight, inside = _weight(numbers, 0, first + tap, center, widening, REACH)
        old = (first + tap).to(tl.int32) * columns
        total += weight * tl.load(source + old, mask=within & inside, other=0.0)
        weights += weight
    value = tl.minimum(tl.maximum(total / weights * (1 / 255), 0.0), 1.0)
    target = out + (sample * CHANNELS + channel) * rows * columns + pixel
    tl.store(target, tl.where(within, value, 0.0), mask=kept & (pixel < rows * columns))


@triton.jit
def flip_kernel(crops, table, out, by_sample, by_channel, by_row, by_column, wide, rows, columns,
                 CHANNELS: tl.constexpr, PADDED: tl.constexpr, PIXELS: tl.constexpr):  # fmt: skip
    """Crops flipped, shifted and in [0, 1], (B, C, S, T)."""
    sample, channel, pixel, kept = _tile(CHANNELS, PADDED, PIXELS)
    numbers = table + sample * wide
    row, column, within = _shifted(numbers, pixel, kept, rows, columns)
    column = tl.where(tl.load(numbers + _FLIP) > 0, columns - 1 - column, column)
    source = crops + sample * by_sample + channel * by_channel + row * by_row + column * by_column
    value = tl.load(source, mask=within, other=0).to(tl.float32) * (1 / 255)
    target = out + (sample * CHANNELS + channel) * rows * columns + pixel
    tl.store(target, value, mask=kept & (pixel < rows * columns))


@triton.jit
def _luma(x, channel, CHANNELS: tl.constexpr):
    """The gray picture of (PADDED, PIXELS), (1, PIXELS)."""
    if CHANNELS == 3:
        x = x * tl.where(channel == 0, 0.2989, tl.where(channel == 1, 0.587, 0.114))
    else:
        x = x * (1 / CHANNELS)
    return tl.sum(tl.where(channel < CHANNELS, x, 0.0), axis=0, keep_dims=True)


@triton.jit
def _hue(x, turns, channel):
    """`color.hue_`, by the hue in sixths of a turn."""
    red = tl.sum(tl.where(channel == 0, x, 0.0), axis=0, keep_dims=True)
    green = tl.sum(tl.where(channel == 1, x, 0.0), axis=0, keep_dims=True)
    blue = tl.sum(tl.where(channel == 2, x, 0.0), axis=0, keep_dims=True)
    low = tl.minimum(tl.minimum(red, green), blue)
    chroma = tl.maximum(tl.maximum(red, green), blue) - low
    hue = 1 + (green + blue - red - low) / tl.maximum(chroma, 1e-12)
    hue = tl.where(green < blue, -hue, hue) + 6 * turns
    hue -= 6 * tl.floor(hue * (1 / 6))
    distance = tl.abs(hue - tl.where(channel == 0, 3.0, tl.where(channel == 1, 2.0, 4.0)))
    share = tl.where(channel == 0, distance - 1, 2 - distance)
    return low + chroma * tl.minimum(tl.maximum(share, 0.0), 1.0)


@triton.jit
def _jittered(x, numbers, mean, channel, BEFORE: tl.constexpr, ADDITIVE: tl.constexpr, CHANNELS: tl.constexpr):
    """`color.jitter_` of a sample, or what comes BEFORE its contrast."""
    going = tl.load(numbers + _JITTER) > 0
    for slot in tl.static_range(4):
        kind = tl.load(numbers + _ORDER + slot).to(tl.int32)
        factor = tl.load(numbers + _FACTORS + kind)
        if BEFORE:
            going = going & (kind != _CONTRAST)
        if going:
            if kind == _HUE:
                if CHANNELS == 3:
                    x = _hue(x, factor, channel)
            else:
                if kind == _BRIGHTNESS:
                    x = x + factor if ADDITIVE else x * factor
                elif kind == _CONTRAST:
                    x = x * factor + (1 - factor) * mean
                else:
                    x = x * factor + (1 - factor) * _luma(x, channel, CHANNELS)
                x = tl.minimum(tl.maximum(x, 0.0), 1.0)
    return x


@triton.jit
def _start(planes, numbers, sample, channel, pixel, kept, pixels, CHANNELS: tl.constexpr):
    """The pixels of a program before the jitter."""
    inside = kept & (pixel < pixels)
    x = tl.load(planes + (sample * CHANNELS + channel) * pixels + pixel, mask=inside, other=0.0)
    if tl.load(numbers + _GRAY) == 1:
        x = x * 0 + _luma(x, channel, CHANNELS)
    return x


@triton.jit
def sums_kernel(planes, table, sums, wide, pixels, ADDITIVE: tl.constexpr,
                CHANNELS: tl.constexpr, PADDED: tl.constexpr, PIXELS: tl.constexpr):  # fmt: skip
    """What a program's pixels give to the mean of the gray picture at the contrast: (B, programs)."""
    sample, channel, pixel, kept = _tile(CHANNELS, PADDED, PIXELS)
    numbers = table + sample * wide
    x = _start(planes, numbers, sample, channel, pixel, kept, pixels, CHANNELS)
    gray = _luma(_jittered(x, numbers, 0.0, channel, True, ADDITIVE, CHANNELS), channel, CHANNELS)
    total = tl.sum(tl.where(pixel < pixels, gray, 0.0))
    tl.store(sums + sample * tl.num_programs(1) + tl.program_id(1), total / pixels)


@triton.jit
def color_kernel(planes, table, sums, out, wide, rows, columns, programs, BLOCKS: tl.constexpr, LAST: tl.constexpr,
                 CONTRAST: tl.constexpr, ADDITIVE: tl.constexpr, CHANNELS: tl.constexpr,
                 PADDED: tl.constexpr, PIXELS: tl.constexpr):  # fmt: skip
    """Jitter and grayscale, in place; or, where these are the LAST, with all that comes after, to (B, S, T, C)."""
    sample, channel, pixel, kept = _tile(CHANNELS, PADDED, PIXELS)
    numbers = table + sample * wide
    x = _start(planes, numbers, sample, channel, pixel, kept, rows * columns, CHANNELS)
    mean = 0.0
    if CONTRAST:
        block = tl.arange(0, BLOCKS)
        mean = tl.sum(tl.load(sums + sample * programs + block, mask=block < programs, other=0.0))
    x = _jittered(x, numbers, mean, channel, False, ADDITIVE, CHANNELS)
    if tl.load(numbers + _GRAY) == 2:
        x = x * 0 + _luma(x, channel, CHANNELS)
    if LAST:
        _finish(x, numbers, out, sample, channel, pixel, kept, rows, columns, CHANNELS)
    else:
        target = planes + (sample * CHANNELS + channel) * rows * columns + pixel
        tl.store(target, x, mask=kept & (pixel < rows * columns))


@triton.jit
def _finish(x, numbers, out, sample, channel, pixel, kept, rows, columns, CHANNELS: tl.constexpr):
    """Solarized, normalised, erased, and written to (B, S, T, C)."""
    if tl.load(numbers + _SOLARIZE) > 0:
        x = tl.where(x >= 0.5, 1 - x, x)
    mean = tl.load(numbers + _MEAN + channel, mask=kept, other=0.0)
    x = (x - mean) * tl.load(numbers + _MEAN + CHANNELS + channel, mask=kept, other=0.0)
    row, column = pixel // columns, pixel % columns
    top, left = tl.load(numbers + _ERASE), tl.load(numbers + _ERASE + 1)
    bottom, right = top + tl.load(numbers + _ERASE + 2), left + tl.load(numbers + _ERASE + 3)
    x = tl.where((row >= top) & (row < bottom) & (column >= left) & (column < right), 0.0, x)
    tl.store(out + (sample * rows * columns + pixel) * CHANNELS + channel, x, mask=kept & (pixel < rows * columns))


@triton.jit
def blur_kernel(planes, table, out, wide, rows, columns, ROWS: tl.constexpr, RADIUS: tl.constexpr,
                REFLECT: tl.constexpr, CHANNELS: tl.constexpr, PADDED: tl.constexpr, PIXELS: tl.constexpr):  # fmt: skip
    """Blurred along the columns; or along the ROWS, with all that comes after, to (B, S, T, C)."""
    sample, channel, pixel, kept = _tile(CHANNELS, PADDED, PIXELS)
    numbers = table + sample * wide
    blurred = tl.load(numbers + _BLUR) > 0
    radius = tl.where(blurred, RADIUS, 0)
    sigma = tl.where(blurred, tl.load(numbers + _SIGMA), 1.0)
    inside = kept & (pixel < rows * columns)
    row, column = pixel // columns, pixel % columns
    place, extent, step = (row, rows, columns) if ROWS else (column, columns, 1)
    source = planes + (sample * CHANNELS + channel) * rows * columns + pixel - place * step
    total = tl.zeros([PADDED, PIXELS], tl.float32)
    weights = 0.0
    for tap in range(2 * radius + 1):
        offset = tap - radius
        weight = tl.exp(-0.5 * (offset / sigma) * (offset / sigma))
        old = place + offset
        if REFLECT:
            old = tl.abs(old)
            old = tl.where(old >= extent, 2 * (extent - 1) - old, old)
        known = inside & (old >= 0) & (old < extent)
        total += weight * tl.load(source + old * step, mask=known, other=0.0)
        weights += weight
    x = total / weights
    if ROWS:
        _finish(x, numbers, out, sample, channel, pixel, kept, rows, columns, CHANNELS)
    else:
        tl.store(out + (sample * CHANNELS + channel) * rows * columns + pixel, x, mask=inside)
