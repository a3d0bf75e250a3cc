"""The content of files as digests, and the list of files that were looked at before.

A list holds for each file of a folder what the system said of it (size, times of the last write and the last change,
inode) and the digest of its content. Where all of these are as they were, the content is taken to be, too.
"""

import contextlib
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from selfsup.data.arrays import write_npz
from selfsup.data.encoded import Holders
from selfsup.data.manifest import DIGEST
from selfsup.output import message

WHOLE = 1 << 16  # bytes up to which a file is read whole
BLOCK = 1 << 14  # bytes of each of the three blocks of a larger one
LISTED = 2000  # files from which on a list is kept; fewer are read each time
NOTHING = hashlib.sha256(b"nothing that can be read").digest()[:DIGEST]
_MANY = 50_000  # files whose reading is said
_CHUNK = 2048  # files that one task looks at
_FIRST = 64  # files of the first task, which tells whether threads are worth their price
_WAITS = 3  # times what it computes that a task takes when it mostly waits
_THREADS = 8
SETTLED = 2_000_000_000  # ns after which a file's next change is sure to have another time
_FORGOTTEN = 90 * 24 * 3600  # s after which a list that was not used is removed
_INODE = 2**63 - 1

Reader = Callable[[np.ndarray], np.ndarray]  # rows, (n,) int64 -> digests, (n, 16) uint8


class Seen(NamedTuple):
    """Files, what the system says of them, and the digests of their content."""

    names: np.ndarray  # (M,) bytes
    status: np.ndarray  # (M, 4) int64: size (-1: no file), ns of the last write, ns of the last change, inode
    digests: np.ndarray  # (M, 16) uint8


def digest_of(size: int, read: Callable[[int, int], bytes]) -> bytes:
    """The digest of a file: of its size and all bytes up to WHOLE, else of the first, middle and last BLOCK.

    Args:
        size: of the file in bytes.
        read: (offset, count) -> bytes.
    """
    found = hashlib.sha256(size.to_bytes(8, "little"))
    for offset, count in (
        [(0, size)] if size <= WHOLE else [(at, BLOCK) for at in (0, (size - BLOCK) // 2, size - BLOCK)]
    ):
        found.update(read(offset, count))
    return found.digest()[:DIGEST]


def look_at_files(root: Path, names: np.ndarray, full: bool) -> tuple[np.ndarray, np.ndarray]:
    """Look at the files `names`, (M,) bytes, below the folder `root`.

    Args:
        root: the folder.
        names: relative paths.
        full: read all files, also those that the list knows.

    Returns:
        (M,) int64 sizes, -1 for what is no file, and (M, 16) uint8 digests.
    """
    folder, began = os.fsencode(root), time.time_ns()
    parts = chunk_by_chunk(lambda part: _status(folder, part), _chunks(names), _THREADS)
    status = np.concatenate([np.zeros((0, 4), np.int64), *parts])

    def read(rows: np.ndarray) -> np.ndarray:
        pairs = zip(names[rows].tolist(), status[rows, 0].tolist(), strict=True)
        return _rows(_file_digest(folder + b"/" + name, size) for name, size in pairs)

    seen = Seen(names, status, np.zeros((len(names), DIGEST), np.uint8))
    _look(root, seen, read, _THREADS, began, full)
    return status[:, 0], seen.digests


def look_at_entries(
    holders: Holders, names: np.ndarray, read: Callable[[int], bytes | None], full: bool
) -> np.ndarray:  # (M, 16) uint8
    """The digests of files within larger ones, which are as they were where what holds them is.

    Args:
        holders: the larger files.
        names: (M,) bytes, of the files within.
        read: number of a file within -> its content; None where it cannot be read.
        full: read all of them, also those that the list knows.
    """
    began = time.time_ns()
    status = _status(b"", np.array([os.fsencode(path.absolute()) for path in holders.files]))[holders.of]

    def digest(number: int) -> bytes:
        content = read(number)
        if content is None:
            return NOTHING
        return digest_of(len(content), lambda offset, count: content[offset : offset + count])

    seen = Seen(names, status, np.zeros((len(names), DIGEST), np.uint8))
    _look(
        holders.files[0], seen, lambda rows: _rows(map(digest, rows.tolist())), 1, began, full
    )  # it has but one position
    return seen.digests


def _look(place: Path, seen: Seen, read: Reader, workers: int, began: int, full: bool) -> None:
    """Fill the digests of `seen`, from the list where it knows a file as it is, and bring the list up to date."""
    listed = len(seen.names) >= LISTED
    known = _remembered(place) if listed and not full else None
    missing = np.arange(len(seen.names)) if known is None else np.flatnonzero(~_take_over(known, seen))
    if len(missing) >= _MANY:
        message(f"reading {len(missing)} files, to tell the data by their content; those that stay are known next time")
    chunks = _chunks(missing)
    for rows, digests in zip(chunks, chunk_by_chunk(read, chunks, workers), strict=True):
        seen.digests[rows] = digests
    if listed and len(missing):
        _remember(place, seen, known, began)


def chunk_by_chunk(work: Reader, chunks: list[np.ndarray], workers: int) -> Iterator[np.ndarray]:
    """`work` of each chunk in turn; in threads from the first chunk on that mostly waits for its files.

    Threads overlap what a disk or a network takes to answer. Where all lies in the machine's memory they only contend
    for the interpreter: 8 of them read a million small files in twice to three times the time of one.
    """
    for number, chunk in enumerate(chunks):
        began, computed = time.perf_counter(), time.thread_time()
        done = work(chunk)
        waits = time.perf_counter() - began > _WAITS * (time.thread_time() - computed)
        yield done
        if waits and workers > 1:
            with ThreadPoolExecutor(workers) as threads:
                yield from threads.map(work, chunks[number + 1 :])
            return


def _chunks(rows: np.ndarray) -> list[np.ndarray]:
    starts = [0, *range(_FIRST, len(rows), _CHUNK)]
    return [rows[start:end] for start, end in zip(starts, [*starts[1:], len(rows)], strict=True) if start < end]


def _rows(digests: Iterable[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST)


def _status(folder: bytes, names: np.ndarray) -> np.ndarray:  # (m,) -> (m, 4) int64
    rows = []
    for name in names.tolist():
        try:
            found = os.stat(folder + b"/" + name)
        except OSError:  # a link that leads nowhere: who decodes the image tells it
            rows.append((-1, 0, 0, 0))
            continue
        size = found.st_size if stat.S_ISREG(found.st_mode) else -1
        rows.append((size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino & _INODE))
    return np.array(rows, np.int64).reshape(-1, 4)


def _file_digest(path: bytes, size: int) -> bytes:
    if size < 0:
        return NOTHING
    try:
        with open(path, "rb", buffering=0) as file:

            def read(offset: int, count: int) -> bytes:
                file.seek(offset)
                return file.read(count)

            return digest_of(size, read)
    except OSError:  # no permission, a damaged disk: who decodes the image tells it
        return NOTHING


# The list


def list_folder() -> Path | None:
    """Where lists are kept: selfsup/ in XDG_CACHE_HOME, by default ~/.cache; None where there is no home."""
    place = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(place):
        return Path(place) / "selfsup"
    home = os.path.expanduser("~")
    return Path(home) / ".cache" / "selfsup" if os.path.isabs(home) else None


def _list_of(place: Path) -> Path | None:
    folder = list_folder()
    return folder / f"{hashlib.sha256(os.fsencode(place.resolve())).hexdigest()[:32]}.npz" if folder else None


def _remembered(place: Path) -> Seen | None:
    """The list of a folder or an archive, in the order of names; None where there is none that can be read."""
    path = _list_of(place)
    try:
        if path is None or not path.is_file():
            return None
        with open(path, "rb") as content, np.load(content, allow_pickle=False) as file:
            seen = Seen(file["names"], file["status"], file["digests"])
        with contextlib.suppress(OSError):
            os.utime(path)  # it is in use
    except Exception:  # damaged files raise nearly every class there is; a list that is lost costs only time
        return None
    count = len(seen.names)
    fits = seen.names.dtype.kind == "S" and seen.status.shape == (count, 4) and seen.digests.shape == (count, DIGEST)
    return seen if fits and count else None


def _take_over(known: Seen, seen: Seen) -> np.ndarray:
    """(M,) bool: the files of `seen` that are as `known` has them; their digests are taken from it."""
    if known.names.shape == seen.names.shape and (known.names == seen.names).all():
        places = np.arange(len(seen.names))
    else:
        places = np.searchsorted(known.names, seen.names).clip(max=len(known.names) - 1)
    same = (known.names[places] == seen.names) & (known.status[places] == seen.status).all(axis=1)
    seen.digests[same] = known.digests[places[same]]
    return np.asarray(same)


def _remember(place: Path, seen: Seen, known: Seen | None, began: int) -> None:
    """Write the list: of the files just seen, and of others that it knew before."""
    # The times of a file that was written a moment ago may be those of a next write, too; and what could not be read
    # may become readable without a change of its own.
    sure = (seen.status[:, 1:3].max(axis=1) < began - SETTLED) & (seen.status[:, 0] >= 0)
    sure &= (seen.digests != np.frombuffer(NOTHING, np.uint8)).any(axis=1)
    parts = [Seen(*(column[sure] for column in seen))]
    if known is not None and (others := ~np.isin(known.names, seen.names)).any():
        parts.append(Seen(*(column[others] for column in known)))
    whole = Seen(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    order = np.argsort(whole.names, kind="stable")
    path = _list_of(place)
    try:
        if path is None:
            raise OSError(0, "there is no home folder")
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_npz(path, {name: column[order] for name, column in whole._asdict().items()})
        forget(path.parent)
    except OSError as error:
        where = f" in {path.parent}" if path else ""
        message(
            f"the list of files that were looked at cannot be kept{where}: {error.strerror}; the next command reads "
            "them again (XDG_CACHE_HOME may name a folder that can be written)"
        )


def forget(folder: Path) -> None:
    """Remove what was not used for long: lists, tables, and folders of what was fetched."""
    for path in [*folder.glob("*.npz"), *folder.glob("*.arrow"), *folder.glob("[0-9a-f]" * 32)]:
        if path.stat().st_mtime < time.time() - _FORGOTTEN:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
