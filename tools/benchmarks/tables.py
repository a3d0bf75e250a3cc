"""Write the tables of docs/benchmarks/cpu.md anew from the recorded lines: `python -m tools.benchmarks.tables`.

Reads docs/benchmarks/*.jsonl, as `tools.benchmarks.draw` does. A table stands between `<!-- table NAME -->` and
`<!-- end -->`; one that has no recorded lines is left as it is, and said.
"""

import runpy
from pathlib import Path

if not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "checkout.py"))["again_as_module"](__file__)

import argparse
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from selfsup.output import message, program
from tools.benchmarks.draw import Lines, recorded
from tools.checkout import ROOT

PROCESSES = {
    "python": "Python that does nothing",
    "import_torch": "`import torch`",
    "import_lightly": "`import lightly`",
    "from_lightly": "`import lightly.loss, lightly.transforms`",
    "import_selfsup": "`import selfsup`",
    "from_selfsup": "`from selfsup import SimCLR, pretrain`",
    "help": "`selfsup --help`",
    "recipes": "`selfsup recipes`",
    "recipe_help": "`selfsup pretrain RECIPE --help`",
    "methods": "`selfsup methods`",
    "doctor": "`selfsup doctor`",
    "first_step": "`selfsup pretrain RECIPE` until its first step is taken",
}
_SEARCHES = {
    "faiss": "ours, by faiss",
    "torch": "ours, by torch",
    "plain_faiss": "`faiss.knn`",
    "plain_torch": "a plain loop of torch",
}


def startup(lines: Lines) -> list[str]:
    found = [line for line in lines if line["name"].startswith("startup/") and "median" in line]
    rows = [
        (
            PROCESSES[line["name"].partition("/")[2]],
            _range(line),
            f"{line['processor_seconds']:.2f}",
            f"{line['over_import_torch']:.2f}" if "over_import_torch" in line else "",
        )
        for line in found
    ]
    return _table(("process", "seconds", "of a processor", "over `import torch`"), rows)


def time_to_accuracy(lines: Lines) -> list[str]:
    found = [line for line in lines if line["name"].startswith("time_to_accuracy/") and "threshold" in line]
    rows = []
    for line in found:
        spreads = [_spread(line[what]) for what in ("training_seconds", "seconds", "epochs")]
        seeds = f"{len(line['reached_by'])} of {len(line['seeds'])}"
        over = f"{line['over_ours']:.2g}" if "over_ours" in line else ""
        rows.append((f"{line['threshold']:g}", line["name"].partition("/")[2], seeds, *spreads, over))
    return _table(("kNN", "program", "seeds", "seconds of training", "of the process", "epochs", "over ours"), rows)


def knn(lines: Lines) -> list[str]:
    rows = []
    for line in lines:
        if line["name"].startswith("knn/"):
            name = line["name"].partition("/")[2]
            sizes = f"{line['batch']:,} in {line['images']:,} x {line['dim']}, {_threads(line)}"
            same = f"{line['agreement'][name]:.6g}"
            rows.append((sizes, _SEARCHES[name], _range(line), f"{line['ratio_of_ours']:.2f}", same))
    return _table(("queries", "search", "queries/s", "ours over it", "same neighbours"), rows)


def growth(lines: Lines) -> list[str]:
    rows = []
    for line in lines:
        if "over" in line:
            name, _, contestant = line["name"].partition("_growth/")
            sizes = ", ".join(f"{size:,}" for size in line["sizes"])
            exponents = [f"{line[key]:.2f}" if (key := f"exponent_of_{what}") in line else "" for what in _GROWING]
            rows.append((name, contestant.replace("_", " "), line["over"], sizes, *exponents))
    return _table(("work", "by", "grows with", "sizes", *(f"exponent of {what}" for what in _GROWING)), rows)


_GROWING = ("seconds", "bytes")


def step_share(lines: Lines) -> list[str]:
    found = [line for line in lines if line["name"] == "step_share"]
    parts = list(found[0]["shares"]) if found else []
    rows = [
        (line["encoder"], f"{line['batch']}", *(f"{100 * line['shares'][part]:.2g} %" for part in parts))
        for line in found
    ]
    return _table(("recipe", "batch", *parts), rows)


TABLES: dict[str, Callable[[Lines], list[str]]] = {
    "startup": startup,
    "time_to_accuracy": time_to_accuracy,
    "knn": knn,
    "growth": growth,
    "step_share": step_share,
}


def filled(text: str, lines: Lines) -> str:
    """The text with every table as the lines have it.

    Raises:
        ValueError: a table is marked that there is none of.
    """

    def replaced(match: re.Match[str]) -> str:
        name = match[1]
        if name not in TABLES:
            raise ValueError(f"there is no table {name}; wanted one of {', '.join(TABLES)}")
        rows = TABLES[name](lines)
        if not rows:
            message(f"{name}: nothing is recorded; the table is left as it is")
            return match[0]
        return "\n".join([f"<!-- table {name} -->", *rows, "<!-- end -->"])

    return re.sub(r"<!-- table (\w+) -->\n.*?<!-- end -->", replaced, text, flags=re.DOTALL)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Nothing without rows."""
    lines = [_row(row) for row in rows]
    return [_row(head), _row(["---"] * len(head)).replace(" ", ""), *lines] if lines else []


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |")


def _range(line: dict[str, Any]) -> str:
    return f"{line['median']:,.4g} ({line['min']:,.4g} to {line['max']:,.4g})"


def _spread(values: Sequence[float] | None) -> str:
    return "never" if values is None else f"{values[0]:.3g} ({values[1]:.3g} to {values[2]:.3g})"


def _threads(line: dict[str, Any]) -> str:
    return "one thread" if line["threads"] == 1 else f"{line['threads']} threads"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    folder = ROOT / "docs" / "benchmarks"
    parser.add_argument("--records", type=Path, default=folder, help="folder of recorded lines")
    parser.add_argument("--page", type=Path, default=folder / "cpu.md")
    asked = parser.parse_args()
    asked.page.write_text(filled(asked.page.read_text(), recorded(asked.records)))


if __name__ == "__main__":
    with program():
        main()
