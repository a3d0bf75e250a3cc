"""Pretraining goes well where memory, handles, network, home, locale and temporary folders are wanting."""

import os
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from selfsup import cli
from selfsup.run_folder.folder import RunFolder
from tests.support.poor import ALL, carried_out, missing


def test_all_that_can_be_wanting_at_once(tmp_path: Path) -> None:
    if reason := missing(ALL):
        pytest.skip(reason)
    assert len(carried_out(ALL, tmp_path)) == 64


def test_a_run_folder_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    """TensorBoard would fail on it in the middle of the beginning."""
    folder = RunFolder(tmp_path / os.fsdecode(b"\xff"))
    with pytest.raises(ValueError, match=r"is not UTF-8 as this Python reads it\ngive another --folder"):
        folder.check(None, {})
    with pytest.raises(ValueError, match="is not UTF-8"), folder.claimed(None, {}, torch.device("cpu")):
        pass
    assert not list(tmp_path.iterdir())


def test_without_a_folder_for_temporary_files_there_is_a_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    monkeypatch.setattr(sys, "argv", ["selfsup", "recipes"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert "set the environment variable TMPDIR" in capsys.readouterr().err
