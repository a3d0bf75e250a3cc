"""`selfsup compare`: a table and a plot of several runs over all their results."""

import csv
import html
import io
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.console import Console

from selfsup import output
from selfsup.output import console, message, read_by_people
from selfsup.stages.compare_page import compare_page
from selfsup.stages.result_table import Column, Table, compare, described, mean_and_deviation
from selfsup.stages.settings import Compare
from selfsup.stages.table_cells import cell, comparable
from selfsup.stages.terminal_table import remarks, terminal_tables
from selfsup.storage import checkpoint
from selfsup.storage.untrusted import as_cell, plain_name

_PANELS = 3  # in a line of the plot
_LONGEST = 10_000  # characters of a cell or a protocol in a file
_ENDLESS = 1000  # columns where there is no terminal
_LETTER = 0.075  # inches that a letter of a run's name takes, generously


def legend(table: Table) -> list[str]:
    """The full protocol of each column, the runs of each row of several, and which data differ."""
    protocols: dict[str, list[Column]] = {}
    for column in table.columns:
        place = f"{column.part}: " if column.part else ""
        text = described(column.protocol, list(column.protocol)) or "no protocol stated"
        protocols.setdefault(f"{place}{column.stage}: {text}", []).append(column)
    lines = [
        f"{', '.join(dict.fromkeys(column.short for column in same))} of {text}" for text, same in protocols.items()
    ]
    for row in table.rows:
        if len(row.runs) > 1:
            lines.append(f"{row.name}: mean ± standard deviation (n - 1) over {', '.join(map(str, row.runs))}")
    return [*lines, *table.notes]


# In files


def _lines(table: Table) -> list[list[str]]:
    """The whole table as text, headings first."""
    heading = ["run", *(column.heading for column in table.columns)]
    return [heading, *([row.name, *(cell(values, len(row.runs)) for values in row.cells)] for row in table.rows)]


def as_csv(table: Table) -> bytes:
    """For each column the mean, the standard deviation and the number of values; protocols stand in the headings."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    full = [f"{column.name} [{described(column.protocol, list(column.protocol))}]" for column in table.columns]
    writer.writerow(["run", *(as_cell(f"{name}{what}") for name in full for what in ("", " sd", " n"))])
    for row in table.rows:
        summaries = [[*mean_and_deviation(values), len(values)] if values else ["", "", 0] for values in row.cells]
        writer.writerow([as_cell(row.name), *(item for summary in summaries for item in summary)])
    return text.getvalue().encode(errors="backslashreplace")  # a name on a disk may be no UTF-8


def as_markdown(table: Table) -> bytes:
    """The table with its legend."""
    heading, *rows = ([_in_markdown(text) for text in line] for line in _lines(table))
    ruler = ["---", *("---:" for _ in table.columns)]
    lines = [f"| {' | '.join(line)} |" for line in (heading, ruler, *rows)]
    return "\n".join([*lines, "", *(f"- {_in_markdown(line)}" for line in legend(table)), ""]).encode()


def _in_markdown(text: str) -> str:
    """Words that are neither HTML, nor a link, nor the end of a cell."""
    return re.sub(r"([\\\\`*\[\]|])", r"\\\1", html.escape(plain_name(text, _LONGEST), quote=False))


def _plotted(table: Table) -> list[int]:
    """Columns with a value of two rows or more; of every row where there is only one."""
    least = min(2, len(table.rows))
    return [n for n in range(len(table.columns)) if sum(bool(row.cells[n]) for row in table.rows) >= least]


def plot(table: Table, form: str) -> bytes:
    """A panel for each column, hence of one protocol each: single values, and their mean and standard deviation.

    Raises:
        ValueError: no column has values of two rows.
    """
    numbers = _plotted(table)
    if not numbers:
        raise ValueError(
            "there is nothing to plot: no two runs have a figure under the same protocol\n"
            "evaluate them with the same settings, or write the table: --out FILE.md"
        )
    across = min(_PANELS, len(numbers))
    down = -(-len(numbers) // across)
    # A drawing of its own, without pyplot: needs no display and leaves no state behind.
    names = max(1.5, _LETTER * max(len(row.name) for row in table.rows))  # beside the panels
    figure = Figure(figsize=(names + 3.6 * across, down * (1.1 + 0.32 * len(table.rows))), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False, sharey=True).flatten()
    for axes, number in zip(panels, numbers, strict=False):
        _panel(axes, table, number)
    for axes in panels[len(numbers) :]:
        axes.set_visible(False)
    content = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "selfsup"}):  # equal tables give equal files
        figure.savefig(content, format=form, dpi=150, metadata={"Date": None} if form == "svg" else None)
    return content.getvalue()


def _panel(axes: Axes, table: Table, number: int) -> None:
    column = table.columns[number]
    axes.set_title(
        "\n".join([plain_name(column.name), *textwrap.wrap(plain_name(column.differing), 50)]),
        fontsize=9,
        parse_math=False,
    )
    for place, row in enumerate(table.rows):
        values = row.cells[number]
        if len(values) > 1:
            axes.plot(values, [place] * len(values), "o", color="0.7", markersize=4)
        if values:
            mean, deviation = mean_and_deviation(values)
            axes.errorbar(mean, place, xerr=deviation, fmt="o", color="C0", markersize=5, capsize=3)
    axes.set_yticks(range(len(table.rows)), [plain_name(row.name) for row in table.rows], fontsize=8, parse_math=False)
    axes.set_ylim(len(table.rows) - 0.5, -0.5)  # the first run on top
    axes.tick_params(axis="x", labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.grid(axis="x", alpha=0.3)


def _plot_as(form: str) -> Callable[[Table], bytes]:
    return lambda table: plot(table, form)


_FORMS: dict[str, Callable[[Table], bytes]] = {
    ".md": as_markdown,
    ".csv": as_csv,
    ".html": compare_page,
    ".png": _plot_as("png"),
    ".svg": _plot_as("svg"),
}


# The command


def run_compare(runs: list[Path], settings: Compare) -> dict[str, Any]:
    """Print the table of `runs`, and write it or its plot to `settings.out`; returns the JSON object.

    Raises:
        ValueError: something is not a run folder, or has no results; or there is nothing to plot.
    """
    table = compare(runs)
    out = Path(settings.out) if settings.out else None
    content = _FORMS[out.suffix](table) if out is not None else b""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_atomically(out, content)
    _show(table)
    for name, reason in table.skipped.items():
        message(f"skipped: {reason}" if name in reason else f"skipped: {name}: {reason}")
    if out is None:
        return table.line()
    message(f"written to {out}")
    return table.line() | {"out": str(out)}


def _show(table: Table) -> None:
    """On a terminal what can be compared, as wide as it is; elsewhere all, in lines as long as they need to be."""
    if read_by_people():
        screen = Console(file=sys.stdout, highlight=False)
    elif console().is_terminal:
        screen = console()
    else:
        screen = Console(file=output.errors, highlight=False, width=_ENDLESS)  # type: ignore[arg-type]
    fits = screen.is_terminal
    shown = comparable(table) if fits else table
    for piece in terminal_tables(shown, screen.width):
        screen.print(piece, markup=False)
    for line in [*remarks(table, shown), *legend(shown)]:
        message(textwrap.fill(line, screen.width, subsequent_indent="  ") if fits else line)
