"""JPEG files by simplejpeg: the pixels that Pillow makes, or Pillow's own word on the file."""

import builtins
import io
import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from selfsup.augment.bands import Pixels
from selfsup.data import jpeg
from selfsup.data.base import UnreadableImage
from selfsup.data.decode import decode, decode_held
from selfsup.data.files import FileSource
from selfsup.data.quiet import tolerant
from tests.support.pictures import broken_images, odd_images, sound_images

simplejpeg = pytest.importorskip("simplejpeg")

SHAPES = [(1, 1), (1, 9), (17, 33), (16, 16), (8, 64), (63, 65)]
QUALITIES = (1, 30, 75, 95, 100)


def photo(height: int, width: int) -> Image.Image:
    """Soft shapes of strong colours, so that subsampling shows."""
    coarse = np.random.default_rng(height).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def saved(image: Image.Image, quality: int = 75, **settings: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, **settings)
    return file.getvalue()


def outcome(content: bytes, held: bool) -> np.ndarray | str:
    """The pixels, or why there are none."""
    try:
        return np.asarray(decode_held(io.BytesIO(content), "x") if held else decode(io.BytesIO(content), "x")[0])
    except UnreadableImage as error:
        return error.reason


def assert_as_pillow(content: bytes, name: str = "") -> None:
    slow, fast = outcome(content, held=False), outcome(content, held=True)
    assert isinstance(slow, str) == isinstance(fast, str), (name, slow, fast)
    assert slow == fast if isinstance(slow, str) else np.array_equal(slow, fast), name


def is_fast(content: bytes) -> bool:
    return isinstance(decode_held(io.BytesIO(content), "x"), Pixels)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("subsampling", ["444", "422", "420", "411", "440"])
def test_every_pixel_is_pillows(subsampling: str, shape: tuple[int, int]) -> None:
    pixels = np.ascontiguousarray(photo(*shape))
    for quality in QUALITIES:
        content = simplejpeg.encode_jpeg(pixels, quality, "RGB", subsampling)
        assert is_fast(content)
        assert_as_pillow(content)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "settings",
    [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"optimize": True}, {"subsampling": 0, "keep_rgb": True}],
    ids=str,
)
def test_every_form_of_file_gives_pillows_pixels(settings: dict[str, Any], shape: tuple[int, int]) -> None:
    image = photo(*shape)
    for quality in QUALITIES:
        for mode in ("RGB", "L") if "keep_rgb" not in settings else ("RGB",):
            content = saved(image.convert(mode), quality, **settings)
            assert is_fast(content)
            assert_as_pillow(content)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_their_exif_says(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved(photo(17, 33), exif=exif)
    assert outcome(content, held=True).shape[:2] == ((17, 33) if orientation < 5 else (33, 17))  # type: ignore[union-attr]
    assert_as_pillow(content)


def test_other_files_are_pillows() -> None:
    assert not is_fast(saved(photo(17, 33).convert("CMYK")))
    for name, content in {**odd_images(), **sound_images(), **broken_images()}.items():
        assert_as_pillow(content, name)


@pytest.mark.parametrize("settings", [{}, {"progressive": True}, {"restart_marker_rows": 1}], ids=str)
def test_what_pillow_says_of_damaged_files_stands(settings: dict[str, Any]) -> None:
    whole, chance = saved(photo(40, 31), **settings), random.Random(0)
    refused = 0
    for _ in range(300):
        content = bytearray(whole)
        place = chance.randrange(2, len(content))
        how = chance.randrange(4)
        if how == 0:
            del content[place:]
        elif how == 1:
            del content[place : place + 3]
        elif how == 2:
            content[place:place] = bytes([255, chance.randrange(256)])
        else:
            content[place] = chance.randrange(256)
        assert_as_pillow(bytes(content))
        refused += isinstance(outcome(bytes(content), held=True), str)
    assert 60 < refused < 240
    with tolerant():
        assert_as_pillow(whole[:-40])
        assert not is_fast(whole[:-40])


def test_a_file_that_asks_for_hours_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jpeg, "_decoder", lambda: pytest.fail("it was decoded"))
    content = saved(photo(17, 33), progressive=True)
    start = content.rindex(b"\xff\xda")
    with pytest.raises(UnreadableImage, match="scans of 33 x 17 pixels"):
        decode_held(io.BytesIO(content[:start] + content[start:-2] * 70 + content[-2:]), "x")


@pytest.mark.parametrize("shape", [(16, 33), (18, 33), (33, 17), (40, 40)])
def test_a_file_of_another_size_than_pillow_has_read_is_left_to_pillow(shape: tuple[int, int]) -> None:
    header = Image.open(io.BytesIO(saved(photo(17, 33))))
    assert jpeg.rgb_pixels(saved(photo(17, 33)), header) is not None
    assert jpeg.rgb_pixels(saved(photo(*shape)), header) is None


def test_without_simplejpeg_pillow_makes_the_same_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    content = saved(photo(17, 33))
    wanted = outcome(content, held=True)
    found = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name == "simplejpeg":
            raise ModuleNotFoundError(name)
        return found(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    jpeg._decoder.cache_clear()
    try:
        assert not is_fast(content)
        assert np.array_equal(outcome(content, held=True), wanted)
    finally:
        jpeg._decoder.cache_clear()


def test_a_library_of_other_pixels_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    real = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *given, **how: real(*given, **(how | {"fastupsample": True})))
    jpeg._decoder.cache_clear()
    try:
        assert not is_fast(saved(photo(17, 33)))
    finally:
        jpeg._decoder.cache_clear()


def test_files_of_a_folder_come_as_arrays(tmp_path: Any) -> None:
    (tmp_path / "a.jpg").write_bytes(saved(photo(17, 33)))

    source = FileSource(tmp_path, ["a.jpg"], torch.tensor([0]), ("a",))
    assert isinstance(source.load_for_crop(0), Pixels)
    assert np.array_equal(np.asarray(source.load_for_crop(0)), np.asarray(source.load(0)))
