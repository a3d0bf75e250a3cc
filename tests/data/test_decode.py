import io
import threading
import warnings

import numpy as np
import pytest
from PIL import Image, ImageOps

from selfsup.data.base import UnreadableImage
from selfsup.data.decode import decode
from tests.support.pictures import broken_images, encoded, picture


def opened(content: bytes, side: int | None = None) -> tuple[Image.Image, tuple[int, int]]:
    return decode(io.BytesIO(content), "the/path.jpg", side)


@pytest.mark.parametrize("fault", broken_images())
def test_every_broken_file_is_unreadable_and_named(fault):
    with pytest.raises(UnreadableImage, match=r"the/path\.jpg") as caught:
        opened(broken_images()[fault])
    assert caught.value.path == "the/path.jpg"
    assert caught.value.reason


def test_a_folder_is_unreadable(tmp_path):
    with pytest.raises(UnreadableImage, match=r": Is a directory$"):
        decode(tmp_path, str(tmp_path))


def test_the_pixel_cap_lies_above_pillows_warning_and_no_warning_turns_up():
    # 95 million pixels: Pillow would warn, and warnings are errors here; the cap is 100 million.
    with pytest.raises(UnreadableImage) as caught:
        opened(encoded_header(9_500, 10_000))
    assert "Warning" not in caught.value.reason
    with pytest.raises(UnreadableImage, match="more than 100,000,000"):
        opened(encoded_header(10_001, 10_000))


def encoded_header(width: int, height: int) -> bytes:
    return b"P6\n%d %d\n255\n" % (width, height) + bytes(30)


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_keep_every_pixel(form):
    image, size = opened(encoded(picture(1), form))
    assert image.mode == "RGB"
    assert size == (14, 20)
    np.testing.assert_array_equal(np.asarray(image), np.asarray(picture(1)))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bit_gray_is_scaled_and_not_clipped(form):
    wide = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    image, _ = opened(encoded(Image.fromarray(wide), form))
    np.testing.assert_array_equal(np.asarray(image)[..., 0], (wide / 257).round().astype(np.uint8))


def test_16_bit_pgm_is_scaled():
    wide = np.array([[0, 257, 32896, 65535]], dtype=">u2")
    image, _ = opened(b"P5\n4 1\n65535\n" + wide.tobytes())
    assert np.asarray(image)[0, :, 1].tolist() == [0, 1, 128, 255]


def test_transparent_pixels_become_gray_and_opaque_ones_stay():
    pixels = np.zeros((2, 3, 4), dtype=np.uint8)
    pixels[0] = (200, 10, 30, 255)
    pixels[1] = (200, 10, 30, 0)
    image = np.asarray(opened(encoded(Image.fromarray(pixels)))[0])
    assert image[0].tolist() == [[200, 10, 30]] * 3
    assert image[1].tolist() == [[128, 128, 128]] * 3


def test_a_palette_with_a_transparent_entry():
    palette = Image.fromarray(np.array([[0, 1]], dtype=np.uint8)).convert("P")
    palette.putpalette([255, 0, 0, 0, 255, 0])
    buffer = io.BytesIO()
    palette.save(buffer, "PNG", transparency=1)
    assert np.asarray(opened(buffer.getvalue())[0]).tolist() == [[[255, 0, 0], [128, 128, 128]]]


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "LA", "YCbCr"])
def test_every_common_mode_becomes_rgb_of_about_the_same_colour(mode):
    flat = Image.new("RGB", (16, 16), (255, 255, 255))
    form = {"CMYK": "JPEG", "YCbCr": "JPEG"}.get(mode, "PNG")
    image, _ = opened(encoded(flat.convert(mode), form))
    assert image.mode == "RGB"
    assert np.asarray(image).min() >= 250


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    picture(2).save(buffer, form, exif=exif)
    image, size = opened(buffer.getvalue())
    wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(buffer.getvalue()))).convert("RGB")
    np.testing.assert_array_equal(np.asarray(image), np.asarray(wanted))
    assert size == ((14, 20) if orientation < 5 else (20, 14))


def test_a_damaged_exif_block_does_not_cost_the_image():
    buffer = io.BytesIO()
    picture(3).save(buffer, "JPEG", exif=b"Exif\0\0garbage and more of it")
    assert opened(buffer.getvalue())[1] == (14, 20)


def test_a_canvas_lets_a_large_jpeg_be_decoded_smaller_but_keeps_its_size():
    large = encoded(Image.new("RGB", (800, 600), (10, 200, 90)), "JPEG")
    image, size = opened(large, side=32)
    assert size == (600, 800)
    assert image.size == (133, 100) or image.size == (100, 75)
    assert opened(large, side=400)[0].size == (800, 600)


def test_threads_that_decode_leave_the_warning_filters_as_they_were():
    before = list(warnings.filters)
    content = encoded(picture(4))
    threads = [threading.Thread(target=lambda: [opened(content) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before
