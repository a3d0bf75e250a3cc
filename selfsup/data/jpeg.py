"""JPEG files by simplejpeg, a shorter way to the library that Pillow has too: the same pixels in less time."""

import functools
import io
from collections.abc import Callable

import numpy as np
from PIL import Image

_SUBSAMPLINGS = (0, 1, 2)  # 4:4:4, 4:2:2, 4:2:0, as Pillow numbers them


def rgb_pixels(content: bytes, image: Image.Image) -> np.ndarray | None:
    """The pixels that Pillow would make of a JPEG: (H, W, 3) uint8, not turned.

    Args:
        content: the whole file.
        image: what Pillow has made of its header.

    Returns:
        None where Pillow is to decide: the file has a fault, however small, or is none of gray or of three colours;
        or simplejpeg is not installed, or makes other pixels than this Pillow.
    """
    decode = _decoder()
    if decode is None or image.format != "JPEG" or image.mode not in ("L", "RGB"):
        return None
    room = np.empty((image.height, image.width, 3), np.uint8)  # for no more than what Pillow has read of its size
    try:
        pixels = decode(content, room)
    except ValueError:  # of warnings, too
        return None
    return pixels if pixels.shape == room.shape else None


@functools.cache
def _decoder() -> Callable[[bytes, np.ndarray], np.ndarray] | None:
    """simplejpeg's, where it is there and makes the pixels that Pillow does, which may come with any library."""
    try:
        import simplejpeg
    except ImportError:
        return None

    def decode(content: bytes, room: np.ndarray) -> np.ndarray:
        exact = {"fastdct": False, "fastupsample": False, "strict": True}
        pixels: np.ndarray = simplejpeg.decode_jpeg(content, "RGB", buffer=room, **exact)
        return pixels

    noise = np.random.default_rng(0).integers(0, 256, (35, 51, 3), dtype=np.uint8)
    for subsampling in _SUBSAMPLINGS:
        file = io.BytesIO()
        Image.fromarray(noise).save(file, "JPEG", quality=90, subsampling=subsampling)
        if not np.array_equal(decode(file.getvalue(), np.empty_like(noise)), np.asarray(Image.open(file))):
            return None
    return decode
