"""The whole way of a user, from weights of torchvision to a classifier that runs without selfsup."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.processes import run_command
from tests.tools.test_tools import run
from tools import journey


def forked(way: journey.Journey, name: str, command: Sequence[object]) -> str:
    """As `Journey.run`, but a command of selfsup is a process that has imported already what takes seconds."""
    if command[1:3] != ["-m", "selfsup"]:
        return STARTED(way, name, command)
    begin = time.monotonic()
    code, out, errors = run_command(way.folder, *command[3:])
    assert code == 0, errors
    way.done.append(journey.Done(name, time.monotonic() - begin, ""))
    return out


STARTED = journey.Journey.run


def test_all_commands_lead_to_a_program_that_decides_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("torchvision")
    monkeypatch.setattr(journey.Journey, "run", forked)
    monkeypatch.setattr(sys, "argv", ["journey", str(tmp_path / "way"), "--images", "64", "--epochs", "1"])
    assert journey.main() == 0
    said = capsys.readouterr()
    figures = json.loads(said.out.splitlines()[-1])
    assert figures["same_class"] == figures["images"] == 24
    assert 0 < figures["difference"] < 1e-4  # other arithmetic, the same function
    for step in ("import", "pretrain", "finetune", "evaluate", "predict", "export", "classify.py"):
        assert f" {step} " in said.err
    lines = (tmp_path / "way" / "predicted.csv").read_text().splitlines()
    assert len(lines) == 25
    assert max(float(line.split(",")[2]) for line in lines[1:]) < 0.99  # so that a difference would be seen


def test_a_folder_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    done = run("journey", tmp_path)
    assert done.returncode == 2
    assert "is there already; name a folder that is not, or remove it" in done.stderr
    assert not list(tmp_path.iterdir())
