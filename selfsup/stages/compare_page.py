"""Several runs on one page: their figures, their curves laid over each other, and the settings in which they differ."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfsup.report.charts import Bar, Series, bars
from selfsup.report.curves import Curve, read_curves, thinned
from selfsup.report.drawing import SERIES
from selfsup.report.markup import details, figure, flattened, protocol, text
from selfsup.report.page import Section, page
from selfsup.report.plots import Plot, curve_plot
from selfsup.run_folder.folder import RunFolder
from selfsup.stages.result_table import Column, Row, Table, mean_and_deviation
from selfsup.stages.table_cells import best, better, cell, shared
from selfsup.storage.untrusted import plain_name

# What is laid over each other, by its name in the log.
_CURVES = {
    "loss": "Loss",
    "knn_top1": "kNN during training",
    "linear_top1": "Linear probe during training",
    "feature_std": "Feature std",
    "feature_rank": "Directions of the embeddings",
}
_CHARTS = 12  # figures that are drawn as bars, at most
_DIFFERENCES = 200  # settings that are told, at most
_LONGEST = 40  # letters of a run's name in a drawing


def compare_page(table: Table) -> bytes:
    """The page, in the form of a report's: one file that asks for nothing and is readable without scripts.

    Args:
        table: of the runs. A figure that one run alone has under a protocol stands in a table of its own, folded away.
    """
    runs = [run for row in table.rows for run in row.runs]
    drawn = _curves(table.rows)
    parts = [
        ("figures", "Figures", _figures(table)),
        ("curves", "Curves", _side_by_side([figure(plot.drawing, "", curve=name) for name, plot in drawn.items()])),
        ("settings", "Settings that differ", _settings(table.rows)),
        ("notes", "Notes", _notes(table)),
    ]
    data: dict[str, Any] = {"curves": {name: plot.data for name, plot in drawn.items()}} if drawn else {}
    lead = f"<p class='lead'>{len(runs)} run{'s' if len(runs) > 1 else ''}, {len(table.columns)} figures</p>"
    shown = page("Runs compared", lead, [Section(*part) for part in parts if part[2]], data)
    return shown.encode(errors="backslashreplace")


def _side_by_side(figures: list[str]) -> str:
    return f"<div class='pair'>{''.join(figures)}</div>" if figures else ""


# Figures


def _figures(table: Table) -> str:
    """A table for each stage, with its footnotes, then bars."""
    kept = shared(table)
    alone = [n for n in range(len(table.columns)) if n not in kept]
    body = _tables(table, kept) or "<p>No two runs have a figure under the same protocol.</p>"
    charts = [_chart(table, n) for n in kept if _share(table, n)][:_CHARTS]
    if len(table.rows) > 1:
        body += _side_by_side(charts)
    if alone:
        body += details("Figures that one run alone has", _tables(table, alone))
    return body


def _tables(table: Table, numbers: Sequence[int]) -> str:
    """Runs by the figures of one stage after the other."""
    stages: dict[tuple[str, str], list[int]] = {}
    for n in numbers:
        stages.setdefault((table.columns[n].part, table.columns[n].stage), []).append(n)
    return "".join(_stage(table, f"{part}: {stage}" if part else stage, of) for (part, stage), of in stages.items())


def _stage(table: Table, name: str, numbers: list[int]) -> str:
    columns = [table.columns[n] for n in numbers]
    protocols = list({str(sorted(column.protocol.items())): column.protocol for column in columns}.values())
    marks = [protocols.index(column.protocol) + 1 for column in columns]
    head = "".join(
        f"<th scope='col' class='number'>{text(column.short)}{_mark(mark, len(protocols))}{_told_apart(column)}</th>"
        for column, mark in zip(columns, marks, strict=True)
    )
    marked = {n: best(table.columns[n], [row.cells[n] for row in table.rows]) for n in numbers}
    rows = [row for row in table.rows if any(row.cells[n] for n in numbers)]
    lines = "".join(
        f"<tr><th scope='row'>{text(row.name)}</th>"
        + "".join(_cell(row, n, table.rows.index(row) in marked[n]) for n in numbers)
        + "</tr>"
        for row in rows
    )
    notes = "".join(
        f"<div class='note'>{_mark(place, len(protocols))} {protocol(found)}</div>"
        for place, found in enumerate(protocols, 1)
        if found
    )
    return (
        f"<h3>{text(name)}</h3><div class='scroll' tabindex='0' role='group' aria-label='{text(name)}'>"
        f"<table><thead><tr><th scope='col'>run</th>{head}</tr></thead><tbody>{lines}</tbody></table></div>{notes}"
    )


def _mark(place: int, count: int) -> str:
    """Which footnote; none where there is one for all."""
    return f"<sup>{place}</sup>" if count > 1 else ""


def _told_apart(column: Column) -> str:
    return f"<span class='note'>{text(column.differing)}</span>" if column.differing else ""


def _cell(row: Row, n: int, marked: bool) -> str:
    words = text(cell(row.cells[n], len(row.runs)) or "–")
    if marked:
        words = f"<strong>{words}</strong><span class='screen-reader'> best</span>"
    return f"<td class='number'>{words}</td>"


def _means(table: Table, n: int) -> dict[int, float]:
    """Of each row that has values in a column."""
    return {at: mean_and_deviation(row.cells[n])[0] for at, row in enumerate(table.rows) if row.cells[n]}


def _share(table: Table, n: int) -> bool:
    """Whether a column is of shares of which more is better."""
    return better(table.columns[n]) == "higher" and all(0 <= mean <= 1 for mean in _means(table, n).values())


def _chart(table: Table, n: int) -> str:
    names, column = _names(table.rows), table.columns[n]
    shares = [Bar(names[at], mean, SERIES[at % len(SERIES)]) for at, mean in _means(table, n).items()]
    return figure(bars(shares, column.name), column.differing, column.protocol)


# Curves


def _names(rows: Sequence[Row]) -> list[str]:
    """Short names: those of the folders where these differ, else their paths."""
    folders = [row.runs[0].name for row in rows]
    names = folders if len(set(folders)) == len(folders) else [row.name for row in rows]
    return [name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}" for name in map(plain_name, names)]


def _curves(rows: Sequence[Row]) -> dict[str, Plot]:
    """What two runs or more have logged at two steps or more; of each row its first run."""
    logs = [_log(row.runs[0]) for row in rows]
    drawn = {}
    for figure_name, title in _CURVES.items():
        series = [
            Series(name, few.steps, few.values, SERIES[place % len(SERIES)])
            for place, (name, log) in enumerate(zip(_names(rows), logs, strict=True))
            if len((few := thinned(log.get(figure_name, Curve([], [])))).steps) > 1
        ]
        if len(series) >= min(2, len(rows)):
            drawn[figure_name] = curve_plot(series, title)
    return drawn


def _log(run: Path) -> dict[str, Curve]:
    try:
        return read_curves(run / "metrics.jsonl")
    except (ValueError, OSError):
        return {}


# What differs


def _settings(rows: Sequence[Row]) -> str:
    """The settings whose values are not the same in all rows, seeds and facts of the machine left out."""
    if len(rows) < 2:
        return ""
    found = [_saved(row.runs[0]) for row in rows]
    names = [
        name
        for name in dict.fromkeys(name for one in found for name in one)
        if len({one.get(name) for one in found}) > 1
    ]
    if not names:
        return ""
    head = "".join(f"<th scope='col'>{text(name)}</th>" for name in _names(rows))
    lines = "".join(
        f"<tr><th scope='row'>{text(name)}</th>"
        + "".join(f"<td>{text(one.get(name, '–'))}</td>" for one in found)
        + "</tr>"
        for name in names[:_DIFFERENCES]
    )
    more = f"<p class='note'>{len(names) - _DIFFERENCES} more differ.</p>" if len(names) > _DIFFERENCES else ""
    return (
        "<div class='scroll' tabindex='0' role='group' aria-label='Settings that differ'>"
        f"<table><thead><tr><th scope='col'>setting</th>{head}</tr></thead><tbody>{lines}</tbody></table></div>{more}"
    )


def _saved(run: Path) -> dict[str, str]:
    """The settings of a run as words; none where they cannot be read."""
    try:
        saved = RunFolder(run).read_json("config.json")
    except (ValueError, OSError):
        return {}
    result = saved.get("result", {})
    rows = flattened({name: value for name, value in result.items() if name not in ("seed", "facts")})
    return {name: value for name, value in rows if not name.endswith(".seed")}


def _notes(table: Table) -> str:
    lines = [
        f"{row.name}: mean ± standard deviation (n - 1) over {', '.join(map(str, row.runs))}"
        for row in table.rows
        if len(row.runs) > 1
    ]
    lines += [*table.notes, *(f"skipped: {name}: {reason}" for name, reason in table.skipped.items())]
    return f"<ul>{''.join(f'<li>{text(line, 2_000)}</li>' for line in lines)}</ul>" if lines else ""
