"""Crops of files by compiled code: to the bit what Pillow makes, and what is made where it cannot be had."""

import sys
from types import ModuleType

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor

import selfsup.augment
from selfsup.augment import files
from selfsup.augment.bands import Bands, Held, Pixels, bands_of
from selfsup.augment.files import center_files, crop_files, held
from selfsup.augment.parameters import Interpolation
from selfsup.augment.size import Size

PILLOWS = {"bilinear": PIL.Image.Resampling.BILINEAR, "bicubic": PIL.Image.Resampling.BICUBIC}
INTERPOLATIONS: tuple[Interpolation, ...] = ("bilinear", "bicubic", "bicubic_aliased")
SIZES: tuple[Size, ...] = (24, (31, 12), (8, 65), 1)
BOXES = torch.tensor([[0, 0, 75, 60], [11, 5, 40, 30], [74, 59, 1, 1], [20, 0, 1, 60], [3, 30, 70, 2], [9, 9, 24, 24]])


def picture(channels: int = 3, stark: bool = False) -> np.ndarray:
    """Noise, all of whose pixels are black or white where it is stark, so that cubic weights overshoot."""
    noise = np.random.default_rng(channels).integers(0, 256, (75, 60, channels), dtype=np.uint8)
    return (noise > 127).astype(np.uint8) * np.uint8(255) if stark else noise


def test_it_is_compiled_here() -> None:
    assert isinstance(files.compiled(), ModuleType)


@pytest.mark.parametrize("stark", [False, True])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_every_bit_is_pillows(interpolation: Interpolation, size: Size, stark: bool) -> None:
    array = picture(stark=stark)
    image = PIL.Image.fromarray(array)
    shape = (size, size) if isinstance(size, int) else size
    made = crop_files([Pixels(array)] * len(BOXES), BOXES, size, interpolation)
    for (top, left, height, width), crop in zip(BOXES.tolist(), made, strict=True):
        part = image.crop((left, top, left + width, top + height))
        wanted = np.asarray(part.resize(shape[::-1], PILLOWS[interpolation]))
        assert np.array_equal(crop.permute(1, 2, 0).numpy(), wanted)
    for fraction in (0.31, 0.875, 1.0):  # boxes that begin and end within a pixel
        left, top = (60 - 60 * fraction) / 2, (75 - 75 * fraction) / 2
        box = (left, top, left + 60 * fraction, top + 75 * fraction)
        wanted = np.asarray(image.resize(shape[::-1], PILLOWS[interpolation], box=box))
        (seen,) = center_files([Pixels(array)], size, fraction, interpolation, "whole")
        assert np.array_equal(seen.permute(1, 2, 0).numpy(), wanted)


def both(images: list[Held], interpolation: Interpolation, size: Size) -> list[Tensor]:
    boxes = BOXES[: len(images)]
    return [crop_files(images, boxes, size, interpolation), center_files(images, size, 0.875, interpolation, "center")]


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_the_same_bits_without_numba(
    channels: int, interpolation: Interpolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = [picture(channels), picture(channels, stark=True), picture(channels)[::-1]]
    images: list[Held] = [bands_of(array) for array in arrays]
    if channels == 3:
        images = [PIL.Image.fromarray(np.ascontiguousarray(array)) for array in arrays]
    compiled = [made for size in SIZES for made in both([held(image) for image in images], interpolation, size)]
    assert all(isinstance(held(image), Pixels) for image in images)
    monkeypatch.setattr(files, "compiled", lambda: None)
    assert all(held(image) is image for image in images)
    for given in (images, [Pixels(array) for array in arrays]):
        plain = [made for size in SIZES for made in both(given, interpolation, size)]
        assert all(torch.equal(one, other) for one, other in zip(compiled, plain, strict=True))
    assert compiled[0].shape == (3, channels, 24, 24)
    assert compiled[0].is_contiguous()
    assert plain[0].is_contiguous()


def test_nothing_is_compiled_for_a_few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "compiled", lambda: pytest.fail("it was asked for"))
    assert both([PIL.Image.fromarray(picture())], "bicubic", 24)[0].shape == (1, 3, 24, 24)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_a_crop_does_not_depend_on_the_others_of_its_batch(interpolation: Interpolation) -> None:
    array = picture()
    together = crop_files([Pixels(array)] * len(BOXES), BOXES, 20, interpolation)
    for number, box in enumerate(BOXES):
        assert torch.equal(together[number], crop_files([Pixels(array)], box[None], 20, interpolation)[0])


def test_where_numba_is_missing_it_is_said_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = both([Pixels(picture())], "bicubic", 24)
    monkeypatch.delattr(selfsup.augment, "resampling")
    monkeypatch.setitem(sys.modules, "selfsup.augment.resampling", None)
    files.compiled.cache_clear()
    try:
        for _ in range(2):
            made = both([Pixels(picture())], "bicubic", 24)
            assert all(torch.equal(one, other) for one, other in zip(made, wanted, strict=True))
    finally:
        files.compiled.cache_clear()
    assert capsys.readouterr().err.count("crops of image files are made by Pillow, which is slower") == 1


def test_code_that_makes_other_pixels_than_pillow_is_not_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    resampling = files.compiled()
    assert resampling is not None
    monkeypatch.setattr(resampling, "resize_box", lambda *_: None)
    files.compiled.cache_clear()
    try:
        assert files.compiled() is None
    finally:
        files.compiled.cache_clear()
    assert "bilinear is not what Pillow makes" in capsys.readouterr().err


def test_pictures_of_different_channels_are_refused() -> None:
    pictures = [Pixels(picture(3)), Pixels(picture(1))]
    with pytest.raises(ValueError, match="different numbers of channels"):
        crop_files(pictures, BOXES[:2], 8, "bilinear")


def test_a_picture_as_an_array_does_what_pillows_does() -> None:
    array = picture()
    given, image = Pixels(array), PIL.Image.fromarray(array)
    assert (given.size, given.width, given.height) == (image.size, image.width, image.height)
    assert np.array_equal(np.asarray(given), array)
    assert not given.array.flags.writeable
    assert array.flags.writeable
    assert given.crop((5, 6, 70, 20)).tobytes() == image.crop((5, 6, 70, 20)).tobytes()
    assert given.resize((9, 5)).tobytes() == image.resize((9, 5)).tobytes()
    assert isinstance(Pixels(picture(5)).picture(), Bands)
