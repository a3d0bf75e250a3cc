"""Arrays of more than 8 bits a pixel become 8 as files do; their range is stated, or asked for where none is agreed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from selfsup.data.base import ArraySource, NoTestPart
from selfsup.data.deep_arrays import _ends
from selfsup.data.opening import open_part
from selfsup.data.settings import Data
from selfsup.data.sources import open_source

NUMBERS = np.random.default_rng(0)
WIDE = NUMBERS.integers(100, 5000, (5, 6, 7)).astype(np.uint16)
FLOAT = NUMBERS.normal(size=(5, 6, 7)).astype(np.float32)
LABELS = np.array([[0], [1], [0], [1], [0]], np.uint8)


def opened(folder: Path, array: np.ndarray, levels: str) -> ArraySource:
    np.save(folder / "a.npy", array)
    source = open_source(str(folder / "a.npy"), range=levels)
    assert isinstance(source, ArraySource)
    return source


@pytest.mark.parametrize("levels", ["type", "file", "p5", "200:4000"])
@pytest.mark.parametrize("kind", ["uint16", "float32"])
def test_an_array_is_read_as_files_of_the_same_pixels(tmp_path: Path, kind: str, levels: str) -> None:
    array = WIDE if kind == "uint16" else FLOAT * 2000
    if kind == "float32" and levels == "type":
        return
    folder = tmp_path / "files"
    folder.mkdir()
    for number, image in enumerate(array):
        Image.fromarray(image).save(folder / f"{number}.tiff")
    files, source = open_source(str(folder), range=levels), opened(tmp_path, array, levels)
    for index in range(5):
        assert np.array_equal(np.asarray(source.load(index)), np.asarray(files.load(index)))
        assert source.depth(index) == files.depth(index)
    part = source.select(source.labels.new_tensor([3, 1]))
    assert part.depth(0) == files.depth(3)


def test_colours_of_16_bits_keep_them_until_they_are_scaled(tmp_path: Path) -> None:
    colours = NUMBERS.integers(0, 4096, (4, 6, 7, 3)).astype(np.uint16)
    source = opened(tmp_path, colours, "0:4095")
    expected = np.floor(colours / 4095 * 255 + 0.5)
    assert np.array_equal(source.images.permute(0, 2, 3, 1).numpy(), expected)


def test_integers_with_a_sign(tmp_path: Path) -> None:
    array = np.array([[[-(2**15), 0, 2**15 - 1, 100]]] * 2, np.int16)
    assert opened(tmp_path, array, "type").images[0, 0, 0].tolist() == [0, 128, 255, 128]


@pytest.mark.parametrize(
    ("array", "levels", "words"),
    [
        (
            FLOAT.clip(0, 1),
            "type",
            r"float32 from 0 to 1; .* give --data.range 0:1, file",
        ),
        (np.arange(60).reshape(5, 3, 4), "type", "int64 from 0 to 59; such numbers have no agreed range"),
        (np.full((2, 3, 4), np.nan), "file", r"a.npy\[0\]: no pixel is a finite number"),
        (WIDE > 300, "type", "is bool; wanted numbers: uint8"),
    ],
)
def test_a_range_is_asked_for_and_never_guessed(tmp_path: Path, array: np.ndarray, levels: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        opened(tmp_path, array, levels)


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ("type", "uint16 pixels, 0 black and 65535 white"),
        ("type", "about 20 of 256 gray levels are left; give --data.range 100:"),
        ("0:4095", "uint16 pixels, 0 black and 4095 white"),
        ("0:4095", "what lies outside 0 to 4095 becomes black or white"),
        ("file", "uint16 pixels, of each image the lowest black and the highest white"),
        ("p1", "uint16 pixels, of each image percentile 1 black and 99 white"),
    ],
)
def test_the_range_is_stated(tmp_path: Path, levels: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    array = WIDE.copy()
    array[0, 0, 0] = 100
    np.save(tmp_path / "a.npy", array)
    open_part(Data(root=str(tmp_path / "a.npy"), range=levels), "train")
    assert words in capsys.readouterr().err


def test_ends_are_those_of_each_image_without_what_is_not_finite() -> None:
    array = FLOAT.copy()
    array[0, 0, 0], array[1, 2, 3], array[2] = np.nan, np.inf, np.nan
    lowest, highest = _ends(array)
    for number in (0, 1, 3, 4):
        finite = [value for value in array[number].ravel().tolist() if np.isfinite(value)]
        assert (lowest[number], highest[number]) == (min(finite), max(finite))
    assert np.isnan(lowest[2])
    assert np.isnan(highest[2])


def medical(folder: Path, *parts: str, **more: Any) -> str:
    """An npz with MedMNIST's names; the parts differ in their first pixel."""
    arrays = {f"{part}_images": np.full((5, 6, 7), number, np.uint8) for number, part in enumerate(parts)}
    labels = {f"{part}_labels": LABELS for part in parts}
    np.savez(folder / "m.npz", **arrays, **labels, **more)  # type: ignore[arg-type]
    return str(folder / "m.npz")


def test_names_as_medmnist_has_them(tmp_path: Path) -> None:
    root = medical(tmp_path, "train", "val", "test")
    train, test = open_source(root), open_source(root, "test")
    assert isinstance(train, ArraySource)
    assert isinstance(test, ArraySource)
    assert (int(train.images[0, 0, 0, 0]), int(test.images[0, 0, 0, 0])) == (0, 2)
    assert train.labels.tolist() == test.labels.tolist() == [0, 1, 0, 1, 0]
    assert train.found.left_out == test.found.left_out == ("2 arrays (val_images, val_labels) of another name",)
    assert len(open_source(str(tmp_path))) == 5  # the folder of it


def test_validation_images_are_the_test_part_where_there_is_no_other_which_is_said(tmp_path: Path) -> None:
    test = open_source(medical(tmp_path, "train", "val"), "test")
    repeated = "one channel, repeated to three (--data.channels 1 keeps one)"
    assert test.found.read_as == ("the test part is val_images", repeated)
    assert test.found.left_out == ()
    with pytest.raises(NoTestPart):
        open_source(medical(tmp_path, "train"), "test")
