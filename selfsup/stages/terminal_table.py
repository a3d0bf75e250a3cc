"""The table of `selfsup compare` on a terminal: as wide as that is, of what can be compared, the best marked."""

import re
import textwrap
from collections.abc import Iterator

from rich.table import Table as RichTable
from rich.text import Text

from selfsup.stages.result_table import Column, Row, Table, mean_and_deviation
from selfsup.storage.untrusted import plain

_HEADING = 22  # columns of the terminal that a heading takes at most, where its words allow it
_LEAST = 12  # columns of the terminal for the names of runs
_BEST = "*"
# The ends of figures' names. Of others, such as the number of clusters, none is the best.
_HIGHER = re.compile(r"(top\d|accuracy|recall_at_\d+|map|map_at_r|r_precision|nmi|ari|purity|cosine|agreement)$")
_LOWER = re.compile(r"(^|_)ece$")


def number(value: float) -> str:
    """Four decimals of a share, two of a larger number."""
    if abs(value) <= 1:
        return f"{value:.4f}"
    return f"{value:.0f}" if value == round(value) else f"{value:.2f}"


def cell(values: list[float], runs: int = 1) -> str:
    """Mean, and standard deviation of several values; with their number where it is not that of the runs."""
    if not values:
        return ""
    mean, deviation = mean_and_deviation(values)
    text = number(mean) if deviation is None else f"{number(mean)} ± {number(deviation)}"
    return text if len(values) == runs else f"{text} (n = {len(values)})"


def comparable(table: Table) -> Table:
    """Of the columns those that two runs have; of a single run all."""
    least = min(2, sum(len(row.runs) for row in table.rows))
    kept = [n for n in range(len(table.columns)) if sum(len(row.cells[n]) for row in table.rows) >= least]
    rows = [row._replace(cells=[row.cells[n] for n in kept]) for row in table.rows]
    return table._replace(columns=[table.columns[n] for n in kept], rows=rows)


def best(column: Column, cells: list[list[float]]) -> set[int]:
    """The rows with the best mean of a column; none where all are alike, or no end of it is better."""
    means = {row: mean_and_deviation(values)[0] for row, values in enumerate(cells) if values}
    lower = bool(_LOWER.search(column.figure))
    known = lower or (bool(_HIGHER.search(column.figure)) and not column.figure.startswith("teacher"))
    if len(set(means.values())) < 2 or not known:
        return set()
    mark = min(means.values()) if lower else max(means.values())
    return {row for row, mean in means.items() if mean == mark}


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
