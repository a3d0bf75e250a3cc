"""Images in tar archives, WebDataset's shards among them, read in place after one look at what lies where."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from selfsup.data.base import NoTestPart, UnreadableImage
from selfsup.data.class_numbers import chosen, numbered
from selfsup.data.columns import Columns
from selfsup.data.encoded import MAX_BYTES, EncodedSource, Holders, pack_names
from selfsup.data.formats import FORMATS, SUFFIXES, suffix
from selfsup.data.found import Found, by_suffix
from selfsup.data.layout import Split, arrange
from selfsup.data.levels import FULL, Levels
from selfsup.data.listing import Listing, add_entry
from selfsup.data.shards import Shards, no_test_shards
from selfsup.data.tar_index import Entries, entries_of
from selfsup.storage.untrusted import plain_name

_LABEL_BYTES = 4096  # of a file that holds a label
_RECORD_BYTES = 1 << 20  # of a file of JSON


class TarSource(EncodedSource):
    """Images at known places of tar archives.

    Args:
        shards: the archives.
        paths: names of the images, as the list of content has them.
        places: (N, 3) int64: number of the shard, offset and bytes of each image.
        labels, classes, levels: as for FileSource.
    """

    def __init__(
        self,
        shards: Sequence[Path],
        paths: Sequence[str],
        places: np.ndarray,
        labels: Tensor,
        classes: tuple[str, ...] = (),
        levels: Levels = FULL,
    ) -> None:
        self.shards = list(shards)
        self.paths = pack_names(paths)
        self.places = places
        self.labels = labels
        self.classes = classes
        self.levels = levels

    def name(self, index: int) -> str:
        shard = self.shards[int(self.places[index, 0])]
        return f"{shard}[{self.path(index)}]"

    def content(self, index: int) -> bytes:
        shard, offset, size = self.places[index].tolist()
        try:
            if size > MAX_BYTES:
                raise ValueError(f"{size:,} bytes, more than {MAX_BYTES:,}")
            return _read(self.shards[shard], offset, size)
        except (OSError, ValueError) as error:
            raise UnreadableImage(self.name(index), f"{type(error).__name__}: {error}") from error

    def sizes(self) -> np.ndarray:
        return self.places[:, 2]

    def holders(self) -> Holders:
        return Holders(self.shards, self.places[:, 0])

    def select(self, rows: Tensor) -> "TarSource":
        part = super().select(rows)
        part.places = self.places[rows.numpy()]
        return part


def _read(path: Path, offset: int, size: int) -> bytes:
    # Opened each time: there may be more shards than files that a process may hold open.
    with open(path, "rb", buffering=0) as file:
        content = os.pread(file.fileno(), size, offset)
    if len(content) != size:
        raise ValueError(f"the archive ends after {len(content):,} of its {size:,} bytes")
    return content


def open_tars(shards: Shards, split: Split, columns: Columns, levels: Levels) -> TarSource:
    """The images of tar archives.

    Files of one sample share a name up to the first dot of the file name, as WebDataset has it. Where samples have a
    `.cls`, or `columns.label` names a field of their `.json`, that is their label; else the folders within the archives
    are classes and parts, as those of a zip archive are.

    Args:
        shards: the archives.
        split: which part.
        columns: the image of a sample by what follows the first dot (`jpg`, `left.png`), and the field that labels it.
        levels: how pixels of more than 8 bits become 8.

    Raises:
        NoTestPart, ValueError: as for a zip archive; a shard that cannot be read; labels that are missing or doubtful.
    """
    entries = entries_of(shards)
    if columns.image or columns.label or any(_extension(name) == "cls" for name in entries.names):
        if split == "test" and not shards.divided:
            raise NoTestPart(no_test_shards(shards.root))
        return _of_samples(shards, entries, columns, levels)
    return _of_folders(shards, entries, "train" if shards.divided else split, levels)


def _of_folders(shards: Shards, entries: Entries, split: Split, levels: Levels) -> TarSource:
    if entries.shared and "/" in entries.shared:
        raise ValueError(
            f"two tar archives of {shards.root} hold {plain_name(entries.shared)}; rename one, or name one archive"
        )
    listing = Listing()
    for name in entries.names:
        add_entry(name, listing)
    where = {name: row for row, name in enumerate(entries.names)}

    def head(name: str) -> bytes:
        shard, offset, size = entries.places[where[name]].tolist()
        return _read(shards.files[shard], offset, min(16, size))

    listing.settle(head)
    if not listing.images:
        raise ValueError(
            f"{shards.root} holds no image; wanted {', '.join(FORMATS)} files; found {by_suffix(listing.others)}"
        )
    part = arrange(listing, split, str(shards.root))
    if entries.shared:  # by the names of archives, which are no classes
        part = part._replace(labels=torch.full((len(part.paths),), -1), classes=())
    places = entries.places[[where[part.prefix + path] for path in part.paths]]
    source = TarSource(shards.files, part.paths, places, part.labels, part.classes, levels)
    found = part.found
    source.found = Found(
        (*shards.notes, *found.read_as), (*shards.left_out, *entries.left_out, *found.left_out), found.no_labels
    )
    return source


def _of_samples(shards: Shards, entries: Entries, columns: Columns, levels: Levels) -> TarSource:
    """Samples as WebDataset has them: files of one name up to the first dot."""
    where = str(shards.root)
    extensions = [_extension(name) for name in entries.names]
    kinds = sorted({end for end in extensions if suffix(f"x.{end}") in SUFFIXES})
    if columns.image:
        kinds = [chosen(sorted(set(extensions)), columns.image, "data.image_column", where)]
    rows = [row for row, end in enumerate(extensions) if end in kinds]
    keys = [_key(entries, row) for row in rows]
    if not rows:
        raise ValueError(f"{where} holds no image; found {by_suffix(entries.names)}")
    if len(set(keys)) < len(keys):
        chosen(kinds, "", "data.image_column", where)  # says that there are several
    label = "cls" if not columns.label or columns.label == "cls" else "json"
    at = {_key(entries, row): row for row, end in enumerate(extensions) if end == label}
    values = [
        None if (row := at.get(key)) is None else _label(shards.files, entries, row, columns.label, label)
        for key in keys
    ]
    labels, classes = numbered(values, where)
    paths = [entries.names[row] for row in rows]
    source = TarSource(shards.files, paths, entries.places[rows], labels, classes, levels)
    field = f"the field {plain_name(columns.label, 80)} of .json" if label == "json" else ".cls"
    others = [name for name, end in zip(entries.names, extensions, strict=True) if end not in kinds and end != label]
    source.found = Found(
        read_as=(*shards.notes, f"labels from {field}" if classes else f"samples without {field}"),
        left_out=(*shards.left_out, *entries.left_out, *([f"of samples: {by_suffix(others)}"] if others else [])),
        no_labels=f"no sample has {field}",
    )
    return source


def _label(files: list[Path], entries: Entries, row: int, field: str, kind: str) -> str | int | None:
    """The label that a file of a sample holds."""
    shard, offset, size = entries.places[row].tolist()
    name = f"{files[shard]}[{plain_name(entries.names[row])}]"
    if size > (_RECORD_BYTES if kind == "json" else _LABEL_BYTES):
        raise ValueError(f"{name} has {size:,} bytes, which is no label")
    try:
        text = _read(files[shard], offset, size).decode()
        value = json.loads(text).get(field) if kind == "json" else text.strip()
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"the label in {name} cannot be read: {error}") from error
    if not isinstance(value, str | int | None) or isinstance(value, bool) or value == "":
        raise ValueError(
            f"{name}: {plain_name(field or kind, 80)} is {plain_name(value, 80)}; wanted a number or a name"
        )
    return value


def _extension(name: str) -> str:
    """`cls` of `a/000001.cls`, `left.png` of `a/7.left.png`, in small letters."""
    return name.rpartition("/")[2].partition(".")[2].lower()


def _key(entries: Entries, row: int) -> tuple[int, str]:
    """What tells a sample: its shard, and the name up to the first dot."""
    folder, slash, name = entries.names[row].rpartition("/")
    return int(entries.places[row, 0]), folder + slash + name.partition(".")[0]
