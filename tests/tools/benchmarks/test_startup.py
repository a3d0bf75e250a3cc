"""How soon commands answer."""

import json
import sys
import time
from pathlib import Path

import pytest

from tools.benchmarks import startup

BARE = [sys.executable, "-S", "-c"]


def test_a_process_is_measured_with_what_it_computes() -> None:
    slept = startup.spent([*BARE, "import time; time.sleep(0.3)"])
    assert slept.wall >= 0.3 > slept.processor
    worked = startup.spent([*BARE, "import time\nwhile time.process_time() < 0.3: pass"])
    assert worked.processor >= 0.29


def test_it_is_measured_until_there_is_enough_and_then_stopped(tmp_path: Path) -> None:
    made = tmp_path / "made"
    begin = time.monotonic()
    found = startup.spent(
        [*BARE, f"import time; time.sleep(0.2); open({str(made)!r}, 'w'); time.sleep(60)"], made.exists
    )
    assert 0.2 <= found.wall <= time.monotonic() - begin < 30


def test_what_fails_is_told_and_the_others_have_lines(capsys: pytest.CaptureFixture[str]) -> None:
    works = {
        "import_torch": lambda: startup.spent([*BARE, "pass"]),  # stands for it
        "broken": lambda: startup.spent([*BARE, "raise SystemExit('it is broken')"]),
        "help": lambda: startup.Spent(2.0, 0.6),
    }
    startup.tell(startup.in_turn(works, 2))
    failed, *lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert failed["name"] == "startup/broken"
    assert failed["failed"].endswith("it ended with 1: it is broken")
    assert [line["name"] for line in lines] == ["startup/import_torch", "startup/help"]
    assert lines[0]["over_import_torch"] == 1
    assert lines[1] | {"median": 2.0, "min": 2.0, "max": 2.0, "processor_seconds": 0.6, "met": False} == lines[1]
    assert lines[1]["over_import_torch"] == pytest.approx(2 / lines[0]["median"], rel=1e-2)


def test_what_ends_before_there_is_enough_has_failed() -> None:
    with pytest.raises(ValueError, match="ended with 0"):
        startup.spent([*BARE, "pass"], lambda: False)


def test_what_is_not_installed_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "_NEEDS", {"import_lightly": "no_such_package"})
    startup.measure(["import_lightly"], 1)
    assert json.loads(capsys.readouterr().out)["skipped"] == "no_such_package is not installed here"
