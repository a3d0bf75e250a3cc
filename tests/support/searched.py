"""The commands that search images, in this process, and what they should say."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import selfsup
from selfsup import cli
from tests.support.encoders import PLAIN, SMALL, export_untrained

QUICK = ("--workers", "0", "--device", "cpu")


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """A command in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["selfsup", *map(str, words), *QUICK])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def files(root: Path) -> list[str]:
    """Images in the order of the data."""
    return sorted(str(path) for path in root.rglob("*.png"))


class Answered:
    """What a command said."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        captured = capsys.readouterr()
        *lines, last = captured.out.splitlines()
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in lines]
        self.figures: dict[str, Any] = json.loads(last)
        self.said = captured.err


def similarities(run: Path, paths: list[str]) -> torch.Tensor:
    """(N, N) cosines of the features of files, in double precision."""
    unit = F.normalize(selfsup.load(run, device="cpu").embed(paths).double())
    return unit @ unit.T


def untrained(folder: Path) -> Path:
    """A run folder with a small encoder of one seed."""
    torch.manual_seed(0)
    return export_untrained(folder, SMALL, PLAIN).parent
