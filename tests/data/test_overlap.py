"""Test images that are training images: found by all their bytes or pixels, wherever they lie, and said."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from selfsup.data import overlap
from selfsup.data.base import ArraySource, Source
from selfsup.data.files import FileSource
from selfsup.data.looked import BLOCK, WHOLE
from selfsup.data.overlap import shared_images
from selfsup.data.parts import open_data
from selfsup.data.resident import CanvasSource
from selfsup.data.settings import Data
from selfsup.data.shapes import shapes
from selfsup.data.sources import open_source
from selfsup.evaluation.logistic import FeatureProbe
from selfsup.pretraining import pretrain
from selfsup.stages.knn import KNN, run_knn
from selfsup.stages.linear import run_linear
from tests.support.encoders import export_untrained
from tests.support.pictures import folder_of
from tests.support.tiny import photographs, tiny_run


def divided(root: Path, copies: int) -> Path:
    """Training and test pictures, of which the first training ones are among the test images by other names."""
    folder_of(root / "train", 12, ("a", "b"))
    for number in range(20, 26):
        place = root / "test" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.png").write_bytes(b"unlike any other %d" % number)
    for number in range(copies):
        shutil.copy(root / "train" / "a" / f"{number:04}.png", root / "test" / "b" / f"copy{number}.png")
    return root


def naive(train: Source, test: Source) -> list[tuple[str, str]]:
    """By comparing every file with every other."""
    pairs = [(test.name(t), train.name(n)) for t in range(len(test)) for n in range(len(train))]
    return [(t, n) for t, n in pairs if Path(t).read_bytes() == Path(n).read_bytes()]


@pytest.mark.parametrize("copies", [0, 1, 4])
def test_equal_files_are_found_by_any_name(tmp_path: Path, copies: int) -> None:
    root = str(divided(tmp_path, copies))
    train, test = open_source(root), open_source(root, "test")
    expected = naive(train, test)
    found = shared_images(train, test)
    assert len(expected) == copies
    assert (found is None) if not copies else (found == (copies, expected[0], 0))


def large(folder: Path, name: str, change: int | None) -> FileSource:
    content = bytearray(np.random.default_rng(0).bytes(3 * WHOLE))
    if change is not None:
        content[change] ^= 1
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    return FileSource(folder, [name], torch.zeros(1, dtype=torch.int64))


def test_large_files_are_compared_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, same = large(tmp_path / "a", "x.png", None), large(tmp_path / "b", "y.png", None)
    other = large(tmp_path / "c", "z.png", 2 * BLOCK)  # where its digest does not look
    assert shared_images(train, same) == (1, (same.name(0), train.name(0)), 0)
    assert shared_images(train, other) is None
    monkeypatch.setattr(overlap, "_COMPARED", 6 * WHOLE - 1)
    assert shared_images(train, other) == (1, (other.name(0), train.name(0)), 1)


def test_archives_several_roots_and_canvases_are_compared(tmp_path: Path) -> None:
    root = divided(tmp_path / "data", 2)
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        for path in (root / "train").rglob("*.png"):
            archive.write(path, path.relative_to(root / "train"))
    folder_of(tmp_path / "more", 2, ("a", "b"))
    data = Data(root=(str(tmp_path / "more"), str(tmp_path / "z.zip")), test_root=str(root))
    train, test = open_data(data, "train"), open_data(data, "test")
    found = shared_images(train, test)
    assert found is not None
    assert found.images == 2
    assert found.first[0].endswith("test/b/copy0.png")
    assert found.first[1].endswith("more/a/0000.png")  # the first of the training images that are equal
    whole = open_source(str(root))
    assert shared_images(CanvasSource(whole, 8), test) == shared_images(whole, test)


def test_arrays_are_compared_by_their_pixels_and_not_with_files(tmp_path: Path) -> None:
    train, test = shapes(70), shapes(30, split="test")
    assert shared_images(train, test) is None
    images: Tensor = test.images.clone()
    images[7] = train.images[69]
    mixed = ArraySource(images, test.labels, test.classes, "mixed")
    assert shared_images(train, mixed) == (1, ("mixed[7]", "shapes-train[69]"), 0)
    assert shared_images(open_source(str(folder_of(tmp_path, 3))), mixed) is None


def test_what_cannot_be_read_is_not_equal(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "x.png").symlink_to("nothing.png")
    root = str(tmp_path)
    assert shared_images(open_source(root), open_source(root, "test")) is None


def test_every_stage_with_both_parts_says_it_and_its_result_holds_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs(tmp_path / "data" / "train", 40)
    photographs(tmp_path / "data" / "val", 20)
    run = tiny_run(tmp_path / "run", root=str(tmp_path / "data"), epochs=1, evaluate_every=1)
    run = tiny_run(tmp_path / "run", data=Data(root=run.data.root, canvas=16), epochs=1, evaluate_every=1, knn_k=3)
    torch.manual_seed(0)
    encoder = export_untrained(tmp_path, run.encoder, run.feed)
    told = "20 of 20 test images have the content of a training image; the first: "
    results = [
        *run_knn(encoder, KNN(data=run.data, device="cpu", workers=0)).results,
        *run_linear(encoder, FeatureProbe(data=run.data, device="cpu", workers=0, l2=(0.1,))).results,
    ]
    assert [result.about["test_images_in_training"] for result in results] == [20, 20]
    assert capsys.readouterr().err.count(told) == 2
    pretrain(run)
    assert told in capsys.readouterr().err
