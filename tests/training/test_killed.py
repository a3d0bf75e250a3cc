"""Killed in mid-epoch, the same call goes on to the same bits. The whole matrix of shards and tables is R25."""

from dataclasses import replace
from pathlib import Path

import pytest

from selfsup.pretraining import pretrain
from tests.support.killed_runs import wrong
from tests.support.killed_shards import Write, goes_on, hugging_face, webdataset
from tests.support.tiny import tiny_run


@pytest.mark.parametrize(
    ("write", "world", "workers"), [(webdataset, 1, (2,)), (hugging_face, 1, (2,)), (webdataset, 2, (0,))]
)
def test_images_in_shards_and_tables(write: Write, world: int, workers: tuple[int, ...], tmp_path: Path) -> None:
    assert goes_on(tmp_path, write, world, workers) == dict.fromkeys(workers, "")


def test_a_transformer(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    from tests.models.test_encoders import ENCODERS

    run = tiny_run(tmp_path / "whole", "moco_v3", "shapes:64", encoder=ENCODERS["vit"])
    pretrain(run)
    assert wrong(tmp_path / "whole", replace(run, folder=str(tmp_path / "cut")), 1) == ""
