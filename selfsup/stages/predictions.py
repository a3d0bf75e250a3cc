"""Tables of predictions: a row for each image, written chunk by chunk as CSV, JSON Lines or Parquet."""

import csv
import io
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from selfsup.packages import optional
from selfsup.storage.untrusted import as_cell

EMBEDDING = "embedding"


@dataclass(frozen=True)
class Layout:
    """The columns of a table.

    Args:
        top: how many classes an image has.
        dimension: of its embedding; 0 where there is none.
    """

    top: int
    dimension: int

    @property
    def ranks(self) -> list[tuple[str, str]]:
        """Names of the columns of each class and its probability, the first choice first."""
        return [(f"class{end}", f"probability{end}") for end in ("", *(f"_{n + 1}" for n in range(1, self.top)))]

    @property
    def columns(self) -> list[str]:
        """All of them, in order."""
        embedding = [EMBEDDING] if self.dimension else []
        return ["path", *(name for pair in self.ranks for name in pair), *embedding, "error"]


Row = dict[str, Any]  # by column; None where there is nothing: strings, floats, and an array (D,) float32 as embedding


class Table(ABC):
    """Writes rows to a file.

    Args:
        file: open for writing; stays open.
        layout: the columns.
    """

    def __init__(self, file: BinaryIO, layout: Layout) -> None:
        self.file, self.layout = file, layout

    @abstractmethod
    def add(self, rows: list[Row]) -> None:
        """Write rows, of which each has all columns."""

    def end(self) -> None:
        """Write what stands behind the last row."""
        return None


class AsCSV(Table):
    """One line for each row, below a heading; an embedding has a column for each of its numbers."""

    def __init__(self, file: BinaryIO, layout: Layout) -> None:
        super().__init__(file, layout)
        self._write([[name for column in layout.columns for name in self._headings(column)]])

    def _headings(self, column: str) -> list[str]:
        dimension = self.layout.dimension
        return [f"{column}_{number}" for number in range(dimension)] if column == EMBEDDING else [column]

    def add(self, rows: list[Row]) -> None:
        self._write([[cell for column in self.layout.columns for cell in self._cells(column, row)] for row in rows])

    def _cells(self, column: str, row: Row) -> list[Any]:
        value = row[column]
        if isinstance(value, np.ndarray):
            return [exact(number) for number in value.tolist()]
        if value is None:
            return [""] * len(self._headings(column))
        return [as_cell(value) if isinstance(value, str) else exact(value)]

    def _write(self, lines: list[list[Any]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(lines)
        self.file.write(text.getvalue().encode("utf-8", "surrogateescape"))


class AsJSONLines(Table):
    """One JSON object for each row."""

    def add(self, rows: list[Row]) -> None:
        lines = (json.dumps({column: _in_json(row[column]) for column in self.layout.columns}) for row in rows)
        self.file.write("".join(f"{line}\n" for line in lines).encode())


class AsParquet(Table):
    """A row group for each chunk; an embedding is a list of fixed length."""

    def __init__(self, file: BinaryIO, layout: Layout) -> None:
        super().__init__(file, layout)
        import pyarrow as pa
        from pyarrow.parquet import ParquetWriter

        kinds = {name: pa.float32() if name.startswith("probability") else pa.string() for name in layout.columns}
        if layout.dimension:
            kinds[EMBEDDING] = pa.list_(pa.float32(), layout.dimension)
        self.schema = pa.schema(kinds)
        self.writer = ParquetWriter(file, self.schema)

    def add(self, rows: list[Row]) -> None:
        import pyarrow as pa

        columns = [pa.array([_in_unicode(row[field.name]) for row in rows], field.type) for field in self.schema]
        self.writer.write_table(pa.Table.from_arrays(columns, schema=self.schema))

    def end(self) -> None:
        self.writer.close()


def table(suffix: str, file: BinaryIO, layout: Layout) -> Table:
    """The table for a file whose name ends so, one of `settings.TABLES`."""
    kinds: dict[str, type[Table]] = {".csv": AsCSV, ".jsonl": AsJSONLines, ".parquet": AsParquet}
    return kinds[suffix](file, layout)


def require_writable(suffix: str) -> None:
    """Raise ValueError where what writes such files is not installed."""
    if suffix == ".parquet":
        optional("pyarrow", "a Parquet file (.csv and .jsonl need nothing)")


def exact(value: float) -> float:
    """A number of single precision with as few digits as tell it from every other one."""
    return float(str(np.float32(value)))


def _in_json(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [exact(number) for number in value.tolist()]
    return exact(value) if isinstance(value, float) else value


def _in_unicode(value: Any) -> Any:
    """Text as Parquet can hold it: what is no UTF-8 becomes U+FFFD."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace") if isinstance(value, str) else value
