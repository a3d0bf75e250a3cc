"""Several roots, a test folder and images held out: what is in the parts, wherever the data lie."""

import hashlib
import shutil
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from selfsup.config.flags import parse
from selfsup.config.recipe_files import load_recipe
from selfsup.config.settings import dump, placed, restore, result_relevant
from selfsup.data.base import NoTestPart, Source
from selfsup.data.given import training_images
from selfsup.data.identity import manifest_of
from selfsup.data.labelled import Labelled, content_names, image_names
from selfsup.data.opening import open_part, open_test_part
from selfsup.data.parts import held_out, open_data
from selfsup.data.settings import Data
from selfsup.data.shapes import shapes
from selfsup.stages.base import as_read
from tests.support.pictures import encoded, folder_of, picture


def classes_of(source: Source) -> list[str]:
    return [source.class_name(label) if label >= 0 else "" for label in source.labels.tolist()]


def folders(place: Path) -> tuple[str, str]:
    """Two roots: one of the classes a and c, of training images alone; one of b and c, with a test part."""
    one = folder_of(place / "one", 4, ("a", "c"))
    for part, count in (("train", 6), ("test", 2)):
        folder_of(place / "two" / part, count, ("c", "b"))
    (one / "notes.txt").write_text("")
    return str(one), str(place / "two")


def test_roots_are_joined_and_their_classes_matched_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    roots = folders(tmp_path)
    data = Data(root=roots)
    train, test = open_part(data, "train"), open_part(data, "test")
    assert train.classes == test.classes == ("a", "c", "b")
    assert classes_of(train) == ["a", "a", "c", "c", "b", "b", "b", "c", "c", "c"]
    assert classes_of(test) == ["b", "c"]
    assert image_names(train)[3:5] == ["1/c/0003.png", "2/b/0003.png"]
    assert np.array_equal(np.asarray(train.load(4)), np.asarray(picture(3, 19, 15)))
    told = capsys.readouterr().err
    assert f"{roots[0]} and {roots[1]}: 10 training images, 3 classes; 4 from {roots[0]} (2 classes), " in told
    assert "1 class in more than one by name" in told
    assert f"left out: in {roots[0]}: no images: 1 .txt" in told
    rows = torch.tensor([9, 0, 4, 3])
    part = train.select(rows)
    assert image_names(part) == [image_names(train)[row] for row in rows.tolist()]
    listed = tmp_path / "listed.txt"
    listed.write_text("\n".join(image_names(train)[::2]))
    assert Labelled(file=str(listed)).choose(train).tolist() == [0, 2, 4, 6, 8]


def test_the_content_of_roots_is_not_where_they_lie(tmp_path: Path) -> None:
    one, two = folders(tmp_path)
    before = manifest_of(open_data(Data(root=(one, two)), "train"))
    shutil.move(one, tmp_path / "elsewhere")
    after = manifest_of(open_data(Data(root=(str(tmp_path / "elsewhere"), two)), "train"))
    assert after.digest == before.digest
    other = manifest_of(open_data(Data(root=(two, str(tmp_path / "elsewhere"))), "train"))
    assert other.digest != before.digest


def test_roots_are_flags_and_are_stored(tmp_path: Path) -> None:
    recipe = load_recipe("simclr_folder")
    run = parse(recipe, ["--data.root", "x", "y", "--data.holdout", "0.2"], "selfsup")
    assert run.data.roots == ("x", "y")
    assert parse(recipe, ["--data.root", "x"], "selfsup").data.roots == ("x",)
    there = placed(run.data)
    assert there.root == (str(Path("x").resolve()), str(Path("y").resolve()))
    assert placed(Data(root="x", labels="l.csv")).labels == str(Path("l.csv").resolve())
    assert result_relevant(Data(root="x", labels="l.csv"))["labels"] == "file"
    assert restore(dump(there), Data) == there
    assert placed(Data(root=("shapes", "x"))).root[0] == "shapes"
    assert placed(Data()).labels == "auto"


@pytest.mark.parametrize("form", ["folder", "moved", "array", "renamed array"])
def test_what_is_held_out_does_not_depend_on_the_place(tmp_path: Path, form: str) -> None:
    root: str = ""
    images, labels = shapes(100).images.permute(0, 2, 3, 1).numpy(), np.arange(100) % 3
    if "array" in form:
        root = str(tmp_path / ("a.npz" if form == "array" else "b.npz"))
        np.savez(root, images=images, labels=labels)
    else:
        root = str(tmp_path / form / "x")
        for number in range(100):
            place = Path(root) / str(number % 3)
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number}.png").write_bytes(encoded(picture(number, 4, 4)))
    data = Data(root=root, holdout=0.2)
    train, test = open_data(data, "train"), open_data(data, "test")
    assert Counter(test.labels.tolist()) == {0: 7, 1: 7, 2: 7}  # 0.2 of 34 and of 33, rounded
    names = content_names(test)
    stated = "[{}]" if "array" in form else "{1}/{0}.png"
    expected = []
    for label in range(3):  # as docs/protocols.md has it
        own = [stated.format(number, label) for number in range(label, 100, 3)]
        expected += sorted(own, key=lambda name: hashlib.sha256(f"0\0{name}".encode()).hexdigest())[:7]
    assert set(names) == set(expected)
    assert not set(names) & set(content_names(train))
    assert len(train) + len(test) == 100
    assert set(names) != set(content_names(open_data(replace(data, holdout_seed=1), "test")))
    without = replace(data, labels="none")
    assert content_names(open_data(without, "test")) == names  # the images are the same, whatever is used of them
    assert int(open_data(without, "test").labels.max()) == -1
    assert len(open_data(replace(data, limit=10), "train")) == 10
    assert content_names(open_data(replace(data, limit=10), "test")) == names


def test_what_is_held_out_of_a_tar_archive_does_not_depend_on_its_place(tmp_path: Path) -> None:
    folder_of(tmp_path / "data", 30, ("a", "b"))
    found = []
    for place in ("x", "y"):
        (tmp_path / place).mkdir()
        with tarfile.open(tmp_path / place / "all.tar", "w") as archive:
            archive.add(tmp_path / "data", "data")
        test = open_data(Data(root=str(tmp_path / place / "all.tar"), holdout=0.2), "test")
        found.append(content_names(test))
    assert len(found[0]) == 6
    assert found[0] == found[1]


def test_images_that_are_added_leave_the_others_where_they_were(tmp_path: Path) -> None:
    root = folder_of(tmp_path, 60, ("a", "b"))
    data = Data(root=str(root), holdout=0.25)
    before = set(image_names(open_data(data, "test")))
    for number in range(8):
        (root / "a" / f"new{number}.png").write_bytes(encoded(picture(100 + number)))
    after = {name for name in image_names(open_data(data, "test")) if "new" not in name}
    assert len(before - after) <= 2
    assert {name for name in before if name.startswith("b/")} == {name for name in after if name.startswith("b/")}


def test_unlabelled_images_among_labelled_ones_are_not_held_out_and_a_class_keeps_one() -> None:
    source = shapes(50)
    source.labels = torch.tensor([-1] * 20 + [0] * 29 + [1])
    apart = held_out(source, 0.9, 0)
    assert apart[source.labels == -1].sum() == 0
    assert apart[source.labels == 0].sum() == 26
    assert apart[source.labels == 1].sum() == 0
    source.labels = torch.full((50,), -1)
    assert held_out(source, 0.5, 0).sum() == 25


def test_the_protocol_and_the_line_say_what_is_held_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = Data(root=str(folder_of(tmp_path, 20, ("a", "b"))), holdout=0.2, holdout_seed=3)
    assert as_read(data) == {"canvas": None, "holdout": 0.2, "holdout_seed": 3}
    assert as_read(replace(data, holdout=None)) == {"canvas": None}
    open_part(data, "test")
    assert "4 test images, 2 classes; 0.2 of each class held out to test, seed 3" in capsys.readouterr().err


@pytest.mark.parametrize("divided", [False, True])
def test_a_test_folder_of_its_own(tmp_path: Path, divided: bool, capsys: pytest.CaptureFixture[str]) -> None:
    folder_of(tmp_path / "data", 6, ("a", "b", "c"))
    place = tmp_path / "other"
    folder_of(place / "test" if divided else place, 4, ("c", "d"))
    if divided:
        folder_of(place / "train", 4, ("c", "d"))
    data = Data(root=str(tmp_path / "data"), test_root=str(place))
    test = open_test_part(data)
    assert test is not None
    assert test.classes == ("a", "b", "c", "d")
    assert classes_of(test) == ["c", "c", "d", "d"]
    assert f"{place}: 4 test images, 2 classes" in capsys.readouterr().err


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a test part": ({"root": "shapes:20", "holdout": 0.2}, "shapes:20 has a test part of 20; leave data.holdout out"),
    "a test folder": ({"root": "a", "holdout": 0.2, "test_root": "b"}, "leave one out"),
    "everything": ({"root": "a", "holdout": 1.0}, "must be above 0 and below 1, such as 0.2"),
    "nothing": ({"root": "a", "holdout": 0.0}, "must be above 0 and below 1, such as 0.2"),
    "a negative seed": ({"root": "a", "holdout_seed": -1}, "data.holdout_seed is -1; it must not be negative"),
    "no root": ({"root": ()}, "data.root names nothing"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused(case: str) -> None:
    changes, words = REFUSED[case]
    with pytest.raises(ValueError, match=words):
        open_data(Data(**changes), "train")


def test_too_few_images_and_given_ones_are_refused(tmp_path: Path) -> None:
    root = str(folder_of(tmp_path, 3, ("a", "b", "c")))
    with pytest.raises(ValueError, match=r"0.2 of 3 images leaves none to test on; no class has two images: name test"):
        open_data(Data(root=root, holdout=0.2), "train")
    some = folder_of(tmp_path / "some", 14, ("a", "b"))
    with pytest.raises(ValueError, match=r"the largest class has 7: give 0.0715 or more"):
        open_data(Data(root=str(some), holdout=0.0714), "train")
    assert len(open_data(Data(root=str(some), holdout=0.0715), "test")) == 2
    with pytest.raises(ValueError, match="images are given, of which"):
        training_images(Data(holdout=0.2), shapes(10))
    with pytest.raises(NoTestPart, match="has no test part"):
        open_data(Data(root=(root, str(some))), "test")
    with pytest.raises(ValueError, match=r"data.root names .* twice; name each once"):
        Data(root=(root, str(some), f"{root}/"))
