"""docs/export.md says of every format what was tried, as the record beside it has it."""

import json

from selfsup.export.table import table
from tests.support.places import ROOT
from tools.benchmarks.exported_reader import READERS
from tools.benchmarks.verify_export import CASES, rows
from tools.documents import with_table

DOCS = ROOT / "docs"


def test_the_table_is_that_of_the_record_and_has_every_format() -> None:
    record = json.loads((DOCS / "export.json").read_text())
    text = (DOCS / "export.md").read_text()
    assert with_table(text, rows(record)) == text, "write the table anew: python -m tools.benchmarks.verify_export"
    assert {(entry["network"], entry["format"]) for entry in record} == {(n, f) for n in CASES for f in table()}
    assert set(READERS) == set(table())
    assert all(f"| `{name}` |" in text.partition("## Out and in again")[0] for name in table())


def test_every_export_was_equal() -> None:
    for entry in json.loads((DOCS / "export.json").read_text()):
        if "difference" in entry:
            assert entry["difference"] <= 1e-5 * max(1, entry["greatest"]), entry
            assert entry["written"] <= 1e-5 * max(1, entry["greatest"]), entry
        else:
            assert entry["refused"], entry
