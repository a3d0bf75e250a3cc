"""docs/weights.md says of every layout how it was tried, as the record beside it has it."""

import json
from pathlib import Path

from tool_files import load_tool

from selfsup.convert.table import table

DOCS = Path(__file__).parents[2] / "docs"


def test_the_table_is_that_of_the_record_and_has_every_layout() -> None:
    tool = load_tool("verify_weights")
    record = json.loads((DOCS / "weights.json").read_text())
    text = (DOCS / "weights.md").read_text()
    assert tool.with_table(text, record) == text, "write the table anew: tools/verify_weights.py"
    assert {entry["layout"] for entry in record} == set(table())


def test_every_layout_was_exact_and_came_in_again() -> None:
    for entry in json.loads((DOCS / "weights.json").read_text()):
        assert entry["difference"] <= 1e-5, entry
        assert entry["equal"], entry
