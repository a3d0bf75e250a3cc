"""The record of faults names tests that exist, so that it cannot rot, and none of its lines stands without one."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.places import ROOT

RECORD = ROOT / "docs" / "mended.md"
NAMED = re.compile(r"(tests/[\w/]+\.py)::(\w+)")


def lines() -> Iterator[tuple[str, list[str]]]:
    """Section and cells of each line of the tables; a | within a cell is written \\|."""
    section = ""
    for line in RECORD.read_text().splitlines():
        if line.startswith("## "):
            section = line[3:]
        elif line.startswith("| ") and not line.startswith("| met |"):
            yield section, [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def functions_of(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def test_every_test_that_is_named_exists() -> None:
    named = set(NAMED.findall(RECORD.read_text()))
    assert len(named) > 80
    missing = []
    for path in {path for path, _ in named}:
        there = functions_of(ROOT / path) if (ROOT / path).is_file() else set()
        missing += [f"{path}::{name}" for of, name in named if of == path and name not in there]
    assert not missing


def test_every_line_has_four_cells_and_what_shows_it() -> None:
    """By a test, by "the same" as in the line above, or, where nothing holds it, with the word open."""
    before = False
    for section, cells in lines():
        assert len(cells) == 4, f"{section}: {cells}"
        what, shown, _, now = cells
        assert what, section
        assert now, f"{section}: {what}"
        before = bool(NAMED.search(shown)) or (before and "the same" in shown) or "**open**" in now
        assert before, f"{section}: {what} is held by no test"


def test_a_line_without_a_test_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tmp_path / "record.md"
    monkeypatch.setitem(globals(), "RECORD", record)
    head = "## 1. Kind\n\n| met | shown by | before | now |\n|---|---|---|---|\n"
    record.write_text(head + "| a | `ls \\| wc` | b | c |\n")
    with pytest.raises(AssertionError, match=r"1. Kind: a is held by no test"):
        test_every_line_has_four_cells_and_what_shows_it()
    record.write_text(head + "".join(f"| a | tests/test_gone.py::test_{number} | b | c |\n" for number in range(100)))
    with pytest.raises(AssertionError, match=r"tests/test_gone"):
        test_every_test_that_is_named_exists()
