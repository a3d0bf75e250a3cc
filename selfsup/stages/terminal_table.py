"""The table of `selfsup compare` on a terminal: as wide as that is, of what can be compared, the best marked."""

import textwrap
from collections.abc import Iterator

from rich.table import Table as RichTable
from rich.text import Text

from selfsup.stages.result_table import Column, Row, Table
from selfsup.stages.table_cells import best, cell
from selfsup.storage.untrusted import plain

_HEADING = 22  # columns of the terminal that a heading takes at most, where its words allow it
_LEAST = 12  # columns of the terminal for the names of runs
_BEST = "*"


def terminal_tables(table: Table, width: int) -> Iterator[RichTable]:
    """Those of each stage, as many beside each other as a terminal of this width has room for."""
    for part, stage in dict.fromkeys((column.part, column.stage) for column in table.columns):
        numbers = [n for n, column in enumerate(table.columns) if (column.part, column.stage) == (part, stage)]
        pieces = _fitting(table, numbers, width)
        title = f"{part}: {stage}" if part else stage
        for place, piece in enumerate(pieces, start=1):
            count = f" ({place} of {len(pieces)})" if len(pieces) > 1 else ""
            yield _drawn(table, piece, title + count, width)


def _fitting(table: Table, numbers: list[int], width: int) -> list[list[int]]:
    """The columns in pieces that fit, each with one column at least."""
    pieces: list[list[int]] = []
    left = 0
    for n in numbers:
        needed = max(map(len, [*_heading(table.columns[n]), *_cells(table, n)])) + 3  # with its margins and its line
        if not pieces or needed > left:
            pieces.append([])
            left = width - _names(table, width) - 4
        pieces[-1].append(n)
        left -= needed
    return pieces


def _names(table: Table, width: int) -> int:
    """Columns of the terminal for the names of runs."""
    return min(max(len(plain(row.name)) for row in table.rows), max(_LEAST, width // 3))


def _heading(column: Column) -> list[str]:
    """A figure and what tells it from others of its name, part by part; a part is broken where it is too long."""
    parts = [column.short, *column.differing.split(", ")] if column.differing else [column.short]
    return [line for part in parts for line in textwrap.wrap(plain(part), _HEADING)]


def _cells(table: Table, n: int) -> list[str]:
    marked = best(table.columns[n], [row.cells[n] for row in table.rows])
    texts = [cell(row.cells[n], len(row.runs)) for row in table.rows]
    return [f"{text}{_BEST if place in marked else ' '}" if marked else text for place, text in enumerate(texts)]


def _drawn(table: Table, numbers: list[int], title: str, width: int) -> RichTable:
    shown = RichTable(title=_word(title), title_justify="left")
    shown.add_column("run", overflow="fold", max_width=_names(table, width))
    for n in numbers:
        shown.add_column(_word("\n".join(_heading(table.columns[n]))), justify="right", no_wrap=True)
    columns = [_cells(table, n) for n in numbers]
    for place, row in enumerate(table.rows):
        texts = [_word(column[place]) for column in columns]
        if not any(text.plain.strip() for text in texts):
            continue
        for text in texts:
            text.stylize("bold" if text.plain.endswith(_BEST) else "")
        shown.add_row(_word(row.name), *texts)
    return shown


def remarks(table: Table, shown: Table) -> list[str]:
    """What has to be said of a table of which a part is shown."""
    rows: list[Row] = shown.rows
    marked = any(best(column, [row.cells[n] for row in rows]) for n, column in enumerate(shown.columns))
    told = [f"{_BEST} the best of its column"] if marked else []
    if left_out := len(table.columns) - len(shown.columns):
        told.append(
            f"{left_out} of {len(table.columns)} figures are of a single run, and not shown; all: --out FILE.md"
        )
    return told


def _word(text: str) -> Text:
    """Without a meaning of brackets or control characters in it."""
    return Text(plain(text))
