"""What is found out about data: the same as by plain loops, whatever holds the images and whoever decodes them."""

import io
import json
import os
import shutil
import signal
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import get_worker_info

from selfsup.data.datasets import DatasetSource
from selfsup.data.parts import open_data
from selfsup.data.settings import Data
from selfsup.survey.account import Account, account_of
from selfsup.survey.measures import CHUNK
from selfsup.survey.told import figures, sentences
from tests.support.containers import tar_of
from tests.support.pictures import blobs, broken_folder, encoded, picture

# What is wrong with a file -> a part of what is said of it.
WHY = {
    "no bytes": "it is empty",
    "one byte": "no image of a known format",
    "zeros": "begins with zeros",
    "noise": "no image of a known format",
    "text": "it is text",
    "html": "a web page",
    "jpeg marker only": "header is damaged or cut short",
    "jpeg header only": "cut short",
    "jpeg cut in half": "cut short",
    "jpeg tail only": "no image of a known format",
    "jpeg of 200 scans": "209 scans",
    "jpeg of 3,000 scans": "3009 scans",
    "png signature only": "begins as PNG does",
    "png header only": "begins as PNG does",
    "png cut in half": "cut short",
    "png bit flipped": "damaged",
    "png of 60,000 x 60,000": "more pixels than are read",
    "png of 12,000 x 10,000": "12000 x 10000 pixels",
    "png of no width": "begins as PNG does",
    "png text bomb": "its text unpacks to far more",
    "gif cut in half": "cut short",
    "webp of 2^24 x 2^24": "16777216 x 16777216 pixels",
    "webp cut in half": "damaged",
    "bmp cut in half": "cut short",
    "tiff cut in half": "cut short",
    "tiff of floats": "give --data.range",
    "ppm cut in half": "cut short",
    "ppm of letters": "its header is damaged",
    "eps": "PostScript",
    "svg": "SVG drawing",
    "pdf": "PDF document",
    "zip": "zip archive",
    "a link that leads nowhere": "no such file",
    "a link to itself": "leads to itself",
    "a link to a device": "a pipe, a socket or a device",
    "a pipe": "a pipe, a socket or a device",
    "an empty folder": "it is a folder",
    "a folder of other files": "it is a folder",
}


def looked_at(root: Path | str, workers: int = 0, **settings: object) -> Account:
    data = Data(root=str(root), **settings)
    parts = {"train": open_data(data, "train")}
    parts["test"] = open_data(data, "test")
    return account_of(str(root), parts, workers, verify_full=False)


def test_the_truth_is_said_of_every_kind_of_broken_image(tmp_path: Path) -> None:
    kinds = broken_folder(tmp_path)
    (tmp_path / "sound.png").write_bytes(encoded(picture(0)))
    source = open_data(Data(root=str(tmp_path)), "train")
    found = account_of("", {"train": source}, 0, False)
    said = {Path(name).name: why for name, why in found.unreadable.items()}
    assert said.keys() == kinds.keys()
    wrong = {kind: said[name] for name, kind in kinds.items() if WHY[kind] not in said[name]}
    assert not wrong
    assert not [why for why in said.values() if "Error" in why or str(tmp_path) in why]
    assert found.parts["train"].readable == 1


@pytest.mark.parametrize(("broken", "count", "stops"), [(0, 9, False), (1, 9, False), (2, 9, True), (2, 250, False)])
def test_training_would_stop_where_it_does(tmp_path: Path, broken: int, count: int, stops: bool) -> None:
    (tmp_path / "0.png").write_bytes(encoded(picture(0)))
    for number in range(1, count):
        if number <= broken:
            (tmp_path / f"{number}.png").write_bytes(b"none")
        else:
            (tmp_path / f"{number}.png").hardlink_to(tmp_path / "0.png")
    part = account_of("", {"train": open_data(Data(root=str(tmp_path)), "train")}, 0, False).parts["train"]
    assert len(part.unreadable) == broken
    assert bool(part.refusal) == stops
    tones = [sentence.tone for sentence in sentences(Account("", {"train": part}, 0, *[no_twins()] * 2))]
    assert ("bad" in tones) == stops


def no_twins() -> object:
    from selfsup.survey.twins import Twins

    return Twins(0, 0, [], 0, [], 0)


def folders(root: Path) -> Path:
    """Two classes in two parts: 2 test images equal a training image each, 3 look like one; 2 labels disagree."""
    for number in range(80):
        place = root / "train" / ("cat" if number % 4 else "dog") / f"{number:02}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        blobs(number, 50 + number % 3, 40).save(place)
    for number in range(20):
        place = root / "test" / ("cat" if number % 4 else "dog") / f"{number:02}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        blobs(100 + number, 64, 48).save(place)
    for number in (5, 8):
        shutil.copy(root / "train" / ("cat" if number % 4 else "dog") / f"{number:02}.png", root / "test" / "cat")
    for number in (13, 14, 15):
        with Image.open(root / "train" / "cat" / f"{number:02}.png") as image:
            image.resize((30, 24)).save(root / "test" / "cat" / f"{number:02}.png")
    return root


def test_twins_are_found_across_the_parts(tmp_path: Path) -> None:
    found = looked_at(folders(tmp_path))
    assert (found.equal.images, found.equal.groups, found.equal.leaked, found.equal.mislabelled) == (4, 2, 2, 1)
    names = [[Path(found.name(image)).relative_to(tmp_path) for image in pair] for pair in found.equal.leaks]
    assert [[str(name) for name in pair] for pair in names] == [
        ["test/cat/05.png", "train/cat/05.png"],
        ["test/cat/08.png", "train/dog/08.png"],
    ]
    assert (found.alike.images, found.alike.groups, found.alike.leaked, found.alike.mislabelled) == (6, 3, 3, 0)
    names = [[Path(found.name(image)).relative_to(tmp_path) for image in pair] for pair in found.alike.leaks]
    assert all(str(test) == f"test/cat/{train.name}" for test, train in names)
    said = [sentence.text for sentence in sentences(found)]
    assert said[0].startswith("2 of 21 test images have the content of a training image.")  # leaks come first
    assert said[1].startswith("3 of 21 test images have the looks of a training image")


def test_twins_of_twins_leak_too() -> None:
    """A test image whose training twin looks like a third one, and equal images in both parts beside an alike one."""
    train = [blobs(0), blobs(1), blobs(2)]
    test = [blobs(0).resize((45, 30)), blobs(0).resize((45, 30)), blobs(1), blobs(3), blobs(0)]
    sources = [DatasetSource([(image, 0) for image in images], labels=[0] * len(images)) for images in (train, test)]
    found = account_of("", {"train": sources[0], "test": sources[1]}, 0, False)
    assert found.equal.leaks == [(5, 1), (7, 0)]
    assert found.equal.first == [[0, 7], [1, 5], [3, 4]]
    assert found.alike.leaks == [(3, 0), (4, 0)]  # the last one is equal, which is said elsewhere
    assert found.alike.first == [[0, 3, 4, 7]]


def test_classes_are_told_apart_by_their_names() -> None:
    """Each part may number its classes on its own, where none is in both."""
    parts = [DatasetSource([blobs(0), blobs(place)], [0, 1], ["b", name]) for place, name in ((1, "c"), (2, "d"))]
    other = DatasetSource([blobs(0)], [0], ["x"])
    assert account_of("", {"train": parts[0], "test": parts[1]}, 0, False).equal.mislabelled == 0
    assert account_of("", {"train": parts[0], "test": other}, 0, False).equal.mislabelled == 1


def test_levels_and_sizes_are_those_of_plain_loops(tmp_path: Path) -> None:
    found = looked_at(folders(tmp_path)).parts["train"]
    arrays = [np.asarray(found.source.load(row), dtype=np.float64) / 255 for row in range(len(found.source))]
    pixels = np.concatenate([array.reshape(-1, 3) for array in arrays])
    assert np.allclose(np.array(found.of_pixels), np.stack([pixels.mean(0), pixels.std(0)], axis=1), atol=1e-12)
    means = np.stack([array.mean(axis=(0, 1)) for array in arrays]).mean(axis=0)
    squares = np.stack([(array**2).mean(axis=(0, 1)) for array in arrays]).mean(axis=0)
    wanted = np.stack([means, np.sqrt(squares - means**2)], axis=1)
    assert np.allclose(np.array(found.of_images), wanted, atol=1e-12)
    assert not np.allclose(wanted, np.array(found.of_pixels), atol=1e-7), "the test shows both"
    assert found.sizes.tolist() == [list(array.shape[:2]) for array in arrays]
    assert found.classes == [("cat", 60), ("dog", 20)]
    assert found.forms == {"PNG, colour": 80}


def test_nothing_depends_on_the_number_of_processes(tmp_path: Path) -> None:
    folders(tmp_path)
    (tmp_path / "train" / "cat" / "broken.png").write_bytes(b"<html>")
    alone, beside = (figures(looked_at(tmp_path, workers)) for workers in (0, 2))
    assert json.dumps(alone) == json.dumps(beside)


@pytest.mark.parametrize("kind", ["zip", "tar", "pack"])
def test_what_holds_the_images_does_not_matter(tmp_path: Path, kind: str) -> None:
    root = folders(tmp_path / "files")
    plain = figures(looked_at(root))
    files = {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.png"))}
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        other = figures(looked_at(tmp_path / "a.zip"))
    elif kind == "tar":
        other = figures(looked_at(tar_of(tmp_path / "a.tar", files)))
    else:
        from selfsup.stages.packing import run_pack
        from selfsup.stages.settings import Packing

        run_pack(tmp_path / "pack", Packing(data=Data(root=str(root)), jpeg=200))  # no larger: byte for byte
        other = figures(looked_at(tmp_path / "pack"))
    assert other == plain


def test_arrays_are_equal_by_their_pixels(tmp_path: Path) -> None:
    images = np.stack([np.asarray(blobs(number, 32, 32)) for number in range(30)])
    labels = np.arange(30) % 3
    test = np.concatenate([images[:2], np.stack([np.asarray(blobs(50 + number, 32, 32)) for number in range(4)])])
    np.savez(tmp_path / "a.npz", x_train=images, y_train=labels, x_test=test, y_test=np.array([0, 2, 0, 1, 2, 0]))
    found = looked_at(tmp_path / "a.npz")
    assert (found.equal.leaks, found.equal.mislabelled, found.bytes) == ([(30, 0), (31, 1)], 1, None)
    assert found.alike.groups == 0


def test_large_files_are_compared_whole(tmp_path: Path) -> None:
    """Digests know the ends and the middle of a file: a difference elsewhere makes it another."""
    content = bytearray(encoded(picture(0, 300, 200), "BMP"))
    names = ("a", "b", "c")
    for name in names:
        (tmp_path / f"{name}.bmp").write_bytes(content)
    content[40_000] ^= 255
    (tmp_path / "b.bmp").write_bytes(content)
    found = account_of("", {"train": open_data(Data(root=str(tmp_path)), "train")}, 0, False)
    assert found.equal.first == [[0, 2]]
    assert found.alike.first == [[0, 1, 2]]  # of two contents


def test_names_that_say_another_format_and_channels_that_are_kept(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(picture(0)))
    (tmp_path / "b.png").write_bytes(encoded(picture(1)))
    (tmp_path / "c.png").write_bytes(encoded(picture(2).convert("L")))
    deep = io.BytesIO()
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(deep, "PNG")
    (tmp_path / "d.png").write_bytes(deep.getvalue())
    part = account_of("", {"train": open_data(Data(root=str(tmp_path)), "train")}, 0, False).parts["train"]
    assert part.misnamed == [0]
    assert part.forms == {"PNG, colour": 2, "PNG, gray": 1, "PNG, 16-bit": 1}
    np.save(tmp_path / "five.npy", np.random.default_rng(0).integers(0, 256, (6, 9, 8, 5), dtype=np.uint8))
    part = account_of("", {"train": open_data(Data(root=str(tmp_path / "five.npy"), channels=5), "train")}, 0, False)
    assert len(part.parts["train"].of_pixels) == 5


class Deadly:
    """Images of which one ends the process that reads it."""

    def __len__(self) -> int:
        return 3 * CHUNK

    def __getitem__(self, index: int) -> Image.Image:
        if index == CHUNK + 5 and get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return picture(0, 4, 4)


def test_a_process_that_is_lost_is_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"a process that decodes images was lost, at Deadly\[\d+\] or one of the"):
        account_of("", {"train": DatasetSource(Deadly(), [0] * 3 * CHUNK)}, 2, False)


def test_test_images_alone_are_looked_at() -> None:
    source = DatasetSource([blobs(number) for number in range(3)] * 2)
    found = account_of("", {"test": source}, 0, False)
    assert found.equal.first == [[0, 3], [1, 4], [2, 5]]
    assert found.equal.leaked == 0
    assert torch.equal(source.labels, torch.full((6,), -1))
    assert "test" in figures(found)
