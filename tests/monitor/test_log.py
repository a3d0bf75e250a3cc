"""Figures that cannot be written end no run."""

from pathlib import Path
from typing import IO

import pytest

import selfsup.monitor.log as log_module
from selfsup.monitor.log import Log
from selfsup.monitor.logger import Opening
from selfsup.monitor.loggers import Loggers
from selfsup.pretraining import pretrain
from tests.support.tiny import tiny_run

FULL = Path("/dev/full")  # a disk without room
needs_full = pytest.mark.skipif(not FULL.is_char_device(), reason="this system has no /dev/full")


def opened_full(path: Path, mode: str) -> IO[str]:
    return open(FULL, "a", buffering=1)


@needs_full
def test_a_full_disk_is_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "open_own", opened_full)
    log = Log(tmp_path / "metrics.jsonl", Loggers((), Opening(tmp_path, 0, {})), 0, 10)
    for step in (1, 2, 3):
        log.scalars(step, {"loss": 0.5})
        log.advance(step, None)
    log.epoch(1, 1, 0)
    log.close()
    said = capsys.readouterr().err
    assert said.count("figures are not logged any more: /dev/full: No space left on device") == 1
    assert "loss 0.5" in said  # the terminal still has them


@needs_full
def test_a_run_whose_figures_cannot_be_written_ends_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny_run(tmp_path / "run", epochs=1)
    pretrain(tiny_run(tmp_path / "run", epochs=1, max_steps=2))
    monkeypatch.setattr(log_module, "open_own", opened_full)
    assert pretrain(run)["reason"] == "finished"
    assert (tmp_path / "run" / "encoder.safetensors").is_file()
