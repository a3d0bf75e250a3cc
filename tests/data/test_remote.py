"""Files that lie elsewhere are fetched once, whole, and again when they have changed."""

import os
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from selfsup.config.settings import placed
from selfsup.data import remote
from selfsup.data.identity import manifest_of
from selfsup.data.settings import Data
from selfsup.data.sources import open_source
from tests.support.pictures import folder_of


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A file system that is no folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def archive(folder: Path, to: Path) -> bytes:
    with zipfile.ZipFile(to, "w") as file:
        for path in sorted(folder.rglob("*.png")):
            file.write(path, str(path.relative_to(folder)))
    return to.read_bytes()


def test_an_archive_is_fetched_once_and_is_its_content(
    elsewhere: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = archive(folder_of(tmp_path / "data", 3), tmp_path / "here.zip")
    elsewhere.pipe("/bucket/birds.zip", content)
    source = open_source("memory://bucket/birds.zip")
    assert manifest_of(source).digest == manifest_of(open_source(str(tmp_path / "here.zip"))).digest
    assert capsys.readouterr().err.count("which is done once") == 1
    open_source("memory://bucket/birds.zip")
    assert "which is done once" not in capsys.readouterr().err
    (kept,) = (tmp_path / "cache/selfsup/remote").rglob("*.zip")
    assert kept.read_bytes() == content
    assert not list(kept.parent.glob("*.part"))


def test_what_has_changed_is_fetched_again_and_what_is_old_goes(elsewhere: Any, tmp_path: Path) -> None:
    first = folder_of(tmp_path / "data", 3)
    elsewhere.pipe("/bucket/birds.zip", archive(first, tmp_path / "one.zip"))
    before = open_source("memory://bucket/birds.zip")
    (first / "0001.png").unlink()
    (old,) = (tmp_path / "cache/selfsup/remote").iterdir()
    os.utime(old, (0, time.time() - 91 * 24 * 3600))
    elsewhere.rm("/bucket/birds.zip")
    elsewhere.pipe("/bucket/birds.zip", archive(first, tmp_path / "two.zip"))
    assert len(open_source("memory://bucket/birds.zip")) == len(before) - 1
    assert not old.exists()


def test_half_a_file_is_none(elsewhere: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere.pipe("/bucket/birds.zip", archive(folder_of(tmp_path / "data", 3), tmp_path / "one.zip"))
    whole = elsewhere.info("/bucket/birds.zip")
    with monkeypatch.context() as patch:
        patch.setattr(type(elsewhere), "info", lambda *_, **__: whole | {"size": whole["size"] + 1})
        with pytest.raises(ValueError, match="start the command again"):
            open_source("memory://bucket/birds.zip")
    assert not list((tmp_path / "cache/selfsup/remote").rglob("*.zip*"))


@pytest.mark.parametrize(
    ("root", "said"),
    [
        ("memory://bucket/birds", "names no file that can be fetched whole"),
        ("memory://bucket/none.zip", "cannot be reached: FileNotFoundError"),
        ("memory://bucket/folder.zip", "is a folder"),
        ("nosuch://bucket/birds.zip", "cannot be reached"),
    ],
)
def test_wrong_addresses_are_answered_with_what_to_do(elsewhere: Any, root: str, said: str) -> None:
    elsewhere.pipe("/bucket/folder.zip/a.jpg", b"")
    with pytest.raises(ValueError, match=said):
        open_source(root)


def test_an_address_stays_as_it_is_where_paths_become_absolute() -> None:
    assert placed(Data(root="s3://bucket/a.tar")).root == "s3://bucket/a.tar"
    assert remote.is_remote("s3://bucket/a.tar")
    assert not remote.is_remote("hf:uoft-cs/cifar10")
