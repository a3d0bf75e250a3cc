"""Bytes of a photograph to an upright RGB image, or to UnreadableImage: never a crash, never a warning."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from selfsup.augment.bands import Bands, Held, Picture, Pixels
from selfsup.data.base import Header, UnreadableImage
from selfsup.data.channels import Channels
from selfsup.data.deep import Deep, Depth, deep_pixels, to_bytes
from selfsup.data.formats import FORMATS
from selfsup.data.jpeg import rgb_pixels
from selfsup.data.levels import FULL, Levels
from selfsup.data.quiet import quiet
from selfsup.storage.untrusted import require_file

Content = Path | BinaryIO

MAX_PIXELS = 100_000_000  # read from the header, so that a few bytes cannot ask for gigabytes
MAX_SCANS = 64  # passes over the pixels of a JPEG
MAX_SCANNED = 1_500_000_000  # pixels in all passes
_BACKGROUND = (128, 128, 128)
_ORIENTATION = 0x0112  # EXIF tag
_ARRAY = "(N, H, W, C)"  # how images of any number of channels are saved
_PLAIN = ("L", "LA", "RGB", "RGBX", "RGBA", "CMYK")  # modes whose bands are pixels of 8 bits
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(
    file: Path | BinaryIO, name: str, side: int | None = None, levels: Levels = FULL, channels: Channels = "rgb"
) -> tuple[Picture, tuple[int, int]]:
    """Decode the first frame of an image, whatever its name ends in.

    The EXIF orientation is applied, which torchvision's data sets of files leave out: what is upright for a viewer is
    upright here. Gray of more than 8 bits is scaled to 8 by `levels`. CMYK, palettes and gray become RGB. Transparent
    pixels are laid over middle gray: the colours hidden under them mean nothing, and on gray neither a black nor a
    white drawing vanishes.

    Args:
        file: path or open binary file.
        name: of the image, for the message.
        side: where the image will be squeezed to `side` x `side`: a JPEG is then decoded at the smallest of libjpeg's
            resolutions (1/2, 1/4, 1/8) that leaves at least twice as many pixels each way.
        levels: what becomes black and white, of pixels of more than 8 bits.
        channels: "rgb", or the number of those that are kept as they are: gray, red, green, blue and alpha, or the
            pages of a TIFF. Nothing is laid over gray then.

    Returns:
        The image, mode RGB or in its channels, and its original (height, width) after orientation.

    Raises:
        UnreadableImage: it is none of FORMATS, damaged, cut short, of more than MAX_PIXELS or MAX_SCANS, or of float
            pixels whose range is not given, or of other channels; or no file at all, but a pipe or a device.
    """
    with _header(file, name, channels) as (image, _):
        width, height = image.size
        if side is not None:
            image.draft("RGB", (2 * side, 2 * side))
        picture, orientation = _upright(image, levels) if channels == "rgb" else _in_bands(image, levels, channels)
        return picture, ((width, height) if orientation >= 5 else (height, width))


def decode_held(file: Path | BinaryIO, name: str, levels: Levels = FULL, channels: Channels = "rgb") -> Held:
    """`decode` for a crop: the same pixels, which may come as an array, and sooner."""
    with _header(file, name, channels) as (image, content):
        if channels != "rgb":
            return _in_bands(image, levels, channels)[0]
        pixels = rgb_pixels(content, image)
        if pixels is None:
            return _upright(image, levels)[0]
        orientation = _orientation(image)
        return Image.fromarray(pixels).transpose(_UPRIGHT[orientation]) if orientation > 1 else Pixels(pixels)


@contextmanager
def _header(file: Path | BinaryIO, name: str, channels: Channels) -> Iterator[tuple[Image.Image, bytes]]:
    """An image of which nothing but the header has been read, and the whole file where it is a JPEG.

    Whatever is raised within becomes UnreadableImage.
    """
    try:
        with quiet(), _opened(file) as content, Image.open(content, formats=FORMATS) as image:
            _check_size(*image.size)
            yield image, _checked_scans(content, image)
    except UnidentifiedImageError as error:
        kept = "" if channels == "rgb" else f"; more channels than Pillow reads go into one .npy, {_ARRAY}"
        raise UnreadableImage(name, f"it is none of {', '.join(FORMATS)}, or its header is damaged{kept}") from error
    except Exception as error:  # decoders of damaged bytes raise nearly every class there is
        said = error.strerror if isinstance(error, OSError) else None  # of the system, which names no path
        raise UnreadableImage(name, said or f"{type(error).__name__}: {error}") from error


def as_rgb(image: Image.Image, levels: Levels = FULL) -> Image.Image:
    """An image that Pillow has opened, as `decode` gives it: upright, RGB, 8 bits a channel.

    Raises:
        ValueError: float pixels whose range is not given.
    """
    return _upright(image, levels)[0]


def as_picture(image: Image.Image, levels: Levels = FULL, channels: Channels = "rgb") -> Picture:
    """`as_rgb`, or the image with the channels that it has, which must be so many.

    Raises:
        ValueError: float pixels whose range is not given, or another number of channels.
    """
    return as_rgb(image, levels) if channels == "rgb" else _in_bands(image, levels, channels)[0]


def _in_bands(image: Image.Image, levels: Levels, channels: int) -> tuple[Bands, int]:
    """The image with its channels, and how it was oriented. A TIFF of as many gray pages has one in each."""
    pages = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
    if pages != channels:
        pages = 1
    bands: list[Image.Image] = []
    for page in range(pages):
        if pages > 1:
            image.seek(page)
            _check_size(image.width * pages, image.height)
        deep = deep_pixels(image)
        image.load()
        orientation = _orientation(image)
        flat = _flat(image, deep, levels)
        if flat.mode not in _PLAIN or (pages == 1 and len(flat.getbands()) != channels):
            raise ValueError(_other_channels(flat, channels))
        bands += (flat.transpose(_UPRIGHT[orientation]) if orientation > 1 else flat).split()
    if len(bands) != channels or len({band.size for band in bands}) > 1:
        raise ValueError(f"its {pages} pages are not one channel each, all of one size; save them as .npy, {_ARRAY}")
    return Bands(bands), orientation


def _other_channels(image: Image.Image, channels: int) -> str:
    count = len(image.getbands())
    said = f"{count} channel{'' if count == 1 else 's'} ({image.mode})"
    return (
        f"it has {said} and data.channels is {channels}; save images of {channels} as one .npy, {_ARRAY}, or give "
        f"--data.channels {'rgb' if image.mode not in _PLAIN or count == 3 else count}"
    )


def _upright(image: Image.Image, levels: Levels) -> tuple[Image.Image, int]:
    """The image in RGB, and how it was oriented."""
    deep = deep_pixels(image)  # before they are loaded, when Pillow forgets how they are stored
    image.load()
    orientation = _orientation(image)
    flat = _flat(image, deep, levels)
    return _to_rgb(flat.transpose(_UPRIGHT[orientation]) if orientation > 1 else flat), orientation


@contextmanager
def _opened(file: Path | BinaryIO) -> Iterator[BinaryIO]:
    if isinstance(file, Path):
        require_file(file)
    with open(file, "rb") if isinstance(file, Path) else nullcontext(file) as content:
        content.seek(0)  # it may have been read before
        # Pillow makes room for the pixels of a WebP file as it opens it, before it tells their number.
        _check_size(*_webp_size(content.read(30)))
        content.seek(0)
        yield content


def _webp_size(head: bytes) -> tuple[int, int]:
    """Width and height that a WebP file begins with; (0, 0) where it is no such file."""
    if len(head) < 30 or head[:4] != b"RIFF" or head[8:12] != b"WEBP":
        return 0, 0
    if head[12:16] == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if head[12:16] == b"VP8L":
        packed = int.from_bytes(head[21:25], "little")  # 14 bits each
        return 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
    return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels, more than {MAX_PIXELS:,}")


def _checked_scans(content: BinaryIO, image: Image.Image) -> bytes:
    """The file of a JPEG that does not take many passes over its pixels, or ValueError; nothing of any other.

    Each scan of a progressive one is a pass. A few hundred kilobytes can ask for thousands of them, which take minutes
    or hours. Usual are ten.
    """
    if image.format != "JPEG":
        return b""
    begin = content.tell()
    content.seek(0)
    whole = content.read()
    content.seek(begin)
    codes = np.frombuffer(whole, np.uint8)  # `bytes.count` takes six times as long
    # Of a thumbnail in it, too; in coded pixels these bytes do not occur.
    scans = int(np.count_nonzero((codes[:-1] == 0xFF) & (codes[1:] == 0xDA)))
    work = scans * image.width * image.height
    if scans > MAX_SCANS or work > MAX_SCANNED:
        raise ValueError(f"{scans} scans of {image.width} x {image.height} pixels, more than anyone needs")
    return whole


def _orientation(image: Image.Image) -> int:
    """1 to 8 as EXIF counts them: from 5 on, height and width change places."""
    try:
        orientation = int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a damaged EXIF block says nothing against the pixels
        return 1
    return orientation if orientation in _UPRIGHT else 1


def _flat(image: Image.Image, deep: Deep | None, levels: Levels) -> Image.Image:
    """The image with 8 bits a channel."""
    if deep is None:
        return image
    if deep.colour:
        if levels != FULL:
            raise ValueError("pixels are colours of 16 bits, of which 8 can be read; data.range is for gray ones")
        return image
    return Image.fromarray(to_bytes(deep.values(image), deep, levels))


def measured_depth(file: Path | BinaryIO) -> Depth | None:
    """What range the pixels of a file fill, where they have more than 8 bits; None of all other files."""
    try:
        with quiet(), _opened(file) as content, Image.open(content, formats=FORMATS) as image:
            deep = deep_pixels(image)
            if deep is None:
                return None
            _check_size(*image.size)
            return deep.measured(image)
    except Exception:  # it cannot be read, which is told where it is
        return None


def header_of(file: Path | BinaryIO) -> Header | None:
    """What the header of an image file says; None where it cannot be read."""
    try:
        with quiet(), _opened(file) as content, Image.open(content, formats=FORMATS) as image:
            pixels = image.mode in (*_PLAIN, "I", "F") or image.mode.startswith("I;16")
            deep = deep_pixels(image)
            channels = len(image.getbands()) if pixels else None
            return Header(str(image.format), image.mode, channels, deep.kind if deep else "")
    except Exception:  # which is told where it is read
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    flat = Image.new("RGB", image.size, _BACKGROUND)
    flat.paste(layer, mask=layer.getchannel("A"))
    return flat
