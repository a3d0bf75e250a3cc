"""The benchmarks in one go: it ends in time, and says what it has not measured."""

import json
import time
from pathlib import Path

import pytest

from tools.benchmarks import all as every
from tools.benchmarks.all import Part, run_all


def test_what_has_no_time_is_said_and_what_there_is_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = (
        Part("step", ("--runs", "1", "--setting", "small"), 1.0),
        Part("knn", ("--nonsense",), 1.0),
        Part("cluster", ("--images", "100000"), 0.005),
    )
    monkeypatch.setattr(every, "PARTS", parts)
    begin = time.monotonic()
    assert run_all(10.0, tmp_path / "lines.jsonl") == 1
    assert time.monotonic() - begin < 600
    lines = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines if "median" in line] == [
        f"step/{part}" for part in ("whole", "with_guard", "bare", "views")
    ]
    assert all(line["min"] <= line["median"] <= line["max"] for line in lines[:4])
    assert "--nonsense" in lines[4]["failed"]
    assert lines[5]["cut_off"] == "after 3 s"


def test_nothing_begins_when_the_time_is_up(tmp_path: Path) -> None:
    assert run_all(0.0, tmp_path / "lines.jsonl") == 0
    lines = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    assert [line["left_out"] for line in lines] == ["no time was left"] * len(every.PARTS)
