"""Images in the cells of Arrow and Parquet tables, as Hugging Face's data sets are stored. Read by pyarrow alone."""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selfsup.data.base import NoTestPart, UnreadableImage
from selfsup.data.class_numbers import chosen, numbered
from selfsup.data.columns import Columns
from selfsup.data.encoded import MAX_BYTES, EncodedSource, Holders, pack_names
from selfsup.data.found import Found, named
from selfsup.data.layout import Split
from selfsup.data.levels import FULL, Levels
from selfsup.data.parquet import as_arrow
from selfsup.data.shards import Shards, no_test_shards
from selfsup.storage.untrusted import plain_name

_LABELS = ("label", "labels")  # columns of whole numbers or words that are taken where none is said to hold classes


class TableSource(EncodedSource):
    """Images in a column of Arrow files, which are mapped into memory.

    Args:
        title: of the data, for messages.
        files: the Arrow files, in the order of their rows.
        column: which one holds the images.
        starts: (files + 1,) int64: the number of the first row of each file, and that of all rows.
        labels, classes, levels: as for FileSource.
    """

    def __init__(
        self,
        title: str,
        files: Sequence[Path],
        column: str,
        starts: np.ndarray,
        labels: Tensor,
        classes: tuple[str, ...] = (),
        levels: Levels = FULL,
    ) -> None:
        self.title = title
        self.files = tuple(files)
        self.stamps = tuple(file.stat().st_mtime_ns for file in files)
        self.column = column
        self.starts = starts
        self.labels = labels
        self.classes = classes
        self.levels = levels
        self.rows = np.arange(len(labels))  # of the tables; kept by `select`
        self.paths = pack_names([f"[{row}]" for row in range(len(labels))])

    def name(self, index: int) -> str:
        return f"{self.title}{self.path(index)}"

    def content(self, index: int) -> bytes:
        file, row = self._place(index)
        starts, chunks = _chunks(self.files[file], self.stamps[file], self.column)
        number = int(np.searchsorted(starts, row, side="right")) - 1
        cell = chunks[number][row - int(starts[number])]
        if not cell.is_valid:
            raise UnreadableImage(self.name(index), "its cell holds no bytes; save the data with the images in them")
        content: bytes = cell.as_py()
        if len(content) > MAX_BYTES:
            raise UnreadableImage(self.name(index), f"{len(content):,} bytes, more than {MAX_BYTES:,}")
        return content

    def sizes(self) -> np.ndarray:
        import pyarrow.compute

        found = []
        for file, stamp in zip(self.files, self.stamps, strict=True):
            found += [
                pyarrow.compute.binary_length(chunk).fill_null(-1).to_numpy(zero_copy_only=False)
                for chunk in _chunks(file, stamp, self.column)[1]
            ]
        return np.asarray(np.concatenate(found)[self.rows], np.int64)

    def holders(self) -> Holders:
        return Holders(list(self.files), np.searchsorted(self.starts, self.rows, side="right") - 1)

    def select(self, rows: Tensor) -> "TableSource":
        part = super().select(rows)
        part.rows = self.rows[rows.numpy()]
        return part

    def _place(self, index: int) -> tuple[int, int]:
        row = int(self.rows[index])
        file = int(np.searchsorted(self.starts, row, side="right")) - 1
        return file, row - int(self.starts[file])


@functools.lru_cache(maxsize=4096)
def _chunks(file: Path, stamp: int, column: str) -> tuple[np.ndarray, list[Any]]:
    """The first row of each piece of a file, (P,) int64, and the pieces: arrays of bytes.

    Another file under the same name has another `stamp`.
    """
    import pyarrow

    chunks = [piece for piece in table_of(file).column(column).chunks if len(piece)]
    if chunks and pyarrow.types.is_struct(chunks[0].type):
        chunks = [piece.flatten()[piece.type.get_field_index("bytes")] for piece in chunks]
    return np.cumsum([0, *map(len, chunks)])[:-1], chunks


def table_of(file: Path) -> Any:
    """A file of Arrow as a pyarrow.Table in mapped memory, of either of the two formats.

    Raises:
        ValueError: it is none.
    """
    import pyarrow

    try:
        content = pyarrow.memory_map(str(file))
        try:
            return pyarrow.ipc.open_stream(content).read_all()
        except pyarrow.ArrowInvalid:
            return pyarrow.ipc.open_file(content).read_all()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{file} is not a readable Arrow file: {error}") from error


def open_tables(shards: Shards, split: Split, columns: Columns, levels: Levels) -> TableSource:
    """The images of Arrow or Parquet files.

    Args:
        shards: the files.
        split: which part.
        columns: which hold the images and the labels. "": the one column of images; and for labels that of classes, as
            Hugging Face's data sets state them, else one that is called `label` or `labels`.
        levels: how pixels of more than 8 bits become 8.

    Raises:
        NoTestPart: the files are not divided.
        ValueError: pyarrow is missing, a file cannot be read, or no column or several could be meant.
    """
    if split == "test" and not shards.divided:
        raise NoTestPart(no_test_shards(shards.root))
    require_pyarrow(shards.files[0])
    schema = _schema(shards.files[0])
    features = _features(schema)
    image = chosen(_images(schema, features), columns.image, "data.image_column", str(shards.root))
    if not image:
        raise ValueError(
            f"{shards.root} has no column of image files (bytes of PNG, JPEG and the like); its columns are "
            f"{plain_name(', '.join(schema.names[:12]))}; where one holds paths, name the folder of the images by "
            "--data.root and the table, saved as CSV, by --data.labels"
        )
    fitting = _labels(schema, features, columns.label, shards.root)
    label = chosen(fitting, columns.label, "data.label_column", str(shards.root))
    files = [as_arrow(file, [name for name in (image, label) if name]) for file in shards.files]
    tables = [table_of(file) for file in files]
    _require_columns(shards, tables, image, label)
    starts = np.cumsum([0, *(table.num_rows for table in tables)])
    labels, classes = _numbered(shards, tables, label, features)
    source = TableSource(str(shards.root), files, image, starts, labels, classes, levels)
    others = [name for name in schema.names if name not in (image, label)]
    source.found = Found(
        read_as=(*shards.notes, f"images from column {plain_name(image, 80)}", *_said(label)),
        left_out=(*shards.left_out, *([named(others, "column")] if others else [])),
        no_labels="no column of classes; give --data.label-column",
    )
    return source


def _said(label: str) -> list[str]:
    return [f"labels from column {plain_name(label, 80)}"] if label else []


def require_pyarrow(what: object) -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise ValueError(f"{what} needs pyarrow: pip install 'selfsup[parquet]'") from error


def _schema(file: Path) -> Any:
    import pyarrow
    import pyarrow.parquet

    if file.suffix.lower() != ".parquet":
        return table_of(file).schema
    try:
        return pyarrow.parquet.read_schema(file)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{file} is not a readable Parquet file: {error}") from error


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """What Hugging Face's data sets say of their columns, by name; {} of other files."""
    try:
        found = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: said for name, said in found.items() if isinstance(said, dict)}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _images(schema: Any, features: dict[str, dict[str, Any]]) -> list[str]:
    said = [name for name in schema.names if features.get(name, {}).get("_type") == "Image"]
    return said or [field.name for field in schema if _holds_bytes(field.type)]


def _holds_bytes(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_bytes(kind.field(kind.get_field_index("bytes")).type)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _holds_labels(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_dictionary(kind):  # pandas' categories
        return _holds_labels(kind.value_type)
    return bool(types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind))


def _labels(schema: Any, features: dict[str, dict[str, Any]], wanted: str, where: Path) -> list[str]:
    fit = [field.name for field in schema if _holds_labels(field.type)]
    named = [field for field in schema if field.name == wanted or (not wanted and field.name in _LABELS)]
    if not set(fit) & {field.name for field in named} and named:
        raise ValueError(
            f"{where}: the column {plain_name(named[0].name, 80)} holds {plain_name(named[0].type, 80)}, which is no "
            "class; save it as whole numbers or words, or name another by --data.label-column"
        )
    if wanted:
        return fit
    said = [name for name in fit if features.get(name, {}).get("_type") == "ClassLabel"]
    return said or [name for name in fit if name in _LABELS]


def _require_columns(shards: Shards, tables: list[Any], image: str, label: str) -> None:
    for file, table in zip(shards.files, tables, strict=True):
        if missing := [name for name in (image, label) if name and name not in table.column_names]:
            raise ValueError(f"{file} has no column {plain_name(missing[0], 80)}, which {shards.files[0]} has")


def _numbered(
    shards: Shards, tables: list[Any], label: str, features: dict[str, dict[str, Any]]
) -> tuple[Tensor, tuple[str, ...]]:
    if not label:
        return torch.full((sum(table.num_rows for table in tables),), -1), ()
    values = [value for table in tables for value in table.column(label).to_pylist()]
    labels, classes = numbered(values, f"{shards.root}, column {plain_name(label, 80)}")
    names = features.get(label, {}).get("names")
    if isinstance(names, list) and len(names) >= len(classes) and all(isinstance(name, str) for name in names):
        return labels, tuple(names)
    return labels, classes
