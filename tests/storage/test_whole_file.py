"""A file that grows is there when it is whole; until then, and where it fails, the one before stays."""

import errno
import os
from pathlib import Path

import pytest

from selfsup.storage.checkpoint import StorageError
from selfsup.storage.whole_file import whole_file


def test_it_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "file.csv"
    with whole_file(path) as file:
        file.write(b"one")
        assert not path.exists()
    assert path.read_bytes() == b"one"
    with whole_file(path) as file:
        file.write(b"two")
        assert path.read_bytes() == b"one"
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["file.csv"]


@pytest.mark.parametrize("full", [True, False])
def test_what_fails_leaves_the_one_before(full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.csv"
    path.write_bytes(b"before")
    error = OSError(errno.ENOSPC, "No space left on device") if full else ValueError("of the caller's own")
    told = r"cannot write .*file\.csv: No space left on device; what was there before is untouched"

    def fail(_: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError if full else ValueError, match=told if full else "own"), whole_file(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["file.csv"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file") as refused, whole_file(tmp_path / "file" / "inside.csv"):
        pass
    assert refused.value.filename is not None or isinstance(refused.value, StorageError)
