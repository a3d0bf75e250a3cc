"""Data that come as several files of one kind: which of them are which part."""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from selfsup.data.base import NoTestPart, NoTrainingPart
from selfsup.data.found import named
from selfsup.data.layout import TEST_WORDS, TRAIN_WORDS, Split
from selfsup.storage.untrusted import plain_name, read_json

SHARDS = (".tar", ".parquet", ".arrow")

_CHOICES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")  # a range, or words
_MOST = 1_000_000  # shards that a pattern may name
_APART = re.compile(r"[^a-z]+")


class Shards(NamedTuple):
    """The files of one part, in the order of numbering."""

    root: Path  # the folder that their names are below
    files: list[Path]
    divided: bool  # whether they are those of one part; else what is in them may tell the parts
    notes: tuple[str, ...] = ()  # how they were read
    left_out: tuple[str, ...] = ()


def part_of(root: Path, names: Sequence[str], split: Split) -> Shards:
    """The shards of a part, by the words in their names: `train-0001.tar`, `val/00.tar`, `cars_test_3.parquet`.

    Where no name has such a word they are all there is. Of several words for the test part the first of
    `layout.TEST_WORDS` is taken, as with folders; where there is a word for the test part alone, what has none is
    training data.

    Args:
        root: the folder.
        names: relative POSIX paths.
        split: which part.

    Raises:
        NoTestPart: the test part is asked for, and only the training part has a word.
        NoTrainingPart: the training part is asked for, and there are test shards alone.
    """
    words = {name: _word(name) for name in sorted(names)}
    first = next((word for word in TEST_WORDS if word in words.values()), "")
    test = [name for name, word in words.items() if first and word == first]
    train = [name for name, word in words.items() if word in TRAIN_WORDS]
    if not train:
        train = [name for name, word in words.items() if not word]
    divided = any(words.values())
    if split == "test" and divided and not test:
        raise NoTestPart(no_test_shards(root))
    if split == "train" and not train:
        raise NoTrainingPart(
            f"{root} holds test shards alone ({plain_name(test[0])}); wanted others with 'train' in their names"
        )
    chosen = test if split == "test" and divided else train
    beside = sorted({*words} - {*train, *test})
    return Shards(
        root=root,
        files=[root / name for name in chosen],
        divided=divided,
        notes=(f"{len(chosen)} shard{'' if len(chosen) == 1 else 's'} from {plain_name(chosen[0])}",),
        left_out=(f"{named(beside, 'shard')} of other parts",) if beside else (),
    )


def alone(path: Path) -> Shards:
    """One file, which is all there is."""
    return Shards(path, [path], divided=False)


def shards_among(folder: Path, names: Sequence[str]) -> list[str]:
    """The shards among the files of a folder; where `save_to_disk` of Hugging Face's data sets wrote, those it lists.

    Raises:
        ValueError: a list of files that cannot be read.
    """
    found = [name for name in names if PurePosixPath(name).suffix.lower() in SHARDS]
    for state in [name for name in names if PurePosixPath(name).name == "state.json"]:
        inside = PurePosixPath(state).parent
        listed = read_json(folder / state).get("_data_files")
        if isinstance(listed, list):  # beside them lie results of earlier computations
            own = {str(inside / str(item.get("filename"))) for item in listed if isinstance(item, dict)}
            found = [name for name in found if PurePosixPath(name).parent != inside or name in own]
    return found


def no_test_shards(root: Path) -> str:
    return f"{root} has no test part; wanted shards with 'test' or 'val' in their names"


def _word(name: str) -> str:
    """The last word of a path that names a part; "" where none does."""
    known = (*TRAIN_WORDS, *TEST_WORDS)
    return next((word for word in reversed(_APART.split(name.lower())) if word in known), "")


def is_pattern(path: Path) -> bool:
    """Whether a name that is none of a file is a pattern of shards."""
    return _CHOICES.search(path.name) is not None


def expand(path: Path) -> list[str]:
    """The names of shards that a pattern in the last part of a path stands for: `train-{000..146}.tar`, `{a,b}.tar`.

    Raises:
        ValueError: more than a million, a range that runs down, or a shard that is not there, the first by name.
    """
    names = [path.name]
    while (match := _CHOICES.search(names[0])) is not None:
        choices = _choices(match, path)
        if len(names) * len(choices) > _MOST:
            raise ValueError(f"{path} stands for more than {_MOST:,} shards")
        names = [name.replace(match[0], choice, 1) for name in names for choice in choices]
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise ValueError(f"{path}: {len(missing)} of {len(names)} shards are not there, the first {missing[0]}")
    return names


def _choices(match: re.Match[str], path: Path) -> list[str]:
    if match[3] is not None:
        return match[3].split(",")
    first, last = match[1], match[2]
    count = int(last) - int(first) + 1
    if not 0 < count <= _MOST:
        raise ValueError(f"{path}: {match[0]} is no range of shards; give the lower number first, as {{000..146}}")
    return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
