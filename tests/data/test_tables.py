"""Arrow and Parquet tables, and data sets of Hugging Face."""

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch

from selfsup.data.base import NoTestPart, UnreadableImage
from selfsup.data.columns import Columns
from selfsup.data.identity import manifest_of
from selfsup.data.sources import open_source
from selfsup.data.tables import TableSource
from tests.data.test_sources import same
from tests.support.containers import arrow_file, parquet_file, table
from tests.support.pictures import encoded, picture

IMAGES = [encoded(picture(number)) for number in range(10)]
LABELS = [number % 3 for number in range(10)]
NAMES = ("dog", "ant", "cat")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "selfsup"


def check(source: object, rows: list[int]) -> None:
    """The source holds the rows of IMAGES, labelled by what Hugging Face's features say."""
    assert isinstance(source, TableSource)
    assert [LABELS[row] for row in rows] == source.labels.tolist()
    assert source.classes == NAMES
    for index, row in enumerate(rows):
        np.testing.assert_array_equal(np.asarray(source.load(index)), np.asarray(picture(row)))
    assert source.sizes().tolist() == [len(IMAGES[row]) for row in rows]


@pytest.mark.parametrize(("write", "end"), [(arrow_file, "arrow"), (parquet_file, "parquet")])
def test_shards_of_tables(write: Any, end: str, tmp_path: Path) -> None:
    whole, root = table(IMAGES, LABELS, NAMES), tmp_path / "data"
    write(root / f"train-00000-of-00002.{end}", whole.slice(0, 5))
    write(root / f"train-00001-of-00002.{end}", whole.slice(5, 2))
    write(root / f"test-00000-of-00001.{end}", whole.slice(7))
    source = open_source(str(root))
    check(source, list(range(7)))
    check(open_source(str(root), "test"), [7, 8, 9])
    part = source.select(torch.tensor([6, 0, 4]))
    check(part, [6, 0, 4])
    assert part.name(0) == f"{root}[6]"
    write(root / f"train-00000-of-00002.{end}", whole.slice(4, 5))  # in the place of the other
    np.testing.assert_array_equal(np.asarray(open_source(str(root)).load(0)), np.asarray(picture(4)))
    assert source.found.read_as[1:] == ("images from column image", "labels from column label")


def test_content_is_the_same_in_both_formats(tmp_path: Path) -> None:
    whole = table(IMAGES, LABELS, NAMES)
    arrow = open_source(str(arrow_file(tmp_path / "a" / "x.arrow", whole)))
    parquet = open_source(str(parquet_file(tmp_path / "b" / "x.parquet", whole, rows=3)))
    same(arrow, parquet)
    assert manifest_of(arrow).digest == manifest_of(parquet).digest
    other = open_source(str(arrow_file(tmp_path / "c" / "x.arrow", table(IMAGES[::-1], LABELS, NAMES))))
    assert manifest_of(other).digest != manifest_of(arrow).digest


def test_parquet_is_unpacked_once_until_it_changes(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = parquet_file(tmp_path / "x.parquet", table(IMAGES, LABELS, NAMES, caption=["long"] * 10))
    check(open_source(str(path)), list(range(10)))
    assert capsys.readouterr().err.count("which is done once") == 1
    (kept,) = cache.glob("*.arrow")
    assert pyarrow.ipc.open_stream(kept.read_bytes()).schema.names == ["image", "label"]
    check(open_source(str(path)), list(range(10)))
    assert "done once" not in capsys.readouterr().err
    parquet_file(path, table(IMAGES[:4], LABELS[:4], NAMES))
    check(open_source(str(path)), list(range(4)))
    old = time.time() - 91 * 24 * 3600
    os.utime(kept, (old, old))
    parquet_file(path, table(IMAGES[:3], LABELS[:3], NAMES))
    check(open_source(str(path)), list(range(3)))
    assert not kept.exists()  # not used for long
    assert not list(cache.glob("*.part"))


def test_columns_are_told_by_what_they_hold_or_named(tmp_path: Path) -> None:
    plain = pyarrow.table({"picture": IMAGES, "labels": ["b", "a"] * 5, "id": list(range(10))})
    source = open_source(str(arrow_file(tmp_path / "x.arrow", plain)))
    assert source.labels.tolist() == [1, 0] * 5
    assert source.classes == ("a", "b")
    assert source.found.left_out == ("1 column (id)",)
    by_id = open_source(str(tmp_path / "x.arrow"), columns=Columns(label="id"))
    assert by_id.labels.tolist() == list(range(10))
    with pytest.raises(ValueError, match=r"data.label_column is kind; there are: labels, id"):
        open_source(str(tmp_path / "x.arrow"), columns=Columns(label="kind"))
    two = pyarrow.table({"left": IMAGES, "right": IMAGES[::-1]})
    path = str(arrow_file(tmp_path / "y.arrow", two))
    with pytest.raises(
        ValueError, match=r"data.image_column could be one of several: left, right; give --data.image-column"
    ):
        open_source(path)
    source = open_source(path, columns=Columns(image="right"))
    np.testing.assert_array_equal(np.asarray(source.load(0)), np.asarray(picture(9)))
    assert source.labels.tolist() == [-1] * 10
    none = str(arrow_file(tmp_path / "z.arrow", pyarrow.table({"x": [1, 2]})))
    with pytest.raises(ValueError, match=r"z.arrow has no column of image files .*; its columns are x"):
        open_source(none)


def test_several_columns_of_classes_have_to_be_chosen(tmp_path: Path) -> None:
    classes = {
        name: {"_type": "ClassLabel", "names": list(names)} for name, names in (("fine", "ab"), ("coarse", "xy"))
    }
    features = json.dumps({"info": {"features": classes | {"image": {"_type": "Image"}}}})
    content = table(IMAGES, (), (), fine=[0, 1] * 5, coarse=[1] * 10).replace_schema_metadata({"huggingface": features})
    path = str(arrow_file(tmp_path / "x.arrow", content))
    with pytest.raises(ValueError, match=r"data.label_column could be one of several: fine, coarse"):
        open_source(path)
    assert open_source(path, columns=Columns(label="coarse")).classes == ("x", "y")


def test_a_cell_without_bytes_is_an_unreadable_image(tmp_path: Path) -> None:
    path = arrow_file(tmp_path / "x.arrow", table([IMAGES[0], None, IMAGES[2]], [0, -1, 1], NAMES))
    source = open_source(str(path))
    assert source.labels.tolist() == [0, -1, 1]
    assert source.sizes().tolist()[1] == -1
    with pytest.raises(UnreadableImage, match=r"x.arrow\[1\]: its cell holds no bytes"):
        source.load(1)
    source.load(2)


def test_what_is_no_table_is_named(tmp_path: Path) -> None:
    for name, kind in (("x.arrow", "Arrow"), ("x.parquet", "Parquet")):
        (tmp_path / name).write_bytes(bytes(200))
        with pytest.raises(ValueError, match=f"{name} is not a readable {kind} file"):
            open_source(str(tmp_path / name))
    arrow_file(tmp_path / "d" / "train.arrow", table(IMAGES, LABELS, NAMES))
    parquet_file(tmp_path / "d" / "train.parquet", table(IMAGES, LABELS, NAMES))
    with pytest.raises(ValueError, match=r"shards are \.arrow and \.parquet; wanted one kind"):
        open_source(str(tmp_path / "d"))


def test_columns_that_cannot_serve_are_told_with_what_they_hold(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    refused = {
        r"the column label holds double, which is no class; save it as": {"image": IMAGES[:2], "label": [0.5, 1.5]},
        r"where one holds paths, name the folder of the images by": {"image": ["a.png", "b.png"], "label": ["a", "b"]},
        "x.parquet holds no image": {"image": pyarrow.array([], pyarrow.binary())},
    }
    for words, columns in refused.items():
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
        with pytest.raises(ValueError, match=words):
            open_source(str(path))


def test_words_are_labels_in_every_form_that_arrow_has_for_them(tmp_path: Path) -> None:
    words = pyarrow.array(["dog", "ant", None, "dog"])
    for number, label in enumerate([words, words.cast(pyarrow.large_string()), words.dictionary_encode()]):
        path = tmp_path / f"{number}.parquet"
        pyarrow.parquet.write_table(pyarrow.table({"image": IMAGES[:4], "label": label}), path)
        source = open_source(str(path))
        assert source.classes == ("ant", "dog")
        assert source.labels.tolist() == [1, 0, -1, 1]


def test_one_table_has_no_test_part(tmp_path: Path) -> None:
    path = arrow_file(tmp_path / "train.arrow", table(IMAGES, LABELS, NAMES))
    with pytest.raises(NoTestPart, match="wanted shards with 'test' or 'val' in their names"):
        open_source(str(path), "test")


def test_what_hugging_face_saves(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    pictures = {"image": [picture(number) for number in range(10)], "label": LABELS}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(NAMES))})
    whole = datasets.Dataset.from_dict(pictures, features=features)
    parts = datasets.DatasetDict(train=whole.select(range(7)), validation=whole.select([9, 7, 8]))
    parts.save_to_disk(tmp_path / "saved")
    check_pixels(open_source(str(tmp_path / "saved")), list(range(7)))
    check_pixels(open_source(str(tmp_path / "saved"), "test"), [9, 7, 8])
    for name, part in parts.items():
        part.to_parquet(tmp_path / "hub" / "data" / f"{name}-00000-of-00001.parquet")
    check_pixels(open_source(str(tmp_path / "hub")), list(range(7)))
    check_pixels(open_source(str(tmp_path / "hub"), "test"), [9, 7, 8])


def check_pixels(source: Any, rows: list[int]) -> None:
    assert source.labels.tolist() == [LABELS[row] for row in rows]
    assert source.classes == NAMES
    for index, row in enumerate(rows):
        np.testing.assert_array_equal(np.asarray(source.load(index)), np.asarray(picture(row)))


def test_a_data_set_by_the_name_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder stands for the hub, which `datasets` reads alike."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    whole, hub = table(IMAGES, LABELS, NAMES), tmp_path / "birds"
    parquet_file(hub / "data" / "train-00000-of-00001.parquet", whole.slice(0, 7))
    parquet_file(hub / "data" / "test-00000-of-00001.parquet", whole.slice(7))
    check(open_source(f"hf:{hub}"), list(range(7)))
    check(open_source(f"hf:{hub}", "test"), [7, 8, 9])
    with pytest.raises(ValueError, match=r"hf:.*/nothing cannot be loaded: \w+"):
        open_source(f"hf:{tmp_path}/nothing")
    with pytest.raises(ValueError, match="'hf:' names no data set; give its name on the hub"):
        open_source("hf:")


def test_words_have_the_numbers_of_training_wherever_they_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    for part, words in (("train", ["ant", "bee", "cat"]), ("test", ["cat", "bee"])):
        content = pyarrow.table({"image": IMAGES[: len(words)], "label": words})
        parquet_file(tmp_path / "zoo" / "data" / f"{part}-00000-of-00001.parquet", content)
    for root in (str(tmp_path / "zoo"), f"hf:{tmp_path / 'zoo'}"):
        assert open_source(root, "test").labels.tolist() == [2, 1]
    (tmp_path / "zoo" / "data" / "train-00000-of-00001.parquet").unlink()
    alone = open_source(str(tmp_path / "zoo"), "test")  # as with folders, a test part may stand alone
    assert (alone.labels.tolist(), alone.classes) == ([1, 0], ("bee", "cat"))
