"""Which shards are which part of the data."""

import json
from pathlib import Path

import pytest

from selfsup.data.base import NoTestPart
from selfsup.data.shards import expand, part_of, shards_among

ROOT = Path("data")


def names(found: list[Path]) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in found]


@pytest.mark.parametrize(
    ("files", "train", "test"),
    [
        (["train-1.tar", "train-0.tar", "val-0.tar"], ["train-0.tar", "train-1.tar"], ["val-0.tar"]),
        (["Train/0.tar", "validation/0.tar"], ["Train/0.tar"], ["validation/0.tar"]),
        (["c_test_3.parquet", "c_train_1.parquet", "c_val_2.parquet"], ["c_train_1.parquet"], ["c_test_3.parquet"]),
        (["images.tar", "images-test.tar"], ["images.tar"], ["images-test.tar"]),
        (
            ["data/train-00000-of-00001.parquet", "data/dev.parquet"],
            ["data/train-00000-of-00001.parquet"],
            ["data/dev.parquet"],
        ),
        (["trains-0.tar", "contest.tar"], ["contest.tar", "trains-0.tar"], None),  # words, not parts of them
    ],
)
def test_parts_are_told_by_words(files: list[str], train: list[str], test: list[str] | None) -> None:
    assert names(part_of(ROOT, files, "train").files) == train
    if test is not None:
        assert names(part_of(ROOT, files, "test").files) == test
    else:
        assert not part_of(ROOT, files, "test").divided


def test_what_is_of_no_part_is_said() -> None:
    found = part_of(ROOT, ["train-0.tar", "test.tar", "val.tar", "extra.tar"], "train")
    assert found.left_out == ("2 shards (extra.tar, val.tar) of other parts",)


def test_a_part_that_is_missing() -> None:
    with pytest.raises(NoTestPart, match="data has no test part; wanted shards with 'test' or 'val'"):
        part_of(ROOT, ["train-0.tar"], "test")
    with pytest.raises(ValueError, match=r"data holds test shards alone \(val-0.tar\)"):
        part_of(ROOT, ["val-0.tar"], "train")


def test_patterns(tmp_path: Path) -> None:
    for name in ("a-08.tar", "a-09.tar", "a-10.tar", "b-08.tar", "b-09.tar", "b-10.tar"):
        (tmp_path / name).touch()
    assert expand(tmp_path / "a-{08..10}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar"]
    assert expand(tmp_path / "{a,b}-{08..09}.tar") == ["a-08.tar", "a-09.tar", "b-08.tar", "b-09.tar"]
    with pytest.raises(ValueError, match=r"2 of 4 shards are not there, the first a-11.tar"):
        expand(tmp_path / "a-{09..12}.tar")
    with pytest.raises(ValueError, match=r"\{10\.\.8\} is no range of shards; give the lower number first"):
        expand(tmp_path / "a-{10..8}.tar")
    with pytest.raises(ValueError, match="stands for more than 1,000,000 shards"):
        expand(tmp_path / "a-{0..9999}-{0..9999}.tar")


def test_a_saved_data_set_is_the_files_that_it_lists(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}
    (tmp_path / "train" / "state.json").write_text(json.dumps(state))
    files = ["dataset_dict.json", "train/state.json", "train/cache-1f.arrow", "train/data-00000-of-00001.arrow"]
    assert shards_among(tmp_path, files) == ["train/data-00000-of-00001.arrow"]
