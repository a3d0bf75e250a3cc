"""What else than Pillow's a picture may be: of any number of channels, or an array that is cropped as it is."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import PIL.Image
from torch import Tensor


class Bands:
    """A picture of C channels of 8 bits, as far as loaders and views need one: Pillow knows none of five channels.

    It does to each channel what Pillow does to a gray picture, and so to none what Pillow does to transparency.

    Args:
        bands: C gray pictures (mode L) of one size.
    """

    def __init__(self, bands: Sequence[PIL.Image.Image]) -> None:
        self.bands = tuple(bands)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, as Pillow has them."""
        return self.bands[0].size

    @property
    def width(self) -> int:
        return self.bands[0].width

    @property
    def height(self) -> int:
        return self.bands[0].height

    def crop(self, box: tuple[int, int, int, int]) -> "Bands":
        """What lies within left, top, right and bottom; outside of the picture it is black."""
        return self._each(lambda band: band.crop(box))

    def resize(
        self,
        size: tuple[int, int],
        resample: PIL.Image.Resampling = PIL.Image.Resampling.BICUBIC,
        box: tuple[float, float, float, float] | None = None,
    ) -> "Bands":
        """Width and height `size`, of the whole picture or of left, top, right and bottom of it."""
        return self._each(lambda band: band.resize(size, resample, box=box))

    def transpose(self, method: PIL.Image.Transpose) -> "Bands":
        """Turned or mirrored."""
        return self._each(lambda band: band.transpose(method))

    def tobytes(self) -> bytes:
        """All pixels of the first channel, then those of the others."""
        return b"".join(band.tobytes() for band in self.bands)

    def _each(self, change: Callable[[PIL.Image.Image], PIL.Image.Image]) -> "Bands":
        return Bands([change(band) for band in self.bands])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:  # (H, W, C) uint8
        pixels = np.stack([np.asarray(band) for band in self.bands], axis=-1)
        return pixels if dtype is None else pixels.astype(dtype)


Picture: TypeAlias = PIL.Image.Image | Bands


class Pixels:
    """A picture as an array, which crops take as it is.

    Args:
        array: (H, W, C) uint8; what is held cannot be written to.
    """

    def __init__(self, array: np.ndarray) -> None:
        self.array = np.ascontiguousarray(array).view()
        self.array.flags.writeable = False

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, as Pillow has them."""
        return self.width, self.height

    @property
    def width(self) -> int:
        return int(self.array.shape[1])

    @property
    def height(self) -> int:
        return int(self.array.shape[0])

    def picture(self) -> Picture:
        """The same as Pillow's, or in bands."""
        return PIL.Image.fromarray(self.array) if self.array.shape[2] == 3 else bands_of(self.array)

    def crop(self, box: tuple[int, int, int, int]) -> Picture:
        """What lies within left, top, right and bottom; outside of the picture it is black."""
        return self.picture().crop(box)

    def resize(
        self,
        size: tuple[int, int],
        resample: PIL.Image.Resampling = PIL.Image.Resampling.BICUBIC,
        box: tuple[float, float, float, float] | None = None,
    ) -> Picture:
        """Width and height `size`, of the whole picture or of left, top, right and bottom of it."""
        return self.picture().resize(size, resample, box=box)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:  # (H, W, C) uint8
        return np.array(self.array, dtype=dtype, copy=copy)


Held: TypeAlias = Picture | Pixels  # as loaders hold it between decoding and cropping


def require_channels(images: Tensor, mean: Sequence[float]) -> None:
    """Raise ValueError where images (B, C, H, W) are not of as many channels as there are means to subtract."""
    if images.shape[1] != len(mean):
        raise ValueError(
            f"images have {images.shape[1]} channels and are normalised by {len(mean)} values; give a mean and a std "
            "for each channel"
        )


def bands_of(pixels: np.ndarray) -> Bands:
    """The picture of (H, W, C) uint8."""
    return Bands([PIL.Image.fromarray(np.ascontiguousarray(band)) for band in np.moveaxis(pixels, -1, 0)])


def in_channels(picture: Picture) -> Picture:
    """A picture whose pixels are (H, W, C): Pillow's become RGB."""
    return picture if isinstance(picture, Bands) else picture.convert("RGB")
