"""What lies where in tar archives: one look at each, and the list that is kept of it."""

import contextlib
import hashlib
import os
import tarfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from selfsup.data.arrays import write_npz
from selfsup.data.encoded import pack_names
from selfsup.data.looked import SETTLED, forget, list_folder
from selfsup.data.shards import Shards
from selfsup.output import message

_LISTED = 500  # entries of a shard from which on a list of them is kept
_MANY = 200_000_000  # bytes of shards whose first look is said
_THREADS = 4


class Entries(NamedTuple):
    """The files in several archives, in the order in which they stand there."""

    names: list[str]  # no two are equal
    places: np.ndarray  # (M, 3) int64: shard, offset, bytes
    shared: str = ""  # a name that two archives hold: all have that of their archive before them then
    left_out: tuple[str, ...] = ()  # what is not among them


def entries_of(shards: Shards) -> Entries:
    """All files in the archives.

    Raises:
        ValueError: an archive cannot be read.
    """
    large = sum(path.stat().st_size for path in shards.files) >= _MANY
    with ThreadPoolExecutor(_THREADS) as threads:
        indices = [_remembered(path) for path in shards.files]
        unknown = [number for number, index in enumerate(indices) if index is None]
        if large and unknown:
            message(f"looking through {len(unknown)} tar archives for what lies where, which is known the next time")
        looked = threads.map(lambda number: _look(shards.files[number]), unknown)
        for number, index in zip(unknown, looked, strict=True):
            indices[number] = index
    found = [index for index in indices if index is not None]
    names = [name.decode("utf-8", "surrogateescape") for index in found for name in index.names.tolist()]
    places = np.concatenate(
        [np.column_stack([np.full(len(index.names), number), index.places]) for number, index in enumerate(found)]
    )
    counts = Counter(names) if len(found) > 1 else {}
    shared = next((name for name in names if counts.get(name, 1) > 1), "")
    if shared:
        titles = [path.relative_to(shards.root).as_posix() for path in shards.files]
        names = [f"{titles[shard]}/{name}" for shard, name in zip(places[:, 0].tolist(), names, strict=True)]
    return Entries(names, places, shared, _left_out(found))


def _left_out(found: list["Index"]) -> tuple[str, ...]:
    links, replaced = np.sum([index.passed for index in found], axis=0).tolist()
    told = [f"{links:,} link{'' if links == 1 else 's'} and the like within archives"] if links else []
    again = f"{replaced:,} file{'' if replaced == 1 else 's'} that a later one of the same name in the archive replaces"
    return (*told, again) if replaced else tuple(told)


class Index(NamedTuple):
    """What lies where in one archive."""

    names: np.ndarray  # (M,) bytes
    places: np.ndarray  # (M, 2) int64: offset, bytes
    passed: np.ndarray  # (2,) int64: links and the like, and files that one of the same name replaces


def _look(path: Path) -> Index:
    """All plain files in an archive; of those of one name the last, as when it is unpacked."""
    began, status = time.time_ns(), _status(path)
    places: dict[str, tuple[int, int]] = {}
    passed = np.zeros(2, np.int64)
    try:
        with tarfile.open(path, "r:") as archive:
            kept: Any = archive
            for member in archive:
                plain = member.isreg() and not member.issparse()
                passed += (not plain and not member.isdir(), plain and member.name in places)
                if plain:
                    places[member.name] = (member.offset_data, member.size)
                kept.members.clear()
    except Exception as error:  # damaged archives raise nearly every class there is
        packed = ", or it is compressed: unpack it to .tar, since images are read from the middle of it"
        raise ValueError(f"{path} is not a readable tar archive: {error}{packed}") from error
    index = Index(pack_names(list(places)), np.array(list(places.values()), np.int64).reshape(-1, 2), passed)
    if len(places) >= _LISTED and int(status[1:3].max()) < began - SETTLED:
        _remember(path, status, index)
    return index


def _status(path: Path) -> np.ndarray:  # (4,) int64
    found = path.stat()
    return np.array([found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino & (2**63 - 1)], np.int64)


def _kept(path: Path) -> Path | None:
    folder = list_folder()
    name = hashlib.sha256(b"tar " + os.fsencode(path.resolve())).hexdigest()[:32]
    return folder / f"{name}.npz" if folder else None


def _remembered(path: Path) -> Index | None:
    """What an earlier look at an archive found, where it is as it was then."""
    kept = _kept(path)
    try:
        if kept is None or not kept.is_file():
            return None
        with open(kept, "rb") as content, np.load(content, allow_pickle=False) as file:
            if not np.array_equal(file["status"], _status(path)):
                return None
            index = Index(file["names"], file["places"], file["passed"])
        shapes = index.places.shape, index.passed.shape
        if index.names.dtype.kind != "S" or shapes != ((len(index.names), 2), (2,)):
            return None
        with contextlib.suppress(OSError):
            os.utime(kept)  # it is in use
        return index
    except Exception:  # damaged files raise nearly every class there is; a list that is lost costs only time
        return None


def _remember(path: Path, status: np.ndarray, index: Index) -> None:
    kept = _kept(path)
    with contextlib.suppress(OSError):  # it costs only time
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_npz(kept, {"status": status, **index._asdict()})
            forget(kept.parent)
