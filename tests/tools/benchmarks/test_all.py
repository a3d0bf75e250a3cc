"""The benchmarks in one go: it ends in time, and says what it has not measured."""

import json
import sys
import time
from pathlib import Path

import pytest

from tests.support.places import ROOT
from tools.benchmarks import all as every
from tools.benchmarks.all import Part, run_all, run_for


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
        f"step/{part}" for part in ("whole", "with_guard", "bare", "views", "loss", "guard", "optimizer", "memory")
    ]
    assert all(line["min"] <= line["median"] <= line["max"] for line in lines[:8])
    assert lines[8]["name"] == "step_share"
    assert sum(lines[8]["shares"].values()) == pytest.approx(1, abs=1e-3)
    assert "--nonsense" in lines[9]["failed"]
    assert lines[10]["cut_off"] == "after 3 s"


def test_what_is_cut_off_holds_nothing_up() -> None:
    """Not even by a process that it has started, which has its output."""
    code = "import subprocess as s; print('{}', flush=True); s.run(['sleep', '60'])"
    begin, lines = time.monotonic(), list[dict[str, object]]()
    ended, _ = run_for([sys.executable, "-S", "-c", code], 1.0, lines.append)
    assert ended is None
    assert lines == [{}]
    assert time.monotonic() - begin < 30


def test_every_part_takes_its_flags() -> None:
    for part in every.PARTS:
        text = (ROOT / "tools" / "benchmarks" / f"{part.name}.py").read_text()
        for flag in part.flags:
            assert not flag.startswith("--") or f'"{flag}"' in text, part


def test_nothing_begins_when_the_time_is_up(tmp_path: Path) -> None:
    assert run_all(0.0, tmp_path / "lines.jsonl") == 0
    lines = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    assert [line["left_out"] for line in lines] == ["no time was left"] * len(every.PARTS)
