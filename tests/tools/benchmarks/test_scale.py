"""The arithmetic of docs/scale.md."""

import re
from pathlib import Path

import pytest

from tools.benchmarks import scale


def test_the_model_counts_the_bytes_that_are_sent() -> None:
    """Of a real step of both memories, in every collective operation of two processes."""
    found = scale.in_group(scale.steps)
    assert found["instdisc_sent"] == scale.instdisc(200_000, 2, 64, 128, 1024, 4).sent
    assert found["spcl_sent"] == scale.spcl(20_000, 2, 64, 128).sent


def test_the_tables_follow_the_constants() -> None:
    slow = scale.Constants("slow", rows=1e9, product=1e12, exchange=1e9)
    cost = scale.Cost(held=1e9, alive=0, read=2e9, operations=3e12, sent=4e9)
    assert slow.seconds(cost) == pytest.approx(2 + 3 + 4)
    lines = scale.rows(lambda images, processes, batch: cost, slow)
    assert len(lines) == 2 + 9
    assert lines[-1] == "| 10^9 | 512 | 32,768 | 1 GB | 1 GB | 4 GB | 9 s |"


def test_the_document_has_no_empty_place() -> None:
    found = {name: 1.0 for key in ("instdisc", "spcl") for name in (
        f"{key}_bytes_sent", f"{key}_bytes_of_model", f"{key}_milliseconds", f"{key}_milliseconds_of_model"
    )}  # fmt: skip
    found |= {"rows": 1e9, "product": 1e9, "exchange": 1e9}
    about = {"python": "3", "packages": {"torch": "2"}, "device": "cpu"}
    text = scale.document(scale.GPU, found, about)
    assert not re.search(r"[{}]", text)
    assert text.count("| 10^") == 18


def test_wrong_constants_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "constants.json"
    path.write_text('{"name": "mine", "rows": 1}')
    monkeypatch.setattr("sys.argv", ["scale.py", "--constants", str(path)])
    assert scale.main() == 2
    assert "constants.json" in capsys.readouterr().err
