"""Bytes of a photograph to an upright RGB image, or to UnreadableImage: never a crash, never a warning."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from selfsup.data.base import UnreadableImage
from selfsup.untrusted import require_file

# Named, because Pillow would otherwise try every decoder it has, Ghostscript for an EPS file named .jpg included.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
MAX_PIXELS = 100_000_000  # read from the header, so that a few bytes cannot ask for gigabytes
MAX_SCANS = 64  # passes over the pixels of a JPEG
MAX_SCANNED = 1_500_000_000  # pixels in all passes
_BACKGROUND = (128, 128, 128)
_ORIENTATION = 0x0112  # EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(file: Path | BinaryIO, name: str, side: int | None = None) -> tuple[Image.Image, tuple[int, int]]:
    """Decode the first frame of an image, whatever its name ends in.

    The EXIF orientation is applied, which torchvision's data sets of files leave out: what is upright for a viewer is
    upright here. 16-bit gray is scaled to 8 bits, not clipped. CMYK, palettes and gray become RGB. Transparent pixels
    are laid over middle gray: the colours hidden under them mean nothing, and on gray neither a black nor a white
    drawing vanishes.

    Args:
        file: path or open binary file.
        name: of the image, for the message.
        side: where the image will be squeezed to `side` x `side`: a JPEG is then decoded at the smallest of libjpeg's
            resolutions (1/2, 1/4, 1/8) that leaves at least twice as many pixels each way.

    Returns:
        The image, mode RGB, and its original (height, width) after orientation.

    Raises:
        UnreadableImage: it is none of FORMATS, damaged, cut short, of more than MAX_PIXELS or MAX_SCANS, or of float
            pixels; or no file at all, but a pipe or a device.
    """
    try:
        with _quiet(), _opened(file) as content, Image.open(content, formats=FORMATS) as image:
            width, height = image.size
            _check_size(width, height)
            _check_scans(content, image)
            if side is not None:
                image.draft("RGB", (2 * side, 2 * side))
            image.load()
            orientation = _orientation(image)
            upright = image.transpose(_UPRIGHT[orientation]) if orientation > 1 else image
            return _to_rgb(upright), ((width, height) if orientation >= 5 else (height, width))
    except UnidentifiedImageError as error:
        raise UnreadableImage(name, f"it is none of {', '.join(FORMATS)}, or its header is damaged") from error
    except Exception as error:  # decoders of damaged bytes raise nearly every class there is
        raise UnreadableImage(name, f"{type(error).__name__}: {error}") from error


@contextmanager
def _opened(file: Path | BinaryIO) -> Iterator[BinaryIO]:
    if isinstance(file, Path):
        require_file(file)
    with open(file, "rb") if isinstance(file, Path) else nullcontext(file) as content:
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


def _check_scans(content: BinaryIO, image: Image.Image) -> None:
    """Raise ValueError for a JPEG that takes many passes over its pixels: each scan of a progressive one is a pass.

    A few hundred kilobytes can ask for thousands of them, which take minutes or hours. Usual are ten.
    """
    if image.format != "JPEG":
        return
    begin = content.tell()
    content.seek(0)
    scans = content.read().count(b"\xff\xda")  # of a thumbnail in it, too; in coded pixels these bytes do not occur
    content.seek(begin)
    work = scans * image.width * image.height
    if scans > MAX_SCANS or work > MAX_SCANNED:
        raise ValueError(f"{scans} scans of {image.width} x {image.height} pixels, more than anyone needs")


def _orientation(image: Image.Image) -> int:
    """1 to 8 as EXIF counts them: from 5 on, height and width change places."""
    try:
        orientation = int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a damaged EXIF block says nothing against the pixels
        return 1
    return orientation if orientation in _UPRIGHT else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("pixels are floating-point numbers, which have no agreed range")
    if image.mode == "I" or image.mode.startswith("I;16"):
        wide = np.asarray(image).clip(0, 65535).astype(np.int32)  # Pillow holds 16-bit gray as I;16 or as I
        return Image.fromarray(((wide + 128) // 257).astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    flat = Image.new("RGB", image.size, _BACKGROUND)
    flat.paste(layer, mask=layer.getchannel("A"))
    return flat


_silence = threading.Lock()
_threads_inside = 0
_catcher: warnings.catch_warnings | None = None


@contextmanager
def _quiet() -> Iterator[None]:
    """Ignore warnings while any thread decodes.

    Pillow warns of odd metadata and large images, which are either harmless or reported as unreadable here.
    `warnings.catch_warnings` changes the whole process, so the threads that decode share one: the first to come in
    sets it, the last to go out takes it back.
    """
    global _threads_inside, _catcher
    with _silence:
        if _threads_inside == 0:
            _catcher = warnings.catch_warnings()
            _catcher.__enter__()
            warnings.simplefilter("ignore")
        _threads_inside += 1
    try:
        yield
    finally:
        with _silence:
            _threads_inside -= 1
            if _threads_inside == 0 and _catcher is not None:
                _catcher.__exit__(None, None, None)
                _catcher = None
