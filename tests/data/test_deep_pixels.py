"""Pixels of more than 8 bits: what becomes black and white, and what is said where little of the range is used."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from selfsup.data.base import UnreadableImage
from selfsup.data.decode import decode
from selfsup.data.levels import Levels, parse_levels
from selfsup.data.opening import open_part
from selfsup.data.settings import Data
from tests.support.pictures import png_chunk

RAMP = np.arange(64 * 32).reshape(32, 64)  # 0 to 2,047


def tiff(pixels: np.ndarray, sample_format: int) -> bytes:
    """An uncompressed TIFF of these gray pixels; the format is 1 of unsigned, 2 of signed numbers, 3 of floats."""
    data, bits = pixels.tobytes(), 8 * pixels.itemsize
    height, width = pixels.shape
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, 1), (273, 8), (277, 1), (278, height)]
    tags += [(279, len(data)), (339, sample_format)]
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


def colour_png(pixels: np.ndarray) -> bytes:  # (H, W, 3) of 16 bits
    import zlib

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")


def gray(content: bytes, levels: str = "type") -> np.ndarray:
    image = np.asarray(decode(io.BytesIO(content), "name", levels=parse_levels(levels))[0])
    assert (image == image[..., :1]).all()
    return image[..., 0]


def stretched(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.floor((pixels.astype(float) - low).clip(0, high - low) / (high - low) * 255 + 0.5).astype(int)


FILES = {
    "png of 16 bits": (png(RAMP), RAMP, (0, 65535)),
    "tiff of 16 bits": (tiff(RAMP.astype("<u2"), 1), RAMP, (0, 65535)),
    "signed tiff": (tiff((RAMP - 1000).astype("<i2"), 2), RAMP - 1000, (-32768, 32767)),
    "tiff of 32 bits": (tiff((RAMP * 2_000_000).astype("<u4"), 1), RAMP * 2_000_000, (0, 2**32 - 1)),
    "signed tiff of 32 bits": (tiff((RAMP * -9999).astype("<i4"), 2), RAMP * -9999, (-(2**31), 2**31 - 1)),
    "signed tiff of 8 bits": (tiff((RAMP % 256 - 128).astype("i1"), 2), RAMP % 256 - 128, (-128, 127)),
}


@pytest.mark.parametrize("kind", FILES)
def test_black_and_white_are_where_the_range_says(kind: str) -> None:
    content, pixels, ends = FILES[kind]
    assert np.abs(gray(content) - stretched(pixels, *ends)).max() == 0
    assert np.abs(gray(content, "file") - stretched(pixels, pixels.min(), pixels.max())).max() == 0
    low, high = np.percentile(pixels, (2, 98))
    assert np.abs(gray(content, "p2") - stretched(pixels, low, high)).max() == 0
    assert np.abs(gray(content, "-100:1023") - stretched(pixels, -100, 1023)).max() == 0


def test_floats_need_a_range_and_what_is_no_number_is_black() -> None:
    pixels = (RAMP / 2047).astype("<f4")
    pixels[0, :3] = np.nan, np.inf, -np.inf
    content = tiff(pixels, 3)
    with pytest.raises(UnreadableImage, match=r"no agreed range; give --data\.range LOW:HIGH, file or p1"):
        decode(io.BytesIO(content), "name")
    for levels, ends in (("0:1", (0, 1)), ("file", (pixels[0, 3], 1))):
        found = gray(content, levels)
        assert found[0, :3].tolist() == [0, 255, 0]
        np.testing.assert_array_equal(found[1:], stretched(pixels[1:], *ends))


def test_one_value_is_black_and_bytes_stay_as_they_are() -> None:
    assert gray(png(np.full((4, 4), 700)), "file").max() == 0
    buffer = io.BytesIO()
    Image.fromarray((RAMP % 256).astype(np.uint8)).save(buffer, "PNG")
    np.testing.assert_array_equal(gray(buffer.getvalue(), "0:10"), RAMP % 256)


@pytest.mark.parametrize("text", ["", "p50", "p-1", "pnan", "5:5", "9:1", "0:inf", "nan:1", "0", "full", "0:1:2"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"data\.range is .*; it must be type, file, a percentile .* or LOW:HIGH"):
        Data(range=text)


def test_ranges() -> None:
    assert parse_levels("p0.5") == Levels("percentile", 0.5)
    assert parse_levels("-1024:3071") == Levels("fixed", -1024, 3071)


# Of gray files this is said in any case; nothing else is where their range is used.
GRAY = "3 images looked at have 1 channel, which is repeated to three; --data.channels 1 keeps what is there\n"


def said(folder: Path, content: bytes, levels: str, capsys: pytest.CaptureFixture[str]) -> str:
    for number in range(3):
        (folder / f"{number}.png").write_bytes(content)
    open_part(Data(root=str(folder), range=levels), "train")
    return capsys.readouterr().err.partition("\n")[2]


@pytest.mark.parametrize("bits", [8, 10, 12])
def test_files_that_use_little_of_their_range_are_told_with_what_they_use(
    bits: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    top = 2**bits - 1
    content = png(RAMP * top // RAMP.max())
    told = said(tmp_path, content, "type", capsys)
    assert f"16-bit pixels, which are from 0 to {top} in 3 images looked at of 0 to 65535: about" in told
    assert f"give --data.range 0:{top}, file or p1" in told
    assert said(tmp_path, content, f"0:{top}", capsys) == GRAY
    assert f"what lies outside 0 to {top // 2} becomes" in said(tmp_path, content, f"0:{top // 2}", capsys)


def test_other_depths_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(tmp_path, png(RAMP * 32), "type", capsys) == GRAY
    assert "they have no agreed range: give --data.range 0:2" in said(
        tmp_path, tiff((RAMP / 1023.5).astype("<f4"), 3), "type", capsys
    )
    dark = colour_png(np.stack([RAMP, RAMP, RAMP], axis=-1))
    assert "save them with 8 bits" in said(tmp_path, dark, "type", capsys)
    with pytest.raises(UnreadableImage, match=r"data\.range is for gray ones"):
        decode(io.BytesIO(dark), "name", levels=parse_levels("file"))
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    assert "data.range plays no part: of 3 images" in said(tmp_path, buffer.getvalue(), "file", capsys)
