"""Pixels of more than 8 bits: how they are stored, and how they become 8."""

from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from selfsup.data.levels import Levels

_BITS, _SAMPLE_FORMAT = 258, 339  # TIFF tags
_SIGNED = 2


class Depth(NamedTuple):
    """What a file's pixels can hold, and what they do hold; whole numbers but for floats."""

    kind: str  # as a person calls it: 16-bit
    can: tuple[float, float] | None  # lowest and highest value of the type; None of floats, which have no such range
    lowest: float
    highest: float


class Deep(NamedTuple):
    """How the pixels of an image are stored."""

    kind: str
    can: tuple[float, float] | None
    colour: bool = False  # Pillow reads the upper 8 of 16 bits alone
    dtype: Any = None  # what the bytes of Pillow's pixels mean, where it takes them for something else

    def values(self, image: Image.Image) -> np.ndarray:  # (H, W)
        pixels = np.asarray(image)
        return pixels if self.dtype is None else pixels.view(self.dtype)

    def measured(self, image: Image.Image) -> Depth | None:
        pixels = self.values(image)
        finite = pixels[np.isfinite(pixels)]
        if not finite.size:
            return None
        scale = 257 if self.colour else 1
        return Depth(self.kind, self.can, float(finite.min()) * scale, float(finite.max()) * scale)


def deep_pixels(image: Image.Image) -> Deep | None:
    """How pixels are stored that are not plain bytes from 0 to 255; None of all others. To be asked before loading."""
    tags = getattr(image, "tag_v2", {})  # of a TIFF; all others that reach beyond 8 bits have 16
    bits = next(iter(tags.get(_BITS, (16,))))
    signed = next(iter(tags.get(_SAMPLE_FORMAT, (1,)))) == _SIGNED
    if image.mode == "F":
        return Deep("float", None)
    if image.mode == "I" or image.mode.startswith("I;16"):  # Pillow holds 16-bit gray as either
        if signed:
            return Deep(f"signed {bits}-bit", (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1))
        return Deep(f"{bits}-bit", (0.0, 2.0**bits - 1), dtype=np.uint32 if bits == 32 else None)
    if image.mode == "L" and signed:
        return Deep("signed 8-bit", (-128.0, 127.0), dtype=np.int8)
    if any(";16" in str(tile.args) for tile in getattr(image, "tile", ())):
        return Deep("16-bit colour", (0.0, 65535.0), colour=True)
    return None


def to_bytes(values: np.ndarray, deep: Deep, levels: Levels) -> np.ndarray:
    """(H, W) pixels as uint8: `levels` from black to white, rounded; what lies outside is black or white.

    NaN is black, and neither it nor infinity counts in a file's range.

    Raises:
        ValueError: floats without a range, or no finite pixel.
    """
    low, high = _ends(values, deep, levels)
    if (low, high) == (0, 65535) and values.dtype.kind in "iu":  # much faster, and the same
        return ((values.clip(0, 65535).astype(np.int32) + 128) // 257).astype(np.uint8)
    if high <= low:  # an image of one value
        return np.zeros(values.shape, np.uint8)
    with np.errstate(invalid="ignore"):
        share = (values.astype(np.float64) - low) / (high - low)
    return np.floor(np.nan_to_num(share, posinf=1, neginf=0).clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _ends(values: np.ndarray, deep: Deep, levels: Levels) -> tuple[float, float]:
    if levels.kind == "fixed":
        return levels.low, levels.high
    if levels.kind == "type":
        if deep.can is None:
            raise ValueError(
                "pixels are floating-point numbers, which have no agreed range; give --data.range LOW:HIGH, file or p1"
            )
        return deep.can
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise ValueError("no pixel is a finite number")
    if levels.kind == "file":
        return float(finite.min()), float(finite.max())
    low, high = np.percentile(finite, (levels.low, 100 - levels.low))
    return float(low), float(high)
