"""Images in shards and tables: killed in mid-epoch, the same call goes on to the same bits. The whole matrix is R25."""

from pathlib import Path

import pytest

from tests.support.killed_shards import Write, goes_on, hugging_face, webdataset


@pytest.mark.parametrize(
    ("write", "world", "workers"), [(webdataset, 1, (2,)), (hugging_face, 1, (2,)), (webdataset, 2, (0,))]
)
def test_killed_in_mid_epoch(write: Write, world: int, workers: tuple[int, ...], tmp_path: Path) -> None:
    assert goes_on(tmp_path, write, world, workers) == dict.fromkeys(workers, "")
