"""Images that keep their channels: `--data.channels`."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from selfsup.augment.bands import Bands
from selfsup.data import resident
from selfsup.data.arrays import images_from_array
from selfsup.data.base import ArraySource, UnreadableImage
from selfsup.data.channels import Channels
from selfsup.data.datasets import DatasetSource
from selfsup.data.decode import as_picture, decode
from selfsup.data.given import training_images
from selfsup.data.levels import parse_levels
from selfsup.data.opening import open_part
from selfsup.data.parts import open_data
from selfsup.data.resident import CanvasSource
from selfsup.data.settings import Data
from selfsup.data.sources import open_source
from selfsup.training.channels import statistics

FIVE = np.random.default_rng(0).integers(0, 256, (6, 8, 7, 5), dtype=np.uint8)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_arrays_keep_their_channels(tmp_path: Path, layout: str, channels: int) -> None:
    wanted = FIVE[..., :channels]
    np.save(tmp_path / "a.npy", wanted if layout == "NHWC" else wanted.transpose(0, 3, 1, 2))
    source = open_source(str(tmp_path / "a.npy"), channels=channels)
    assert isinstance(source, ArraySource)
    assert source.channels == channels
    assert np.array_equal(source.images.permute(0, 2, 3, 1).numpy(), wanted)
    assert f"{channels} channel" in source.found.read_as[-1]
    for index in range(6):
        assert np.array_equal(np.array(source.load(index)), wanted[index])


def test_gray_arrays_have_one_channel(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", train_images=FIVE[..., 0], train_labels=np.arange(6)[:, None])
    kept = open_source(str(tmp_path / "a.npz"), channels=1)
    assert isinstance(kept, ArraySource)
    assert kept.images.shape == (6, 1, 8, 7)
    assert kept.found.read_as == ("1 channel kept",)
    spread = open_source(str(tmp_path / "a.npz"))
    assert spread.channels == 3
    assert spread.found.read_as == ("one channel, repeated to three (--data.channels 1 keeps one)",)


def test_deep_arrays_keep_their_channels(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", FIVE.astype(np.uint16) * 10)
    source = open_source(str(tmp_path / "a.npy"), range="0:2550", channels=5)
    assert isinstance(source, ArraySource)
    assert np.array_equal(source.images.permute(0, 2, 3, 1).numpy(), FIVE)
    np.save(tmp_path / "f.npy", FIVE.astype(np.float32) / 255)
    floats = open_source(str(tmp_path / "f.npy"), range="0:1", channels=5)
    assert isinstance(floats, ArraySource)
    assert np.array_equal(floats.images.permute(0, 2, 3, 1).numpy(), FIVE)


@pytest.mark.parametrize(
    ("array", "channels", "told"),
    [
        (FIVE, "rgb", r"shape \(6, 8, 7, 5\); wanted .*, with at least one image; --data.channels 5 keeps other"),
        (FIVE, 4, r"data.channels is 4, so wanted \(N, H, W, 4\), \(N, 4, H, W\), with at least one image$"),
        (FIVE, 1, r"data.channels is 1, so wanted \(N, H, W, 1\), \(N, 1, H, W\) or \(N, H, W\), with"),
        (FIVE[..., 0], 5, r"shape \(6, 8, 7\); data.channels is 5"),
        (FIVE[:, :5], 5, r"shape \(6, 5, 7, 5\), which can be read in two ways.*so that no side is 5 pixels"),
        (FIVE[:0], 5, r"with at least one image"),
    ],
)
def test_arrays_of_other_channels_are_refused(array: np.ndarray, channels: Channels, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        images_from_array(array, "a.npy", channels=channels)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> io.BytesIO:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer


def test_files_keep_their_channels() -> None:
    gray, rgba = Image.fromarray(FIVE[0, ..., 0]), Image.fromarray(FIVE[0, ..., :4], "RGBA")
    for image, channels, kind in ((gray, 1, "PNG"), (gray, 1, "TIFF"), (rgba, 4, "PNG"), (rgba, 4, "TIFF")):
        picture, size = decode(encoded(image, kind), "a", channels=channels)
        assert isinstance(picture, Bands)
        assert size == (8, 7)
        assert np.array_equal(np.array(picture), np.asarray(image).reshape(8, 7, channels))
    pages = [Image.fromarray(FIVE[0, ..., channel]) for channel in range(5)]
    stack = encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert np.array_equal(np.array(decode(stack, "a", channels=5)[0]), FIVE[0])
    assert np.array_equal(np.array(decode(stack, "a", channels=1)[0])[..., 0], FIVE[0, ..., 0])  # the first frame
    turned = Image.Exif()
    turned[0x0112] = 6
    upright, size = decode(encoded(rgba, exif=turned), "a", channels=4)
    assert size == (7, 8)
    assert np.array_equal(np.array(upright), np.rot90(FIVE[0, ..., :4], -1))


def test_deep_pages_become_eight_bits() -> None:
    pages = [Image.fromarray(FIVE[0, ..., channel].astype(np.uint16) * 10) for channel in range(5)]
    stack = encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    picture = decode(stack, "a", levels=parse_levels("0:2550"), channels=5)[0]
    assert np.array_equal(np.array(picture), FIVE[0])


def test_files_of_other_channels_are_refused() -> None:
    rgb, gray = Image.fromarray(FIVE[0, ..., :3]), Image.fromarray(FIVE[0, ..., 0])
    for image, channels, told in (
        (rgb, 1, r"it has 3 channels \(RGB\) and data.channels is 1; .*, or give --data.channels rgb"),
        (rgb, 5, r"it has 3 channels .* save images of 5 as one .npy, \(N, H, W, C\)"),
        (gray, 3, r"it has 1 channel \(L\) and data.channels is 3; .*, or give --data.channels 1"),
        (gray.convert("P"), 1, r"it has 1 channel \(P\) and data.channels is 1; .*, or give --data.channels rgb"),
    ):
        with pytest.raises(UnreadableImage, match=told):
            decode(encoded(image), "a.png", channels=channels)
        with pytest.raises(ValueError, match=told):
            as_picture(image, channels=channels)
    with pytest.raises(UnreadableImage, match=r"more channels than Pillow reads go into one .npy, \(N, H, W, C\)"):
        decode(io.BytesIO(b"II*\0"), "a.tif", channels=5)
    mixed = encoded(gray, "TIFF", save_all=True, append_images=[gray.resize((3, 3))])
    with pytest.raises(UnreadableImage, match="its 2 pages are not one channel each, all of one size"):
        decode(mixed, "a.tif", channels=2)


def test_folders_and_canvases_keep_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        Image.fromarray(FIVE[number, ..., :4], "RGBA").save(tmp_path / f"{number}.png")
    source = open_source(str(tmp_path), channels=4)
    assert source.channels == source.select(torch.tensor([2])).channels == 4
    whole = CanvasSource(source, 7)
    assert (whole.channels, whole.images.shape) == (4, (4, 4, 7, 7))
    band = Image.fromarray(FIVE[1, ..., 3]).resize((7, 7), Image.Resampling.BILINEAR)
    assert np.array_equal(whole.images[1, 3].numpy(), np.asarray(band))
    assert open_source(str(tmp_path)).channels == 3
    monkeypatch.setattr(resident, "free_memory", lambda: 4 * 4 * 7 * 7 - 1)
    with pytest.raises(ValueError, match=r"4 images of 7 x 7 pixels need"):
        CanvasSource(source, 7)


@pytest.mark.parametrize(
    ("mode", "told"),
    [
        ("L", "4 images looked at have 1 channel, which is repeated to three; --data.channels 1 keeps what is there"),
        ("RGBA", "4 images looked at have 4 channels, which become red, green and blue; --data.channels 4 keeps what"),
        ("RGB", ""),
        ("P", ""),
    ],
)
def test_what_becomes_of_channels_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: str, told: str
) -> None:
    for number in range(4):
        Image.fromarray(FIVE[number, ..., :3]).convert(mode).save(tmp_path / f"{number}.png")
    open_part(Data(root=str(tmp_path)), "train")
    said = " ".join(capsys.readouterr().err.split())
    assert told in said
    assert ("--data.channels" in said) == bool(told)


def test_several_roots_keep_channels(tmp_path: Path) -> None:
    for number in range(2):
        np.save(tmp_path / f"{number}.npy", FIVE)
    source = open_data(Data(root=(str(tmp_path / "0.npy"), str(tmp_path / "1.npy")), channels=5), "train")
    assert (source.channels, len(source)) == (5, 12)
    assert np.array_equal(np.array(source.load(7)), FIVE[1])


def test_generated_shapes_are_colours() -> None:
    with pytest.raises(ValueError, match=r"shapes:10 has 3 channels and data.channels is 5; leave it out"):
        open_part(Data(root="shapes:10", channels=5), "train")
    for wrong in (0, 5000):
        with pytest.raises(ValueError, match=rf"data.channels is {wrong}; give rgb, or the number of channels"):
            Data(channels=wrong)


@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize("form", ["array", "tensor", "float"])
def test_torch_data_sets_keep_channels(channels: int, form: str) -> None:
    pixels = FIVE[..., :channels]
    dataset: Any = {
        "array": list(pixels),
        "tensor": list(torch.from_numpy(pixels).permute(0, 3, 1, 2)),
        "float": list(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255),
    }[form]
    source = training_images(Data(channels=channels), dataset)
    assert source.channels == channels
    for index in range(6):
        assert np.array_equal(np.array(source.load(index)), pixels[index])
    other = DatasetSource(dataset, channels=4)
    with pytest.raises(UnreadableImage, match=rf"gives uint8 \(8, 7, {channels}\); wanted uint8 \(H, W, 4\), as data"):
        other.load(0)


def test_given_images_of_other_channels_are_refused() -> None:
    images = ArraySource(torch.from_numpy(FIVE).permute(0, 3, 1, 2).contiguous())
    assert training_images(Data(channels=5), images) is images
    with pytest.raises(ValueError, match=r"given with 5 channels and data.channels is rgb; give Data\(channels=5\)"):
        training_images(Data(), images)


def test_statistics_are_those_of_all_pixels() -> None:
    source = ArraySource(torch.from_numpy(FIVE).permute(0, 3, 1, 2).contiguous())
    mean, std = statistics(source)
    pixels = FIVE.reshape(-1, 5) / 255.0
    assert np.abs(pixels.mean(axis=0) - mean).max() <= 0.5001e-4
    assert np.abs(pixels.std(axis=0) - std).max() <= 0.5001e-4
    constant = ArraySource(torch.full((3, 2, 4, 4), 51, dtype=torch.uint8))
    assert statistics(constant) == ((0.2, 0.2), (1.0, 1.0))
