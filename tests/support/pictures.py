"""Small image files, sound and broken, made as they are needed."""

import functools
import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from selfsup.data.formats import FORMATS


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
    vast = bytearray(_saved(large, "WEBP", save_all=True, append_images=[picture(1, 64, 48)]))
    vast[24:30] = b"\xff\xff\xff" * 2  # the canvas that its header claims
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
        "jpeg of 200 scans": _scanned(large, 200),
        "jpeg of 3,000 scans": _scanned(large, 3000),
        "png signature only": png[:8],
        "png header only": png[:33],
        "png cut in half": png[: len(png) // 2],
        "png bit flipped": bytes(flipped),
        "png of 60,000 x 60,000": png_header(60_000, 60_000),
        "png of 12,000 x 10,000": png_header(12_000, 10_000),
        "png of no width": png_header(0, 10),
        "png text bomb": png[:33] + bomb + png[33:],
        "gif cut in half": gif[: len(gif) // 2],
        "webp of 2^24 x 2^24": bytes(vast),
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


def _saved(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _scanned(image: Image.Image, times: int) -> bytes:
    """A progressive JPEG whose last scan is there so many times more: each is a pass over all pixels."""
    whole = _saved(image, "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * times + whole[-2:]


def smooth() -> Image.Image:
    """64 x 48 pixels that every format codes well."""
    down, across = np.mgrid[:48, :64]
    return Image.fromarray(np.stack([4 * across, 5 * down, 2 * (down + across)], axis=-1).astype(np.uint8))


def _top_down(image: Image.Image) -> bytes:
    """A BMP of negative height: its first row is the upper one."""
    content = bytearray(_saved(image, "BMP"))
    start, row = struct.unpack_from("<I", content, 10)[0], -(-3 * image.width // 4) * 4
    struct.pack_into("<i", content, 22, -image.height)
    rows = [bytes(content[start + row * n : start + row * (n + 1)]) for n in range(image.height)]
    return bytes(content[:start]) + b"".join(reversed(rows))


def _endless(image: Image.Image) -> bytes:
    """A TIFF whose directory is followed by itself."""
    content = bytearray(_saved(image, "TIFF"))
    start = struct.unpack_from("<I", content, 4)[0]
    entries = struct.unpack_from("<H", content, start)[0]
    struct.pack_into("<I", content, start + 2 + 12 * entries, start)
    return bytes(content)


def _turned(image: Image.Image, orientation: int, form: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return _saved(image, form, exif=exif)


@functools.cache
def odd_images() -> dict[str, bytes]:
    """What is unusual about a file -> its content, which can be read."""
    plain, turned = smooth(), smooth().rotate(90)
    clear = plain.copy()
    clear.putalpha(plain.getchannel("R"))
    wide = np.asarray(plain.convert("L")).astype(np.uint16) * 257
    jpeg = _saved(plain, "JPEG")
    return {
        "cmyk jpeg": _saved(plain.convert("CMYK"), "JPEG"),
        "gray jpeg": _saved(plain.convert("L"), "JPEG"),
        "progressive jpeg": _saved(plain, "JPEG", progressive=True),
        "jpeg with a damaged colour profile": _saved(plain, "JPEG", icc_profile=b"no profile" * 30),
        "jpeg with bytes behind its end": jpeg + b"<html>" * 100,
        "jpeg that claims arithmetic coding": jpeg.replace(b"\xff\xc0", b"\xff\xc9", 1),
        "16-bit png": _saved(Image.fromarray(wide), "PNG"),
        "1-bit png": _saved(plain.convert("1"), "PNG"),
        "palette png": _saved(plain.quantize(16), "PNG"),
        "transparent palette png": _saved(plain.quantize(16), "PNG", transparency=3),
        "transparent rgb png": _saved(plain, "PNG", transparency=(0, 0, 0)),
        "gray and alpha png": _saved(clear.convert("LA"), "PNG"),
        "colour and alpha png": _saved(clear, "PNG"),
        "png with a damaged colour profile": _saved(plain, "PNG", icc_profile=b"no profile" * 30),
        "png of one pixel": _saved(plain.crop((0, 0, 1, 1)), "PNG"),
        "png of one column": _saved(plain.crop((0, 0, 1, 48)), "PNG"),
        "jpeg of one row": _saved(plain.crop((0, 0, 64, 1)), "JPEG"),
        "gif of two frames": _saved(plain.quantize(16), "GIF", save_all=True, append_images=[turned.quantize(16)]),
        "gif of 500 frames": _saved(
            plain.quantize(4), "GIF", save_all=True, append_images=[picture(n, 8, 8).quantize(2) for n in range(499)]
        ),
        "animated webp": _saved(plain, "WEBP", save_all=True, append_images=[turned.crop((0, 0, 64, 48))]),
        "lossless webp": _saved(clear, "WEBP", lossless=True),
        "bmp from the top": _top_down(plain),
        "bmp of a palette": _saved(plain.quantize(16), "BMP"),
        "cmyk tiff": _saved(plain.convert("CMYK"), "TIFF"),
        "tiff of two pages": _saved(plain, "TIFF", save_all=True, append_images=[turned]),
        "tiff whose directory follows itself": _endless(plain),
        "16-bit tiff": _saved(Image.fromarray(wide), "TIFF"),
        **{f"turned as EXIF's {number}": _turned(plain, number) for number in range(1, 9)},
    }


@functools.cache
def sound_images() -> dict[str, bytes]:
    """Form -> a file of it, to be damaged."""
    plain, turned = smooth(), smooth().rotate(90)
    few, more = plain.quantize(64), turned.quantize(64)
    tiffs = ("tiff_lzw", "tiff_deflate", "jpeg", "packbits")
    return {
        "jpeg": _saved(plain, "JPEG"),
        "progressive jpeg": _saved(plain, "JPEG", progressive=True),
        "cmyk jpeg": _saved(plain.convert("CMYK"), "JPEG"),
        "png": _saved(plain, "PNG"),
        "palette png": _saved(few, "PNG", transparency=3),
        "gif": _saved(few, "GIF"),
        "animated gif": _saved(few, "GIF", save_all=True, append_images=[more]),
        "webp": _saved(plain, "WEBP"),
        "lossless webp": _saved(plain, "WEBP", lossless=True),
        "animated webp": _saved(plain, "WEBP", save_all=True, append_images=[turned]),
        "bmp": _saved(plain, "BMP"),
        "run-length bmp": _saved(few, "BMP"),
        "tiff": _saved(plain, "TIFF"),
        **{f"tiff by {name.removeprefix('tiff_')}": _saved(plain, "TIFF", compression=name) for name in tiffs},
        "tiff by fax": _saved(plain.convert("1"), "TIFF", compression="group4"),
        "ppm": _saved(plain, "PPM"),
        **{form: _saved(plain, form) for form in ("AVIF", "JPEG2000") if form in FORMATS},
    }


def damaged(content: bytes, seed: int) -> bytes:
    """One to four bits flipped, in every second file among its first 400 bytes; every seventh is cut short as well."""
    random = np.random.default_rng(seed)
    result = bytearray(content)
    for place in random.integers(len(result) if seed % 2 else min(len(result), 400), size=1 + seed % 4):
        result[place] ^= 1 << int(random.integers(8))
    return bytes(result[: int(random.integers(len(result)))] if seed % 7 == 0 else result)


def broken_folder(folder: Path) -> dict[str, str]:
    """Make files, and things that are none, that no image can be read from; returns name -> kind."""
    folder.mkdir(parents=True, exist_ok=True)
    kinds: dict[str, str] = {}
    for number, (kind, content) in enumerate(broken_images().items()):
        name = f"broken_{number:02}" + (".jpg", ".png", ".TIFF", ".gif")[number % 4]
        (folder / name).write_bytes(content)
        kinds[name] = kind

    def other(kind: str, make: Callable[[Path], object]) -> None:
        name = f"broken_{len(kinds):02}.jpg"
        make(folder / name)
        kinds[name] = kind

    other("a link that leads nowhere", lambda path: path.symlink_to("nothing.png"))
    other("a link to itself", lambda path: path.symlink_to(path.name))
    other("a link to a device", lambda path: path.symlink_to("/dev/zero"))
    other("a pipe", os.mkfifo)
    other("an empty folder", Path.mkdir)
    other("a folder of other files", lambda path: (path / "in").mkdir(parents=True))
    return kinds


def blobs(number: int, width: int = 90, height: int = 60) -> Image.Image:
    """A picture of soft blobs of colour, unlike any other number's, that a small copy still shows."""
    return picture(number, 7, 5).resize((width, height), Image.Resampling.BICUBIC)
