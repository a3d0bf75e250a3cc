"""Small image files, sound and broken, made as they are needed."""

import functools
import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def picture(number: int, width: int = 20, height: int = 14) -> Image.Image:
    """A picture unlike any other number's."""
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def folder_of(root: Path, count: int, classes: tuple[str, ...] = (), broken: tuple[int, ...] = ()) -> Path:
    """`count` PNG files of different sizes in the order of their numbers; those of `broken` are cut short."""
    for number in range(count):
        place = root / classes[number * len(classes) // count] if classes else root
        place.mkdir(parents=True, exist_ok=True)
        content = encoded(picture(number, 16 + number % 5, 12 + number % 7))
        (place / f"{number:04d}.png").write_bytes(content[:60] if number in broken else content)
    return root


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds a few bytes."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(bytes(100))) + png_chunk(b"IEND", b"")


@functools.cache
def broken_images() -> dict[str, bytes]:
    """Name of the fault -> content of a file that no decoder should accept."""
    large = picture(0, 64, 48)
    jpeg, png, gif, webp = (encoded(large, form) for form in ("JPEG", "PNG", "GIF", "WEBP"))
    bmp, tiff, ppm = (encoded(large, form) for form in ("BMP", "TIFF", "PPM"))
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 0x10
    floats = io.BytesIO()
    Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(floats, "TIFF")
    bomb = png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80_000_000)))
    return {
        "no bytes": b"",
        "one byte": b"\xff",
        "zeros": bytes(4096),
        "noise": np.random.default_rng(0).bytes(4096),
        "text": b"this is no image\n" * 20,
        "html": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "jpeg marker only": jpeg[:2],
        "jpeg header only": jpeg[:200],
        "jpeg cut in half": jpeg[: len(jpeg) // 2],
        "jpeg tail only": jpeg[len(jpeg) // 2 :],
        "png signature only": png[:8],
        "png header only": png[:33],
        "png cut in half": png[: len(png) // 2],
        "png bit flipped": bytes(flipped),
        "png of 60,000 x 60,000": png_header(60_000, 60_000),
        "png of 12,000 x 10,000": png_header(12_000, 10_000),
        "png of no width": png_header(0, 10),
        "png text bomb": png[:33] + bomb + png[33:],
        "gif cut in half": gif[: len(gif) // 2],
        "webp cut in half": webp[: len(webp) // 2],
        "bmp cut in half": bmp[: len(bmp) // 2],
        "tiff cut in half": tiff[: len(tiff) // 2],
        "tiff of floats": floats.getvalue(),
        "ppm cut in half": ppm[: len(ppm) // 2],
        "ppm of letters": b"P6\nabc def\n255\n" + bytes(30),
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n",
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg' width='4' height='4'/>",
        "pdf": b"%PDF-1.4\n1 0 obj<<>>endobj\ntrailer<<>>\n%%EOF",
        "zip": b"PK\x03\x04" + bytes(100),
    }
