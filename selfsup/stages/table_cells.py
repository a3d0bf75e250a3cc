"""What is in the cells of a table of runs, which columns can be compared, and which row is the best."""

import re
from typing import Literal

from selfsup.stages.result_table import Column, Table, mean_and_deviation

# The ends of figures' names. Of others, such as the number of clusters, none is the best.
_HIGHER = re.compile(r"(top\d|accuracy|recall_at_\d+|map|map_at_r|r_precision|nmi|ari|purity|cosine|agreement)$")
_LOWER = re.compile(r"(^|_)(ece|loss)$")


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


def shared(table: Table) -> list[int]:
    """The columns that two runs have; of a single run all."""
    least = min(2, sum(len(row.runs) for row in table.rows))
    return [n for n in range(len(table.columns)) if sum(len(row.cells[n]) for row in table.rows) >= least]


def comparable(table: Table) -> Table:
    """The table of the columns that are `shared`."""
    kept = shared(table)
    rows = [row._replace(cells=[row.cells[n] for n in kept]) for row in table.rows]
    return table._replace(columns=[table.columns[n] for n in kept], rows=rows)


def better(column: Column) -> Literal["higher", "lower", ""]:
    """Which end of a figure is the better one; empty where neither is, or it is not known."""
    if _LOWER.search(column.figure):
        return "lower"
    known = _HIGHER.search(column.figure) and not column.figure.startswith("teacher")
    return "higher" if known else ""


def best(column: Column, cells: list[list[float]]) -> set[int]:
    """The rows with the best mean of a column; none where all are alike, or no end of it is better."""
    means = {row: mean_and_deviation(values)[0] for row, values in enumerate(cells) if values}
    if len(set(means.values())) < 2 or not better(column):
        return set()
    mark = min(means.values()) if better(column) == "lower" else max(means.values())
    return {row for row, mean in means.items() if mean == mark}
