"""Tar archives: folders within them as in a folder, samples as WebDataset has them."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from selfsup.data import tar_index
from selfsup.data.base import NoTestPart, UnreadableImage
from selfsup.data.columns import Columns
from selfsup.data.identity import manifest_of
from selfsup.data.sources import open_source
from selfsup.data.tar import TarSource
from tests.data.test_sources import same
from tests.support.containers import Sample, shard, tar_of
from tests.support.pictures import encoded, folder_of, picture

CLASSES = ("ant", "bee", "cat")


def sample(number: int, label: int | str, end: str = "png", **more: bytes) -> Sample:
    return f"{number:05}", {end: encoded(picture(number)), "cls": str(label).encode(), **more}


def pictures_of(source: TarSource) -> list[np.ndarray]:
    return [np.asarray(source.load(index)) for index in range(len(source))]


@pytest.mark.parametrize("prefix", ["", "wrapped/", "./"])
def test_an_archive_of_folders_equals_its_folder(prefix: str, tmp_path: Path) -> None:
    root = folder_of(tmp_path / "data", 7, CLASSES)
    files = {prefix + path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*.png"))}
    source, known = open_source(str(tar_of(tmp_path / "x.tar", files))), open_source(str(root))
    assert isinstance(source, TarSource)
    same(source, known)
    assert manifest_of(source).digest == manifest_of(known).digest
    assert source.name(0).startswith(f"{tmp_path / 'x.tar'}[")


def test_parts_within_one_archive(tmp_path: Path) -> None:
    names = [f"{part}/{name}/{number}.png" for part in ("train", "val") for name in "ab" for number in (1, 2)]
    files = {name: encoded(picture(number)) for number, name in enumerate(names)}
    path = str(tar_of(tmp_path / "x.tar", files))
    assert len(open_source(path)) == len(open_source(path, "test")) == 4
    assert open_source(path, "test").labels.tolist() == [0, 0, 1, 1]


def test_samples_of_shards(tmp_path: Path) -> None:
    """The order is that of the shards and of what stands in them; test classes have the numbers of training."""
    shard(tmp_path / "train-000001.tar", [sample(2, 0), sample(3, 4)])
    shard(tmp_path / "train-000000.tar", [sample(9, 1), sample(1, 2)])
    shard(tmp_path / "val-000000.tar", [sample(5, 4)])
    source = open_source(str(tmp_path))
    assert source.labels.tolist() == [1, 2, 0, 4]
    assert source.classes == ("0", "1", "2", "3", "4")
    for found, number in zip(pictures_of(source), (9, 1, 2, 3), strict=True):
        np.testing.assert_array_equal(found, np.asarray(picture(number)))
    assert source.found.read_as == ("2 shards from train-000000.tar", "labels from .cls")
    assert open_source(str(tmp_path), "test").labels.tolist() == [4]
    pattern = open_source(f"{tmp_path}/train-{{000000..000001}}.tar")
    assert pattern.labels.tolist() == source.labels.tolist()
    with pytest.raises(NoTestPart):
        open_source(f"{tmp_path}/train-{{000000..000001}}.tar", "test")


def test_equal_names_in_several_shards_are_told_apart(tmp_path: Path) -> None:
    for number in (0, 1):
        shard(tmp_path / f"{number}.tar", [sample(0, number), (f"{1:05}", {"png": encoded(picture(1))})])
    source = open_source(str(tmp_path))
    assert source.labels.tolist() == [0, -1, 1, -1]
    assert len(set(source.paths.tolist())) == 4
    for number in (0, 1):
        tar_of(tmp_path / f"{number}.tar", {"a/0.png": encoded(picture(number))})
    with pytest.raises(ValueError, match=r"two tar archives of .* hold a/0.png; rename one, or name one archive"):
        open_source(str(tmp_path))
    for number in (0, 1):
        tar_of(tmp_path / f"{number}.tar", {"0.png": encoded(picture(number)), "1.png": encoded(picture(7))})
    flat = open_source(str(tmp_path))
    assert flat.labels.tolist() == [-1] * 4
    assert flat.classes == ()


def test_class_names_and_fields_of_json(tmp_path: Path) -> None:
    def record(number: int, name: str) -> Sample:
        return sample(number, 7, json=json.dumps({"kind": name, "count": 3}).encode())

    shard(tmp_path / "train.tar", [record(0, "bee"), record(1, "ant"), record(2, "cat")])
    shard(tmp_path / "test.tar", [record(3, "cat"), record(4, "dog")])
    kind = Columns(label="kind")
    source = open_source(str(tmp_path), columns=kind)
    assert (source.labels.tolist(), source.classes) == ([1, 0, 2], ("ant", "bee", "cat"))
    test = open_source(str(tmp_path), "test", columns=kind)
    assert (test.labels.tolist(), test.classes) == ([2, 3], ("ant", "bee", "cat", "dog"))
    assert open_source(str(tmp_path)).classes[-1] == "7"
    unknown = open_source(str(tmp_path), columns=Columns(label="shade"))
    assert unknown.labels.tolist() == [-1] * 3
    assert unknown.found.no_labels == "no sample has the field shade of .json"


def test_several_images_of_a_sample_have_to_be_chosen(tmp_path: Path) -> None:
    left, right = encoded(picture(1)), encoded(picture(2))
    path = shard(tmp_path / "x.tar", [("00", {"left.png": left, "right.png": right, "cls": b"0"})])
    with pytest.raises(ValueError, match=r"data.image_column could be one of several: left.png, right.png; give"):
        open_source(str(path))
    source = open_source(str(path), columns=Columns(image="right.png"))
    np.testing.assert_array_equal(np.asarray(source.load(0)), np.asarray(picture(2)))
    with pytest.raises(ValueError, match=r"data.image_column is top.png; there are: cls, left.png, right.png"):
        open_source(str(path), columns=Columns(image="top.png"))


def test_what_is_no_label_is_named(tmp_path: Path) -> None:
    def refused(label: bytes, match: str) -> None:
        path = shard(tmp_path / "x.tar", [("0", {"png": encoded(picture(0)), "cls": label})])
        with pytest.raises(ValueError, match=match):
            open_source(str(path))

    refused(b"-3", "a label is -3; wanted class numbers from 0")
    refused(b"", r"x.tar\[0.cls\]: cls is .*; wanted a number or a name")
    refused(b"\xff\xfe", r"the label in .*x.tar\[0.cls\] cannot be read")
    refused(bytes(5000), "5,000 bytes, which is no label")


def test_columns_of_what_has_none_are_refused(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "data", 4, CLASSES[:2])
    with pytest.raises(ValueError, match="are for samples in tar archives and for tables"):
        open_source(str(root), columns=Columns(label="kind"))


def test_an_archive_that_is_damaged_or_packed(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(bytes(range(256)) * 8)
    with pytest.raises(ValueError, match=r"x.tar is not a readable tar archive: .*unpack it to .tar"):
        open_source(str(tmp_path / "x.tar"))
    with tarfile.open(tmp_path / "y.tar", "w:gz") as archive:
        archive.add(folder_of(tmp_path / "data", 2), "data")
    with pytest.raises(ValueError, match=r"y.tar is not a readable tar archive: .*unpack it to .tar"):
        open_source(str(tmp_path / "y.tar"))
    (tmp_path / "y.tar").rename(tmp_path / "y.tar.gz")
    with pytest.raises(ValueError, match=r"wanted a folder, or a file that ends in .*, unpacked to .tar"):
        open_source(str(tmp_path / "y.tar.gz"))


def test_an_entry_that_is_cut_or_too_large_is_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shard(tmp_path / "x.tar", [sample(0, 0), sample(1, 1)])
    source = open_source(str(path))
    with open(path, "r+b") as file:
        file.truncate(int(source.places[1, 1]) + 5)
    source.load(0)
    with pytest.raises(UnreadableImage, match=r"x.tar\[00001.png\]: ValueError: the archive ends after 5 of"):
        source.load(1)
    monkeypatch.setattr("selfsup.data.tar.MAX_BYTES", 10)
    with pytest.raises(UnreadableImage, match="more than 10"):
        source.load(0)


def test_links_and_names_that_climb_do_no_harm(tmp_path: Path) -> None:
    secret = folder_of(tmp_path / "secret", 1) / "0000.png"
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(secret, "../../a.png")
        link = tarfile.TarInfo("b.png")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        archive.addfile(link)
        archive.add(tmp_path / "secret", "../../d.png", recursive=False)  # a folder, of which nothing is to be told
    source = open_source(str(tmp_path / "x.tar"))
    assert source.found.left_out == ("1 link and the like within archives",)
    assert source.paths.tolist() == [b"a.png"]  # a name, no more; what a link points to is not in the archive
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret", "x.tar"]


def test_of_two_files_of_one_name_the_last_counts_and_it_is_said(tmp_path: Path) -> None:
    first, last = (folder_of(tmp_path / name, 2, ("a", "b")) for name in ("first", "last"))
    (last / "a" / "0000.png").write_bytes((first / "b" / "0001.png").read_bytes())
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for folder in (first, last):
            archive.add(folder / "a", "a")
        archive.add(first / "b", "b")
    source = open_source(str(tmp_path / "x.tar"))
    assert source.found.left_out == ("1 file that a later one of the same name in the archive replaces",)
    assert source.load(0).tobytes() == source.load(1).tobytes()


def test_an_index_is_kept_and_a_changed_archive_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tar_index, "_LISTED", 1)
    monkeypatch.setattr(tar_index, "SETTLED", -(10**18))
    path = shard(tmp_path / "x.tar", [sample(0, 0), sample(1, 1)])
    known = open_source(str(path))
    looked: list[str] = []
    plain = tarfile.open

    def noted(name: Path, mode: str) -> tarfile.TarFile:
        if mode == "r:":
            looked.append(str(name))
        return plain(name, mode)

    monkeypatch.setattr(tarfile, "open", noted)
    again = open_source(str(path))
    assert not looked
    same(again, known)
    shard(path, [sample(0, 0), sample(1, 1), sample(2, 1)])
    assert len(open_source(str(path))) == 3
    assert looked == [str(path)]
    for kept in (tmp_path / "cache" / "selfsup").iterdir():
        kept.write_bytes(b"damaged")
    assert len(open_source(str(path))) == 3


def test_shards_that_webdataset_wrote(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    path = tmp_path / "x.tar"
    with webdataset.TarWriter(str(path)) as writer:
        for number in range(4):
            parts = {"png": picture(number), "cls": number % 2, "json": {"n": number}}
            writer.write({"__key__": f"k/{number:04}"} | parts)
    source = open_source(str(path))
    with open(path, "rb") as file:
        members = [{**member, "__url__": "x"} for member in webdataset.tariterators.tar_file_iterator(file)]
    samples = list(webdataset.tariterators.group_by_keys(members))
    assert [source.path(index) for index in range(4)] == [f"{known['__key__']}.png" for known in samples]
    assert [source.content(index) for index in range(4)] == [known["png"] for known in samples]
    assert source.labels.tolist() == [int(known["cls"]) for known in samples]
