"""Tables of recorded figures: the page says what the lines say."""

import pytest

from tests.support.places import ROOT
from tools.benchmarks import startup
from tools.benchmarks.draw import recorded
from tools.benchmarks.tables import PROCESSES, TABLES, filled

PAGE = ROOT / "docs" / "benchmarks" / "cpu.md"
LINE = {"unit": "s", "runs": 3, "median": 0.25, "min": 0.125, "max": 1.5, "processor_seconds": 0.2}


def marked(name: str, rows: str) -> str:
    return f"before\n<!-- table {name} -->\n{rows}<!-- end -->\nafter\n"


def test_the_page_says_what_was_recorded() -> None:
    text = PAGE.read_text()
    assert filled(text, recorded(PAGE.parent)) == text, "write again: python -m tools.benchmarks.tables"
    for name in TABLES:
        assert f"<!-- table {name} -->\n| " in text


def test_a_table_is_written_and_what_is_around_it_is_kept() -> None:
    lines = [
        {"name": "startup/help", "over_import_torch": 0.0625, **LINE},
        {"name": "startup/import_lightly", "skipped": "lightly is not installed here"},
        {"name": "startup/python", **LINE},
    ]
    rows = (
        "| process | seconds | of a processor | over `import torch` |\n|---|---|---|---|\n"
        "| `selfsup --help` | 0.25 (0.125 to 1.5) | 0.20 | 0.06 |\n"
        "| Python that does nothing | 0.25 (0.125 to 1.5) | 0.20 | |\n"
    )
    text = filled(marked("startup", "| old |\n"), lines)
    assert text == marked("startup", rows)
    assert filled(text, lines) == text


def test_what_no_seed_reached_says_so() -> None:
    reached = {"reached_by": [0, 1], "training_seconds": [15.0, 10.0, 20.0], "seconds": [16.5, 11.0, 22.0]}
    never = {"reached_by": [], "training_seconds": None, "seconds": None, "epochs": None}
    about = {"name": "time_to_accuracy/ours", "seeds": [0, 1]}
    lines = [
        {**about, **reached, "threshold": 0.4, "epochs": [1.5, 1.0, 2.0], "over_ours": 1.0},
        {**about, **never, "threshold": 0.5},
    ]
    text = filled(marked("time_to_accuracy", ""), lines)
    assert "| 0.4 | ours | 2 of 2 | 15 (10 to 20) | 16.5 (11 to 22) | 1.5 (1 to 2) | 1 |\n" in text
    assert "| 0.5 | ours | 0 of 2 | never | never | never | |\n" in text


def test_what_is_not_recorded_is_left_as_it_is_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    text = marked("growth", "| old |\n")
    assert filled(text, []) == text
    assert "growth: nothing is recorded" in capsys.readouterr().err


def test_a_table_that_there_is_none_of_is_refused() -> None:
    with pytest.raises(ValueError, match="no table speed; wanted one of startup, time_to_accuracy, knn, growth"):
        filled(marked("speed", ""), [])


def test_every_process_that_is_measured_has_a_name_in_the_table() -> None:
    assert set(PROCESSES) == {*startup.COMMANDS, startup.FIRST_STEP}
