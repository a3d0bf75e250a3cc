"""What data are is what is in them: every change of content is another identity, and no change of place is."""

import os
import shutil
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from selfsup.data import looked
from selfsup.data.identity import identity, manifest_of
from selfsup.data.manifest import changes, read_manifest
from selfsup.data.sources import open_source

CLASSES = ("ape", "bat", "cat")


def folder_of(root: Path, seed: int = 0, per_class: int = 3) -> Path:
    """Files of random bytes with the names of images, of which one is larger than what is read whole."""
    numbers = np.random.default_rng(seed)
    for name in CLASSES:
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            size = SIZE if (name, number) == ("cat", 0) else 100
            (root / name / f"{number}.jpg").write_bytes(numbers.bytes(size))
    return root


def exchange(root: Path) -> None:
    for old, new in (("ape", "x"), ("bat", "ape"), ("cat", "bat"), ("x", "cat")):
        (root / old).rename(root / new)


def overwrite(path: Path, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


LARGE, SIZE = "cat/0.jpg", 3 * looked.WHOLE
CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "overwritten": (lambda root: overwrite(root / "ape/1.jpg", 50), "1 files changed, the first ape/1.jpg"),
    "large, head": (lambda root: overwrite(root / LARGE, 0), f"1 files changed, the first {LARGE}"),
    "large, middle": (
        lambda root: overwrite(root / LARGE, 3 * looked.WHOLE // 2),
        f"1 files changed, the first {LARGE}",
    ),
    "large, end": (lambda root: overwrite(root / LARGE, 3 * looked.WHOLE - 1), f"1 files changed, the first {LARGE}"),
    "longer": (lambda root: (root / "ape/0.jpg").write_bytes(bytes(101)), "1 files changed, the first ape/0.jpg"),
    "added": (lambda root: (root / "bat/9.jpg").write_bytes(b"new"), "1 files added, the first bat/9.jpg"),
    "removed": (lambda root: (root / "bat/1.jpg").unlink(), "1 files removed, the first bat/1.jpg"),
    "renamed": (
        lambda root: (root / "bat/1.jpg").rename(root / "bat/8.jpg"),
        "1 files renamed, the first from bat/1.jpg to bat/8.jpg",
    ),
    "other class": (
        lambda root: (root / "bat/1.jpg").rename(root / "ape/8.jpg"),
        "1 files renamed, the first from bat/1.jpg to ape/8.jpg",
    ),
    "exchanged": (exchange, "9 files changed, the first ape/0.jpg"),
    "class renamed": (
        lambda root: (root / "cat").rename(root / "cow"),
        "3 files renamed, the first from cat/0.jpg to cow/0.jpg; the class names were (ape, bat, cat) and are "
        "(ape, bat, cow)",
    ),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_every_change_of_files_is_told(kind: str, tmp_path: Path) -> None:
    root = folder_of(tmp_path / "data")
    before = manifest_of(open_source(str(root)))
    change, words = CHANGES[kind]
    change(root)
    after = manifest_of(open_source(str(root)))
    assert after.digest != before.digest
    assert changes(before, after) == words


def test_neither_the_place_nor_the_container_is_content(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "data")
    known = identity("auto", open_source(str(root)))
    with zipfile.ZipFile(tmp_path / "any.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(root.rglob("*.jpg")):
            archive.write(path, f"inside/{path.relative_to(root)}")
    (tmp_path / "any.zip").rename(tmp_path / "other.zip")
    shutil.copytree(root, tmp_path / "copy")
    for place in ("other.zip", "copy"):
        assert identity("auto", open_source(str(tmp_path / place))) == known
    assert known.startswith("content ")


def test_an_array_is_its_pixels_labels_and_class_names(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
    labels = np.arange(6) % 3
    count = 0

    def found(images: np.ndarray = images, labels: np.ndarray = labels, **more: np.ndarray) -> tuple[str, str]:
        nonlocal count
        count += 1
        path = tmp_path / f"{count}.npz"  # another name each time
        np.savez(path, images=images, labels=labels, **more)  # type: ignore[arg-type]
        now = manifest_of(open_source(str(path)))
        return now.digest, changes(first, now) if count > 1 else ""

    np.savez(tmp_path / "first.npz", images=images, labels=labels)
    first = manifest_of(open_source(str(tmp_path / "first.npz")))
    digest, _ = found()
    assert digest == first.digest
    assert found(labels=labels.astype(np.uint8)[:, None])[0] == digest  # how labels are stored is not content
    assert found(images=images.transpose(0, 3, 1, 2))[0] == digest
    other = images.copy()
    other[4, 3, 4, 2] ^= 1
    assert found(images=other)[1] == "1 images changed, the first [4]"
    assert found(labels=labels[::-1])[1] == "4 labels changed, the first of [0] from 0 to 2"
    assert found(images=images[:5], labels=labels[:5])[1] == "1 images removed, the first [5]"
    assert found(classes=np.array(["x", "y", "z"]))[1] == "the class names were (0, 1, 2) and are (x, y, z)"
    assert found(images=images.reshape(6, 5, 4, 3))[1] == "6 images changed, the first [0]"


def test_gray_images_equal_three_channels_of_them(tmp_path: Path) -> None:
    gray = np.random.default_rng(0).integers(0, 256, (4, 5, 6), dtype=np.uint8)
    np.save(tmp_path / "gray.npy", gray)
    np.save(tmp_path / "colour.npy", np.stack([gray] * 3, axis=-1))
    one, three = (identity("auto", open_source(str(tmp_path / name))) for name in ("gray.npy", "colour.npy"))
    assert one == three


def test_many_images_are_looked_at_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfsup.data.identity._BLOCKS", 4)
    source = open_source("shapes:10")
    before = manifest_of(source)
    assert before.names.tolist() == [b"[0:3]", b"[3:6]", b"[6:9]", b"[9:10]"]
    source.images[7, 0, 0, 0] ^= 1  # type: ignore[attr-defined]
    source.labels[1] = 9
    assert changes(before, manifest_of(source)).startswith("1 images changed, the first [6:9]")
    assert changes(before, manifest_of(source)).endswith("1 labels changed, the first of [1] from ring to tee") is False


def test_what_cannot_be_read_is_content_too(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "data")
    os.mkfifo(root / "ape/7.jpg")
    (root / "bat/7.jpg").symlink_to(tmp_path / "nowhere")
    before = manifest_of(open_source(str(root)))
    assert [size for size in before.sizes.tolist() if size < 0] == [-1, -1]
    (tmp_path / "nowhere").write_bytes(b"now there")
    assert changes(before, manifest_of(open_source(str(root)))) == "1 files changed, the first bat/7.jpg"


# The list of files that were looked at


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of which a list is kept, whose files are old enough for it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(looked, "LISTED", 5)
    monkeypatch.setattr(looked, "SETTLED", -(10**18))
    return folder_of(tmp_path / "data")


def opened(root: Path, monkeypatch: pytest.MonkeyPatch, full: bool = False) -> tuple[list[str], str]:
    """The files that a look opened, and what it found."""
    files: list[str] = []
    read = looked._file_digest

    def noted(path: bytes, size: int) -> bytes:
        files.append(os.fsdecode(path).removeprefix(f"{root}/"))
        return read(path, size)

    with monkeypatch.context() as patch:
        patch.setattr(looked, "_file_digest", noted)
        return files, manifest_of(open_source(str(root)), full).digest


def test_a_second_look_opens_what_has_changed(listed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, digest = opened(listed, monkeypatch)
    assert len(first) == 9
    assert opened(listed, monkeypatch) == ([], digest)
    assert len(opened(listed, monkeypatch, full=True)[0]) == 9
    status = (listed / "bat/1.jpg").stat()
    overwrite(listed / "bat/1.jpg", 3)
    os.utime(listed / "bat/1.jpg", ns=(status.st_atime_ns, status.st_mtime_ns))  # as copying with times does
    files, other = opened(listed, monkeypatch)
    assert files == ["bat/1.jpg"]
    assert other != digest
    (listed / "bat/0.jpg").rename(listed / "bat/5.jpg")
    assert opened(listed, monkeypatch)[0] == ["bat/5.jpg"]
    part = open_source(str(listed), limit=6)  # a part of what is listed; the rest stays in the list
    manifest_of(part)
    assert opened(listed, monkeypatch)[0] == []


@pytest.mark.parametrize("waits", [False, True])
def test_files_are_read_in_threads_where_they_are_waited_for(waits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In threads or not, the rows come in order; what answers at once is read by one thread, which is faster."""
    threads: set[int] = set()
    clock = {"wall": 0.0, "computed": 0.0}
    monkeypatch.setattr(looked.time, "perf_counter", lambda: clock["wall"])
    monkeypatch.setattr(looked.time, "thread_time", lambda: clock["computed"])

    def work(rows: np.ndarray) -> np.ndarray:
        threads.add(threading.get_ident())
        clock["wall"] += 5.0 if waits else 1.5
        clock["computed"] += 1.0
        return rows * 2

    rows = np.arange(20_000)
    found = list(looked.chunk_by_chunk(work, looked._chunks(rows), 4))
    assert (np.concatenate(found) == rows * 2).all()
    assert (len(threads) > 1) == waits


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 64 + 2048, 64 + 2049])
def test_chunks_are_all_rows_in_order(count: int) -> None:
    chunks = looked._chunks(np.arange(count))
    assert np.concatenate([np.arange(0), *chunks]).tolist() == list(range(count))
    assert all(len(chunk) for chunk in chunks)


def test_files_of_a_moment_ago_are_not_trusted(listed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second write within the same tick of the clock leaves size, times and inode as they were."""
    monkeypatch.setattr(looked, "SETTLED", 2_000_000_000)
    opened(listed, monkeypatch)
    assert len(opened(listed, monkeypatch)[0]) == 9


def test_a_list_that_is_damaged_or_cannot_be_kept_costs_only_time(
    listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, digest = opened(listed, monkeypatch)
    (path,) = (tmp_path / "cache" / "selfsup").iterdir()
    path.write_bytes(path.read_bytes()[:200])
    assert opened(listed, monkeypatch)[1] == digest
    monkeypatch.setenv("XDG_CACHE_HOME", str(listed / "ape/0.jpg"))  # no folder
    assert opened(listed, monkeypatch)[1] == digest
    assert "the list of files that were looked at cannot be kept in" in " ".join(capsys.readouterr().err.split())


def test_entries_of_an_archive_are_trusted_with_it(
    listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def packed() -> None:
        with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
            for path in sorted(listed.rglob("*.jpg")):
                archive.write(path, str(path.relative_to(listed)))

    packed()
    first = open_source(str(tmp_path / "data.zip"))
    known = manifest_of(first).digest
    reads: list[int] = []
    plain = type(first).content
    monkeypatch.setattr(type(first), "content", lambda self, index: reads.append(index) or plain(self, index))
    assert manifest_of(open_source(str(tmp_path / "data.zip"))).digest == known
    assert reads == []
    overwrite(listed / "ape/1.jpg", 3)
    packed()
    assert manifest_of(open_source(str(tmp_path / "data.zip"))).digest != known


# Kept in the run folder


def test_a_manifest_comes_back_and_damage_is_named(tmp_path: Path) -> None:
    manifest = manifest_of(open_source(str(folder_of(tmp_path / "data"))))
    path = tmp_path / "images.manifest"
    path.write_bytes(manifest.packed())
    kept = read_manifest(path)
    assert kept.content == manifest.digest
    assert changes(kept.manifest, manifest) == "the order of the files differs"  # nothing else does
    for damaged in (path.read_bytes()[:-9], b"{}", path.read_bytes().replace(b'"entries": 9', b'"entries": 10')):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"images\.manifest is damaged"):
            read_manifest(path)


def test_two_domains_are_both_content(tmp_path: Path) -> None:
    from selfsup.data.opening import open_training
    from selfsup.data.settings import Data

    first, second = folder_of(tmp_path / "first"), folder_of(tmp_path / "second", seed=1)
    data = Data(root=str(second), labelled_root=str(first))
    before = manifest_of(open_training(data))
    overwrite(second / "bat/2.jpg", 1)
    assert changes(before, manifest_of(open_training(data))) == "1 files changed, the first unlabelled/bat/2.jpg"
    part = open_training(data).select(torch.arange(3, 12))
    assert len(manifest_of(part).names) == 9
