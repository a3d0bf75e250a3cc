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


def test_the_line_of_an_epoch_has_no_accuracy_of_an_earlier_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = Log(tmp_path / "metrics.jsonl", Loggers((), Opening(tmp_path, 0, {})), 0, 10)
    for epoch in (1, 2):
        log.scalars(epoch, {"loss": 0.5} | ({"knn_top1": 0.4} if epoch == 1 else {}))
        log.epoch(epoch, 2, 0)
    log.close()
    first, second = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch")]
    assert "kNN 40.0 %" in first
    assert "loss 0.5" in second
    assert "kNN" not in second


@needs_full
def test_a_run_whose_figures_cannot_be_written_ends_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny_run(tmp_path / "run", epochs=1)
    pretrain(tiny_run(tmp_path / "run", epochs=1, max_steps=2))
    monkeypatch.setattr(log_module, "open_own", opened_full)
    assert pretrain(run)["reason"] == "finished"
    assert (tmp_path / "run" / "encoder.safetensors").is_file()
