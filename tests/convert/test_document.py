"""docs/weights.md says of every layout how it was tried, as the record beside it has it."""

import json

from selfsup.convert.table import table
from tests.convert.verify import of_trial, rows
from tests.support.places import ROOT
from tools.documents import with_table

DOCS = ROOT / "docs"


def test_the_table_is_that_of_the_record_and_has_every_layout() -> None:
    record = json.loads((DOCS / "weights.json").read_text())
    text = (DOCS / "weights.md").read_text()
    assert with_table(text, rows(record)) == text, "write the table anew: python -m tests.convert.verify"
    assert {entry["layout"] for entry in record} == set(table())


def test_every_layout_was_exact_and_came_in_again() -> None:
    for entry in json.loads((DOCS / "weights.json").read_text()):
        assert entry["difference"] <= 1e-5, entry
        assert entry["equal"], entry


def test_a_trial_that_cannot_be_made_again_is_known_in_the_record() -> None:
    assert of_trial("timm 1.0.31, ResNet-34", "timm {timm}, ResNet-34")
    assert not of_trial("timm 1.0.31, ViT-Ti/16", "timm {timm}, ResNet-34")
    assert of_trial("its code", "its code")
    assert not of_trial("its code, v1", "its code")
