import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

from selfsup.data import files
from selfsup.data.sources import ArraySource, FileSource, UnreadableImage, ZipSource, open_source
from tests.support.pictures import encoded, folder_of, picture

zipfile_class = zipfile.ZipFile
CLASSES = ("cat", "ant", "bee")


def same(left, right):
    """Two sources hold the same images under the same numbers."""
    assert len(left) == len(right)
    assert left.classes == right.classes
    assert torch.equal(left.labels, right.labels)
    for index in range(len(left)):
        np.testing.assert_array_equal(np.asarray(left.load(index)), np.asarray(right.load(index)))


def zip_of(root, target, prefix=""):
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(root.rglob("*"), reverse=True):
            if path.is_file():
                archive.writestr(prefix + path.relative_to(root).as_posix(), path.read_bytes())
    return target


def test_a_folder_of_classes(tmp_path):
    source = open_source(str(folder_of(tmp_path, 9, CLASSES)))
    assert isinstance(source, FileSource)
    assert source.classes == ("ant", "bee", "cat")
    assert source.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert source.name(0) == str(tmp_path / "ant" / "0003.png")
    np.testing.assert_array_equal(np.asarray(source.load(0)), np.asarray(picture(3, 19, 15)))


@pytest.mark.parametrize("layout", [("a.png", "b.png"), ("x/y/a.png",), ("x/a.png", "b.png"), ("x/a.png",)])
def test_without_two_folders_of_images_there_are_no_labels(tmp_path, layout):
    for name in layout:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        picture(0).save(tmp_path / name)
    source = open_source(str(tmp_path))
    assert source.labels.tolist() == [-1] * len(layout)
    assert source.classes == ()
    assert [source.name(index) for index in range(len(layout))] == sorted(str(tmp_path / name) for name in layout)


def test_labels_none(tmp_path):
    source = open_source(str(folder_of(tmp_path, 6, CLASSES)), labels="none")
    assert source.labels.tolist() == [-1] * 6
    assert source.classes == ()


def test_hidden_files_other_suffixes_and_macos_litter_are_ignored_and_suffixes_have_no_case(tmp_path):
    for name in ("b.PNG", "a.png", ".c.png", ".d/e.png", "__MACOSX/f.png", "notes.txt", "g.npy.bak"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(picture(0)))
    source = open_source(str(tmp_path))
    assert [source.name(index) for index in range(len(source))] == [str(tmp_path / "a.png"), str(tmp_path / "b.PNG")]


def test_numbering_is_by_code_point_of_the_whole_path(tmp_path):
    for name in ("b/1.png", "a-c/1.png", "a/2.png", "a/10.png", "B/1.png", "ä/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(0).save(tmp_path / name)
    source = open_source(str(tmp_path))
    names = [os.path.relpath(source.name(index), tmp_path) for index in range(len(source))]
    assert names == ["B/1.png", "a-c/1.png", "a/10.png", "a/2.png", "b/1.png", "ä/1.png"]


def test_linked_folders_are_read_and_loops_end(tmp_path):
    folder_of(tmp_path / "elsewhere", 3)
    data = tmp_path / "data"
    data.mkdir()
    (data / "one").symlink_to(tmp_path / "elsewhere")
    (data / "two").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(data)
    source = open_source(str(data))
    assert source.name(0).endswith("one/0000.png")
    assert len(source) >= 6


@pytest.mark.parametrize("test_folder", ["test", "val"])
def test_train_and_test_folders(tmp_path, test_folder):
    folder_of(tmp_path / "train", 6, CLASSES)
    folder_of(tmp_path / test_folder, 4, ("cat", "bee"))
    train, test = open_source(str(tmp_path), "train"), open_source(str(tmp_path), "test")
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    # The test part lacks `ant`, and `bee` and `cat` keep their training numbers all the same.
    assert test.classes == train.classes == ("ant", "bee", "cat")
    assert test.labels.tolist() == [1, 1, 2, 2]


def test_disjoint_test_classes_are_numbered_on_their_own(tmp_path):
    folder_of(tmp_path / "train", 4, ("a", "b"))
    folder_of(tmp_path / "test", 4, ("c", "d"))
    assert open_source(str(tmp_path), "test").classes == ("c", "d")
    assert open_source(str(tmp_path), "test").labels.tolist() == [0, 0, 1, 1]


def test_a_class_may_be_called_train(tmp_path):
    source = open_source(str(folder_of(tmp_path, 6, ("car", "plane", "train"))))
    assert source.classes == ("car", "plane", "train")


@pytest.mark.parametrize("prefix", ["", "wrapped/in/", "./"])
def test_an_archive_equals_its_folder(tmp_path, prefix):
    root = folder_of(tmp_path / "data", 7, CLASSES)
    archive = zip_of(root, tmp_path / "data.zip", prefix)
    source = open_source(str(archive))
    assert isinstance(source, ZipSource)
    same(source, open_source(str(root)))
    assert source.name(0).startswith(f"{archive}[{prefix}ant/")


def test_an_archive_with_parts_and_a_folder_with_one_archive(tmp_path):
    folder_of(tmp_path / "data" / "train", 6, CLASSES)
    folder_of(tmp_path / "data" / "val", 4, ("cat", "bee"))
    (tmp_path / "packed").mkdir()
    zip_of(tmp_path / "data", tmp_path / "packed" / "all.zip", "wrapped/")
    for split in ("train", "test"):
        same(open_source(str(tmp_path / "packed"), split), open_source(str(tmp_path / "data"), split))


def test_an_archive_survives_the_way_to_another_process(tmp_path):
    source = open_source(str(zip_of(folder_of(tmp_path / "data", 3), tmp_path / "data.zip")))
    source.load(0)
    same(pickle.loads(pickle.dumps(source)), source)


def test_a_forked_process_opens_the_archive_for_itself(tmp_path, monkeypatch):
    source = open_source(str(zip_of(folder_of(tmp_path / "data", 3), tmp_path / "data.zip")))
    opened = []
    monkeypatch.setattr(files.zipfile, "ZipFile", lambda path: opened.append(path) or zipfile_class(path))
    source.load(0)
    source.load(1)
    assert len(opened) == 1
    monkeypatch.setattr(files.os, "getpid", lambda: -1)
    source.load(1)
    assert len(opened) == 2


def test_harmless_names_and_bombs_in_an_archive(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_BYTES", 10_000)
    path = tmp_path / "odd.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../outside.png", encoded(picture(0)))
        archive.writestr("bomb.png", bytes(10_001))
    source = open_source(str(path))
    names = {source.name(index): index for index in range(2)}
    assert source.load(names[f"{path}[../../outside.png]"]).size == (20, 14)
    with pytest.raises(UnreadableImage, match="unpacks to 10,001 bytes, more than 10,000"):
        source.load(names[f"{path}[bomb.png]"])
    assert sorted(tmp_path.rglob("*")) == [path]


def test_limit_is_a_fixed_subset_in_order(tmp_path):
    whole = open_source(str(folder_of(tmp_path, 60, CLASSES)))
    part = open_source(str(tmp_path), limit=30)
    names = [part.name(index) for index in range(30)]
    assert names == sorted(set(names))
    assert names != [whole.name(index) for index in range(30)]
    assert set(part.labels.tolist()) == {0, 1, 2}
    for index in range(30):
        assert part.classes[part.labels[index]] in names[index]
    same(open_source(str(tmp_path), limit=60), whole)
    drawn = open_source("shapes:50", limit=5)
    origin = open_source("shapes:50")
    for index in range(5):
        number = int(drawn.name(index).partition("[")[2].rstrip("]"))
        assert torch.equal(drawn.images[index], origin.images[number])


def test_shapes_by_word():
    source = open_source("shapes:30", "test")
    assert isinstance(source, ArraySource)
    assert len(source) == 30


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root / "missing", "no file or folder .*missing"),
        (lambda root: root, "no image in .*; wanted JPEG, PNG, .*files; found 1 .txt"),
        (lambda root: "shapes:many", "'shapes:many' names no data; wanted 'shapes' or 'shapes:COUNT'"),
        (
            lambda root: written(root / "a.txt", b""),
            r"a.txt is no data set; wanted a folder, or a file that ends in .npz",
        ),
        (lambda root: written(root / "a.zip", b"no archive"), "a.zip is not a readable zip archive"),
        (lambda root: zip_of(folder_of(root / "d", 0), root / "e.zip"), "e.zip is not|e.zip holds no image"),
    ],
)
def test_what_is_no_data_is_refused_with_a_remedy(tmp_path, make, message):
    (tmp_path / "d").mkdir()
    written(tmp_path / "d" / "readme.txt", b"")
    with pytest.raises(ValueError, match=message):
        open_source(str(make(tmp_path)))


def test_a_missing_test_part_is_said(tmp_path):
    folder_of(tmp_path / "a" / "train", 2)
    folder_of(tmp_path / "b", 4, ("x", "y"))
    zip_of(tmp_path / "b", tmp_path / "c.zip")
    for name in ("a", "b", "c.zip"):
        with pytest.raises(ValueError, match="has no test part; wanted a folder 'test' or 'val'"):
            open_source(str(tmp_path / name), "test")


def test_a_limit_below_one_is_refused():
    with pytest.raises(ValueError, match="the limit is 0"):
        open_source("shapes:20", limit=0)


def written(path, content):
    path.write_bytes(content)
    return path
